package generator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"

	"github.com/drag-and-drop-lora/dnd/graph/safetensors"
)

// Load checks the checksum of every file that the manifest lists and, if keep is true,
// keeps the weights in memory as they are stored: Weights reads no file from then on. It is
// for processes that generate many times, and must end before anything else is done with p.
func (p *Package) Load(ctx context.Context, keep bool) error {
	if p.made != nil {
		return nil
	}
	held := map[string][]byte{}
	for _, f := range p.Manifest.Files {
		path := filepath.Join(p.Dir, filepath.FromSlash(f.Path))
		sum := sha256.New()
		to := io.Writer(sum)
		var data bytes.Buffer
		if weights := filepath.Ext(path) == ".safetensors"; keep && weights {
			data.Grow(int(f.Bytes))
			to = io.MultiWriter(sum, &data)
		}
		if err := copyFile(ctx, to, path, f.Bytes); err != nil {
			return err
		}
		if got := hexSum(sum); got != f.SHA256 {
			return fmt.Errorf("%s: SHA-256 is %s, but %s says %s: damaged or changed", path, got, ManifestName, f.SHA256)
		}
		if data.Len() > 0 {
			held[path] = data.Bytes()
		}
	}
	if !keep {
		return nil
	}
	for _, s := range []*tensorSet{p.decoder, p.encoder} {
		if s == nil {
			continue
		}
		for i, f := range s.files {
			data := held[f.Path]
			inMemory, err := safetensors.NewFile(bytes.NewReader(data), int64(len(data)))
			if err != nil {
				return fmt.Errorf("%s: %w", f.Path, err)
			}
			// What Open has checked is the header that it saw.
			if !reflect.DeepEqual(inMemory.Tensors, f.Tensors) {
				return fmt.Errorf("%s: other tensors than when it was opened: it changed", f.Path)
			}
			inMemory.Path = f.Path
			s.files[i] = inMemory
			if err := f.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyFile copies a file of n bytes in pieces, until ctx is done.
func copyFile(ctx context.Context, to io.Writer, path string, n int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for left := n; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := io.CopyN(to, f, min(left, 16<<20))
		if err != nil {
			return fmt.Errorf("%s: %d bytes, expected %d: %w", path, n-left+got, n, err)
		}
		left -= got
	}
	return nil
}
