// Package site is what dndgen serve serves: the page, the guest, a generator's files and,
// if one is given, a base model, to a browser on the same machine. It computes nothing:
// the page does. The URLs:
//
//	/             the page's files; index.html for /
//	/dnd.wasm     the guest, for pages that do not bring their own
//	/generator/…  generator.json and every file that it lists, nothing else
//	/base.gguf    the base model, which the page lets answer
//
// Everything else is not found; there are no listings. Files come with their types, whole
// or by ranges, and with entity tags: a browser asks again and mostly hears that nothing
// changed. Names that carry a hash are kept for ever. Guard is for whatever is served
// beside it.
package site

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// Options say what is served.
type Options struct {
	// Page is the folder of the page's files. They are read once, by New.
	Page string
	// Guest is the file served as /dnd.wasm, if Page has none; empty for none.
	Guest string
	// Generator must stay open. Base is a GGUF file, empty for none.
	Generator *generator.Package
	Base      string
	// Connect are other origins that the page may load generators from, as
	// "https://example.org". The browser holds it to them.
	Connect []string
}

// Site serves; it is an http.Handler for GET and HEAD.
type Site struct {
	files map[string]*file // by path
	next  http.Handler     // serve behind Guard
}

// file is one thing to serve, in memory or on disk.
type file struct {
	kind  string // Content-Type
	etag  string
	cache string // Cache-Control

	data   []byte // if in memory
	packed func() []byte

	path  string // if on disk
	bytes int64  // that it must have
}

const (
	maxPage = 64 << 20 // bytes of all of the page's files
	again   = "no-cache"
	forever = "public, max-age=31536000, immutable"
)

// hashed are names that change with their contents, as bundlers make them:
// worker-4F2WQ7XK.js, page.0123abcd.css.
var hashed = regexp.MustCompile(`[-.]([0-9A-Z]{8}|[0-9a-f]{8,64})\.[0-9a-z]+(\.map)?$`)

var kinds = map[string]string{
	".css": "text/css; charset=utf-8", ".html": "text/html; charset=utf-8", ".ico": "image/x-icon",
	".js": "text/javascript; charset=utf-8", ".json": "application/json", ".map": "application/json",
	".md": "text/plain; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".png": "image/png",
	".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8", ".wasm": "application/wasm",
	".webmanifest": "application/manifest+json", ".woff2": "font/woff2",
}

func kind(name string) string {
	if k, ok := kinds[path.Ext(name)]; ok {
		return k
	}
	return "application/octet-stream"
}

// New reads the page and checks that everything is there.
func New(o Options) (*Site, error) {
	s := &Site{files: map[string]*file{}}
	if err := s.addPage(o.Page); err != nil {
		return nil, err
	}
	if _, ok := s.files["/"]; !ok {
		return nil, fmt.Errorf("%s: no index.html: not the folder of the page", o.Page)
	}
	if _, ok := s.files["/dnd.wasm"]; !ok && o.Guest != "" {
		data, err := os.ReadFile(o.Guest)
		if err != nil {
			return nil, err
		}
		s.files["/dnd.wasm"] = inMemory("dnd.wasm", data)
	}
	if err := s.addGenerator(o.Generator); err != nil {
		return nil, err
	}
	if o.Base != "" {
		if err := s.addBase(o.Base); err != nil {
			return nil, err
		}
	}
	s.next = Guard(o.Connect, http.HandlerFunc(s.serve))
	return s, nil
}

func (s *Site) addPage(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	total := 0
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		if name != "." && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := root.ReadFile(name)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		if total += len(data); total > maxPage {
			return fmt.Errorf("%s: more than %d MiB: not the folder of the page", dir, maxPage>>20)
		}
		f := inMemory(name, data)
		s.files["/"+name] = f
		if name == "index.html" {
			s.files["/"] = f
		}
		return nil
	})
}

func inMemory(name string, data []byte) *file {
	f := &file{kind: kind(name), etag: fmt.Sprintf("%x", sha256.Sum256(data)), cache: again, data: data}
	if hashed.MatchString(name) {
		f.cache = forever
	}
	f.packed = sync.OnceValue(func() []byte { return pack(f.kind, data) })
	return f
}

// pack is data gzipped, nil if that saves nothing to speak of.
func pack(kind string, data []byte) []byte {
	if strings.HasPrefix(kind, "image/png") || strings.HasPrefix(kind, "font/") || len(data) < 1<<10 {
		return nil
	}
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	// A bytes.Buffer takes everything.
	w.Write(data)
	w.Close()
	if buf.Len() > len(data)*9/10 {
		return nil
	}
	return buf.Bytes()
}

func (s *Site) addGenerator(p *generator.Package) error {
	text, err := p.Text()
	if err != nil {
		return err
	}
	const prefix = "/generator/"
	s.files[prefix+generator.ManifestName] = inMemory(generator.ManifestName, text)
	for _, f := range p.Manifest.Files {
		s.files[prefix+f.Path] = &file{kind: kind(f.Path), etag: f.SHA256, cache: again,
			path: filepath.Join(p.Dir, filepath.FromSlash(f.Path)), bytes: f.Bytes}
	}
	return nil
}

func (s *Site) addBase(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s: no file: expected a base model as GGUF", path)
	}
	// Hashing gigabytes at every start would be felt.
	s.files[BaseURL] = &file{kind: kind(path), etag: fmt.Sprintf("%x-%x", st.Size(), st.ModTime().UnixNano()), cache: again,
		path: path, bytes: st.Size()}
	return nil
}

// BaseURL is the path of the base model's file.
const BaseURL = "/base.gguf"

func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.next.ServeHTTP(w, r) }

func (s *Site) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	f, ok := s.files[r.URL.Path]
	if !ok {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	header := w.Header()
	header.Set("Content-Type", f.kind)
	header.Set("Cache-Control", f.cache)
	tag := f.etag
	var content io.ReadSeeker
	if f.path != "" {
		disk, err := f.open()
		if err != nil {
			header.Del("Content-Type")
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer disk.Close()
		content = disk
	} else {
		data := f.data
		header.Set("Vary", "Accept-Encoding")
		if packed := f.zipped(r); packed != nil {
			header.Set("Content-Encoding", "gzip")
			data, tag = packed, tag+"-gzip"
		}
		content = bytes.NewReader(data)
	}
	header.Set("ETag", `"`+tag+`"`)
	http.ServeContent(w, r, "", time.Time{}, content)
}

// zipped is the file gzipped, if the browser takes that and wants all of it.
func (f *file) zipped(r *http.Request) []byte {
	if r.Header.Get("Range") != "" || !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		return nil
	}
	return f.packed()
}

// open opens a file on disk, which must have the size that it had: its entity tag stands
// for its contents.
func (f *file) open() (*os.File, error) {
	disk, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	st, err := disk.Stat()
	if err == nil && st.Size() != f.bytes {
		err = fmt.Errorf("%s: %d bytes, expected %d: it changed: start again", f.path, st.Size(), f.bytes)
	}
	if err != nil {
		disk.Close()
		return nil, err
	}
	return disk, nil
}
