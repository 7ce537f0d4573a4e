// Command write puts the made-up generator and its base model into a folder, for tests in
// other languages: generator/ and base.gguf.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/graph/gguf"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

func main() {
	if err := write(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: write DIR")
	}
	if err := os.RemoveAll(args[0]); err != nil {
		return err
	}
	if err := os.MkdirAll(args[0], 0o755); err != nil {
		return err
	}
	if err := madeup.Write(context.Background(), filepath.Join(args[0], "generator")); err != nil {
		return err
	}
	_, base, _, err := generator.Shape("mini")
	if err != nil {
		return err
	}
	return madeup.WriteBase(filepath.Join(args[0], "base.gguf"), madeup.BaseOptions{Base: base, Types: []gguf.TensorType{gguf.F16, gguf.F32}, Seed: 7})
}
