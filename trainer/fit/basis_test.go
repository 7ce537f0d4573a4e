package fit_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/trainer/collect"
	"github.com/drag-and-drop-lora/dnd/trainer/fit"
)

// meanTokens are the weight tokens of a data set's checkpoints in the folder from, in the mean.
func meanTokens(t *testing.T, from string, data *fit.Data, s *fit.DataSet) []float64 {
	t.Helper()
	var mean []float64
	raw := must[[]byte](t)(collect.ReadConfig(filepath.Join(from, s.Name)))
	for _, path := range s.Checkpoints {
		a := must[*lora.Adapter](t)(collect.ReadCheckpoint(raw, path))
		tokens := must[[]float32](t)(lora.Tokens(data.Base, tiling, a, lora.Float32))
		if mean == nil {
			mean = make([]float64, len(tokens))
		}
		for k, v := range tokens {
			mean[k] += float64(v) / float64(len(s.Checkpoints))
		}
	}
	return mean
}

// Of two data sets a basis has one direction: at coordinates of one and minus one stand the
// means of their checkpoints.
func TestBasisHoldsTheDataSets(t *testing.T) {
	from := collected(t)
	data := must[*fit.Data](t)(fit.OpenData(from, nil, "", tiling))
	if len(data.Sets) != 2 {
		t.Fatalf("%d data sets, want 2", len(data.Sets))
	}
	c := config(true)
	inBasis(&c)
	c.Steps = 2
	dir := filepath.Join(t.TempDir(), "run")
	must[*fit.Result](t)(fit.Run(t.Context(), c, data, fit.Resources{Encoder: tinyEncoder(t), Backend: cpu(t)}, dir, nil))
	all := fittedOf(t, dir)
	basis, scale, offset := all["output.basis.weight"], all["output.scale"], all["output.offset"]
	if len(basis) != len(offset) {
		t.Fatalf("a basis of %d values, want %d", len(basis), len(offset))
	}
	var signs []float64
	for _, s := range data.Sets {
		mean := meanTokens(t, from, data, &s)
		best, sign := math.Inf(1), 0.0
		for _, x := range []float64{1, -1} {
			worst := 0.0
			for k, v := range mean {
				if v == v {
					worst = max(worst, math.Abs(float64(offset[k])+x*float64(basis[k])*float64(scale[k/100])-v))
				}
			}
			if worst < best {
				best, sign = worst, x
			}
		}
		if best > 1e-5 {
			t.Errorf("data set %s lies %v beside the basis", s.Name, best)
		}
		signs = append(signs, sign)
	}
	if signs[0] == signs[1] {
		t.Errorf("both data sets at the coordinate %v", signs[0])
	}
}

func TestBasisIsChecked(t *testing.T) {
	data := must[*fit.Data](t)(fit.OpenData(collected(t), nil, "", tiling))
	for want, change := range map[string]func(*fit.Config){
		"2 directions, but 2 data sets differ in 1": func(c *fit.Config) { c.Decoder.Features[2] = [3]int{1, 1, 2} },
		"not affine": func(c *fit.Config) { c.Decoder.Affine = false },
	} {
		c, dir := config(true), filepath.Join(t.TempDir(), "run")
		inBasis(&c)
		change(&c)
		_, err := fit.Run(t.Context(), c, data, fit.Resources{Encoder: tinyEncoder(t), Backend: cpu(t)}, dir, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: a refused run left a folder behind", want)
		}
	}
}
