package conformance

import (
	"encoding/json"
	"os"
	"testing"
)

// RecordFile names the variable that says where Record writes.
const RecordFile = "DND_CONFORMANCE"

// Record is the largest error of one case on one backend, or why it was not run there.
type Record struct {
	Backend string  `json:"backend"`        // "cpu", "pjrt", or the device's name
	Case    string  `json:"case,omitempty"` // "decoder/mini_qwen_k3": its group, and its name; empty: all
	Error   float64 `json:"error"`
	Allowed float64 `json:"allowed"`
	Skipped string  `json:"skipped,omitempty"` // the reason
}

// Save appends a record as a line of JSON to the file that RecordFile names; without one,
// it does nothing. make conformance makes its table of them.
func Save(t *testing.T, r Record) {
	t.Helper()
	path := os.Getenv(RecordFile)
	if path == "" {
		return
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Errorf("%s: %v", r.Case, err)
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	if _, err := f.Write(append(raw, '\n')); err != nil {
		t.Error(err)
	}
}
