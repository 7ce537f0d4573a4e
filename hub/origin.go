package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	hf "github.com/gomlx/go-huggingface/hub"

	"github.com/drag-and-drop-lora/dnd/graph/generator"
	"github.com/drag-and-drop-lora/dnd/hub/signature"
)

const (
	maxManifest = 4 << 20
	// maxListing bounds what the hub says of a repository: 100,000 files have some 15 MB.
	maxListing = 64 << 20
)

// origin is a source at one state: its files do not change.
type origin struct {
	network *network
	name    string
	commit  string   // on the hub
	base    *url.URL // folder of generator.json
	local   string   // the same folder in the cache of Hugging Face's own tools, or ""
}

// origin finds out what a source is now.
func (n *network) origin(ctx context.Context, s source, note func(string)) (origin, error) {
	if s.repo == "" {
		if n.offline {
			return origin{}, fmt.Errorf("%s: is not in the cache, and HF_HUB_OFFLINE is set", s)
		}
		return origin{network: n, name: s.String(), base: s.base}, nil
	}
	sum, err := n.commit(ctx, s)
	if err != nil {
		return origin{}, err
	}
	o := origin{network: n, name: s.String(), commit: sum, base: n.endpoint.JoinPath(s.repo, "resolve", sum)}
	o.local = filepath.Join(n.mirrorOf(s), "snapshots", sum)
	if _, err := os.Stat(filepath.Join(o.local, manifestName)); err != nil {
		o.local = ""
	}
	if o.local != "" {
		note(fmt.Sprintf("%s is in the cache of Hugging Face's tools, %s", s, o.local))
	}
	return o, nil
}

// mirrorOf is a repository's folder in the cache of Hugging Face's own tools.
func (n *network) mirrorOf(s source) string {
	return filepath.Join(n.mirror, string(hf.RepoTypeModel)+hf.RepoIdSeparator+strings.ReplaceAll(s.repo, "/", hf.RepoIdSeparator))
}

// commit is what a revision is now. Without the network, it is what it was for Hugging
// Face's own tools.
func (n *network) commit(ctx context.Context, s source) (string, error) {
	if commit.MatchString(s.revision) {
		return s.revision, nil
	}
	known := ""
	if raw, err := os.ReadFile(filepath.Join(n.mirrorOf(s), "refs", filepath.FromSlash(s.revision))); err == nil {
		if known = strings.TrimSpace(string(raw)); !commit.MatchString(known) {
			known = ""
		}
	}
	if n.offline {
		if known == "" {
			return "", fmt.Errorf("%s: is in no cache here, and HF_HUB_OFFLINE is set", s)
		}
		return known, nil
	}
	raw, err := n.small(ctx, n.endpoint.JoinPath("api", string(hf.RepoTypeModel), s.repo, "revision", url.PathEscape(s.revision)), maxListing)
	if err != nil {
		if known != "" && again(err) && ctx.Err() == nil {
			return known, nil
		}
		return "", fmt.Errorf("%s: %w", s, explain(s, err))
	}
	// Of all that the hub says only the commit counts: another field of another type does no harm.
	var info hf.RepoInfo
	if err := json.Unmarshal(raw, &info); err != nil && !errors.As(err, new(*json.UnmarshalTypeError)) {
		return "", fmt.Errorf("%s: what %s says of it: %w", s, n.endpoint.Host, err)
	}
	if !commit.MatchString(info.CommitHash) {
		return "", fmt.Errorf("%s: commit %q at %s, expected 40 hex digits", s, clip(info.CommitHash), n.endpoint.Host)
	}
	return info.CommitHash, nil
}

// explain adds what to do about a refusal of the hub's.
func explain(s source, err error) error {
	var status statusError
	if s.repo == "" || !errors.As(err, &status) {
		return err
	}
	switch status.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: no such repository, or not one for everybody: set HF_TOKEN, and agree to its terms on the hub", err)
	case http.StatusNotFound:
		return fmt.Errorf("%w: no such repository, no such revision, or no folder of that name here", err)
	}
	return err
}

// manifest reads generator.json.
func (o origin) manifest(ctx context.Context) ([]byte, error) {
	if o.local != "" {
		return readLimited(filepath.Join(o.local, manifestName), maxManifest)
	}
	if o.network.offline {
		return nil, fmt.Errorf("%s: commit %s is in no cache here, and HF_HUB_OFFLINE is set", o.name, o.commit)
	}
	raw, err := o.network.small(ctx, join(o.base, manifestName), maxManifest)
	var status statusError
	if errors.As(err, &status) && status.code == http.StatusNotFound {
		return nil, fmt.Errorf("%s: has no %s: no generator package: %w", o.name, manifestName, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", o.name, manifestName, err)
	}
	return raw, nil
}

// signature reads the signature of generator.json, nil if there is none.
func (o origin) signature(ctx context.Context) ([]byte, error) {
	if o.local != "" {
		// Hugging Face's tools may have fetched the other files alone.
		if raw, err := signature.Read(o.local); raw != nil || err != nil {
			return raw, err
		}
	}
	if o.network.offline {
		return nil, fmt.Errorf("%s: %s is in no cache here, and HF_HUB_OFFLINE is set", o.name, generator.SignatureName)
	}
	raw, err := o.network.small(ctx, join(o.base, generator.SignatureName), signature.MaxBytes)
	var status statusError
	if errors.As(err, &status) && status.code == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", o.name, generator.SignatureName, err)
	}
	return raw, nil
}

// fetch appends to p what it lacks of a file.
func (o origin) fetch(ctx context.Context, path string, p *part, report func()) error {
	if p.size == p.want {
		return nil
	}
	if o.local != "" {
		err := p.copy(ctx, filepath.Join(o.local, filepath.FromSlash(path)), report)
		if err == nil || ctx.Err() != nil || errors.As(err, new(diskError)) || o.network.offline {
			return err
		}
		// Hugging Face's tools fetch single files, too: the rest comes from the hub.
		if err := p.restart(); err != nil {
			return diskError{err}
		}
	}
	return o.network.file(ctx, join(o.base, path), p, report)
}

// copy fills p from a file on this machine.
func (p *part) copy(ctx context.Context, path string, report func()) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.restart(); err != nil {
		return diskError{err}
	}
	return p.read(untilDone{ctx, f}, report)
}

// untilDone is a reader that ends with its context.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}

// join is the URL of a file in a folder; the folder's query stays.
func join(base *url.URL, path string) *url.URL {
	u := *base
	u.Path, u.RawPath = strings.TrimSuffix(base.Path, "/")+"/"+path, ""
	return &u
}

func readLimited(path string, limit int64) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes, expected at most %d", path, st.Size(), limit)
	}
	return os.ReadFile(path)
}
