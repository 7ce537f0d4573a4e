package generator_test

import (
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// The generators of the reference, up to 2.4 G parameters, run on devices with 2 GB free,
// and the 0.5B one in less than 1.5 GB and 1.3 times its weights: by what their Programs
// count, which package gpu's tests hold to what is allocated.
func TestDeviceMemory(t *testing.T) {
	// Package gpu lets that much wait for the device, unless a budget is tighter.
	const waiting = 320 << 20
	for _, shape := range generator.Shapes() {
		p, err := generator.MadeUpPackage(shape, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, dtype := range []string{generator.F32, generator.F16, generator.Q8, generator.Q4} {
			encode, err := generator.CompileEncode(&p.Manifest, graph.DefaultLimits(), dtype)
			if err != nil {
				t.Fatal(err)
			}
			decode, err := generator.CompileDecode(&p.Manifest, graph.DefaultLimits(), 1, dtype)
			if err != nil {
				t.Fatal(err)
			}
			e, d := encode.Memory(), decode.Memory()
			t.Logf("%s, %s: encode %d MB, decode %d MB (%s) of %d MB of weights", shape, dtype, e.Peak/1e6, d.Peak/1e6, d.At, d.Weights/1e6)
			peak := max(e.Peak, d.Peak) + waiting
			if peak > 2e9 {
				t.Errorf("%s, %s: %d bytes", shape, dtype, peak)
			}
			if shape == "0.5b" && (dtype == generator.Q8 && peak > 1.5e9 || float64(peak) > 1.3*float64(d.Weights)) {
				t.Errorf("%s, %s: %d bytes for %d of weights", shape, dtype, peak, d.Weights)
			}
		}
	}
}
