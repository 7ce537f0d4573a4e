package hub_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub/signature"
)

// signedBy makes a key and its signature of files.
func signedBy(t *testing.T, files map[string]string) (signature.Keys, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if _, err := signature.NewKey(name, ""); err != nil {
		t.Fatal(err)
	}
	secret, err := signature.ReadSecret(name+signature.SecretSuffix, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, files)
	if err := signature.Sign(t.Context(), dir, secret, nil); err != nil {
		t.Fatal(err)
	}
	text, err := signature.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := signature.ParseKeys([]string{name + signature.PublicSuffix})
	if err != nil {
		t.Fatal(err)
	}
	return keys, string(text)
}

// folder writes files below a folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for path, text := range files {
		path = filepath.Join(dir, filepath.FromSlash(path))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// With keys, only what one of them has signed comes from the hub, from a URL, out of the
// cache and out of a folder.
func TestSigned(t *testing.T) {
	s := serve(t)
	files := s.commits[commitA]
	keys, text := signedBy(t, files)
	others, _ := signedBy(t, files)
	both := append(others[:len(others):len(others)], keys...)
	for _, name := range []string{"org/gen", s.URL + "/files/" + commitA} {
		c, dir := cache(t, s)
		delete(files, generator.SignatureName)
		c.Keys = both
		_, err := c.Get(t.Context(), name)
		fails(t, err, "has no "+generator.SignatureName)
		nothing(t, dir)
		files[generator.SignatureName] = strings.Replace(text, "generator.json", "generator.jsom", 1)
		_, err = c.Get(t.Context(), name)
		fails(t, err, generator.SignatureName, "changed")
		nothing(t, dir)
		files[generator.SignatureName] = text
		c.Keys = others
		_, err = c.Pull(t.Context(), name)
		fails(t, err, "expected "+signature.ID(others[0].ID()))
		nothing(t, dir)

		// Without keys, nobody asks for a signature: what is in the cache then has none.
		c.Keys = nil
		if _, err = c.Get(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		c.Keys = both
		_, err = c.Get(t.Context(), name)
		fails(t, err, "cache", "dndgen pull")
		e, err := c.Pull(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		whole(t, e, files)
		asked := s.asked("")
		if e, err = c.Get(t.Context(), name); err != nil || s.asked("") != asked {
			t.Errorf("%+v, %v, %d requests", e, err, s.asked("")-asked)
		}
		c.Keys = others
		_, err = c.Get(t.Context(), name)
		fails(t, err, "expected "+signature.ID(others[0].ID()))
	}
}

// A folder is not the cache's: all of it is held to what was signed.
func TestSignedFolder(t *testing.T) {
	s := serve(t)
	keys, text := signedBy(t, s.commits[commitA])
	c, _ := cache(t, s)
	c.Keys = keys
	dir := folder(t, s.commits[commitA])
	_, err := c.Get(t.Context(), dir)
	fails(t, err, dir, "nobody has signed it")
	if err := signature.Write(dir, []byte(text)); err != nil {
		t.Fatal(err)
	}
	e, err := c.Get(t.Context(), dir)
	if err != nil || e.SHA256 != sumOf(s.commits[commitA][generator.ManifestName]) {
		t.Errorf("%+v, %v", e, err)
	}
	raw := []byte(s.commits[commitA][weights])
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(filepath.Join(dir, weights), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(t.Context(), dir)
	fails(t, err, weights, "damaged or changed")
}
