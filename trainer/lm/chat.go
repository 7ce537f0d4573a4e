package lm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

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
	return m.Tokenizer.Prompt(system, user)
}

// Answer is a response's tokens, with the end of the turn.
func (m *Model) Answer(response string) ([]int32, error) { return m.Tokenizer.Answer(response) }
