package lm

import "strings"

// Both families that are supported write turns in ChatML.
const (
	turnStart = "<|im_start|>"
	turnEnd   = "<|im_end|>"
)

// defaultSystem is the system prompt of a family's own chat template.
func (c *Config) defaultSystem() string {
	if c.Architecture == "qwen2" {
		return "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
	}
	if strings.Contains(strings.ToLower(c.Model), "smollm2") || c.Model == "" {
		return "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
	}
	return ""
}

// Prompt is a user's turn and the opening of the answer, in the model's chat template.
// system is the template's own if empty.
func (m *Model) Prompt(system, user string) ([]int32, error) {
	if system == "" {
		system = m.Config.defaultSystem()
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
