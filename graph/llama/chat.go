package llama

import "strings"

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

// SystemIn is the default system prompt in a chat template's source, "" if it has none
// that is known.
func SystemIn(template string) string {
	for _, s := range systems {
		if strings.Contains(template, s) {
			return s
		}
	}
	return ""
}

// Prompt is a user's turn and the opening of the answer, in ChatML. There is no system turn
// if system is empty.
func (t *Tokenizer) Prompt(system, user string) ([]int32, error) {
	var ids []int32
	turn := func(role, text string, closed bool) error {
		start, err := t.Special(turnStart)
		if err != nil {
			return err
		}
		ids = append(ids, start)
		if !closed {
			text = role + "\n"
		} else {
			text = role + "\n" + text
		}
		body, err := t.Encode(text)
		if err != nil {
			return err
		}
		ids = append(ids, body...)
		if !closed {
			return nil
		}
		end, err := t.Special(turnEnd)
		if err != nil {
			return err
		}
		newline, err := t.Encode("\n")
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
func (t *Tokenizer) Answer(response string) ([]int32, error) {
	ids, err := t.Encode(response)
	if err != nil {
		return nil, err
	}
	end, err := t.End()
	return append(ids, end), err
}

// End is the token that ends a turn.
func (t *Tokenizer) End() (int32, error) { return t.Special(turnEnd) }
