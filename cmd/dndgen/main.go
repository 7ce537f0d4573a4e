// Command dndgen turns prompts into LoRA adapters, on any WebGPU device or on the CPU.
package main

import "github.com/drag-and-drop-lora/dnd/cmd/internal/cli"

func main() {
	cli.Main("dndgen", "dndgen turns prompts into a LoRA adapter that is ready to load.", []cli.Command{
		{Name: "generate", Short: "make an adapter from prompts", Setup: generate},
		{Name: "try", Args: "PROMPT", Short: "a base model's answers to a prompt, without and with an adapter", Setup: try},
		{Name: "convert", Short: "adapters into other formats, added up, scaled, or merged into their base model", Setup: convert},
		{Name: "diff", Args: "A B", Short: "how far two adapters are apart", Setup: diff},
		{Name: "plot", Args: "PATH", Short: "an adapter as a heat map, in the terminal or as a PNG", Setup: plot},
		{Name: "push", Short: "an adapter into a running vLLM or llama-server", Setup: push},
		{Name: "encode", Short: "turn prompts into a condition", Setup: encode},
		{Name: "decode", Short: "turn a condition into weight tokens", Setup: decode},
		{Name: "import", Short: "make a generator package of an official checkpoint", Setup: importCheckpoint},
		{Name: "madeup", Short: "make a generator package with made-up weights, to measure with", Setup: madeUp},
		{Name: "bench", Short: "measure a backend on a generator's shape, with made-up weights", Setup: bench},
		{Name: "tune", Short: "measure how a WebGPU device decodes fastest, and keep it for later runs", Setup: tuneDevice},
		{Name: "serve", Short: "the page, on this machine: the same in a browser; with --api an HTTP API", Setup: serve, Grace: maxDrain + drainGrace},
		{Name: "pull", Args: "SOURCE", Short: "fetch a generator from the Hugging Face hub or a URL, or its latest state", Setup: pull},
		{Name: "list", Short: "the generators that were fetched", Setup: list},
		{Name: "remove", Args: "SOURCE", Short: "delete a fetched generator, by its source or the digits of its SHA-256", Setup: remove},
		{Name: "key", Short: "make a key to sign generators with", Setup: key},
		{Name: "sign", Args: "DIR", Short: "verify a generator package and sign it", Setup: sign},
		{Name: "doctor", Short: "what this machine has to compute with, and what to install", Setup: doctor},
		{Name: "devices", Short: "the WebGPU devices of this machine", Setup: devices},
		{Name: "inspect", Args: "PATH", Short: "what a generator, an adapter, a safetensors or a GGUF file holds", Setup: inspect},
		{Name: "verify", Args: "PATH", Short: "check a file or folder, checksums included", Setup: verify},
	})
}
