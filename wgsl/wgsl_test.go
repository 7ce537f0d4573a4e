package wgsl_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/wgsl"
)

// variants are constants for every kernel, each flag both ways.
func variants() map[string][][]wgsl.Const {
	c := func(pairs ...any) []wgsl.Const {
		var out []wgsl.Const
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, wgsl.Const{Name: pairs[i].(string), Value: pairs[i+1].(int)})
		}
		return out
	}
	v := map[string][][]wgsl.Const{}
	for _, name := range wgsl.Names() {
		v[name] = [][]wgsl.Const{nil}
	}
	v["conv"] = nil
	for _, k := range []int{1, 2, 3, 9, 11, wgsl.MaxKernelSize} {
		v["conv"] = append(v["conv"],
			c("K", k, "HasBias", 0, "Gelu", 0, "Partial", 0),
			c("K", k, "HasBias", 1, "Gelu", 0, "Partial", 0),
			c("K", k, "HasBias", 1, "Gelu", 1, "Partial", 0),
			c("K", k, "HasBias", 0, "Gelu", 0, "Partial", 1))
	}
	v["reduce"] = [][]wgsl.Const{c("HasBias", 0, "Gelu", 0), c("HasBias", 1, "Gelu", 1)}
	v["repack"] = [][]wgsl.Const{c("Store", wgsl.StoreF32), c("Store", wgsl.StoreF16), c("Store", wgsl.StoreQ8)}
	v["repack"] = append(v["repack"], c("Store", wgsl.StoreQ41))
	v["embed"], v["lookup"] = v["repack"], v["repack"]
	v["product"] = nil
	for _, s := range []int{wgsl.StoreF32, wgsl.StoreF16, wgsl.StoreQ8, wgsl.StoreQ41} {
		v["product"] = append(v["product"], c("Store", s, "Rows", 2, "HasBias", 0, "HasResidual", 0, "HasLow", 0, "HasFactor", 0),
			c("Store", s, "Rows", wgsl.MaxRows, "HasBias", 1, "HasResidual", 1, "HasLow", 1, "HasFactor", 1))
	}
	v["repack"] = append(v["repack"], c("Store", wgsl.StoreF16, "Half", 1))
	v["conv"] = append(v["conv"], c("K", 9, "HasBias", 1, "Gelu", 0, "Partial", 0, "Half", 1), c("K", 1, "HasBias", 0, "Gelu", 0, "Partial", 1, "Half", 1))
	v["conv"] = append(v["conv"], c("K", 1, "HasBias", 1, "Gelu", 1, "Partial", 0, "Skip", 1), c("K", 1, "HasBias", 0, "Gelu", 0, "Partial", 1, "Half", 1, "Skip", 1))
	for _, tile := range [][2]int{{1, 2}, {1, 4}, {2, 4}} {
		v["conv"] = append(v["conv"], c("K", 3, "HasBias", 1, "Gelu", 0, "Partial", 0, "OutFours", tile[0], "PositionFours", tile[1]),
			c("K", 1, "HasBias", 0, "Gelu", 0, "Partial", 1, "Half", 1, "Skip", 1, "OutFours", tile[0], "PositionFours", tile[1]))
		v["reduce"] = append(v["reduce"], c("HasBias", 1, "Gelu", 0, "OutFours", tile[0], "PositionFours", tile[1]))
	}
	v["layernorm"] = append(v["layernorm"], c("Subgroups", 1))
	v["rmsnorm"] = append(v["rmsnorm"], c("Subgroups", 1))
	v["fourierrows"] = [][]wgsl.Const{c("T", 16, "N", 16, "Store", wgsl.StoreF32), c("T", 24, "N", 9, "Store", wgsl.StoreF16), c("T", 32, "N", 11, "Store", wgsl.StoreQ8)}
	v["fouriercolumns"] = [][]wgsl.Const{c("T", 16, "N", 16, "Taps", 0), c("T", 32, "N", 11, "Taps", 1)}
	v["inversecolumns"] = [][]wgsl.Const{c("T", 12, "S", 3), c("T", 32, "S", 24)}
	v["inverserows"] = [][]wgsl.Const{c("T", 12, "S", 3, "HasBias", 0, "Gelu", 0), c("T", 32, "S", 24, "HasBias", 1, "Gelu", 1)}
	v["rotate"] = [][]wgsl.Const{c("Halves", 0), c("Halves", 1)}
	v["causal"] = [][]wgsl.Const{c("D", 16), c("D", 64), c("D", wgsl.MaxHeadWidth)}
	v["columnnorm"] = [][]wgsl.Const{c("HasResidual", 0), c("HasResidual", 1)}
	v["attention"] = [][]wgsl.Const{c("D", 32, "Q", 2), c("D", 64, "Q", 1), c("D", wgsl.MaxHeadWidth, "Q", 1), c("D", 32, "Q", 2, "Skip", 1)}
	return v
}

