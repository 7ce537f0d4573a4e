// Package hub finds generator packages where people keep them: in a folder, at a URL, in a
// repository of the Hugging Face hub. What comes over the network is checked against the
// checksums of its generator.json and kept in a cache on this machine, from which package
// generator opens it like any folder.
//
// It decides what a source is, what is fetched and where it lies; what a package must hold
// is package generator's. Nothing is fetched that is in the cache already, until Pull asks
// for it: a source stays pinned to the commit that it first was.
//
// A cache may be used by several processes at a time, and each may be killed at any time: a
// package is locked while it is fetched, appears by one rename when all of it has been
// verified, and a download that was cut off goes on where it stopped.
//
// The environment is that of Hugging Face's own tools: HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH,
// HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE. DND_CACHE names another place for the cache.
package hub

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// source is where a package comes from: one of folder, repo and base is set.
type source struct {
	folder   string
	repo     string   // "org/name" on the Hugging Face hub
	revision string   // of repo: a branch, a tag or a commit
	base     *url.URL // folder that generator.json lies in, without user and fragment
	sha256   string   // that generator.json must have, "" for any
}

const (
	hubScheme  = "hf://"
	pinPrefix  = "sha256="
	mainBranch = "main"
)

var (
	// The hub's rules for names (huggingface_hub, validate_repo_id).
	repoID   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$`)
	revision = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)
	commit   = regexp.MustCompile(`^[0-9a-f]{40}$`)
	digest   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// parse reads how people name a package: a folder; org/name or hf://org/name, both with
// @REVISION if it shall not be main; https://host/folder. #sha256=HEX behind it is the
// SHA-256 that generator.json must have. A folder that is there goes before a repository.
func parse(text string) (source, error) {
	name, pin, pinned := strings.Cut(text, "#")
	var s source
	if pinned {
		hex, ok := strings.CutPrefix(pin, pinPrefix)
		if hex = strings.ToLower(hex); !ok || !digest.MatchString(hex) {
			if _, err := os.Stat(text); err == nil {
				return source{folder: text}, nil
			}
			return s, fmt.Errorf("%s: expected #sha256= and 64 hex digits behind the #", clip(text))
		}
		s.sha256 = hex
	}
	if name == "" {
		return s, fmt.Errorf("%q: expected a folder, org/name or a URL", clip(text))
	}
	if repo, ok := strings.CutPrefix(name, hubScheme); ok {
		if !s.parseRepo(repo) {
			return s, fmt.Errorf("%s: expected hf://org/name or hf://org/name@revision", clip(name))
		}
		return s, nil
	}
	if strings.Contains(name, "://") {
		return s, s.parseURL(name)
	}
	if st, err := os.Stat(name); err == nil && st.IsDir() || !s.parseRepo(name) {
		s.folder = name
	}
	return s, nil
}

// parseRepo takes org/name and org/name@revision.
func (s *source) parseRepo(text string) bool {
	repo, rev, ok := strings.Cut(text, "@")
	if !ok {
		rev = mainBranch
	}
	if !repoID.MatchString(repo) || strings.Contains(repo, "--") || strings.Contains(repo, "..") ||
		!revision.MatchString(rev) || strings.Contains(rev, "..") {
		return false
	}
	s.repo, s.revision = repo, rev
	return true
}

func (s *source) parseURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		// The error of package url quotes all of the text, secrets in it included.
		return fmt.Errorf("%s: not a URL", clip(strings.SplitN(text, "?", 2)[0]))
	}
	shown := u.Scheme + "://" + u.Host + u.Path
	switch {
	case u.Host == "" || u.User != nil:
		return fmt.Errorf("%s: expected a URL with a host and without a user", clip(shown))
	case u.Scheme == "http" && !loopback(u) && s.sha256 == "":
		return fmt.Errorf("%s: expected https, or #sha256= behind it: anybody on the way could change what http brings", clip(shown))
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%s: expected https://, %s or a folder", clip(shown), hubScheme)
	}
	u.Path = strings.TrimSuffix(u.Path, "/"+manifestName)
	u.RawPath = ""
	s.base = u
	return nil
}

// String is the source as people write it, without its query, which may hold a key.
func (s source) String() string {
	var name string
	switch {
	case s.folder != "":
		name = s.folder
	case s.repo != "":
		name = s.repo
		if s.revision != mainBranch {
			name += "@" + s.revision
		}
	default:
		u := *s.base
		u.RawQuery = ""
		name = u.String()
	}
	return name
}

// loopback reports whether a URL is of this machine.
func loopback(u *url.URL) bool {
	switch u.Hostname() {
	case "localhost", "127.0.0.1", "::1":
		return true
	}
	return false
}

// clip keeps a text short enough for an error of one line.
func clip(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return s
}

// DefaultDir is where the cache lies: $DND_CACHE, or dnd/generators in the user's cache folder
// ($XDG_CACHE_HOME or ~/.cache on Linux, ~/Library/Caches, %LocalAppData%).
func DefaultDir() (string, error) {
	if dir := os.Getenv("DND_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("hub: no cache folder: %w: name one in the variable DND_CACHE", err)
	}
	return filepath.Join(dir, "dnd", "generators"), nil
}
