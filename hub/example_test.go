package hub_test

import (
	"context"
	"fmt"
	"log"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub"
)

// A program that embeds dnd opens a generator by its name on the hub, pinned to a tag. The
// second time it comes from the cache.
func Example() {
	cache, err := hub.New("") // the user's
	if err != nil {
		log.Fatal(err)
	}
	cache.Progress = func(done, total int64) { fmt.Printf("\r%d of %d bytes", done, total) }
	found, err := cache.Get(context.Background(), "org/generator@v1.0")
	if err != nil {
		log.Fatal(err)
	}
	p, err := generator.Open(found.Dir)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	fmt.Println(p.Manifest.Name, "for", p.Manifest.Base.Model, "at commit", found.Commit)
}
