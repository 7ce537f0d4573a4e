// Package peft asks the real PEFT library whether it takes an adapter. Only tests import
// it; `make deps` puts the Python and the base model in place that it needs.
package peft

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

//go:embed load.py
var script string

// Report is what PEFT made of an adapter.
type Report struct {
	PEFT       string   `json:"peft"`       // version
	Missing    []string `json:"missing"`    // parameters that the adapter does not give
	Unexpected []string `json:"unexpected"` // tensors of the adapter that PEFT has no place for
	Differing  []string `json:"differing"`  // tensors that PEFT holds with other values
	Tensors    int      `json:"tensors"`    // in the adapter's file
	Held       int      `json:"held"`       // LoRA parameters in the model
	Rank       int      `json:"rank"`
	Alpha      float64  `json:"alpha"`
	Change     float64  `json:"change"` // largest difference of a logit that the adapter makes
}

// Base is the model that Load loads adapters onto, SmolLM2-135M-Instruct.
func Base(rank int, alpha float64) lora.Base {
	b := lora.Base{Model: "HuggingFaceTB/SmolLM2-135M-Instruct", Architecture: "llama", Heads: 9, KVHeads: 3, Rank: rank, Alpha: alpha}
	const layers, hidden, kv, mlp = 30, 576, 192, 1536
	for i := range layers {
		for _, m := range []struct {
			name    string
			in, out int
		}{
			{"self_attn.q_proj", hidden, hidden}, {"self_attn.k_proj", hidden, kv}, {"self_attn.v_proj", hidden, kv},
			{"self_attn.o_proj", hidden, hidden}, {"mlp.up_proj", hidden, mlp}, {"mlp.gate_proj", hidden, mlp}, {"mlp.down_proj", mlp, hidden},
		} {
			b.Targets = append(b.Targets, lora.Target{Name: fmt.Sprintf("model.layers.%d.%s", i, m.name), In: m.in, Out: m.out})
		}
	}
	return b
}

// Load loads the PEFT adapter in dir onto SmolLM2-135M-Instruct with
// PeftModel.from_pretrained.
func Load(ctx context.Context, dir string) (*Report, error) {
	python := os.Getenv("DND_PYTHON")
	if python == "" {
		python = deps("venv", "bin", "python")
	}
	base := deps("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
	for _, path := range []string{python, base} {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("peft: %w: run make deps", err)
		}
	}
	cmd := exec.CommandContext(ctx, python, "-c", script, base, dir)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "TRANSFORMERS_VERBOSITY=error")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("peft: %s: %w\n%s", dir, err, exit.Stderr)
		}
		return nil, fmt.Errorf("peft: %w", err)
	}
	var r Report
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, fmt.Errorf("peft: %w: %s", err, out)
	}
	return &r, nil
}

// Problem is nil if PEFT took the adapter as it was written: every tensor in its place,
// none left over, with an effect on the model.
func (r *Report) Problem() error {
	switch {
	case len(r.Missing) > 0:
		return fmt.Errorf("peft %s: missing keys: %q", r.PEFT, r.Missing)
	case len(r.Unexpected) > 0:
		return fmt.Errorf("peft %s: unexpected keys: %q", r.PEFT, r.Unexpected)
	case len(r.Differing) > 0:
		return fmt.Errorf("peft %s: other values than written: %q", r.PEFT, r.Differing)
	case r.Tensors != r.Held:
		return fmt.Errorf("peft %s: the adapter has %d tensors, the model %d", r.PEFT, r.Tensors, r.Held)
	case !(r.Change > 0):
		return fmt.Errorf("peft %s: the adapter changes nothing", r.PEFT)
	}
	return nil
}

func deps(elem ...string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(append([]string{filepath.Dir(file), "..", "..", "build", "deps"}, elem...)...)
}
