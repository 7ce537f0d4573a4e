package generator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
	"github.com/drag-and-drop-lora/dnd/graph/text"
)

const (
	// maxManifest bounds generator.json: the reference's largest has 30 kB.
	maxManifest = 4 << 20
	maxFiles    = 10_000
	maxName     = 200
)

// ParseManifest reads the text of a generator.json and validates it. Unknown fields are
// errors: a reader that skipped one could misunderstand the rest.
func ParseManifest(raw []byte) (*Manifest, error) {
	if len(raw) > maxManifest {
		return nil, fmt.Errorf("%s has %d bytes, expected at most %d", ManifestName, len(raw), maxManifest)
	}
	var head struct {
		FormatVersion *int `json:"format_version"`
		Decoder       struct {
			Features [][]json.RawMessage `json:"features"`
			Tokens   []json.RawMessage   `json:"tokens"`
		} `json:"decoder"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestName, jsonError(raw, err))
	}
	if head.FormatVersion == nil {
		return nil, fmt.Errorf("%s: format_version is missing, expected %d", ManifestName, FormatVersion)
	}
	if *head.FormatVersion != FormatVersion {
		return nil, fmt.Errorf("%s: format_version %d, this version reads %d", ManifestName, *head.FormatVersion, FormatVersion)
	}
	for i, f := range head.Decoder.Features {
		if len(f) != 3 {
			return nil, fmt.Errorf("%s: decoder.features %d has %d axes, expected 3", ManifestName, i, len(f))
		}
	}
	if t := head.Decoder.Tokens; t != nil && len(t) != 3 {
		return nil, fmt.Errorf("%s: decoder.tokens has %d axes, expected 3", ManifestName, len(t))
	}
	var m Manifest
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestName, jsonError(raw, err))
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestName, err)
	}
	return &m, nil
}

// jsonError adds the line to an error of encoding/json.
func jsonError(raw []byte, err error) error {
	at := int64(-1)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &kind):
		at = kind.Offset
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		at = int64(len(raw))
	}
	if at < 0 || at > int64(len(raw)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(raw[:at], []byte("\n")), err)
}

// Validate checks every number of the manifest, and that its parts agree: the condition
// is the decoder's input and the encoder's output, and base model and tiling make
// exactly the decoder's tokens.
func (m *Manifest) Validate() error {
	if m.FormatVersion != FormatVersion {
		return fmt.Errorf("format_version %d, expected %d", m.FormatVersion, FormatVersion)
	}
	if err := checkName("name", m.Name); err != nil {
		return err
	}
	if err := m.Decoder.Validate(); err != nil {
		return err
	}
	c := m.Condition
	if got, want := [3]int{c.Texts, c.Length, c.Width}, m.Decoder.Condition(); got != want {
		return fmt.Errorf("condition %v (texts, length, width), but the decoder takes %v", got, want)
	}
	if c.Pads != PadsEncoded && c.Pads != PadsZero {
		return fmt.Errorf("condition.pads is %q, expected %q or %q", c.Pads, PadsEncoded, PadsZero)
	}
	if err := m.checkTokens(); err != nil {
		return err
	}
	if err := m.checkEncoder(); err != nil {
		return err
	}
	if err := m.Coverage.validate(m.Condition.Width); err != nil {
		return err
	}
	return checkFiles(m.Files)
}

func (m *Manifest) checkTokens() error {
	out := m.Decoder.Output()
	if m.Tiling.Height != out[1] || m.Tiling.Width != out[2] {
		return fmt.Errorf("tiling of tokens (%d,%d), but the decoder makes %d of (%d,%d)", m.Tiling.Height, m.Tiling.Width, out[0], out[1], out[2])
	}
	if m.Tiling.Kind == "" {
		if m.Base != nil || m.Tiling.Chunk != 0 {
			return fmt.Errorf("tiling.kind is missing: with a base model or a chunk size it is needed")
		}
		return nil
	}
	if kind, err := lora.Kind(m.Tiling.Kind); err != nil {
		return err
	} else if kind != m.Tiling.Kind {
		return fmt.Errorf("tiling.kind is %q, expected the full name %q", m.Tiling.Kind, kind)
	}
	if m.Base == nil {
		return nil
	}
	return checkBase(*m.Base, m.Tiling, out)
}

// checkBase checks that a base model's LoRA makes exactly the decoder's tokens.
func checkBase(base lora.Base, t lora.Tiling, out [3]int) error {
	l, err := lora.NewLayout(base, t)
	if err != nil {
		return err
	}
	if count, h, w := l.Shape(); [3]int{count, h, w} != out {
		return fmt.Errorf("the LoRA matrices make %d tokens of (%d,%d), but the decoder makes %d of (%d,%d)", count, h, w, out[0], out[1], out[2])
	}
	if min(base.Heads, base.KVHeads) < 0 || max(base.Heads, base.KVHeads) > 1<<16 {
		return fmt.Errorf("base model with %d heads and %d kv_heads, expected 0 (unknown) or more", base.Heads, base.KVHeads)
	}
	return nil
}

func (m *Manifest) checkEncoder() error {
	e := m.Encoder
	if e == nil {
		return nil
	}
	if err := checkName("encoder.id", e.ID); err != nil {
		return err
	}
	if !localPath(e.Dir) {
		return fmt.Errorf("encoder.dir is %q, expected a folder inside the package", e.Dir)
	}
	if err := e.Config.Validate(); err != nil {
		return err
	}
	if e.Config.HiddenSize != m.Condition.Width {
		return fmt.Errorf("encoder of width %d, but the condition has width %d", e.Config.HiddenSize, m.Condition.Width)
	}
	if err := text.CheckLength(m.Condition.Length); err != nil {
		return err
	}
	if n := min(m.Condition.Length, text.ChunkLength); e.Config.MaxPositionEmbeddings < n {
		return fmt.Errorf("encoder of %d positions, but the condition needs %d", e.Config.MaxPositionEmbeddings, n)
	}
	return nil
}

func checkFiles(files []File) error {
	if len(files) > maxFiles {
		return fmt.Errorf("%d files, expected at most %d", len(files), maxFiles)
	}
	for i, f := range files {
		if !localPath(f.Path) || f.Path == ManifestName {
			return fmt.Errorf("file %q: expected the path of another file inside the package", f.Path)
		}
		if i > 0 && files[i-1].Path >= f.Path {
			return fmt.Errorf("file %q: files are not sorted by path, or it occurs twice", f.Path)
		}
		if f.Bytes < 0 || len(f.SHA256) != 64 || strings.Trim(f.SHA256, "0123456789abcdef") != "" {
			return fmt.Errorf("file %q: %d bytes with SHA-256 %q, expected a size and 64 hex digits", f.Path, f.Bytes, clip(f.SHA256))
		}
	}
	return nil
}

// localPath accepts paths with slashes that stay inside a folder on every system.
func localPath(p string) bool {
	return fs.ValidPath(p) && p != "." && len(p) <= 1000 && !strings.ContainsAny(p, `\:`) &&
		!slices.ContainsFunc([]rune(p), unicode.IsControl)
}

// checkName checks a name that is printed and compared, nothing else.
func checkName(field, s string) error {
	if s == "" || len(s) > maxName || !utf8.ValidString(s) || slices.ContainsFunc([]rune(s), unicode.IsControl) {
		return fmt.Errorf("%s is %q, expected 1 to %d printable bytes", field, clip(s), maxName)
	}
	return nil
}

// clip keeps a value short enough for an error of one line.
func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}

// Complete says whether the package can generate adapters: one imported without an
// encoder or a donor adapter only decodes, and the error is ErrNoEncoder or ErrNoBase.
func (m *Manifest) Complete() error {
	switch {
	case m.Encoder == nil:
		return fmt.Errorf("%s: %w", m.Name, ErrNoEncoder)
	case m.Base == nil:
		return fmt.Errorf("%s: %w", m.Name, ErrNoBase)
	}
	return nil
}
