package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/clitest"
	"github.com/drag-and-drop-lora/dnd/internal/madeup"
)

// A key is made, a generator signed with it, and then only that one generates where the key
// is asked for.
func TestSign(t *testing.T) {
	dir := madeup.Open(t).Dir
	t.Setenv(passwordVariable, "")
	keyName, otherName := filepath.Join(t.TempDir(), "mine"), filepath.Join(t.TempDir(), "other")
	var made, other keyMade
	clitest.JSON(t, &made, "key", "--json", "--quiet", "--out", keyName)
	clitest.JSON(t, &other, "key", "--json", "--quiet", "--out", otherName)
	clitest.Fails(t, 1, []string{made.Secret, "exists"}, "key", "--quiet", "--out", keyName)
	prompts := write(t, "p.txt", "name a colour\n")
	generate := func(args ...string) []string {
		return append([]string{"generate", "--quiet", "--backend", "cpu", "--generator", dir, "--prompts", prompts, "--out", filepath.Join(t.TempDir(), "a")}, args...)
	}
	clitest.Fails(t, 1, []string{dir, "nobody has signed it"}, generate("--key", made.Public)...)
	var s signed
	clitest.JSON(t, &s, "sign", "--json", "--quiet", "--secret-key", made.Secret, dir)
	if s.Key != made.ID {
		t.Errorf("signed with %s, the key is %s", s.Key, made.ID)
	}
	clitest.OK(t, generate("--key", made.Key)...)
	clitest.OK(t, generate("--key", other.Public+","+made.Public)...)
	clitest.Fails(t, 1, []string{made.ID, "expected " + other.ID}, generate("--key", other.Public)...)
	clitest.Fails(t, 2, []string{"--key", "nowhere"}, generate("--key", "nowhere")...)
	clitest.Fails(t, 1, []string{made.Public, "secret key"}, "sign", "--quiet", "--secret-key", made.Public, dir)
	var v verdict
	clitest.JSON(t, &v, "verify", "--json", "--quiet", "--key", made.Public, dir)
	if !v.OK || v.SignedBy != made.ID {
		t.Errorf("verify: %+v", v)
	}
	clitest.Fails(t, 1, []string{"expected " + other.ID}, "verify", "--quiet", "--key", other.Public, dir)
	// The environment's key holds for every command.
	t.Setenv("DND_KEY", other.Public)
	clitest.Fails(t, 1, []string{"expected " + other.ID}, generate()...)
	clitest.Fails(t, 1, []string{"expected " + other.ID}, "serve", "--open=false", "--listen", "localhost:0", "--generator", dir)
	if err := os.Remove(s.File); err != nil {
		t.Fatal(err)
	}
	clitest.Fails(t, 1, []string{"nobody has signed it"}, "verify", "--quiet", dir)
}
