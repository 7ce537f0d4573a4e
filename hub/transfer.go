package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// transfer brings the files of one package into a folder: files/ holds those that are whole
// and have the right SHA-256, parts/N what has arrived of file N of the manifest.
type transfer struct {
	origin      origin
	source      string // for errors
	dir         string
	done, total int64
	progress    func(done, total int64)
}

func (t *transfer) files() string { return filepath.Join(t.dir, "files") }

// run fetches what is missing, one file after the other, and goes on where an earlier run
// stopped.
func (t *transfer) run(ctx context.Context, manifest []byte, files []generator.File) error {
	if err := errors.Join(os.MkdirAll(t.files(), 0o755), os.MkdirAll(filepath.Join(t.dir, "parts"), 0o755)); err != nil {
		return err
	}
	// Paths are the server's: nothing may be written outside of the folder.
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for i, f := range files {
		before := t.done
		if err := t.file(ctx, root, filepath.Join("parts", strconv.Itoa(i)), f); err != nil {
			return err
		}
		t.set(before + f.Bytes)
	}
	return writeSynced(root, filepath.Join("files", manifestName), manifest)
}

func (t *transfer) set(done int64) {
	t.done = done
	if t.progress != nil {
		t.progress(done, t.total)
	}
}

// file makes one file of the package.
func (t *transfer) file(ctx context.Context, root *os.Root, part string, f generator.File) error {
	name := filepath.Join("files", filepath.FromSlash(f.Path))
	if st, err := root.Stat(name); err == nil && st.Mode().IsRegular() && st.Size() == f.Bytes {
		return nil
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	p, err := openPart(root, part, f)
	if err != nil {
		return err
	}
	defer p.file.Close()
	begin := t.done
	resumed := p.size > 0
	for {
		err := t.origin.fetch(ctx, f.Path, p, func() { t.set(begin + p.size) })
		if err != nil {
			return fmt.Errorf("%s: %s: %w", t.source, f.Path, err)
		}
		got := hex.EncodeToString(p.sum.Sum(nil))
		if got == f.SHA256 {
			break
		}
		if err := p.restart(); err != nil {
			return err
		}
		// What an earlier run had written before a crash may be damaged.
		if !resumed {
			return fmt.Errorf("%s: %s: SHA-256 is %s, but %s says %s: damaged or changed at its source", t.source, f.Path, got, manifestName, f.SHA256)
		}
		resumed = false
	}
	if err := errors.Join(p.file.Sync(), p.file.Close()); err != nil {
		return err
	}
	return root.Rename(part, name)
}

// part is what has arrived of a file.
type part struct {
	file *os.File // its offset is size
	want int64    // bytes of the whole file
	size int64    // bytes that are there
	sum  hash.Hash
}

// openPart opens or makes a part and hashes what is in it.
func openPart(root *os.Root, name string, f generator.File) (*part, error) {
	file, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	p := &part{file: file, want: f.Bytes, sum: sha256.New()}
	if p.size, err = io.Copy(p.sum, file); err == nil && p.size > p.want {
		err = p.restart()
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return p, nil
}

// restart throws away what has arrived.
func (p *part) restart() error {
	p.size = 0
	p.sum.Reset()
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return p.file.Truncate(0)
}

// diskError is an error of this machine's: to ask the server again does not help.
type diskError struct{ error }

func (d diskError) Unwrap() error { return d.error }

// read appends r up to the size of the whole file and calls report now and then. More than
// that is an error, less is io.ErrUnexpectedEOF.
func (p *part) read(r io.Reader, report func()) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if int64(n) > p.want-p.size {
			return errPermanent{fmt.Errorf("more than the %d bytes that %s says", p.want, manifestName)}
		}
		if n > 0 {
			wrote, err := p.file.Write(buf[:n])
			p.sum.Write(buf[:wrote])
			p.size += int64(wrote)
			if err != nil {
				return diskError{err}
			}
			report()
		}
		if errors.Is(err, io.EOF) {
			if p.size < p.want {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// writeSynced makes a small file in one step.
func writeSynced(root *os.Root, name string, text []byte) error {
	tmp := filepath.Join("parts", "new")
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fs.FileMode(0o644))
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return root.Rename(tmp, name)
}
