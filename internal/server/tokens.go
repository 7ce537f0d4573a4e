package server

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

const (
	minToken = 16 // characters
	// maxTokens is enough to give each client one of its own and to change them one by one.
	maxTokens = 1000
)

// Tokens are secrets that let a request in. They are kept as hashes, and can not be printed.
type Tokens struct{ sums [][sha256.Size]byte }

// ParseTokens reads tokens, one a line; blank lines and lines that begin with # are
// skipped. Its errors do not show them.
func ParseTokens(text []byte) (*Tokens, error) {
	t := &Tokens{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if len(line) < minToken || strings.ContainsFunc(line, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("line %d: a token of %d characters, expected at least %d, printable ASCII without blanks: make one with openssl rand -hex 32", n, len(line), minToken)
		}
		if len(t.sums) == maxTokens {
			return nil, fmt.Errorf("more than %d tokens", maxTokens)
		}
		t.sums = append(t.sums, sha256.Sum256([]byte(line)))
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(t.sums) == 0 {
		return nil, errors.New("no token: expected one a line, make one with openssl rand -hex 32")
	}
	return t, nil
}

// String hides the tokens from whoever prints them.
func (t *Tokens) String() string { return fmt.Sprintf("%d tokens", len(t.sums)) }

// admit says whether a request carries one of the tokens. It takes as long whichever it is,
// and whether it is one.
func (t *Tokens) admit(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	found := 0
	for i := range t.sums {
		found |= subtle.ConstantTimeCompare(sum[:], t.sums[i][:])
	}
	return found == 1
}
