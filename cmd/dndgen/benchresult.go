package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
)

// benchResult is what bench measured; bench/pytorch.py prints the same keys. Times are of
// the fastest run, "first" ones of the first, which also compiles.
type benchResult struct {
	Tool    string `json:"tool"`
	Shape   string `json:"shape"`
	Backend string `json:"backend"`
	Device  string `json:"device"`
	DType   string `json:"dtype"`
	Batch   int    `json:"batch"`
	CPUs    int    `json:"cpus"`

	EncodeSeconds      float64 `json:"encode_seconds,omitempty"`
	EncodeFirstSeconds float64 `json:"encode_first_seconds,omitempty"`
	EncodeCPUSeconds   float64 `json:"encode_cpu_seconds,omitempty"`
	EncodeMACs         int64   `json:"encode_macs,omitempty"`
	EncodeFLOPS        float64 `json:"encode_flops_per_second,omitempty"`

	DecodeSeconds      float64 `json:"decode_seconds,omitempty"`
	DecodeFirstSeconds float64 `json:"decode_first_seconds,omitempty"`
	DecodeCPUSeconds   float64 `json:"decode_cpu_seconds,omitempty"`
	// DecodeMACs is direct summation's work, DecodeWorkMACs what this backend does instead.
	DecodeMACs     int64 `json:"decode_macs"`
	DecodeWorkMACs int64 `json:"decode_work_macs"`
	// DecodeFLOPS is DecodeMACs in floating-point operations a second; Efficiency is that of
	// DecodeWorkMACs over the probe's.
	DecodeFLOPS float64 `json:"decode_flops_per_second,omitempty"`
	Efficiency  float64 `json:"decode_efficiency,omitempty"`

	Parameters  int64 `json:"parameters"`
	PeakBytes   int64 `json:"peak_bytes"`   // the process's, most so far
	DeviceBytes int64 `json:"device_bytes"` // 0 where a device has no memory of its own
	// DeviceNeed is what decoding holds on the device at a time at least, WeightBytes what it
	// brings there; both counted. UploadedBytes were brought by all runs, HiddenBytes of them
	// while the device worked.
	DeviceNeed    int64       `json:"device_need_bytes,omitempty"`
	WeightBytes   int64       `json:"weight_bytes,omitempty"`
	UploadedBytes int64       `json:"uploaded_bytes,omitempty"`
	HiddenBytes   int64       `json:"hidden_bytes,omitempty"`
	Probe         *benchProbe `json:"probe,omitempty"`
	Kernels       []benchPart `json:"kernels,omitempty"`
	// Timestamps says that Kernels are timed by the device's own clock, of its work alone.
	Timestamps bool `json:"timestamps,omitempty"`
	// Roof is the model of --roof.
	Roof *benchRoof `json:"roof,omitempty"`
	// Earlier is this result over that of --compare, by key.
	Earlier map[string]float64 `json:"over_earlier,omitempty"`
}

type benchProbe struct {
	FLOPS float64 `json:"flops_per_second"`
	Bytes float64 `json:"bytes_per_second"`
}

// benchPart is one part of the fastest encoding or decoding. Bytes are its traffic if all
// that it reads and writes moves once.
type benchPart struct {
	Stage   string  `json:"stage"`
	Name    string  `json:"name"`
	Way     string  `json:"way"`
	Seconds float64 `json:"seconds"`
	MACs    int64   `json:"macs"`
	Bytes   int64   `json:"bytes"`
}

// benchRoof is a time that the counted work would take on a device of stated rates: each
// part the longer of its arithmetic and its traffic (the roofline model), nothing else.
type benchRoof struct {
	benchProbe
	DecodeSeconds float64 `json:"decode_seconds"`
	// ComputeShare is the part of that time in parts that arithmetic bounds.
	ComputeShare float64 `json:"compute_share"`
}

func newRoof(peaks benchProbe, parts []benchPart) *benchRoof {
	r := &benchRoof{benchProbe: peaks}
	compute := 0.0
	for _, p := range parts {
		work, traffic := 2*float64(p.MACs)/peaks.FLOPS, float64(p.Bytes)/peaks.Bytes
		r.DecodeSeconds += max(work, traffic)
		if work > traffic {
			compute += work
		}
	}
	r.ComputeShare = compute / r.DecodeSeconds
	return r
}

