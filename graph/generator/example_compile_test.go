package generator_test

import (
	"fmt"
	"log"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// The Program of a generator that is used as a decoder: it depends on the manifest and the
// limits alone, and names the weights that an executor asks the package for.
func ExampleCompileDecode() {
	p, err := generator.MadeUpPackage("mini", 1)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	program, err := generator.CompileDecode(&p.Manifest, graph.DefaultLimits(), 1, generator.F32)
	if err != nil {
		log.Fatal(err)
	}
	out := p.Manifest.Decoder.Output()
	fmt.Println(out[0], "weight tokens of", out[1], "by", out[2])
	fmt.Println("fits every device:", program.Requires.MaxStorageBufferBindingSize <= graph.DefaultLimits().MaxStorageBufferBindingSize)
	first := program.Buffers[program.Dispatches[0].Binds[1].Buffer].Source
	fmt.Println("begins with the", first.Kind, first.Name)
	// Output:
	// 358 weight tokens of 10 by 10
	// fits every device: true
	// begins with the input condition
}
