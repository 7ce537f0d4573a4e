package signature

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"aead.dev/minisign"
)

// The endings of the two files of a key.
const (
	SecretSuffix = ".key"
	PublicSuffix = ".pub"
)

// NewKey makes a key as the files NAME.key, for its owner alone, and NAME.pub. The secret is
// encrypted with a password, unless that is empty. It replaces no file.
func NewKey(name, password string) (minisign.PublicKey, error) {
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		return public, err
	}
	secret, err := private.MarshalText()
	if password != "" {
		secret, err = minisign.EncryptKey(password, private)
	}
	if err != nil {
		return public, err
	}
	text, err := public.MarshalText()
	if err != nil {
		return public, err
	}
	if err := create(name+SecretSuffix, append(secret, '\n'), 0o600); err != nil {
		return public, err
	}
	if err := create(name+PublicSuffix, append(text, '\n'), 0o644); err != nil {
		return public, errors.Join(err, os.Remove(name+SecretSuffix))
	}
	return public, nil
}

// create makes a file that is not there yet.
func create(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// ReadSecret reads a secret key, also one that minisign made. password is asked only if the
// key is encrypted.
func ReadSecret(path string, password func() (string, error)) (minisign.PrivateKey, error) {
	var key minisign.PrivateKey
	raw, err := os.ReadFile(path)
	if err != nil {
		return key, err
	}
	if !minisign.IsEncrypted(raw) {
		if err := key.UnmarshalText(raw); err != nil {
			return key, fmt.Errorf("%s: no secret key of minisign: %w", path, err)
		}
		return key, nil
	}
	word, err := password()
	if err != nil {
		return key, err
	}
	if key, err = minisign.DecryptKey(word, raw); err != nil {
		return key, fmt.Errorf("%s: wrong password, or not a key: %w", path, err)
	}
	return key, nil
}
