package loadtest

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/drag-and-drop-lora/dnd/graph/lora"
)

const (
	sharedTasks = 8   // that all clients ask for
	sharedShare = 0.2 // of all requests
)

// errAgain is an answer that says to come again.
type errAgain struct{ after time.Duration }

func (e errAgain) Error() string { return fmt.Sprintf("come again after %v", e.after) }

// statusError is an answer that nobody should get.
type statusError struct {
	status int
	body   string
}

func (e statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

// work is one client. Its last request may take until ctx is done.
func (l *load) work(ctx, working context.Context, number int) {
	random := rand.New(rand.NewPCG(7, uint64(number)))
	for turn := 0; working.Err() == nil; turn++ {
		kind, task := "own", fmt.Sprintf("client %d, task %d", number, turn)
		if random.Float64() < sharedShare {
			kind, task = "shared", fmt.Sprintf("shared task %d", random.IntN(sharedTasks))
		}
		prompts, err := json.Marshal(map[string][]string{"prompts": {
			"What is this about, in one word? " + task, "Answer as JSON: " + task, "Is it positive or negative? " + task,
		}})
		if err != nil {
			l.report.wrong("%v", err)
			return
		}
		for working.Err() == nil {
			begin := time.Now()
			away := l.expected.Load()
			place, sum, err := l.fetch(ctx, "POST", "/v1/adapters", string(prompts))
			took := time.Since(begin)
			away = away || l.expected.Load()
			var again errAgain
			if errors.As(err, &again) {
				l.report.add("turned away", took)
				pause(working, again.after+time.Duration(random.Int64N(int64(again.after))))
				continue
			}
			if err != nil && away {
				l.report.add("cut off by the kill", took)
				pause(working, 200*time.Millisecond)
				continue
			}
			if err != nil {
				l.report.wrong("%s: %v", task, err)
				break
			}
			l.report.add(kind, took)
			l.remember(place, sum)
			break
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// remember notes an adapter, which must be the one that others got from the same place.
func (l *load) remember(place, sum string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, ok := l.adapters[place]; ok && before != sum {
		l.report.wrong("%s: two adapters for the same prompts", place)
	}
	l.adapters[place] = sum
}

// fetch makes one request for an adapter and checks what it gets. place is where it can be
// fetched again.
func (l *load) fetch(ctx context.Context, method, path, body string) (place, sum string, err error) {
	l.mu.Lock()
	url := strings.TrimSuffix(l.url, "/") + path
	l.mu.Unlock()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", "", err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := l.client.Do(request)
	if err != nil {
		return "", "", err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", "", err
	}
	l.report.status(answer.StatusCode)
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusTooManyRequests:
		after, err := strconv.Atoi(answer.Header.Get("Retry-After"))
		if err != nil || after < 1 {
			return "", "", fmt.Errorf("Retry-After %q", answer.Header.Get("Retry-After"))
		}
		return "", "", errAgain{time.Duration(after) * time.Second}
	default:
		return "", "", statusError{answer.StatusCode, string(raw)}
	}
	hash := sha256.Sum256(raw)
	return answer.Header.Get("Content-Location"), hex.EncodeToString(hash[:]), whole(raw)
}

// whole checks an adapter's archive against the checksums in its dnd.json.
func whole(raw []byte) error {
	z, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return fmt.Errorf("adapter of %d bytes: %w", len(raw), err)
	}
	read := func(name string) ([]byte, error) {
		f, err := z.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(f)
	}
	text, err := read(lora.InfoName)
	if err != nil {
		return err
	}
	var info lora.Info
	if err := json.Unmarshal(text, &info); err != nil {
		return fmt.Errorf("%s: %w", lora.InfoName, err)
	}
	if len(info.Files) != len(z.File)-1 {
		return fmt.Errorf("adapter of %d files, %s lists %d", len(z.File), lora.InfoName, len(info.Files))
	}
	for _, f := range info.Files {
		data, err := read(f.Name)
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != f.SHA256 || int64(len(data)) != f.Bytes {
			return fmt.Errorf("%s: %d bytes that do not fit their checksum", f.Name, len(data))
		}
	}
	return nil
}
