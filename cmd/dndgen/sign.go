package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/cli"
	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub/signature"
)

// passwordVariable is the password of a secret key, where nobody can be asked.
const passwordVariable = "DND_KEY_PASSWORD"

// password is that of the environment, or asked for on the terminal.
func password(e *cli.Env, question string) (string, error) {
	if word, ok := os.LookupEnv(passwordVariable); ok {
		return word, nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return "", cli.Usagef("a password is needed, and nobody can be asked: set %s", passwordVariable)
	}
	fmt.Fprint(e.Stderr, question)
	word, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(e.Stderr)
	return string(word), err
}

// newPassword is asked for twice.
func newPassword(e *cli.Env) (string, error) {
	word, err := password(e, "password of the new key (empty for none): ")
	if err != nil {
		return "", err
	}
	again, err := password(e, "once more: ")
	if err == nil && word != again {
		err = errors.New("two different passwords")
	}
	return word, err
}

// keyMade is what key prints.
type keyMade struct {
	ID     string `json:"id"`
	Key    string `json:"key"` // the public key's line
	Secret string `json:"secret_file"`
	Public string `json:"public_file"`
}

func key(flags *pflag.FlagSet) cli.Run {
	out := flags.String("out", "", "name of the files: NAME"+signature.SecretSuffix+", to keep, and NAME"+signature.PublicSuffix+", to publish")
	return func(_ context.Context, e *cli.Env, _ []string) error {
		if err := cli.Required(flags, "out"); err != nil {
			return err
		}
		word, err := newPassword(e)
		if err != nil {
			return err
		}
		if word == "" {
			e.Message("note: the key has no password: whoever reads %s can sign", *out+signature.SecretSuffix)
		}
		public, err := signature.NewKey(*out, word)
		if err != nil {
			return err
		}
		made := keyMade{signature.ID(public.ID()), public.String(), *out + signature.SecretSuffix, *out + signature.PublicSuffix}
		return e.Result(made, func(w io.Writer) {
			fmt.Fprintf(w, "key         %s\nsecret      %s\npublic      %s\n            %s\n", made.ID, made.Secret, made.Public, made.Key)
		})
	}
}

// signed is what sign prints.
type signed struct {
	Path string `json:"path"`
	Key  string `json:"key"` // its id
	File string `json:"file"`
}

func sign(flags *pflag.FlagSet) cli.Run {
	secret := flags.String("secret-key", "", "file of the secret key, as dndgen key or minisign -G makes it")
	return func(ctx context.Context, e *cli.Env, args []string) error {
		if err := cli.Required(flags, "secret-key"); err != nil {
			return err
		}
		private, err := signature.ReadSecret(*secret, func() (string, error) { return password(e, "password of "+*secret+": ") })
		if err != nil {
			return err
		}
		bar := e.Bar()
		err = signature.Sign(ctx, args[0], private, func(done, total int64) { bar.Set("verify", done, total, "") })
		bar.Done()
		if err != nil {
			return err
		}
		s := signed{args[0], signature.ID(private.ID()), filepath.Join(args[0], generator.SignatureName)}
		return e.Result(s, func(w io.Writer) {
			fmt.Fprintf(w, "%s: verified, and signed with key %s: %s\n", s.Path, s.Key, s.File)
		})
	}
}
