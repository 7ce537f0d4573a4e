package graph_test

import (
	"fmt"
	"log"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// A Program that adds two matrices, planned for what every WebGPU device guarantees. An
// executor runs it: gpu.Open's, or the page's.
func ExampleBuilder() {
	b := graph.NewBuilder(graph.DefaultLimits())
	b.Stage("add")
	x, y := b.Input("x", [4]int{1, 1, 2, 64}), b.Input("y", [4]int{1, 1, 2, 64})
	b.Read("sum", b.Add("sum", x, y))
	p, err := b.Program()
	if err != nil {
		log.Fatal(err)
	}
	if err := p.Validate(); err != nil { // what executors do first
		log.Fatal(err)
	}
	fmt.Println(len(p.Kernels), "kernel,", len(p.Dispatches), "dispatch")
	for _, r := range p.Reads {
		fmt.Println("reads", r.Name, "of", r.Bytes, "bytes")
	}
	// Output:
	// 1 kernel, 1 dispatch
	// reads sum of 512 bytes
}
