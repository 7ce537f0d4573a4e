module github.com/drag-and-drop-lora/dnd

go 1.26.5

require (
	github.com/cogentcore/webgpu v0.23.0
	github.com/gomlx/compute v0.1.0
	github.com/gomlx/go-huggingface v0.3.1
	github.com/gomlx/go-xla v0.4.0
	github.com/gomlx/gomlx v0.26.0
	github.com/spf13/pflag v1.0.10
	github.com/tetratelabs/wazero v1.12.0
)

require (
	github.com/mitchellh/colorstring v0.0.0-20190213212951-d06e56a500db // indirect
	github.com/rivo/uniseg v0.4.7 // indirect
	github.com/schollz/progressbar/v3 v3.19.1 // indirect
	golang.org/x/sys v0.46.0 // indirect
	golang.org/x/term v0.44.0 // indirect
	golang.org/x/text v0.35.0 // indirect
)
