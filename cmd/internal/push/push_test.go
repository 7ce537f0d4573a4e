package push_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drag-and-drop-lora/dnd/cmd/internal/push"
)

// vllm is a server as vLLM's documentation and source describe it.
type vllm struct {
	models  []string
	dynamic bool
	key     string
}

func (v *vllm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(code int, body string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
	if v.key != "" && r.Header.Get("Authorization") != "Bearer "+v.key {
		refuse(401, `{"error":"Unauthorized"}`)
		return
	}
	var body struct {
		Name string `json:"lora_name"`
		Path string `json:"lora_path"`
	}
	if r.Method == http.MethodPost {
		if r.Header.Get("Content-Type") != "application/json" || json.NewDecoder(r.Body).Decode(&body) != nil {
			refuse(422, `{"detail":[{"type":"missing"}]}`)
			return
		}
	}
	switch path := r.Method + " " + r.URL.Path; {
	case path == "GET /v1/models":
		data := []map[string]string{}
		for _, m := range v.models {
			data = append(data, map[string]string{"id": m, "object": "model"})
		}
		json.NewEncoder(w).Encode(map[string]any{"object": "list", "data": data})
	case path == "POST /v1/load_lora_adapter" && v.dynamic:
		if slices.Contains(v.models, body.Name) {
			refuse(400, `{"error":{"message":"The lora adapter 'a' has already been loaded.","type":"InvalidUserInput","code":400}}`)
			return
		}
		if strings.Contains(body.Path, "nowhere") {
			refuse(404, `{"object":"error","message":"Loading lora a failed: No adapter found for `+body.Path+`","type":"NotFoundError","code":404}`)
			return
		}
		v.models = append(v.models, body.Name)
		fmt.Fprintf(w, "Success: LoRA adapter '%s' added successfully.", body.Name)
	case path == "POST /v1/unload_lora_adapter" && v.dynamic:
		v.models = slices.DeleteFunc(v.models, func(m string) bool { return m == body.Name })
		fmt.Fprintf(w, "Success: LoRA adapter '%s' removed successfully.", body.Name)
	default:
		refuse(404, `{"detail":"Not Found"}`)
	}
}

func client(t *testing.T, h http.Handler, key string) *push.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := push.New(s.URL+"/", key, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, expected one line with %q", err, w)
		}
	}
}

func TestVLLM(t *testing.T) {
	s := &vllm{models: []string{"base"}, dynamic: true, key: "secret"}
	c := client(t, s, "secret")
	models, err := c.VLLM(t.Context(), "a", "/adapters/a", false)
	if err != nil || !slices.Equal(models, []string{"base", "a"}) {
		t.Errorf("%q, %v", models, err)
	}
	_, err = c.VLLM(t.Context(), "a", "/adapters/a", false)
	wantError(t, err, `has a model "a" already`)
	if models, err = c.VLLM(t.Context(), "a", "/adapters/b", true); err != nil || !slices.Equal(models, []string{"base", "a"}) {
		t.Errorf("%q, %v", models, err)
	}
	_, err = c.VLLM(t.Context(), "b", "/nowhere", false)
	wantError(t, err, "404", "No adapter found for /nowhere")
	_, err = client(t, s, "wrong").VLLM(t.Context(), "b", "/adapters/b", false)
	wantError(t, err, "401", "DND_API_KEY")
	if strings.Contains(err.Error(), "wrong") {
		t.Errorf("the key is in the error: %v", err)
	}
	s.dynamic = false
	_, err = c.VLLM(t.Context(), "b", "/adapters/b", false)
	wantError(t, err, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")
}

// llama is a server as llama.cpp's tools/server/README.md describes it.
type llama struct {
	list []map[string]any
	deaf bool
}

func (l *llama) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/lora-adapters" {
		w.WriteHeader(404)
		fmt.Fprint(w, `{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}`)
		return
	}
	if r.Method == http.MethodGet {
		json.NewEncoder(w).Encode(l.list)
		return
	}
	var body []struct {
		ID    int     `json:"id"`
		Scale float64 `json:"scale"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		w.WriteHeader(400)
		fmt.Fprint(w, `{"error":{"code":400,"message":"Request body must be an array","type":"invalid_request_error"}}`)
		return
	}
	if !l.deaf {
		for i := range l.list {
			l.list[i]["scale"] = 0.0
		}
		for _, b := range body {
			l.list[b.ID]["scale"] = float32(b.Scale)
		}
	}
	fmt.Fprint(w, `{"success":true}`)
}

func TestLlama(t *testing.T) {
	s := &llama{list: []map[string]any{{"id": 0, "path": "/x/one/adapter.gguf", "scale": 0.5}, {"id": 1, "path": "/x/two/adapter.gguf", "scale": 0.0}}}
	c := client(t, s, "")
	// The other adapter keeps its scale; the path may be another machine's.
	for _, path := range []string{"/x/two/adapter.gguf", "/elsewhere/two/adapter.gguf"} {
		list, err := c.Llama(t.Context(), path, 0.3)
		if err != nil || len(list) != 2 || list[0].Scale != 0.5 || list[1].Scale != float64(float32(0.3)) && list[1].Scale != 0.3 {
			t.Errorf("%s: %+v, %v", path, list, err)
		}
	}
	_, err := c.Llama(t.Context(), "/y/adapter.gguf", 1)
	wantError(t, err, "two adapters")
	_, err = c.Llama(t.Context(), "/y/three.gguf", 1)
	wantError(t, err, "three.gguf", "only as it starts", "--lora")
	s.deaf = true
	_, err = c.Llama(t.Context(), "/x/two/adapter.gguf", 2)
	wantError(t, err, "took scale 2")
	_, err = client(t, &vllm{}, "").Llama(t.Context(), "a.gguf", 1)
	wantError(t, err, "404")
}

func TestServersThatMisbehave(t *testing.T) {
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"page":  {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>\nhello") }, "no JSON"},
		"error": {func(w http.ResponseWriter, r *http.Request) { http.Error(w, "out of\nmemory", 500) }, "500 Internal Server Error: out of memory"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.org/", http.StatusMovedPermanently)
		}, "sends on to http://example.org/"},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for range 1 << 10 {
				if _, err := w.Write(make([]byte, 1<<14)); err != nil {
					return
				}
			}
		}, "answers more than"},
		"long error": {func(w http.ResponseWriter, r *http.Request) { http.Error(w, strings.Repeat("x", 1<<16), 500) }, "…"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client(t, c.h, "").Llama(t.Context(), "a.gguf", 1)
			wantError(t, err, c.want)
		})
	}
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	c, err := push.New(s.URL, "", 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Llama(t.Context(), "a.gguf", 1)
	wantError(t, err, "no answer within 50ms")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = c.VLLM(ctx, "a", "/a", false); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	if c, err = push.New(gone.URL, "", time.Second); err != nil {
		t.Fatal(err)
	}
	_, err = c.VLLM(t.Context(), "a", "/a", false)
	wantError(t, err, "is the server running?")
	for _, address := range []string{"", "localhost:8000", "ftp://x", "http://", "http://a/?q", "http://user:pass@a", "\x00"} {
		if _, err := push.New(address, "", time.Second); err == nil {
			t.Errorf("address %q was taken", address)
		}
	}
}
