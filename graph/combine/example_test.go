package combine_test

import (
	"context"
	"fmt"
	"log"

	"github.com/drag-and-drop-lora/dnd/graph/combine"
	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// Two adapters become one: exactly, with the sum of their ranks, and cut to a lower rank
// with the error that this makes.
func ExampleConcat() {
	base := lora.Base{Rank: 1, Alpha: 1, Targets: []lora.Target{{Name: "model.layers.0.self_attn.q_proj", In: 2, Out: 2}}}
	one := &lora.Adapter{Base: base, Pairs: []lora.Pair{{A: []float32{1, 0}, B: []float32{1, 0}}}}
	two := &lora.Adapter{Base: base, Pairs: []lora.Pair{{A: []float32{0, 1}, B: []float32{0, 1}}}}
	both, err := combine.Concat(combine.Term{Adapter: one, Weight: 1}, combine.Term{Adapter: two, Weight: 0.75})
	if err != nil {
		log.Fatal(err)
	}
	cut, loss, err := combine.Rerank(context.Background(), both, 1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("rank %d, cut to %d: relative error %.2f\n", both.Base.Rank, cut.Base.Rank, loss.Total)
	// Output:
	// rank 2, cut to 1: relative error 0.60
}