var binding = regexp.MustCompile(`@binding\((\d)\) var<(uniform|storage, read|storage, read_write)>`)

// The table and the texts agree on bindings, and no text is left with template syntax or
// with WGSL that one of the two compilers lacks.
func TestRender(t *testing.T) {
	labels := map[string]bool{}
	for name, list := range variants() {
		for _, consts := range list {
			k, err := wgsl.Render(name, consts...)
			if err != nil {
				t.Fatal(err)
			}
			if labels[k.Label] {
				t.Errorf("two kernels are labelled %q", k.Label)
			}
			labels[k.Label] = true
			found := binding.FindAllStringSubmatch(k.WGSL, -1)
			if len(found) != len(k.Bindings) {
				t.Errorf("%s: %d bindings in the text, %d in the table", k.Label, len(found), len(k.Bindings))
				continue
			}
			for i, m := range found {
				typ := strings.ReplaceAll(strings.TrimPrefix(m[2], "storage, "), " ", "")
				if m[1] != string(rune('0'+i)) || typ != k.Bindings[i] {
					t.Errorf("%s: binding %s is %s, the table says %s", k.Label, m[1], typ, k.Bindings[i])
				}
			}
			used := func(name string) bool { return slices.Contains(consts, wgsl.Const{Name: name, Value: 1}) }
			for _, word := range []string{"{{", "<no value>", "override", "f16>", "enable f16", "subgroup"} {
				if strings.HasPrefix(word, "sub") && used("Subgroups") || strings.Contains(word, "f16") && used("Half") {
					continue
				}
				if strings.Contains(k.WGSL, word) {
					t.Errorf("%s: text contains %q", k.Label, word)
				}
			}
			for _, p := range k.Params {
				if !strings.Contains(k.WGSL, "p."+p) && !unused(k.Label, p) {
					t.Errorf("%s: parameter %s is unused", k.Label, p)
				}
			}
		}
	}
}

// unused says which parameters only some variants of a kernel read.
func unused(label, param string) bool {
	switch {
	case param == "rank":
		return !strings.Contains(label, "HasLow=1")
	case param == "run" && strings.HasPrefix(label, "product"):
		return !strings.Contains(label, "HasFactor=1")
	case param == "bias0":
		return !strings.Contains(label, "HasBias=1")
	case param == "mask_base" || param == "period" || param == "length":
		return strings.HasPrefix(label, "conv") && !strings.Contains(label, "Skip=1")
	case strings.HasPrefix(label, "fourierrows"):
		return false
	case strings.HasPrefix(label, "fouriercolumns"):
		if strings.Contains(label, "Taps=1") {
			return param != "count" && param != "width" && param != "block"
		}
		return param == "outputs"
	case strings.Contains(label, "Partial=1"):
		return strings.HasPrefix(param, "out_") || param == "o_end" || param == "q_end"
	case strings.HasPrefix(label, "conv"):
		return param == "again" || param == "o_tiles"
	}
	return false
}

func TestRenderRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		consts []wgsl.Const
		want   string
	}{
		{"nonesuch", nil, `no kernel "nonesuch"`},
		{"repack", nil, "0 constants, expected 1"},
		{"repack", []wgsl.Const{{Name: "Store", Value: 4}}, "Store in 0..3"},
		{"repack", []wgsl.Const{{Name: "store", Value: 1}}, "expected Store"},
		{"conv", []wgsl.Const{{Name: "K", Value: 64}, {Name: "HasBias"}, {Name: "Gelu"}, {Name: "Partial"}}, "K in 1..63"},
	} {
		_, err := wgsl.Render(c.name, c.consts...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Render(%s, %v): %v, want %q", c.name, c.consts, err, c.want)
		}
	}
}
