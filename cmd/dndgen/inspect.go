package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/generators"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
	"github.com/drag-and-drop-lora/dnd/hub/signature"
)

// The kinds of things that inspect and verify know.
const (
	kindGenerator   = "generator"
	kindAdapter     = "adapter"
	kindSafetensors = "safetensors"
	kindGGUF        = "gguf"
)

// kindOf tells what path holds by its name or by the files in it.
func kindOf(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		switch strings.ToLower(filepath.Ext(path)) {
		case ".safetensors":
			return kindSafetensors, nil
		case ".gguf":
			return kindGGUF, nil
		}
		return "", fmt.Errorf("%s: expected a folder, a .safetensors or a .gguf file", path)
	}
	for _, f := range []struct{ name, kind string }{
		{generator.ManifestName, kindGenerator}, {lora.InfoName, kindAdapter}, {lora.ConfigName, kindAdapter}, {lora.WeightsName, kindAdapter}, {lora.GGUFName, kindAdapter},
	} {
		if _, err := os.Stat(filepath.Join(path, f.name)); err == nil {
			return f.kind, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("%s: holds none of %s, %s and %s", path, generator.ManifestName, lora.InfoName, lora.ConfigName)
}

// tensor is one line of a table of contents.
type tensor struct {
	Name  string  `json:"name"`
	Type  string  `json:"type"`
	Shape []int64 `json:"shape"`
	Bytes int64   `json:"bytes"`
}

// tensorFile is what inspect prints of a file of tensors.
type tensorFile struct {
	Kind     string            `json:"kind"`
	Bytes    int64             `json:"bytes"` // of all tensors
	Tensors  []tensor          `json:"tensors"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func inspect(flags *pflag.FlagSet) cli.Run {
	return func(_ context.Context, e *cli.Env, args []string) error {
		kind, err := kindOf(args[0])
		if err != nil {
			return err
		}
		switch kind {
		case kindSafetensors:
			return inspectSafetensors(e, args[0])
		case kindGGUF:
			return inspectGGUF(e, args[0])
		case kindGenerator:
			return inspectGenerator(e, args[0])
		default:
			return inspectAdapter(e, args[0])
		}
	}
}

// generatorReport is what inspect prints of a generator package.
type generatorReport struct {
	Kind string `json:"kind"`
	generator.Summary
	SHA256   string             `json:"sha256"`
	Manifest generator.Manifest `json:"manifest"`
}

func inspectGenerator(e *cli.Env, path string) error {
	p, err := generator.Open(path)
	if err != nil {
		return err
	}
	defer p.Close()
	r := generatorReport{kindGenerator, p.Summary(), p.SHA256, p.Manifest}
	return e.Result(r, func(w io.Writer) {
		m := &r.Manifest
		fmt.Fprintf(w, "generator   %s, %d files, %s\n", r.Name, r.Files, size(r.Bytes))
		fmt.Fprintf(w, "from        %s\n", m.Provenance.Source)
		if len(m.Provenance.DataSets) > 0 {
			fmt.Fprintf(w, "data sets   %s\n", strings.Join(m.Provenance.DataSets, ", "))
		}
		if len(m.Provenance.HeldOut) > 0 {
			fmt.Fprintf(w, "held out    %s\n", strings.Join(m.Provenance.HeldOut, ", "))
		}
		fmt.Fprintf(w, "condition   %d prompts of %d tokens, width %d, pads %s\n", m.Condition.Texts, m.Condition.Length, m.Condition.Width, m.Condition.Pads)
		fmt.Fprintf(w, "decoder     %d layers, kernel %d, %d parameters, %s %v\n", r.Decoder.Layers, m.Decoder.KernelSize, r.Decoder.Parameters, size(r.Decoder.Bytes), r.Decoder.DTypes)
		fmt.Fprintf(w, "tokens      %d of %d x %d\n", r.Tokens[0], r.Tokens[1], r.Tokens[2])
		if m.Encoder != nil {
			fmt.Fprintf(w, "encoder     %s, %d layers, %d parameters, %s %v\n", m.Encoder.ID, r.Encoder.Layers, r.Encoder.Parameters, size(r.Encoder.Bytes), r.Encoder.DTypes)
		}
		if m.Base != nil {
			fmt.Fprintf(w, "base model  %s, LoRA of rank %d, alpha %g, %d modules, %d values\n", m.Base.Model, m.Base.Rank, m.Base.Alpha, len(m.Base.Targets), r.BaseValues)
		}
		if err := m.Complete(); err != nil {
			fmt.Fprintf(w, "limits      %v\n", err)
		}
	})
}

func inspectSafetensors(e *cli.Env, path string) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	out := tensorFile{Kind: kindSafetensors, Tensors: []tensor{}, Metadata: f.Metadata}
	for _, t := range f.Tensors {
		shape := make([]int64, len(t.Shape))
		for i, n := range t.Shape {
			shape[i] = int64(n)
		}
		out.Tensors = append(out.Tensors, tensor{t.Name, string(t.DType), shape, t.Bytes})
		out.Bytes += t.Bytes
	}
	return out.print(e)
}

func inspectGGUF(e *cli.Env, path string) error {
	f, err := gguf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	out := tensorFile{Kind: kindGGUF, Tensors: []tensor{}, Metadata: map[string]string{}}
	for _, t := range f.Tensors {
		out.Tensors = append(out.Tensors, tensor{t.Name, fmt.Sprintf("ggml type %d", t.Type), t.Shape, t.Bytes})
		out.Bytes += t.Bytes
	}
	for _, kv := range f.Values {
		text := fmt.Sprint(kv.Value)
		if a, ok := kv.Value.(gguf.ArrayInfo); ok {
			text = fmt.Sprintf("array of %d", a.Count)
		}
		out.Metadata[kv.Key] = text
	}
	return out.print(e)
}

func (f *tensorFile) print(e *cli.Env) error {
	return e.Result(f, func(w io.Writer) {
		for _, key := range sortedKeys(f.Metadata) {
			fmt.Fprintf(w, "%s: %s\n", key, oneLine(f.Metadata[key], 100))
		}
		for _, t := range f.Tensors {
			fmt.Fprintf(w, "%-60s %-12s %v\n", t.Name, t.Type, t.Shape)
		}
		fmt.Fprintf(w, "%d tensors, %s\n", len(f.Tensors), size(f.Bytes))
	})
}

// adapterReport is what inspect prints of an adapter.
type adapterReport struct {
	Kind    string      `json:"kind"`
	Model   string      `json:"base_model,omitempty"`
	Rank    int         `json:"rank"`
	Alpha   float64     `json:"alpha"`
	Modules int         `json:"modules"`
	Values  int64       `json:"values"`
	Layers  []layerNorm `json:"layers,omitempty"`
	Info    *lora.Info  `json:"info,omitempty"` // dnd.json, in adapters made by dnd
}

// layerNorm is the Frobenius norm of what an adapter adds to a layer's weights.
type layerNorm struct {
	Layer int     `json:"layer"`
	Norm  float64 `json:"norm"`
}

func inspectAdapter(e *cli.Env, path string) error {
	out := adapterReport{Kind: kindAdapter}
	info, err := lora.ReadInfo(path)
	switch {
	case err == nil:
		out.Info = info
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	a, err := lora.Read(path, nil)
	if err != nil {
		return err
	}
	out.Model, out.Rank, out.Alpha, out.Modules = a.Base.Model, a.Base.Rank, a.Base.Alpha, len(a.Base.Targets)
	for _, p := range a.Pairs {
		out.Values += int64(len(p.A) + len(p.B))
	}
	if out.Layers, err = norms(a); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return out.print(e)
}

func norms(a *lora.Adapter) ([]layerNorm, error) {
	_, layers, err := a.Norms()
	if err != nil {
		return nil, err
	}
	out := make([]layerNorm, len(layers))
	for i, n := range layers {
		out[i] = layerNorm{n.Layer, n.Value}
	}
	return out, nil
}

func (r *adapterReport) print(e *cli.Env) error {
	return e.Result(r, func(w io.Writer) {
		if r.Model != "" {
			fmt.Fprintf(w, "base model  %s\n", r.Model)
		}
		fmt.Fprintf(w, "LoRA        rank %d, alpha %g\n", r.Rank, r.Alpha)
		if r.Modules > 0 {
			fmt.Fprintf(w, "modules     %d, with %d values\n", r.Modules, r.Values)
		}
		if r.Info != nil {
			p := r.Info.Provenance
			fmt.Fprintf(w, "made by     %s, generator %s, seed %d, draw %d, on %s\n", p.Tool, p.Generator, p.Seed, p.Draw, p.Backend)
		}
		printNorms(w, r.Layers)
	})
}

// verdict is what verify prints.
type verdict struct {
	Path string `json:"path"`
	Kind string `json:"kind"`
	OK   bool   `json:"ok"` // always: a path that is not fails
	// Package is there for a generator.
	Package *generator.Report `json:"package,omitempty"`
	// SignedBy is the key that has signed a generator, if keys were given.
	SignedBy string `json:"signed_by,omitempty"`
}

func verify(flags *pflag.FlagSet) cli.Run {
	keys := generators.AddKeys(flags)
	return func(ctx context.Context, e *cli.Env, args []string) error {
		v := verdict{Path: args[0], OK: true}
		var err error
		if v.Kind, err = kindOf(v.Path); err != nil {
			return err
		}
		switch v.Kind {
		case kindSafetensors:
			err = closing(safetensors.Open(v.Path))
		case kindGGUF:
			err = closing(gguf.Open(v.Path))
		case kindGenerator:
			asked, err := keys.Parse()
			if err != nil {
				return err
			}
			if len(asked) > 0 {
				by, err := asked.Folder(v.Path)
				if err != nil {
					return err
				}
				v.SignedBy = signature.ID(by.ID())
			}
			bar := e.Bar()
			v.Package, err = generator.Verify(ctx, v.Path, func(done, total int64) { bar.Set("verify", done, total, "") })
			bar.Done()
			if err != nil {
				return err
			}
		default:
			err = verifyAdapter(v.Path)
		}
		if err != nil {
			return err
		}
		return e.Result(v, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %s, ok\n", v.Path, v.Kind)
			if v.Package != nil {
				fmt.Fprintf(w, "%d tensors, %d values, all finite; checksums match\n", v.Package.Tensors, v.Package.Values)
			}
			if v.SignedBy != "" {
				fmt.Fprintf(w, "signed with key %s\n", v.SignedBy)
			}
		})
	}
}

// verifyAdapter checks the checksums of an adapter that dnd made, and the names, shapes
// and values.
func verifyAdapter(path string) error {
	if _, err := lora.Verify(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	a, err := lora.Read(path, nil)
	if err != nil {
		return err
	}
	if err := a.Check(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// closing closes what an Open function has checked.
func closing(f io.Closer, err error) error {
	if err != nil {
		return err
	}
	return f.Close()
}
