module github.com/drag-and-drop-lora/dnd

go 1.26.5

require (
	github.com/cogentcore/webgpu v0.23.0
	github.com/gomlx/compute v0.1.0
	github.com/gomlx/go-huggingface v0.4.1
	github.com/gomlx/go-xla v0.4.0
	github.com/gomlx/gomlx v0.28.1
	github.com/spf13/pflag v1.0.10
	github.com/tetratelabs/wazero v1.12.0
)
