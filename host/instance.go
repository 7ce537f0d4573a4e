package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/drag-and-drop-lora/dnd/graph/guest"
)

const (
	pageBytes = 1 << 16 // of WebAssembly's memory
	maxGuest  = 64 << 20
	maxStderr = 1 << 12
)

// features are what Go's compiler uses beyond WebAssembly 1.0.
const features = api.CoreFeaturesV1 | api.CoreFeatureBulkMemoryOperations | api.CoreFeatureNonTrappingFloatToIntConversion | api.CoreFeatureSignExtensionOps

// exports are the guest's functions with their types.
var exports = []struct {
	name            string
	params, results []api.ValueType
}{
	{"_initialize", nil, nil},
	{"abi_version", nil, []api.ValueType{api.ValueTypeI32}},
	{"alloc", []api.ValueType{api.ValueTypeI32}, []api.ValueType{api.ValueTypeI32}},
	{"free", []api.ValueType{api.ValueTypeI32}, nil},
	{"compile", []api.ValueType{api.ValueTypeI32, api.ValueTypeI32}, []api.ValueType{api.ValueTypeI64}},
	{"feed", []api.ValueType{api.ValueTypeI32, api.ValueTypeI32}, []api.ValueType{api.ValueTypeI64}},
	{"finish", []api.ValueType{api.ValueTypeI32, api.ValueTypeI32}, []api.ValueType{api.ValueTypeI64}},
	{"answer", []api.ValueType{api.ValueTypeI32, api.ValueTypeI32}, []api.ValueType{api.ValueTypeI64}},
}

// compile makes the runtime and compiles the guest for it.
func (h *Host) compile(ctx context.Context) error {
	if n := len(h.options.Guest); n == 0 || n > maxGuest {
		return fmt.Errorf("host: a guest of %d bytes, expected 1 to %d", n, maxGuest)
	}
	config := wazero.NewRuntimeConfig().
		WithCoreFeatures(features).
		WithMemoryLimitPages(uint32(h.options.Memory / pageBytes)).
		WithCloseOnContextDone(!h.options.Trusted)
	if dir := h.options.CacheDir; dir != "" {
		var err error
		if h.cache, err = wazero.NewCompilationCacheWithDir(dir); err != nil {
			return fmt.Errorf("host: cache folder %s: %w", dir, err)
		}
		config = config.WithCompilationCache(h.cache)
	}
	h.runtime = wazero.NewRuntimeWithConfig(ctx, config)
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, h.runtime); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	var err error
	h.compiled, err = h.runtime.CompileModule(ctx, h.options.Guest)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("host: compile the guest: %w", ctx.Err())
	}
	if err != nil && h.cache != nil {
		// A damaged cache costs time, nothing else.
		h.release(ctx)
		h.cache, h.options.CacheDir = nil, ""
		return h.compile(ctx)
	}
	if err != nil {
		return fmt.Errorf("host: the guest: %s", firstLine(err.Error()))
	}
	functions := h.compiled.ExportedFunctions()
	for _, e := range exports {
		f, ok := functions[e.name]
		if !ok || !bytes.Equal(f.ParamTypes(), e.params) || !bytes.Equal(f.ResultTypes(), e.results) {
			return fmt.Errorf("host: the guest exports no function %s of the expected type: not a dnd.wasm, or of another release", e.name)
		}
	}
	if len(h.compiled.ExportedMemories()) != 1 {
		return errors.New("host: the guest exports no memory: not a dnd.wasm")
	}
	return nil
}

// release frees what New has made.
func (h *Host) release(ctx context.Context) error {
	var err error
	if h.runtime != nil {
		err = h.runtime.Close(ctx)
	}
	if h.cache != nil {
		err = errors.Join(err, h.cache.Close(ctx))
	}
	return err
}

// instance is one guest with its memory. It makes one call at a time.
type instance struct {
	module api.Module
	stderr head
}

// stopped is the guest's clock. wazero's own moves each time it is looked at, which its
// garbage collector does most: see package wasm. Go refuses 0.
func stopped() int64 { return 1 }

// instantiate makes a guest and checks the version of its ABI.
func (h *Host) instantiate(ctx context.Context) (*instance, error) {
	g := &instance{}
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize").WithStderr(&g.stderr).
		WithNanotime(stopped, 1)
	module, err := h.runtime.InstantiateModule(ctx, h.compiled, config)
	if err != nil {
		return nil, g.failed(ctx, "_initialize", err)
	}
	g.module = module
	version, err := g.function(ctx, "abi_version")
	if err != nil {
		g.drop()
		return nil, err
	}
	if int32(version) != guest.Version {
		g.drop()
		return nil, fmt.Errorf("host: the guest speaks version %d of the ABI, expected %d: use the dnd.wasm of this release", int32(version), guest.Version)
	}
	return g, nil
}

// drop ends a guest.
func (g *instance) drop() { g.module.Close(context.Background()) }

// call gives a message to one of the guest's calls. After an error the guest cannot
// be trusted; what it reports itself is in the answer.
func (g *instance) call(ctx context.Context, name string, message []byte) (guest.Message, error) {
	memory := g.module.Memory()
	ptr, err := g.function(ctx, "alloc", uint64(len(message)))
	if err != nil {
		return nil, err
	}
	if uint32(ptr) == 0 {
		return nil, fmt.Errorf("host: the guest has no room for the %d bytes of %s", len(message), name)
	}
	if !memory.Write(uint32(ptr), message) {
		return nil, fmt.Errorf("host: the guest's alloc gave %d bytes at %d, outside of its memory of %d", len(message), uint32(ptr), memory.Size())
	}
	span, err := g.function(ctx, name, ptr, uint64(len(message)))
	if err != nil {
		return nil, err
	}
	if _, err := g.function(ctx, "free", ptr); err != nil {
		return nil, err
	}
	at, size := uint32(span>>32), uint32(span)
	view, ok := memory.Read(at, size)
	if !ok {
		return nil, fmt.Errorf("host: the guest's %s gave %d bytes at %d, outside of its memory of %d", name, size, at, memory.Size())
	}
	out, err := guest.Decode(bytes.Clone(view))
	if err != nil {
		return nil, fmt.Errorf("host: the guest's %s: %w", name, err)
	}
	if _, err := g.function(ctx, "free", uint64(at)); err != nil {
		return nil, err
	}
	return out, nil
}

// function calls an exported function; the types have been checked.
func (g *instance) function(ctx context.Context, name string, args ...uint64) (uint64, error) {
	g.stderr = head{}
	results, err := g.module.ExportedFunction(name).Call(ctx, args...)
	if err != nil {
		return 0, g.failed(ctx, name, err)
	}
	if len(results) == 0 {
		return 0, nil
	}
	return results[0], nil
}

// failed describes a call that did not return.
func (g *instance) failed(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("host: the guest was stopped in %s: %w", name, ctx.Err())
	}
	text := firstLine(err.Error())
	// Go says what is wrong, then, behind a blank line, where every goroutine is.
	said, _, _ := strings.Cut(string(g.stderr), "\n\n")
	if said = guest.Line(said); said != "" {
		text += ": " + said
	}
	return fmt.Errorf("host: the guest trapped in %s: %s", name, text)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// head keeps the beginning of what a guest writes to its standard error.
type head []byte

func (t *head) Write(p []byte) (int, error) {
	*t = append(*t, p[:min(len(p), maxStderr-len(*t))]...)
	return len(p), nil
}
