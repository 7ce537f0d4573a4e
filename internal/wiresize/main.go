// Command wiresize prints what files weigh on their way to a browser: as they are, and as
// a static server compresses them with gzip and with brotli, each at its best.
package main

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"

	"github.com/andybalholm/brotli"
)

func main() {
	for _, path := range os.Args[1:] {
		if err := weigh(path); err != nil {
			fmt.Fprintf(os.Stderr, "wiresize: %v\n", err)
			os.Exit(1)
		}
	}
}

func weigh(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	zipped, err := compressed(raw, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.BestCompression) })
	if err != nil {
		return err
	}
	brotlied, err := compressed(raw, func(w io.Writer) (io.WriteCloser, error) {
		return brotli.NewWriterLevel(w, brotli.BestCompression), nil
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d bytes, %d with gzip, %d with brotli\n", path, len(raw), zipped, brotlied)
	return nil
}

// compressed is how many bytes a compressor makes of raw.
func compressed(raw []byte, make func(io.Writer) (io.WriteCloser, error)) (int64, error) {
	var n counter
	w, err := make(&n)
	if err != nil {
		return 0, err
	}
	if _, err := w.Write(raw); err != nil {
		return 0, err
	}
	err = w.Close()
	return int64(n), err
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
