package graph

// StagePrepare is the stage of Builder.Prepare.
const StagePrepare = "prepare"

// Preparation says how Builder.Prepare weighs time against memory.
type Preparation struct {
	// ByteCost is how many multiply-accumulates of each run a byte has to save that stays on
	// the device: 0 where there is memory for all.
	ByteCost float64
}

// once adds what do adds: to the stage that is prepared, if there is one.
func (b *Builder) once(do func()) {
	if b.Prepare == nil {
		do()
		return
	}
	p, stage := &b.program, b.stage
	swap := func() {
		p.Dispatches, b.prepared = b.prepared, p.Dispatches
		b.free, b.scratch = b.scratch, b.free
		b.preparing = !b.preparing
	}
	swap()
	b.stage = StagePrepare
	do()
	b.stage = stage
	swap()
}
