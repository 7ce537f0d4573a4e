package lm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Both families that are supported write turns in ChatML.
const (
	turnStart = "<|im_start|>"
	turnEnd   = "<|im_end|>"
)

// systems are the system prompts that the families' own chat templates start with when
// none is given: SmolLM2's, Qwen2.5's, Qwen2's. Qwen2's ends Qwen2.5's, so it comes last.
var systems = []string{
	"You are a helpful AI assistant named SmolLM, trained by Hugging Face",
	"You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
	"You are a helpful assistant.",
}

// systemIn is the default system prompt in a chat template's source, "" if it has none
// that is known.
func systemIn(template string) string {
	for _, s := range systems {
		if strings.Contains(template, s) {
			return s
		}
	}
	return ""
}

// folderTemplate is the source of a Hugging Face folder's chat template, "" if there is
// none.
func folderTemplate(dir string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "chat_template.jinja"))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return string(raw), err
	}
	path := filepath.Join(dir, "tokenizer_config.json")
	if raw, err = os.ReadFile(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return "", err
	}
	var f struct {
		Template any `json:"chat_template"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	text, _ := f.Template.(string)
	return text, nil
}

// Prompt is a user's turn and the opening of the answer, in the model's chat template.
// system is the template's own if empty.
func (m *Model) Prompt(system, user string) ([]int32, error) {
	if system == "" {
		system = m.Config.System
	}
	var ids []int32
	turn := func(role, text string, closed bool) error {
		start, err := m.Tokenizer.Special(turnStart)
		if err != nil {
			return err
		}
		ids = append(ids, start)
		if !closed {
			text = role + "\n"
		} else {
			text = role + "\n" + text
		}
		body, err := m.Tokenizer.Encode(text)
		if err != nil {
			return err
		}
		ids = append(ids, body...)
		if !closed {
			return nil
		}
		end, err := m.Tokenizer.Special(turnEnd)
		if err != nil {
			return err
		}
		newline, err := m.Tokenizer.Encode("\n")
		if err != nil {
			return err
		}
		ids = append(append(ids, end), newline...)
		return nil
	}
	if system != "" {
		if err := turn("system", system, true); err != nil {
			return nil, err
		}
	}
	if err := turn("user", user, true); err != nil {
		return nil, err
	}
	return ids, turn("assistant", "", false)
}

// Answer is a response's tokens, with the end of the turn.
func (m *Model) Answer(response string) ([]int32, error) {
	ids, err := m.Tokenizer.Encode(response)
	if err != nil {
		return nil, err
	}
	end, err := m.Tokenizer.Special(turnEnd)
	return append(ids, end), err
}
