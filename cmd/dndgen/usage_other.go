//go:build !unix

package main

// peakBytes is not measured here.
func peakBytes() int64 { return 0 }

// cpuSeconds is not measured here.
func cpuSeconds() float64 { return 0 }
