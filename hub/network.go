package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// network is how packages are reached.
type network struct {
	client   *http.Client
	endpoint *url.URL // of the hub
	token    string   // for the hub alone
	offline  bool
	mirror   string // cache of Hugging Face's own tools, which is read and never written
	tries    int    // without any byte arriving in between
	pause    time.Duration
	idle     time.Duration // how long a server may send nothing
}

const defaultEndpoint = "https://huggingface.co"

// networkFromEnvironment reads the variables of huggingface_hub.
func networkFromEnvironment() (network, error) {
	n := network{tries: 5, pause: 500 * time.Millisecond, idle: time.Minute}
	endpoint := os.Getenv("HF_ENDPOINT")
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	u, err := url.Parse(strings.TrimSuffix(endpoint, "/"))
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return n, fmt.Errorf("HF_ENDPOINT %q: expected a URL, as %s", clip(endpoint), defaultEndpoint)
	}
	n.endpoint = u
	switch strings.ToUpper(os.Getenv("HF_HUB_OFFLINE")) {
	case "1", "ON", "YES", "TRUE":
		n.offline = true
	}
	home := os.Getenv("HF_HOME")
	if home == "" {
		if home, err = huggingFaceHome(); err != nil {
			return n, err
		}
	}
	if n.mirror = os.Getenv("HF_HUB_CACHE"); n.mirror == "" {
		n.mirror = filepath.Join(home, "hub")
	}
	if n.token = os.Getenv("HF_TOKEN"); n.token == "" {
		path := os.Getenv("HF_TOKEN_PATH")
		if path == "" {
			path = filepath.Join(home, "token")
		}
		if raw, err := os.ReadFile(path); err == nil {
			n.token = string(raw)
		}
	}
	n.token = strings.TrimSpace(n.token)
	if u.Scheme != "https" && !loopback(u) {
		n.token = ""
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = n.idle
	n.client = &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	return n, nil
}

// huggingFaceHome is where Hugging Face's tools keep what they fetch, on every system.
func huggingFaceHome() (string, error) {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("hub: %w: name a folder in the variable HF_HOME", err)
		}
		cache = filepath.Join(home, ".cache")
	}
	return filepath.Join(cache, "huggingface"), nil
}

// checkRedirect follows to other servers, as the hub's large files need it, but without the
// token, and never from https to http.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errPermanent{errors.New("more than 10 redirects")}
	}
	if first := via[0].URL; r.URL.Host != first.Host {
		r.Header.Del("Authorization")
	}
	if r.URL.Scheme != "https" && via[len(via)-1].URL.Scheme == "https" {
		return errPermanent{fmt.Errorf("redirect from https to %s://%s", r.URL.Scheme, r.URL.Host)}
	}
	return nil
}

// errPermanent is an error that asking again does not mend.
type errPermanent struct{ error }

func (e errPermanent) Unwrap() error { return e.error }

// statusError is an answer other than success.
type statusError struct {
	code  int
	text  string
	after time.Duration // when to ask again, 0 if the server does not say
}

func (e statusError) Error() string { return e.text }

// again reports whether asking again may help.
func again(err error) bool {
	var s statusError
	if errors.As(err, &s) {
		return s.code == http.StatusTooManyRequests || s.code >= 500 && s.code != http.StatusNotImplemented
	}
	return !errors.As(err, new(errPermanent)) && !errors.As(err, new(diskError))
}

// retry calls ask until it succeeds, fails for good, or has failed too often since size was
// another.
func (n *network) retry(ctx context.Context, size func() int64, ask func() error) error {
	last, failed := size(), 0
	for {
		err := ask()
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if now := size(); now != last {
			last, failed = now, 0
		}
		if failed++; failed >= n.tries || !again(err) {
			return err
		}
		wait := n.pause << (failed - 1)
		var s statusError
		if errors.As(err, &s) && s.after > 0 {
			wait = min(s.after, n.idle)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// get asks for a URL from byte offset on and calls use with the answer.
func (n *network) get(ctx context.Context, u *url.URL, offset int64, use func(*http.Response) error) error {
	// A server that goes silent in the middle of a file is left after idle.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(n.idle, func() { cancel(fmt.Errorf("nothing came for %v", n.idle)) })
	defer silent.Stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return errPermanent{err}
	}
	r.Header.Set("User-Agent", "dnd")
	// A compressed answer would have other offsets.
	r.Header.Set("Accept-Encoding", "identity")
	if offset > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	if n.token != "" && u.Host == n.endpoint.Host && u.Scheme == n.endpoint.Scheme {
		r.Header.Set("Authorization", "Bearer "+n.token)
	}
	answer, err := n.client.Do(r)
	if err != nil {
		// *url.Error quotes the whole URL, its query included.
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return fmt.Errorf("%s: %w", u.Host, causeOf(ctx, err))
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusPartialContent {
		return newStatusError(answer)
	}
	answer.Body = &watched{answer.Body, func() { silent.Reset(n.idle) }}
	return causeOf(ctx, use(answer))
}

// causeOf is err, or why ctx ended.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// watched tells of each read.
type watched struct {
	io.ReadCloser
	seen func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.seen()
	return n, err
}

func newStatusError(answer *http.Response) statusError {
	e := statusError{code: answer.StatusCode, text: fmt.Sprintf("%s answers %s", answer.Request.URL.Host, clip(answer.Status))}
	if why := answer.Header.Get("X-Error-Message"); why != "" {
		e.text += " (" + clip(why) + ")"
	}
	if s, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && s > 0 && s < 1<<20 {
		e.after = time.Duration(s) * time.Second
	}
	return e
}

// small reads a whole answer of at most limit bytes.
func (n *network) small(ctx context.Context, u *url.URL, limit int64) ([]byte, error) {
	var raw []byte
	err := n.retry(ctx, func() int64 { return 0 }, func() error {
		return n.get(ctx, u, 0, func(answer *http.Response) (err error) {
			if raw, err = io.ReadAll(io.LimitReader(answer.Body, limit+1)); err == nil && int64(len(raw)) > limit {
				err = errPermanent{fmt.Errorf("%s: %s: more than %d bytes", u.Host, u.Path, limit)}
			}
			return err
		})
	})
	return raw, err
}

// file appends to p what it lacks of the file at u.
func (n *network) file(ctx context.Context, u *url.URL, p *part, report func()) error {
	return n.retry(ctx, func() int64 { return p.size }, func() error {
		err := n.get(ctx, u, p.size, func(answer *http.Response) error {
			if answer.StatusCode == http.StatusOK && p.size > 0 {
				// The server sends everything again.
				if err := p.restart(); err != nil {
					return diskError{err}
				}
			}
			if answer.StatusCode == http.StatusPartialContent {
				if want := fmt.Sprintf("bytes %d-", p.size); !strings.HasPrefix(answer.Header.Get("Content-Range"), want) {
					return errPermanent{fmt.Errorf("%s sends range %q, asked for %s%d", u.Host, clip(answer.Header.Get("Content-Range")), want, p.want-1)}
				}
			}
			if has := p.size + answer.ContentLength; answer.ContentLength >= 0 && has != p.want {
				return errPermanent{fmt.Errorf("has %d bytes at %s, but %s says %d", has, u.Host, manifestName, p.want)}
			}
			return p.read(answer.Body, report)
		})
		var status statusError
		if errors.As(err, &status) && status.code == http.StatusRequestedRangeNotSatisfiable && p.size > 0 {
			if err := p.restart(); err != nil {
				return diskError{err}
			}
			return fmt.Errorf("%s has fewer bytes than have arrived before", u.Host)
		}
		return err
	})
}
