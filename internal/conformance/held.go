package conformance

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/decoder"
)

// RunHeld runs the golden decoders with weights that are prepared once, held on exec: three
// runs give the same bits, within the goldens' tolerance, and those of the streamed Program
// where that computes its convolutions in the same way. backend is what records call it.
func RunHeld(t *testing.T, exec graph.Holder, backend string) {
	for _, d := range goldenDecoders {
		for _, v := range []struct {
			binding int64
			ending  ending
			method  graph.Method
		}{{0, affine, ""}, {d.binding, affine, graph.Direct}, {0, basis, graph.Direct}, {0, affine, graph.Fourier}} {
			c, err := decoderCase(d.name, v.binding, v.ending, v.method, &graph.Preparation{})
			if err != nil {
				t.Fatal(err)
			}
			streamed, err := decoderCase(d.name, v.binding, v.ending, v.method, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(c.Name, func(t *testing.T) {
				// Run whole, between guards, like any Program.
				whole := c
				fenced := *c.Program
				fenced.Once = "" // Fence's NaN come as inputs
				whole.Program = &fenced
				if _, err := Run(t.Context(), exec, whole); err != nil {
					t.Error(err)
				}
				want, err := exec.Run(t.Context(), streamed.Program, c.Weights, c.Inputs, nil)
				if err != nil {
					t.Fatal(err)
				}
				h, err := exec.Hold(c.Program, c.Weights)
				if err != nil {
					t.Fatal(err)
				}
				defer h.Close()
				var first *graph.Result
				for i := range 3 {
					got, err := h.Run(t.Context(), decoder.Stage, c.Inputs, nil)
					if err != nil {
						t.Fatal(err)
					}
					for _, w := range c.Want {
						worst, err := w.compare(got)
						if err != nil {
							t.Errorf("run %d: %v", i, err)
						}
						Save(t, Record{Backend: backend, Case: "held/" + c.Name, Error: worst, Allowed: w.Tolerance})
					}
					if first == nil {
						first = got
					}
					if err := equal(first, got); err != nil {
						t.Errorf("run %d differs from the first: %v", i, err)
					}
				}
				if err := equal(want, first); err != nil && v.method != "" {
					t.Errorf("differs from the streamed run: %v", err)
				}
			})
		}
	}
}

// equal compares results bit for bit.
func equal(a, b *graph.Result) error {
	if len(a.Outputs) != len(b.Outputs) || len(a.Outputs) == 0 {
		return fmt.Errorf("%d results and %d", len(a.Outputs), len(b.Outputs))
	}
	for i, o := range a.Outputs {
		if o.Name != b.Outputs[i].Name || !bytes.Equal(o.Data, b.Outputs[i].Data) {
			return fmt.Errorf("%s and %s", o.Name, b.Outputs[i].Name)
		}
	}
	return nil
}
