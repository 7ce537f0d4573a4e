package host_test

import (
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/guest"
)

// module is a hostile guest: a WebAssembly module that exports the ABI, each function's
// body written as instructions. It is assembled by hand, so that tests need no other tool.
type module struct {
	pages  uint32 // of memory at the start
	bodies map[string][]byte
	omit   string // a function that is not exported
	// data lie in memory from dataAt on.
	data []byte
	// wasi are functions (i32, i32) i32 of WASI that it imports: the first functions, in this
	// order. unknownImport is the name of one that no host gives, start runs _initialize as
	// the module's start function too.
	wasi          []string
	unknownImport string
	start         bool
}

// Where the module's memory holds what.
const (
	messageAt = 1 << 16 // what alloc gives
	dataAt    = 1 << 20
)

// functions are the exports in order: their names, and types by index into the module's.
var functions = []struct {
	name string
	kind byte
	body []byte // what a well-behaved one does
}{
	{"_initialize", 4, nil},
	{"abi_version", 0, i32(guest.Version)},
	{"alloc", 1, i32(messageAt)},
	{"free", 2, nil},
	{"compile", 3, i64(0)},
	{"feed", 3, i64(0)},
	{"finish", 3, i64(0)},
	{"answer", 3, i64(0)},
}

// Instructions.
var (
	unreachable = []byte{0x00}
	forever     = []byte{0x03, 0x40, 0x0c, 0x00, 0x0b, 0x00} // loop: br 0; unreachable
	// loop: memory.grow(16) != -1: br_if 0
	growAll = slices.Concat([]byte{0x03, 0x40}, i32(16), []byte{0x40, 0x00}, i32(-1), []byte{0x47, 0x0d, 0x00, 0x0b})
)

func i32(v int64) []byte { return append([]byte{0x41}, signed(int64(int32(v)))...) }
func i64(v int64) []byte { return append([]byte{0x42}, signed(v)...) }

// span is what a call answers with: n bytes at a place.
func span(at, n uint32) []byte { return i64(int64(uint64(at)<<32 | uint64(n))) }

// once does first if the word at address 0 is zero and sets it; later it does then.
func once(first, then []byte) []byte {
	return slices.Concat(i32(0), []byte{0x28, 0x02, 0x00, 0x45, 0x04, 0x40}, // if (i32.load(0) == 0)
		i32(0), i32(1), []byte{0x36, 0x02, 0x00}, first, []byte{0x0b}, then)
}

// assemble is the module's binary.
func (m module) assemble() []byte {
	section := func(id byte, items ...[]byte) []byte {
		body := append(unsigned(uint64(len(items))), slices.Concat(items...)...)
		return slices.Concat([]byte{id}, unsigned(uint64(len(body))), body)
	}
	text := func(s string) []byte { return append(unsigned(uint64(len(s))), s...) }
	var imports [][]byte
	for _, name := range m.wasi {
		imports = append(imports, slices.Concat(text("wasi_snapshot_preview1"), text(name), []byte{0x00, 0x05}))
	}
	if m.unknownImport != "" {
		imports = append(imports, slices.Concat(text("env"), text(m.unknownImport), []byte{0x00, 0x04}))
	}
	first := uint64(len(imports)) // imported functions are counted first
	var kinds, exports, codes [][]byte
	for i, f := range functions {
		body, ok := m.bodies[f.name]
		if !ok {
			body = f.body
		}
		kinds = append(kinds, []byte{f.kind})
		if f.name != m.omit {
			exports = append(exports, slices.Concat(text(f.name), []byte{0x00}, unsigned(first+uint64(i))))
		}
		code := slices.Concat([]byte{0x00}, body, []byte{0x0b}) // no locals; end
		codes = append(codes, append(unsigned(uint64(len(code))), code...))
	}
	exports = append(exports, slices.Concat(text("memory"), []byte{0x02, 0x00}))
	pages := max(m.pages, uint32(dataAt>>16+len(m.data)>>16+1))
	raw := slices.Concat([]byte("\x00asm\x01\x00\x00\x00"), section(1,
		[]byte{0x60, 0, 1, 0x7f},              // () i32
		[]byte{0x60, 1, 0x7f, 1, 0x7f},        // (i32) i32
		[]byte{0x60, 1, 0x7f, 0},              // (i32)
		[]byte{0x60, 2, 0x7f, 0x7f, 1, 0x7e},  // (i32, i32) i64
		[]byte{0x60, 0, 0},                    // ()
		[]byte{0x60, 2, 0x7f, 0x7f, 1, 0x7f})) // (i32, i32) i32
	if len(imports) > 0 {
		raw = append(raw, section(2, imports...)...)
	}
	raw = slices.Concat(raw, section(3, kinds...), section(5, append([]byte{0x00}, unsigned(uint64(pages))...)), section(7, exports...))
	if m.start {
		raw = append(raw, slices.Concat([]byte{8}, unsigned(1), unsigned(first))...)
	}
	raw = append(raw, section(10, codes...)...)
	if len(m.data) > 0 {
		raw = append(raw, section(11, slices.Concat([]byte{0x00}, i32(dataAt), []byte{0x0b}, unsigned(uint64(len(m.data))), m.data))...)
	}
	return raw
}

// unsigned and signed are LEB128.
func unsigned(v uint64) []byte {
	var raw []byte
	for ; v >= 0x80; v >>= 7 {
		raw = append(raw, byte(v)|0x80)
	}
	return append(raw, byte(v))
}

func signed(v int64) []byte {
	var raw []byte
	for {
		b := byte(v & 0x7f)
		v >>= 7
		if v == 0 && b&0x40 == 0 || v == -1 && b&0x40 != 0 {
			return append(raw, b)
		}
		raw = append(raw, b|0x80)
	}
}
