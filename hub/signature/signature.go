// Package signature signs generator packages and checks who has signed them. A signature is
// a file beside generator.json, in minisign's format (Ed25519): of generator.json alone,
// since that has the SHA-256 of every other file. Tools that know minisign can make and
// check it, too. Package hub asks for signatures where the user names keys.
package signature

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"aead.dev/minisign"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
)

// MaxBytes bounds a signature's file.
const MaxBytes = 8 << 10

// Keys are public keys; a signature of any one of them will do.
type Keys []minisign.PublicKey

// ParseKeys reads public keys: each the path of a file that minisign or dndgen key made, or
// the line of base64 in it.
func ParseKeys(list []string) (Keys, error) {
	var keys Keys
	for _, text := range list {
		var k minisign.PublicKey
		if err := k.UnmarshalText([]byte(text)); err != nil {
			raw, fileErr := os.ReadFile(text)
			if fileErr != nil {
				return nil, fmt.Errorf("key %.80q is neither a public key of minisign nor a file with one: %w", text, fileErr)
			}
			if err := k.UnmarshalText(raw); err != nil {
				return nil, fmt.Errorf("%s: no public key of minisign: %w", text, err)
			}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// ID is how minisign shows a key.
func ID(id uint64) string { return fmt.Sprintf("%016X", id) }

// ErrNone says that there is no signature.
var ErrNone = errors.New("has no " + generator.SignatureName + ": nobody has signed it")

// Check says which key has signed a manifest. nil is no signature.
func (k Keys) Check(manifest, signature []byte) (minisign.PublicKey, error) {
	if signature == nil {
		return minisign.PublicKey{}, ErrNone
	}
	var s minisign.Signature
	if err := s.UnmarshalText(signature); err != nil {
		return minisign.PublicKey{}, fmt.Errorf("%s: no signature of minisign: %w", generator.SignatureName, err)
	}
	known := make([]string, len(k))
	for i, key := range k {
		if s.KeyID == key.ID() {
			if minisign.Verify(key, manifest, signature) {
				return key, nil
			}
			return minisign.PublicKey{}, fmt.Errorf("%s: is not of this %s: one of them was changed", generator.SignatureName, generator.ManifestName)
		}
		known[i] = ID(key.ID())
	}
	return minisign.PublicKey{}, fmt.Errorf("%s: of key %s, expected %s", generator.SignatureName, ID(s.KeyID), strings.Join(known, " or "))
}

// Folder checks the manifest in a folder against the signature beside it, and nothing else.
func (k Keys) Folder(dir string) (minisign.PublicKey, error) {
	manifest, err := os.ReadFile(filepath.Join(dir, generator.ManifestName))
	if err != nil {
		return minisign.PublicKey{}, err
	}
	signature, err := Read(dir)
	if err != nil {
		return minisign.PublicKey{}, err
	}
	key, err := k.Check(manifest, signature)
	if err != nil {
		return key, fmt.Errorf("%s: %w", dir, err)
	}
	return key, nil
}

// Read reads the signature in a folder, nil if there is none.
func Read(dir string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, generator.SignatureName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err == nil && len(raw) > MaxBytes {
		err = fmt.Errorf("%s: more than %d bytes", f.Name(), MaxBytes)
	}
	return raw, err
}

// Write puts a signature into a folder.
func Write(dir string, signature []byte) error {
	return atomicfile.Write(filepath.Join(dir, generator.SignatureName), func(w io.Writer) error {
		_, err := w.Write(signature)
		return err
	})
}

// Sign verifies the package in a folder, every byte of it, and signs it. An older signature
// is replaced. progress may be nil.
func Sign(ctx context.Context, dir string, key minisign.PrivateKey, progress func(done, total int64)) error {
	report, err := generator.Verify(ctx, dir, progress)
	if err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(dir, generator.ManifestName))
	if err != nil {
		return err
	}
	r := minisign.NewReader(bytes.NewReader(manifest))
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	comment := fmt.Sprintf("file:%s\tsha256:%s", generator.ManifestName, report.SHA256)
	return Write(dir, r.SignWithComments(key, comment, "signature of a generator for LoRA adapters"))
}
