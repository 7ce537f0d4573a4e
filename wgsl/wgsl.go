// Package wgsl holds the compute kernels: one .wgsl file each, and the table of their
// bindings, constants and parameters.
//
// Render turns a file into the text of one pipeline. Only what changes the code is a
// constant (kernel size, storage type, head width, which operands there are); shapes,
// strides and ranges are parameters in a uniform block, so that one pipeline serves many
// layers. The texts keep to what both naga and Tint compile: no overrides, no f16 type,
// no subgroups. The package knows nothing of Programs; package graph does that.
package wgsl

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"text/template"
)

//go:embed *.wgsl
var files embed.FS

//go:embed fourier.go
var fourierSource string

// Entry is the entry point of every kernel.
const Entry = "main"

// Binding types of WebGPU, in Kernel.Bindings.
const (
	Uniform   = "uniform"
	Read      = "read"
	ReadWrite = "read_write"
)

// Const is one constant of a kernel. Flags are 0 or 1.
type Const struct {
	Name  string
	Value int
}

// Kernel is one rendered kernel.
type Kernel struct {
	// Label is the kernel's name and its constants: equal labels, equal texts.
	Label string
	WGSL  string
	// Bindings are the types of bindings 0, 1, … in group 0. Binding 0 is the block of
	// parameters.
	Bindings []string
	// Params names the words of the block in order. All are u32: negative numbers wrap,
	// floats are given by their bits.
	Params []string
	// Workgroup is the number of invocations along x; there is one along y and z.
	Workgroup int
	// WorkgroupBytes is the shared memory that a workgroup uses.
	WorkgroupBytes int
}

type entry struct {
	name      string
	consts    []constRange
	bindings  []string          // after the uniform block
	optional  map[string]string // by flag, separated by spaces
	params    string
	workgroup int
	shared    int
}

type constRange struct {
	name     string
	min, max int
	feature  bool // may be left out, and is absent then
	absent   int
}

// MaxKernelSize bounds K, which conv unrolls.
const MaxKernelSize = 63

// MaxHeadWidth bounds D, which attention unrolls.
const MaxHeadWidth = 128

var flag = func(name string) constRange { return constRange{name: name, max: 1} }

// feature is a flag that may be left out: for kernels that use a feature of the device (Half
// wants "shader-f16", Subgroups wants "subgroups" and WGSL's subgroup_id) or that skip what
// nobody reads. Without it they compute the same.
var feature = func(name string) constRange { return constRange{name: name, max: 1, feature: true} }

// fours are the sides of a convolution's tile in fours: 8 where they are left out.
var fours = func(name string, most int) constRange {
	return constRange{name: name, min: 1, max: most, feature: true, absent: 2}
}

// points are numbers of points of a transform, or of a part of them.
var points = func(name string) constRange { return constRange{name: name, min: 1, max: MaxPoints} }

// MaxPositions bounds the positions that causal attends to: their scores are in shared
// memory.
const MaxPositions = 2048

// MaxRows bounds Rows, which product unrolls.
const MaxRows = 8

// Values of the constant Store: how stored weights are read.
const (
	StoreF32 = iota
	StoreF16
	StoreQ8
	StoreQ41
)

var store = constRange{name: "Store", min: StoreF32, max: StoreQ41}

const tilingParams = "tiles tile0 nq np "
const storeParams = "out_base out_item out_o out_p out_q o_end q_end bias0"

