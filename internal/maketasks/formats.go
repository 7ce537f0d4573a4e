package main

import "math/rand/v2"

// format is a way to write an answer down.
type format struct {
	name          string
	before, after string // around the answer
	wordings      []string
}

var formats = []format{
	{"json", `{"label": "`, `"}`, []string{
		`Reply with a JSON object whose only key is "label".`,
		`Answer as JSON, under the key "label".`,
		`Use the form {"label": "..."} for your reply.`,
		`Put the result in the "label" field of a JSON object.`,
	}},
	{"bracket", "[", "]", []string{
		"Put your reply in square brackets.",
		"Write the result between [ and ].",
		"Wrap the result in square brackets and add nothing else.",
		"Your whole output is the result in square brackets.",
	}},
	{"answer", "Answer: ", "", []string{
		`Begin your reply with "Answer:".`,
		`Write "Answer:" and then the result.`,
		`Reply on one line that starts with "Answer:".`,
		`Put the word "Answer:" before the result.`,
	}},
	{"tag", "<label>", "</label>", []string{
		"Enclose the reply in <label> tags.",
		"Write the result as an XML label element.",
		"Put the result between <label> and </label>.",
		"Reply with a <label> element that holds the result.",
	}},
	{"bold", "**", "**", []string{
		"Set the reply in bold, with two asterisks on each side.",
		"Write the result in Markdown bold.",
		"Put ** before and after the result.",
		"Mark the reply as bold text, as Markdown does.",
	}},
}

// record is one training or test sample, as `dndtrain collect` reads it.
type record struct {
	Prompt   string `json:"prompt"`
	Input    string `json:"input,omitempty"` // the item alone, where the base is asked no more
	Response string `json:"response"`
}

// ask words the question for one item. What is asked and how to answer come in either order.
func ask(c content, f format, it item, r *rand.Rand) record {
	first, second := c.wordings[r.IntN(len(c.wordings))], f.wordings[r.IntN(len(f.wordings))]
	if r.IntN(2) == 0 {
		first, second = second, first
	}
	return record{
		Prompt:   first + " " + second + "\n" + it.text,
		Response: f.before + it.label + f.after,
	}
}