func (r *benchResult) key() string {
	return fmt.Sprintf("%s, %s, %s, batch %d", r.Shape, r.Backend, r.DType, r.Batch)
}

func (r *benchResult) print(w io.Writer) {
	fmt.Fprintf(w, "%s on %s, %d CPUs, %d parameters\n", r.key(), r.Device, r.CPUs, r.Parameters)
	fmt.Fprintf(w, "%-10s  %.1f GMAC of direct summation, %.1f done\n", "work", float64(r.DecodeMACs)/1e9, float64(r.DecodeWorkMACs)/1e9)
	if r.DeviceNeed > 0 {
		fmt.Fprintf(w, "%-10s  %s of the device's at least, for %s of weights\n", "decoding", size(r.DeviceNeed), size(r.WeightBytes))
	}
	if r.Timestamps {
		fmt.Fprintf(w, "%-10s  timed by the device's timestamps: its work alone, without uploads and waits\n", "kernels")
	}
	for _, k := range r.Kernels {
		fmt.Fprintf(w, "%-7s %-48s %-17s %9.2f GMAC %9.2f MB", k.Stage, k.Name, k.Way, float64(k.MACs)/1e9, float64(k.Bytes)/1e6)
		if k.Seconds > 0 {
			fmt.Fprintf(w, " %8.3f s %9.1f GFLOPS %7.2f GB/s", k.Seconds, 2e-9*float64(k.MACs)/k.Seconds, 1e-9*float64(k.Bytes)/k.Seconds)
			if r.Probe != nil {
				fmt.Fprintf(w, ", %2.0f %% and %2.0f %% of the device's", 2e2*float64(k.MACs)/k.Seconds/r.Probe.FLOPS, 1e2*float64(k.Bytes)/k.Seconds/r.Probe.Bytes)
			}
		}
		fmt.Fprintln(w)
	}
	if r.Roof != nil {
		fmt.Fprintf(w, "%-10s  %.3g s at %.4g GFLOPS and %.4g GB/s, %.0f %% of it in parts that arithmetic bounds (a model, not measured)\n", "roof",
			r.Roof.DecodeSeconds, r.Roof.FLOPS/1e9, r.Roof.Bytes/1e9, 100*r.Roof.ComputeShare)
	}
	if r.EncodeSeconds > 0 {
		fmt.Fprintf(w, "%-10s  %.2f s, the first time %.2f s, %.2f s of processors; %.1f GFLOPS\n", "encode", r.EncodeSeconds, r.EncodeFirstSeconds, r.EncodeCPUSeconds, r.EncodeFLOPS/1e9)
	}
	if r.DecodeSeconds > 0 {
		fmt.Fprintf(w, "%-10s  %.2f s, the first time %.2f s, %.2f s of processors; like %.1f GFLOPS of direct summation\n", "decode",
			r.DecodeSeconds, r.DecodeFirstSeconds, r.DecodeCPUSeconds, r.DecodeFLOPS/1e9)
	}
	if r.Probe != nil {
		fmt.Fprintf(w, "%-10s  %.1f GFLOPS, %.1f GB/s; decoding reached %.0f %% of the former\n", "device", r.Probe.FLOPS/1e9, r.Probe.Bytes/1e9, 100*r.Efficiency)
		fmt.Fprintf(w, "%-10s  %s of the host's, %s of the device's\n", "memory", size(r.PeakBytes), size(r.DeviceBytes))
	}
	if r.UploadedBytes > 0 {
		fmt.Fprintf(w, "%-10s  %s to the device, %.0f %% of it while the device worked\n", "brought", size(r.UploadedBytes), 100*float64(r.HiddenBytes)/float64(r.UploadedBytes))
	}
	for _, key := range slices.Sorted(maps.Keys(r.Earlier)) {
		fmt.Fprintf(w, "%-10s  %s is %.3g times the earlier\n", "compared", key, r.Earlier[key])
	}
}
