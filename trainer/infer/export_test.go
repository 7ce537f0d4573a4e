package infer

// SetLimits makes tiles small, so that tests see many of them.
func (r *Runner) SetLimits(weights, gather, flop int64, manyChannels int) {
	r.limits = limits{weights: weights, gather: gather, flop: flop, manyChannels: manyChannels}
}
