package graph

// Memory is what a run of a Program holds on the device, known before anything runs.
type Memory struct {
	// Peak is the most bytes of buffers that are needed at a time, At the dispatch then.
	Peak int64
	At   string
	// Held is what a Program takes that is held: all buffers but those that only its stage
	// Once binds, or more while that runs.
	Held int64
	// Weights is how many bytes of weights are brought to the device in all.
	Weights int64
}

// Memory counts what an executor needs that creates each buffer for the first dispatch
// that binds it and frees it after the last.
func (p *Program) Memory() Memory {
	first, last := p.Lifetimes()
	_, heldLast := p.HeldLifetimes()
	change, held := make([]int64, len(p.Dispatches)+2), make([]int64, len(p.Dispatches)+2)
	var m Memory
	for i, b := range p.Buffers {
		if last[i] < 0 {
			continue
		}
		from := max(first[i], 0)
		change[from] += b.Bytes
		change[last[i]+1] -= b.Bytes
		held[from] += b.Bytes
		held[heldLast[i]+1] -= b.Bytes
		if b.Source.Kind == SourceWeights {
			m.Weights += b.Bytes
		}
	}
	live, stays := int64(0), int64(0)
	for i := range len(p.Dispatches) + 1 {
		if live += change[i]; live > m.Peak {
			m.Peak, m.At = live, ""
			if i < len(p.Dispatches) {
				m.At = p.Dispatches[i].Label
			}
		}
		stays += held[i]
		m.Held = max(m.Held, stays)
	}
	return m
}

// HeldLifetimes is Lifetimes where the Program is held: what any stage but Once binds, or is
// read back, lives on.
func (p *Program) HeldLifetimes() (first, last []int) {
	first, last = p.Lifetimes()
	once := p.once()
	for i := range last {
		if last[i] >= once {
			last[i] = len(p.Dispatches)
		}
	}
	return first, last
}

// once is how many dispatches the stage Once has, the first of all.
func (p *Program) once() int {
	if p.Once == "" {
		return 0
	}
	for i := range p.Dispatches {
		if p.Dispatches[i].Stage != p.Once {
			return i
		}
	}
	return len(p.Dispatches)
}

// RunCost is the multiply-accumulates of a run of a held Program's other stages.
func (p *Program) RunCost() int64 {
	cost := int64(0)
	for _, d := range p.Dispatches[p.once():] {
		cost += d.Cost
	}
	return cost
}

// Lifetimes finds, for each buffer, the first and last dispatch that binds it: -1 where
// none does, and len(p.Dispatches) as the last for buffers that are read back.
func (p *Program) Lifetimes() (first, last []int) {
	first, last = make([]int, len(p.Buffers)), make([]int, len(p.Buffers))
	for i := range first {
		first[i], last[i] = -1, -1
	}
	for i, d := range p.Dispatches {
		for _, b := range d.Binds {
			if first[b.Buffer] < 0 {
				first[b.Buffer] = i
			}
			last[b.Buffer] = i
		}
	}
	for _, read := range p.Reads {
		last[read.Buffer] = len(p.Dispatches)
	}
	return first, last
}

// Parts are the parts of the network that a run of these dispatches goes through, in order,
// without their times; nil is all dispatches. A part's Bytes are of all buffers that it
// binds, each once.
func (p *Program) Parts(todo []int) []PartTime {
	if todo == nil {
		for i := range p.Dispatches {
			todo = append(todo, i)
		}
	}
	var parts []PartTime
	var seen map[int]bool
	for k, i := range todo {
		d := &p.Dispatches[i]
		if k == 0 || d.Label != p.Dispatches[todo[k-1]].Label {
			parts = append(parts, PartTime{Stage: d.Stage, Label: d.Label, Way: p.Kernels[d.Kernel].Label})
			seen = map[int]bool{}
		}
		part := &parts[len(parts)-1]
		part.MACs += d.Cost
		for _, b := range d.Binds {
			if !seen[b.Buffer] && !p.Buffers[b.Buffer].Uniform {
				seen[b.Buffer] = true
				part.Bytes += p.Buffers[b.Buffer].Bytes
			}
		}
	}
	return parts
}

// Count is what a piece of work takes on an executor or backend, known without doing it.
type Count struct {
	// MACs are the multiply-accumulates that are done, in Parts.
	MACs  int64
	Parts []PartTime
	// Memory is the device's; nothing where that is the host's.
	Memory Memory
}
