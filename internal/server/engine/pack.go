package engine

import (
	"archive/zip"
	"fmt"
	"io"
	"slices"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

// FileType is the media type and the name of the one file that Pack writes for a format.
func FileType(format string) (mediaType, name string) {
	if format == lora.GGUF {
		return "application/octet-stream", lora.GGUFName
	}
	return "application/zip", "adapter.zip"
}

// Pack writes an adapter as one file: a GGUF as it is, the files of the other formats as a
// zip archive. Equal adapters give equal bytes.
func (a *Adapter) Pack(w io.Writer) error {
	if a.Report.Format == lora.GGUF {
		i := slices.IndexFunc(a.Files, func(f lora.File) bool { return f.Name == lora.GGUFName })
		if i < 0 {
			return fmt.Errorf("engine: the adapter has no %s", lora.GGUFName)
		}
		return a.Files[i].Write(w)
	}
	z := zip.NewWriter(w)
	for _, f := range a.Files {
		// Weights hardly shrink, so they are stored. No times: they would differ.
		to, err := z.CreateHeader(&zip.FileHeader{Name: f.Name, Method: zip.Store})
		if err != nil {
			return err
		}
		if err := f.Write(to); err != nil {
			return err
		}
	}
	return z.Close()
}
