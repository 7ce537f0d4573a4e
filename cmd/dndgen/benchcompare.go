package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/drag-and-drop-lora/dnd/graph/atomicfile"
)

const (
	// moreWork is by how much a count may grow before it is a regression.
	moreWork = 1.01
	// leastEfficiency is what must be left of the baseline's efficiency. Both are ratios to
	// the same device at the same time, but other processes disturb them all the same.
	leastEfficiency = 0.5
	maxResults      = 1 << 20
)

// readResults reads a file of results.
func readResults(path string) ([]*benchResult, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []*benchResult
	if err := json.NewDecoder(io.LimitReader(f, maxResults)).Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: expected a list of results of dndgen bench: %w", path, err)
	}
	for i, r := range list {
		if r == nil {
			return nil, fmt.Errorf("%s: result %d is null", path, i)
		}
	}
	return list, nil
}

// saveResult puts a result into a file of them.
func saveResult(path string, r *benchResult) error {
	list, err := readResults(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i := range list {
		if list[i].key() == r.key() {
			list[i] = r
			r = nil
			break
		}
	}
	if r != nil {
		list = append(list, r)
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", " ")
		return enc.Encode(list)
	})
}

// compareResults returns an error if r is worse than the result of its key in the file.
func compareResults(path string, r *benchResult) error {
	list, err := readResults(path)
	if err != nil {
		return err
	}
	for _, b := range list {
		if b.key() != r.key() {
			continue
		}
		r.Earlier = overEarlier(b, r)
		var worse []string
		if float64(r.DecodeWorkMACs) > moreWork*float64(b.DecodeWorkMACs) {
			worse = append(worse, fmt.Sprintf("%d multiply-accumulates, were %d", r.DecodeWorkMACs, b.DecodeWorkMACs))
		}
		if b.DeviceNeed > 0 && float64(r.DeviceNeed) > moreWork*float64(b.DeviceNeed) {
			worse = append(worse, fmt.Sprintf("%d bytes of device memory, were %d", r.DeviceNeed, b.DeviceNeed))
		}
		if r.Efficiency > 0 && r.Efficiency < leastEfficiency*b.Efficiency {
			worse = append(worse, fmt.Sprintf("%.0f %% of what the device reaches, were %.0f %%", 100*r.Efficiency, 100*b.Efficiency))
		}
		if len(worse) > 0 {
			return fmt.Errorf("%s: worse than in %s: %s", r.key(), path, strings.Join(worse, "; "))
		}
		return nil
	}
	return fmt.Errorf("%s: has no result for %s: add it with --out", path, r.key())
}

// overEarlier is what r measured over what b did. Times compare only where device and
// load were the same.
func overEarlier(b, r *benchResult) map[string]float64 {
	over := map[string]float64{}
	for key, v := range map[string][2]float64{
		"decode_work_macs":  {float64(r.DecodeWorkMACs), float64(b.DecodeWorkMACs)},
		"decode_efficiency": {r.Efficiency, b.Efficiency},
		"decode_seconds":    {r.DecodeSeconds, b.DecodeSeconds},
		"encode_seconds":    {r.EncodeSeconds, b.EncodeSeconds},
		"peak_bytes":        {float64(r.PeakBytes), float64(b.PeakBytes)},
		"device_bytes":      {float64(r.DeviceBytes), float64(b.DeviceBytes)},
		"device_need_bytes": {float64(r.DeviceNeed), float64(b.DeviceNeed)},
	} {
		if v[0] > 0 && v[1] > 0 {
			over[key] = v[0] / v[1]
		}
	}
	return over
}
