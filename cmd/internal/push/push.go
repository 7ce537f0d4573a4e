// Package push gives adapters to inference servers that run: to vLLM through its dynamic
// LoRA endpoint, and to llama-server by the scales of adapters that it was started with.
// It sends names, paths and scales; no weights leave the machine.
package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// maxAnswer bounds what is read of a server's answer.
const maxAnswer = 4 << 20

// Client talks to one server.
type Client struct {
	base    string
	key     string
	timeout time.Duration
	http    *http.Client
}

// New makes a client of the server at address ("http://localhost:8000"). key is sent as
// bearer token if it is not empty; timeout is each request's.
func New(address, key string, timeout time.Duration) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("push: address %q, expected http://host:port", address)
	}
	return &Client{base: strings.TrimRight(u.String(), "/"), key: key, timeout: timeout, http: &http.Client{
		// A POST that is redirected becomes a GET; and the key is for this server alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// refusal is an answer other than 2xx.
type refusal struct {
	url     string
	status  int
	message string // the server's own, if it gave one
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("push: %s: %d %s", r.url, r.status, http.StatusText(r.status))
	if r.message != "" {
		text += ": " + r.message
	}
	if r.status == http.StatusUnauthorized || r.status == http.StatusForbidden {
		text += ": put the server's key into DND_API_KEY"
	}
	return text
}

// call sends body as JSON, or with nil gets, and decodes the answer into result if that
// is not nil.
func (c *Client) call(ctx context.Context, path string, body, result any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	method, at := http.MethodGet, c.base+path
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		method, reader = http.MethodPost, bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, at, reader)
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.failed(at, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return c.failed(at, err)
	}
	if resp.StatusCode/100 != 2 {
		return &refusal{at, resp.StatusCode, message(text, resp.Header.Get("Location"))}
	}
	if result == nil {
		return nil
	}
	if len(text) > maxAnswer {
		return fmt.Errorf("push: %s: answers more than %d bytes", at, maxAnswer)
	}
	if err := json.Unmarshal(text, result); err != nil {
		return fmt.Errorf("push: %s: answers no JSON of the expected form: is this the kind of server that --kind says? %w", at, err)
	}
	return nil
}

// failed says why there is no answer.
func (c *Client) failed(at string, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) {
		return fmt.Errorf("push: %s: no answer within %v: %w", at, c.timeout, context.DeadlineExceeded)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("push: %s: %w", at, err)
	}
	return fmt.Errorf("push: %s: %w: is the server running?", at, err)
}

// message finds the text in an answer that says what went wrong.
func message(text []byte, location string) string {
	if location != "" {
		return "it sends on to " + location
	}
	var answer struct {
		Message string          `json:"message"` // vLLM, formerly
		Detail  json.RawMessage `json:"detail"`  // FastAPI
		Error   json.RawMessage `json:"error"`
	}
	if json.Unmarshal(text, &answer) != nil {
		return shortened(string(text))
	}
	if answer.Message != "" {
		return shortened(answer.Message)
	}
	for _, raw := range []json.RawMessage{answer.Error, answer.Detail} {
		var inner struct {
			Message string `json:"message"` // vLLM, llama-server
		}
		var plain string
		switch {
		case json.Unmarshal(raw, &inner) == nil && inner.Message != "":
			return shortened(inner.Message)
		case json.Unmarshal(raw, &plain) == nil:
			return shortened(plain)
		}
	}
	return shortened(string(text))
}

// shortened is a server's text on one line.
func shortened(text string) string {
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	if r := []rune(text); len(r) > 300 {
		return string(r[:300]) + "…"
	}
	return text
}
