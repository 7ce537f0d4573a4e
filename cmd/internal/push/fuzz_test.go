package push_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/push"
)

// Answers of servers, which may be others than the flags say.
func FuzzAnswers(f *testing.F) {
	var status int
	var body string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		w.Write([]byte(body))
	}))
	f.Cleanup(s.Close)
	c, err := push.New(s.URL, "secret-key", 5*time.Second)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(200, `{"data":[{"id":"base"},{"id":"a"}]}`)
	f.Add(200, `[{"id":0,"path":"/x/adapter.gguf","scale":0.5}]`)
	f.Add(404, `{"detail":"Not Found"}`)
	f.Add(400, `{"error":{"message":"no\nsuch"}}`)
	f.Fuzz(func(t *testing.T, code int, text string) {
		status, body = 200+(code&0x7fffffff)%400, text
		for _, call := range []func() error{
			func() error { _, err := c.VLLM(t.Context(), "a", "/a", true); return err },
			func() error { _, err := c.Llama(t.Context(), "/x/adapter.gguf", 0.5); return err },
		} {
			if err := call(); err != nil && (strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret-key")) {
				t.Fatalf("%q", err)
			}
		}
	})
}
