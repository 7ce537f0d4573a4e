package collect_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drag-and-drop-lora/dnd/trainer/collect"
)

// A data set's file.
func FuzzReadDataSet(f *testing.F) {
	f.Add([]byte(`[{"prompt":"a","response":"b"},{"system":"s","prompt":"c","response":"d"}]`))
	f.Add([]byte(`[{"prompt":" ","response":"b"}]`))
	f.Add([]byte(`{}`))
	f.Add([]byte("{\"prompt\":\"a\",\"response\":\"b\"}\n\n{\"prompt\":"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, extension := range collect.Extensions {
			readAny(t, filepath.Join(dir, "set"+extension), raw)
		}
	})
}

func readAny(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := collect.ReadDataSet(path)
	if err != nil {
		if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), filepath.Base(path)) {
			t.Fatalf("error %q, want one line with the file", err)
		}
		return
	}
	for _, r := range d.Records {
		if strings.TrimSpace(r.Prompt) == "" || strings.TrimSpace(r.Response) == "" {
			t.Fatalf("record %+v", r)
		}
	}
	if d.Name != "set" || len(d.Records) == 0 {
		t.Fatalf("%+v", d)
	}
}

// collect.json of an earlier run.
func FuzzFinished(f *testing.F) {
	c := collect.Defaults()
	set := &collect.DataSet{Name: "set", Records: []collect.Record{{Prompt: "a", Response: "b"}}}
	f.Add([]byte(`{"config":{"rank":8,"alpha":16,"seed":999,"batch":8,"steps":40,"learning_rate":0.003,"warm_up":4,"late_steps":12,"late_learning_rate":0.0003,"max_tokens":256},"base":"base","data":""}`))
	f.Add([]byte(`{`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(filepath.Join(dir, "collect.json"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if done, err := collect.Finished(dir, &c, "base", set); done && err != nil || !done && err == nil {
			t.Fatalf("%v, %v", done, err)
		}
	})
}
