package infer

import "math"

// SetLimits makes tiles small, so that tests see many of them. Convolutions are done in
// the frequency domain wherever spectra bytes are enough.
func (r *Runner) SetLimits(weights, gather, flop int64, manyChannels int, spectra int64) {
	r.limits = limits{weights: weights, gather: gather, flop: flop, manyChannels: manyChannels, spectra: spectra}
}

// OnlyDirect leaves all convolutions to the backend.
func (r *Runner) OnlyDirect() { r.limits.direct = math.Inf(1) }
