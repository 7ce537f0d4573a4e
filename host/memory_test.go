package host_test

import (
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/drag-and-drop-lora/dnd/graph/guest"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// The guest needs no more memory for many calls than for a few, whatever its host's clock
// does: one that stands still, and one that moves by a minute whenever it is looked at, which
// the garbage collector does most.
func TestMemoryUnderAnyClock(t *testing.T) {
	p := madeup.Open(t)
	manifest, err := p.Text()
	if err != nil {
		t.Fatal(err)
	}
	message, err := guest.Message{{Name: guest.PartManifest, Data: manifest}, {Name: guest.PartOptions, Data: []byte(`{"stage":"generate","dtype":"F32"}`)}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	cache, err := wazero.NewCompilationCacheWithDir(cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close(ctx)
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(cache))
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	compiled, err := r.CompileModule(ctx, dndWASM(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []int64{0, 60e9} {
		now := int64(1)
		clock := func() int64 { now += step; return now }
		g, err := r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize").WithNanotime(clock, 1))
		if err != nil {
			t.Fatal(err)
		}
		call := func(name string, args ...uint64) uint64 {
			t.Helper()
			results, err := g.ExportedFunction(name).Call(ctx, args...)
			if err != nil {
				t.Fatalf("clock of %d ns: %s: %v", step, name, err)
			}
			return append(results, 0)[0]
		}
		var after uint32
		for i := range 50 {
			ptr := call("alloc", uint64(len(message)))
			if !g.Memory().Write(uint32(ptr), message) {
				t.Fatal("alloc gave no room")
			}
			span := call("compile", ptr, uint64(len(message)))
			call("free", ptr)
			call("free", span>>32)
			if i == 9 {
				after = g.Memory().Size()
			}
		}
		if got := g.Memory().Size(); got > after {
			t.Errorf("clock of %d ns: %d bytes after 50 calls, %d after 10", step, got, after)
		}
	}
}
