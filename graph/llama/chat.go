package llama

import "strings"

// The tokens of turns: ChatML's, which SmolLM2 and Qwen2 write, and Llama 3's.
const (
	turnStart = "<|im_start|>"
	turnEnd   = "<|im_end|>"

	textBegin   = "<|begin_of_text|>"
	headerStart = "<|start_header_id|>"
	headerEnd   = "<|end_header_id|>"
	headerTurn  = "<|eot_id|>"
)

// headers says whether a vocabulary is of a model that writes turns as Llama 3 does.
func (t *Tokenizer) headers() bool {
	_, chatML := t.ids[turnStart]
	_, headers := t.ids[headerStart]
	return headers && !chatML
}

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

// Prompt is a user's turn and the opening of the answer, as the model's family writes turns. There is
// no system turn if system is empty, as in llama.cpp's own templates; that of Llama 3.1 and later has
// one with a date in any case.
func (t *Tokenizer) Prompt(system, user string) ([]int32, error) {
	var p prompt
	turn := func(role, text string) { p.special(turnStart).text(role + "\n" + text).special(turnEnd).text("\n") }
	open := func() { p.special(turnStart).text("assistant\n") }
	if t.headers() {
		p.special(textBegin)
		turn = func(role, text string) {
			p.special(headerStart).text(role).special(headerEnd).text("\n\n" + strings.TrimSpace(text)).special(headerTurn)
		}
		open = func() { p.special(headerStart).text("assistant").special(headerEnd).text("\n\n") }
	}
	if system != "" {
		turn("system", system)
	}
	turn("user", user)
	open()
	return p.tokens(t)
}

// prompt is texts and special tokens, one after the other.
type prompt []part

type part struct {
	text    string
	special bool
}

func (p *prompt) text(s string) *prompt {
	*p = append(*p, part{s, false})
	return p
}

func (p *prompt) special(s string) *prompt {
	*p = append(*p, part{s, true})
	return p
}

func (p *prompt) tokens(t *Tokenizer) ([]int32, error) {
	var ids []int32
	for _, part := range *p {
		if part.special {
			id, err := t.Special(part.text)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
			continue
		}
		more, err := t.Encode(part.text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, more...)
	}
	return ids, nil
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
func (t *Tokenizer) End() (int32, error) {
	if t.headers() {
		return t.Special(headerTurn)
	}
	return t.Special(turnEnd)
}
