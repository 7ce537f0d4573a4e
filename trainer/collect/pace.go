package collect

import (
	"sync"
	"time"
)

// Progress is how far a collection is.
type Progress struct {
	DataSet         string
	Set, Sets       int // counted from 1
	Step, Steps     int // of this data set, both phases
	Made, Total     int // steps of the whole collection, those that were there included
	Loss            float64
	TokensPerSecond float64
	TimeLeft        time.Duration // of the whole collection
	Skipped         bool          // the data set was there already
	Dropped         int           // examples that are too long
}

// pace measures speed over the whole collection, on all devices.
type pace struct {
	steps, sets, devices int
	report               func(Progress)

	mu         sync.Mutex
	left, made int // steps
	skipped    int // steps of data sets that were there
	tokens     int
	spent      time.Duration // of all devices together
}

func (p *pace) skip(j *job) {
	p.skipped += p.steps
	p.report(Progress{DataSet: j.set.Name, Set: j.number, Sets: p.sets, Steps: p.steps, Made: p.skipped, Total: p.sets * p.steps, Skipped: true, Dropped: j.dropped})
}

// step is told of a step that was made; reports come one at a time.
func (p *pace) step(j *job, step int, loss float64, tokens int, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left--
	p.made++
	// The first step of a shape compiles; it counts, since it is waited for.
	p.spent += took
	p.tokens += tokens
	wall := p.spent.Seconds() / float64(p.devices)
	p.report(Progress{DataSet: j.set.Name, Set: j.number, Sets: p.sets, Step: step, Steps: p.steps, Made: p.skipped + p.made, Total: p.sets * p.steps,
		Loss: loss, TokensPerSecond: float64(p.tokens) / wall, Dropped: j.dropped,
		TimeLeft: time.Duration(wall / float64(p.made) * float64(p.left) * float64(time.Second))})
}
