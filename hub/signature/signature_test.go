package signature_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub/signature"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// What minisign 0.11 makes.
const (
	theirText = "{\"format_version\":1}\n"
	theirKey  = "RWQPYKzoDGNZxb69od1NzY1mWmWkWeVeuH7mTuGqQsKddoh6KId3vnBE"
	theirSign = `untrusted comment: signature from minisign secret key
RUQPYKzoDGNZxU6cV5Q56WPs5AApVU0TGicCu+rsEEvUphOGeHuqlWTo2yGlrFkLAGawX/AEu6Ub8+29wR64VCT060xxY4N5Jg0=
trusted comment: made by minisign 0.11
R24gS8TeP+fbavaV3ucmXgLZWrpNlRbrdtrp6kycpy76yN4H5lEDr6gq5XCWiNEcJAVz0Cr0pHqzpgQ1Zb0xAQ==
`
)

func fails(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want one line with %q", err, word)
		}
	}
}

func parse(t testing.TB, list ...string) signature.Keys {
	t.Helper()
	keys, err := signature.ParseKeys(list)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestMinisign(t *testing.T) {
	keys := parse(t, theirKey)
	by, err := keys.Check([]byte(theirText), []byte(theirSign))
	if err != nil || signature.ID(by.ID()) != "C559630CE8AC600F" {
		t.Errorf("%X, %v", by.ID(), err)
	}
	_, err = keys.Check([]byte(theirText+" "), []byte(theirSign))
	fails(t, err, generator.SignatureName, "changed")
	// The comment is signed, too.
	_, err = keys.Check([]byte(theirText), []byte(strings.Replace(theirSign, "0.11", "0.12", 1)))
	fails(t, err, "changed")
	_, err = keys.Check([]byte(theirText), []byte("hello"))
	fails(t, err, "no signature of minisign")
	if _, err = keys.Check([]byte(theirText), nil); !errors.Is(err, signature.ErrNone) {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(file, []byte("untrusted comment: minisign public key\n"+theirKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := parse(t, file).Check([]byte(theirText), []byte(theirSign)); err != nil {
		t.Error(err)
	}
	_, err = signature.ParseKeys([]string{"nowhere.pub"})
	fails(t, err, "nowhere.pub", "public key")
}

func newKey(t testing.TB, name string) (secret, public string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if _, err := signature.NewKey(path, ""); err != nil {
		t.Fatal(err)
	}
	return path + signature.SecretSuffix, path + signature.PublicSuffix
}

// A package is verified before it is signed; what is signed is refused when it has changed,
// and when somebody else has signed it.
func TestSign(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "generator")
	if err := madeup.Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	secret, public := newKey(t, "mine")
	_, other := newKey(t, "other")
	if st, err := os.Stat(secret); err != nil || runtime.GOOS != "windows" && st.Mode().Perm() != 0o600 {
		t.Errorf("secret key: %v, %v", st.Mode(), err)
	}
	if _, err := signature.NewKey(strings.TrimSuffix(secret, signature.SecretSuffix), ""); err == nil {
		t.Error("a key was overwritten")
	}
	key, err := signature.ReadSecret(secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = signature.ReadSecret(public, nil)
	fails(t, err, public)
	keys := parse(t, other, public)
	if _, err := keys.Folder(dir); !errors.Is(err, signature.ErrNone) {
		t.Errorf("got %v", err)
	}
	for range 2 { // the second signature replaces the first
		if err := signature.Sign(t.Context(), dir, key, nil); err != nil {
			t.Fatal(err)
		}
	}
	if by, err := keys.Folder(dir); err != nil || by.ID() != key.ID() {
		t.Errorf("%X, %v", by.ID(), err)
	}
	if _, err := generator.Verify(t.Context(), dir, nil); err != nil {
		t.Errorf("a package with a signature: %v", err)
	}
	_, err = parse(t, other).Folder(dir)
	fails(t, err, dir, signature.ID(key.ID()), "expected")
	manifest := filepath.Join(dir, generator.ManifestName)
	raw, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, bytes.Replace(raw, []byte(`"name": "`), []byte(`"name": "x`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = keys.Folder(dir)
	fails(t, err, dir, "changed")
	// What does not verify is not signed.
	if err := os.Truncate(filepath.Join(dir, "decoder.safetensors"), 100); err != nil {
		t.Fatal(err)
	}
	fails(t, signature.Sign(t.Context(), dir, key, nil), "decoder.safetensors")
}

// Whatever a signature's file holds, no other text passes for the one that was signed.
func FuzzCheck(f *testing.F) {
	keys := parse(f, theirKey)
	f.Add([]byte(theirText), []byte(theirSign))
	f.Add([]byte("{}"), []byte(theirSign))
	f.Add([]byte(theirText), []byte("untrusted comment: x\nRUQ=\ntrusted comment: y\nRUQ="))
	f.Fuzz(func(t *testing.T, text, sign []byte) {
		if _, err := keys.Check(text, sign); err == nil && string(text) != theirText {
			t.Fatalf("%q passes with %q", text, sign)
		}
	})
}

// Keys come from flags and files.
func FuzzParseKeys(f *testing.F) {
	f.Add(theirKey)
	f.Add("untrusted comment: minisign public key\n" + theirKey)
	f.Add("RWQ")
	f.Fuzz(func(t *testing.T, text string) {
		if keys, err := signature.ParseKeys([]string{text}); err == nil && len(keys) != 1 {
			t.Fatalf("%q is %d keys", text, len(keys))
		}
	})
}
