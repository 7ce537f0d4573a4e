package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/backends"
	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/host"
)

// What --host takes.
const (
	native = "native"
	wazero = "wazero"
)

// guestNames are where the guest that comes with dnd lies.
var guestNames = []string{"build/wasm/dnd.wasm", "wasm/dnd.wasm"}

func checkHost(where, wasm string, b *backendFlags) error {
	switch {
	case where == native && wasm != "":
		return cli.Usagef("--guest %s: the guest is for --host %s", wasm, wazero)
	case where == wazero && b.Backend != backends.Auto && b.Backend != backends.WebGPU:
		return cli.Usagef("--backend %s: the guest's Programs run on WebGPU devices: leave --backend out with --host %s", b.Backend, wazero)
	}
	return nil
}

// readGuest reads the guest, the one that comes with dnd if path is "".
func readGuest(path string) ([]byte, error) {
	if path == "" {
		var ok bool
		if path, ok = find(guestNames...); !ok {
			return nil, fmt.Errorf("dnd.wasm was not found here or beside the program: %w: make it with make wasm, or name it with --guest", fs.ErrNotExist)
		}
	}
	return os.ReadFile(path)
}

// sandbox makes adapters with the guest.
type sandbox struct {
	*host.Host
	gpu    backends.Device
	device string // its name
}

func openHost(ctx context.Context, e *cli.Env, wasm string, b *backendFlags) (*sandbox, error) {
	guest, err := readGuest(wasm)
	if err != nil {
		return nil, err
	}
	d, name, err := backends.OpenDevice(b.Options)
	if err != nil {
		return nil, err
	}
	e.Message("backend %s: %s, host %s", backends.WebGPU, name, wazero)
	o := host.Options{Guest: guest, Executor: d, DType: generator.Storages[b.Weights], Guests: 1, Trusted: wasm == ""}
	// Without a folder to keep it in, the guest is compiled anew each time.
	if dir, err := os.UserCacheDir(); err == nil && os.MkdirAll(filepath.Join(dir, "dnd"), 0o700) == nil {
		o.CacheDir = filepath.Join(dir, "dnd")
	}
	h, err := host.New(ctx, o)
	if err != nil {
		d.Close()
		return nil, err
	}
	return &sandbox{h, d, name}, nil
}

func (s *sandbox) Close() {
	s.Host.Close()
	s.gpu.Close()
}

func (s *sandbox) adapter(ctx context.Context, g *generation, r host.Request) (made, error) {
	r.Format, r.Tool, r.Backend = g.options.Format, g.options.Provenance.Tool, g.options.Provenance.Backend
	bar := g.e.Bar()
	r.Progress = func(p graph.Progress) { bar.Set(p.Stage, p.Done, p.Total, "") }
	result, err := s.Generate(ctx, g.p, r)
	bar.Done()
	if err != nil {
		return made{}, err
	}
	if result.Piece > 0 {
		g.e.Message("note: %s", generator.PiecesNote(result.Piece))
	}
	for _, t := range result.Stages {
		g.watch.add(t.Stage, t.Duration)
	}
	var layers []layerNorm
	for _, l := range result.Report.Layers {
		layers = append(layers, layerNorm{l.Layer, l.Norm})
	}
	return made{result.Files, layers, result.Report.Nearest}, nil
}
