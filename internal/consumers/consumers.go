// Package consumers runs the programs that adapters are made for (PEFT on transformers,
// mlx-lm, llama.cpp) and asks them for logits. Only tests import it; `make deps` puts the
// programs in place.
package consumers

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

//go:embed consumers.py
var script string

// The programs.
const (
	PEFT         = "peft" // transformers with an adapter
	Transformers = "transformers"
	MLX          = "mlx"
	LlamaCPP     = "llama.cpp"
)

// Job is one run: a program, a model (a Hugging Face folder, for llama.cpp a GGUF file),
// and an adapter of the program's format or "".
type Job struct {
	Program string    `json:"do"`
	Model   string    `json:"model"`
	Adapter string    `json:"adapter,omitempty"`
	Prompts [][]int32 `json:"prompts"`
}

// Missing says what is not in place, nil if all is.
func Missing() error {
	for _, path := range []string{python(), deps("consumers")} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("consumers: %w: run make deps", err)
		}
	}
	return nil
}

// Model writes a small random model of an architecture (llama, qwen2, gemma2, granite) as dir/hf, sharded,
// and dir/base.gguf.
func Model(ctx context.Context, arch, dir string) error {
	_, err := call[struct{}](ctx, map[string]string{"do": "make", "arch": arch, "dir": dir})
	return err
}

// Adapter makes an adapter with PEFT, of random values, for the Hugging Face folder model:
// settings are LoraConfig's.
func Adapter(ctx context.Context, model, dir string, settings map[string]any) error {
	_, err := call[struct{}](ctx, map[string]any{"do": "adapter", "model": model, "adapter": dir, "settings": settings})
	return err
}

// Logits runs jobs and gives, for every job and prompt, the logarithms of the
// probabilities of all tokens behind it.
func Logits(ctx context.Context, jobs ...Job) ([][][]float64, error) {
	list := make([]any, len(jobs))
	for i, j := range jobs {
		list[i] = j
	}
	return call[[][]float64](ctx, list...)
}

// Versions are the programs' own.
func Versions(ctx context.Context) (map[string]string, error) {
	out, err := call[map[string]string](ctx, map[string]string{"do": "versions"})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func call[T any](ctx context.Context, jobs ...any) ([]T, error) {
	text, err := json.Marshal(jobs)
	if err != nil {
		return nil, err
	}
	cmd := command(ctx, "logits")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), &stderr
	raw, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("consumers: %w\n%s", err, stderr.Bytes())
	}
	var out []T
	if err := json.Unmarshal(raw, &out); err != nil || len(out) != len(jobs) {
		return nil, fmt.Errorf("consumers: %d results of %d jobs, %w", len(out), len(jobs), err)
	}
	return out, nil
}

// Serve starts a llama-server with a model and an adapter that is loaded but not applied,
// and gives its address. It ends with ctx, and when stop is called.
func Serve(ctx context.Context, model, adapter string) (address string, stop func() error, err error) {
	cmd := command(ctx, "serve")
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error {
		in.Close()
		return cmd.Wait()
	}
	if err := json.NewEncoder(in).Encode(Job{Program: LlamaCPP, Model: model, Adapter: adapter}); err != nil {
		return "", nil, fmt.Errorf("consumers: %w, %w", err, stop())
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", nil, fmt.Errorf("consumers: no server: %w, %w", err, stop())
	}
	go io.Copy(io.Discard, out)
	return strings.TrimSpace(line), stop, nil
}

func command(ctx context.Context, mode string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, python(), "-c", script, mode)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+deps("consumers"), "HF_HUB_OFFLINE=1", "TRANSFORMERS_VERBOSITY=error")
	return cmd
}

func python() string {
	if p := os.Getenv("DND_PYTHON"); p != "" {
		return p
	}
	return deps("venv", "bin", "python")
}

func deps(elem ...string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(append([]string{filepath.Dir(file), "..", "..", "build", "deps"}, elem...)...)
}