var table = []entry{
	{
		name: "conv",
		consts: []constRange{{name: "K", min: 1, max: MaxKernelSize}, flag("HasBias"), flag("Gelu"), flag("Partial"), feature("Half"), feature("Skip"),
			fours("OutFours", 2), fours("PositionFours", 4)},
		bindings: []string{Read, Read, ReadWrite},
		optional: map[string]string{"HasBias": Read, "Skip": Read},
		params: tilingParams + "x_item q0 cin rows stride top slice c_first c_last o_tile0 o_tiles again mask_base period length " +
			storeParams,
		workgroup: 64,
	},
	{
		name:      "reduce",
		consts:    []constRange{flag("HasBias"), flag("Gelu"), fours("OutFours", 2), fours("PositionFours", 4)},
		bindings:  []string{Read, ReadWrite},
		optional:  map[string]string{"HasBias": Read},
		params:    tilingParams + "o_tiles slices " + storeParams,
		workgroup: 64,
	},
	{
		name:      "gather",
		bindings:  []string{Read, ReadWrite},
		params:    "count width c_fast cn pn qn src_base src_item src_c src_p src_q q_count left merge dst_base dst_item dst_c dst_p",
		workgroup: 64,
	},
	{
		name:      "repack",
		consts:    []constRange{store, feature("Half")},
		bindings:  []string{Read, ReadWrite},
		params:    "count width taps outputs base",
		workgroup: 64,
	},
	{
		name:      "fourierrows",
		consts:    []constRange{points("T"), points("N"), store},
		bindings:  []string{Read, ReadWrite},
		params:    "count width base group skip line step across",
		workgroup: 64,
	},
	{
		name:      "fouriercolumns",
		consts:    []constRange{points("T"), points("N"), flag("Taps")},
		bindings:  []string{Read, ReadWrite},
		params:    "count width block channels outputs items rows across down tiles padded step top",
		workgroup: 64,
	},
	{
		name:      "fourierproduct",
		bindings:  []string{Read, Read, ReadWrite},
		params:    "tiles outs frequencies first last cin slice wt wo again",
		workgroup: 64,
	},
	{
		name:      "inversecolumns",
		consts:    []constRange{points("T"), points("S")},
		bindings:  []string{Read, ReadWrite},
		params:    "count width block slices",
		workgroup: 64,
	},
	{
		name:     "inverserows",
		consts:   []constRange{points("T"), points("S"), flag("HasBias"), flag("Gelu")},
		bindings: []string{Read, ReadWrite},
		optional: map[string]string{"HasBias": Read},
		params: "count width rows outputs tiles padded across down step_p step_q p0 o0 o_fast " +
			"item_lo items o_lo o_count p_lo p_count q_lo q_end scale out_base out_item out_o out_p out_q",
		workgroup: 64,
	},
	{
		name:      "layernorm",
		consts:    []constRange{feature("Subgroups")},
		bindings:  []string{Read, Read, Read, ReadWrite},
		params:    "rows width len eps x_base y_base",
		workgroup: 256,
		shared:    256 * 8,
	},
	{
		name:      "columnnorm",
		consts:    []constRange{flag("HasResidual")},
		bindings:  []string{Read, Read, Read, ReadWrite},
		optional:  map[string]string{"HasResidual": Read},
		params:    "tokens period length channels stride eps y_base y_chunk y_l y_c",
		workgroup: 64,
	},
	{
		name:      "combine",
		bindings:  []string{Read, Read, Read, ReadWrite},
		params:    "count width plane a_base b_base z_base",
		workgroup: 64,
	},
	{
		name:      "add",
		bindings:  []string{Read, Read, ReadWrite},
		params:    "count width x_base y_base z_base",
		workgroup: 64,
	},
	{
		name:      "affine",
		bindings:  []string{Read, Read, Read, ReadWrite},
		params:    "count width plane t0 offset_base y_base z_base",
		workgroup: 64,
	},
	{
		name:      "embed",
		consts:    []constRange{store},
		bindings:  []string{Read, Read, Read, Read, ReadWrite},
		params:    "tokens period length ids_base vocabulary first rows base channels stride",
		workgroup: 64,
	},
	{
		name:      "attention",
		consts:    []constRange{{name: "D", min: 1, max: MaxHeadWidth}, {name: "Q", min: 1, max: 2}, feature("Skip")},
		bindings:  []string{Read, Read, Read, Read, ReadWrite},
		params:    "period length stride mask_base chunk0 factor",
		workgroup: 64,
	},
	{
		name:      "maskpads",
		bindings:  []string{Read, ReadWrite},
		params:    "count width channels mask_base x_base",
		workgroup: 64,
	},
	{
		name:      "lookup",
		consts:    []constRange{store},
		bindings:  []string{Read, Read, ReadWrite},
		params:    "channels vocabulary first count base",
		workgroup: 64,
	},
	{
		name:      "rmsnorm",
		consts:    []constRange{feature("Subgroups")},
		bindings:  []string{Read, Read, ReadWrite},
		params:    "channels eps",
		workgroup: 256,
		shared:    256 * 8,
	},
	{
		name:      "product",
		consts:    []constRange{store, {name: "Rows", min: 1, max: MaxRows}, flag("HasBias"), flag("HasResidual"), flag("HasLow"), flag("HasFactor"), feature("Subgroups")},
		bindings:  []string{Read, Read, ReadWrite},
		optional:  map[string]string{"HasBias": Read, "HasResidual": Read, "HasLow": Read + " " + Read, "HasFactor": Read},
		params:    "units out first count width rank run",
		workgroup: 64,
		shared:    64 * MaxRows * 16,
	},
	{
		name:      "rotate",
		consts:    []constRange{flag("Halves")},
		bindings:  []string{Read, Read, Read, Read, Read, ReadWrite, ReadWrite, ReadWrite},
		params:    "heads kv half length run",
		workgroup: 64,
	},
	{
		name:      "causal",
		consts:    []constRange{{name: "D", min: 1, max: MaxHeadWidth}},
		bindings:  []string{Read, Read, Read, Read, ReadWrite},
		params:    "heads kv length run factor",
		workgroup: 64,
		shared:    (MaxPositions + 64) * 4,
	},
	{
		name:      "swiglu",
		bindings:  []string{Read, Read, ReadWrite},
		params:    "count width",
		workgroup: 64,
	},
	{
		name:      "argmax",
		bindings:  []string{Read, ReadWrite},
		params:    "channels",
		workgroup: 256,
		shared:    256 * 8,
	},
}

// Hash is the same for the same kernels.
func Hash() string { return hash() }

var hash = sync.OnceValue(func() string {
	h := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s", path, len(text), text)
		return err
	})
	fmt.Fprint(h, fourierSource) // which writes parts of them
	if err != nil {
		panic(err) // the files are in the program
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
})

// Names lists the kernels.
func Names() []string {
	names := make([]string, len(table))
	for i, e := range table {
		names[i] = e.name
	}
	return names
}

// Render makes the text of a kernel. consts are the kernel's constants in the order of the
// table, all but for features that are not used; an error names what is missing, unknown or
// out of range.
func Render(name string, consts ...Const) (Kernel, error) {
	i := slices.IndexFunc(table, func(e entry) bool { return e.name == name })
	if i < 0 {
		return Kernel{}, fmt.Errorf("wgsl: no kernel %q", name)
	}
	e := &table[i]
	k := Kernel{
		Label:          name,
		Bindings:       append([]string{Uniform}, e.bindings...),
		Params:         strings.Fields(e.params),
		Workgroup:      e.workgroup,
		WorkgroupBytes: e.shared,
	}
	given, expected := consts, 0
	for _, want := range e.consts {
		if !want.feature {
			expected++
		}
	}
	if len(consts) < expected || len(consts) > len(e.consts) {
		return Kernel{}, fmt.Errorf("wgsl: kernel %s: %d constants, expected %d", name, len(consts), expected)
	}
	data := map[string]any{"WG": e.workgroup, "Params": paramsBlock(k.Params), "MaxPositions": MaxPositions}
	for _, want := range e.consts {
		if want.feature && (len(given) == 0 || given[0].Name != want.name) {
			data[want.name] = want.absent
			continue
		}
		if len(given) == 0 {
			return Kernel{}, fmt.Errorf("wgsl: kernel %s: constant %s is missing", name, want.name)
		}
		c := given[0]
		given = given[1:]
		if c.Name != want.name || c.Value < want.min || c.Value > want.max {
			return Kernel{}, fmt.Errorf("wgsl: kernel %s: constant %s=%d, expected %s in %d..%d",
				name, c.Name, c.Value, want.name, want.min, want.max)
		}
		data[c.Name] = c.Value
		k.Label += fmt.Sprintf(" %s=%d", c.Name, c.Value)
		if c.Value == 1 {
			k.Bindings = append(k.Bindings, strings.Fields(e.optional[c.Name])...)
		}
	}
	if len(given) > 0 {
		return Kernel{}, fmt.Errorf("wgsl: kernel %s: constant %s is not expected", name, given[0].Name)
	}
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, name+".wgsl", data); err != nil {
		return Kernel{}, fmt.Errorf("wgsl: kernel %s: %w", name, err)
	}
	k.WGSL = text.String()
	return k, nil
}

// paramsBlock declares the uniform block: made from the table, so that the two agree.
func paramsBlock(names []string) string {
	var b strings.Builder
	b.WriteString("struct Params {\n")
	for _, n := range names {
		fmt.Fprintf(&b, "  %s: u32,\n", n)
	}
	b.WriteString("}\n")
	return b.String()
}

var templates = template.Must(template.New("").Option("missingkey=error").Funcs(template.FuncMap{
	"add": func(a, b int) int { return a + b },
	"div": func(a, b int) int { return a / b },
	"mul": func(a int, more ...int) int {
		for _, b := range more {
			a *= b
		}
		return a
	},
	"seq": func(n int) []int {
		s := make([]int, n)
		for i := range s {
			s[i] = i
		}
		return s
	},
	"realForward":    func(points, n int) string { text, _ := realForward(points, n); return text },
	"complexForward": func(points, n int) string { text, _ := complexForward(points, n); return text },
	"complexBack":    func(points, n int) string { text, _ := complexBack(points, n); return text },
	"realBack":       func(points, n int) string { text, _ := realBack(points, n); return text },
	"lanes":          func() []string { return []string{"x", "y", "z", "w"} },
	// letters name the vec4 of a tile's outputs.
	"letters": func(n int) []string { return []string{"a", "b"}[:n] },
	// vecs is how many vec4 hold a row segment for a tile's positions and k taps.
	"vecs": func(positions, k int) int { return (positions + k - 1 + 3) / 4 },
	// lane is the i-th value of the segment x0, x1, …
	"lane": func(i int) string { return fmt.Sprintf("%d.%c", i/4, "xyzw"[i%4]) },
}).ParseFS(files, "*.wgsl"))
