package generator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// Resident says what of a generator stays on a device from one run to the next.
type Resident string

// What may stay, the most last.
const (
	ResidentNothing  Resident = ""         // each run brings the weights
	ResidentWeights  Resident = "weights"  // the weights as they are delivered: each run packs them
	ResidentPrepared Resident = "prepared" // the weights packed, and the transforms of kernels
)

// Kept is what Keep has decided.
type Kept struct {
	Resident Resident
	// Bytes is what stays on the device, with what is computed with it, once it has run.
	Bytes int64
	// Plan is a hash of the Programs that runs go by: what computes by equal plans on one
	// device gives equal bits.
	Plan [sha256.Size]byte
}

// Keeper is a Runner that can keep a package where it computes.
type Keeper interface {
	Runner
	// Keep keeps p on the device for runs of Encode, and of Decode with that batch, in at most
	// so many bytes, until Close. The first run brings it. What an earlier Keep has kept is
	// given back, unless it was the same.
	Keep(p *Package, batch int, bytes int64) (Kept, error)
}

var _ Keeper = (*ExecutorRunner)(nil)

// keptPrograms are a package's Programs on a device, nil where nothing stays.
type keptPrograms struct {
	Kept
	p              *Package
	batch          int
	most           int64
	encode, decode graph.Held
}

// byteCosts are the prices of a byte that stays, in multiply-accumulates of a run, that Keep
// tries one after the other: with each, fewer convolutions go through the frequency domain,
// whose kernels are several times as large there, and through smaller tiles.
var byteCosts = []float64{0, 4, 16, 64, 256, 1 << 20}

// Keep implements Keeper. It takes the first of these that fits: weights that are packed and
// transformed once, as long as a run then does no more work than with those as they are;
// weights as they are; nothing. After a run that finds too little memory all the same it
// stays at the last.
func (r *ExecutorRunner) Keep(p *Package, batch int, bytes int64) (Kept, error) {
	if k := r.kept; k != nil && k.p == p && k.batch == batch && k.most == bytes {
		return k.Kept, nil
	}
	r.forget()
	if p.Manifest.Encoder == nil {
		return Kept{}, nil
	}
	encode, _, err := r.plan(r.encodeProgram(p))
	if err != nil {
		return Kept{}, err
	}
	decode, _, err := r.plan(r.decodeProgram(p, batch))
	if err != nil {
		return Kept{}, err
	}
	k := &keptPrograms{p: p, batch: batch, most: bytes}
	if holder, ok := r.exec.(graph.Holder); ok {
		if e, d := r.prepared(p, batch, bytes, encode.RunCost()+decode.RunCost()); e != nil {
			k.Resident, encode, decode = ResidentPrepared, e, d
		} else if r.held(encode, decode) <= bytes {
			k.Resident = ResidentWeights
		}
		if k.Resident != ResidentNothing {
			k.Bytes = r.held(encode, decode)
			// A device that was opened for the one must do for the other.
			all := encode.Requires.Union(decode.Requires)
			encode.Requires, decode.Requires = all, all
			if k.encode, err = holder.Hold(encode, p.Weights()); err != nil {
				return Kept{}, err
			}
			if k.decode, err = holder.Hold(decode, p.Weights()); err != nil {
				k.close()
				return Kept{}, err
			}
		}
	}
	sum := sha256.New()
	for _, q := range []*graph.Program{encode, decode} {
		text, err := q.Encode()
		if err != nil {
			k.close()
			return Kept{}, err
		}
		sum.Write(text)
	}
	k.Plan = [sha256.Size]byte(sum.Sum(nil))
	r.kept = k
	return k.Kept, nil
}

// prepared are Programs whose weights are prepared, of which a run takes at most cost; nil if
// none fits.
func (r *ExecutorRunner) prepared(p *Package, batch int, bytes, cost int64) (encode, decode *graph.Program) {
	limits := r.limits()
	for _, price := range byteCosts {
		prepare := &graph.Preparation{ByteCost: price}
		e, err := PrepareEncode(&p.Manifest, limits, r.dtype, prepare)
		if err != nil {
			return nil, nil
		}
		d, err := PrepareDecode(&p.Manifest, limits, batch, r.dtype, prepare)
		if err != nil || e.RunCost()+d.RunCost() > cost {
			return nil, nil
		}
		if r.held(e, d) <= bytes {
			return e, d
		}
	}
	return nil, nil
}

// held is how many bytes two Programs take that are held.
func (r *ExecutorRunner) held(encode, decode *graph.Program) int64 {
	e, d := encode.Memory(), decode.Memory()
	bytes := e.Held + d.Held
	if b, ok := r.exec.(graph.Budgeted); ok {
		// Both are there when a piece of either is on its way.
		bytes += max(b.Need(encode)-e.Peak, b.Need(decode)-d.Peak)
	}
	return bytes
}

// forget gives back what is kept.
func (r *ExecutorRunner) forget() {
	r.kept.close()
	r.kept = nil
}

// again runs a Program that is kept. Where that fails, nothing is kept any more, and the run
// is made without.
func (r *ExecutorRunner) again(ctx context.Context, held graph.Held, stage string, compile program, in []graph.Input, report func(graph.Progress)) ([]float32, error) {
	result, err := held.Run(ctx, stage, in, report)
	if err == nil {
		return r.values(result), nil
	}
	was := r.kept
	r.forget()
	if ctx.Err() != nil {
		return nil, err
	}
	r.note(fmt.Sprintf("what was kept on the device is gone: %v; bringing the weights again", err))
	values, again := r.run(ctx, was.p, compile, in, report)
	if again != nil {
		return nil, again
	}
	if errors.Is(err, graph.ErrMemory) { // there would be too little the next time, too
		r.kept = &keptPrograms{p: was.p, batch: was.batch, most: was.most, Kept: Kept{Plan: sha256.Sum256(was.Plan[:])}}
	}
	return values, nil
}

func (k *keptPrograms) encoder(p *Package) graph.Held {
	if k == nil || k.p != p {
		return nil
	}
	return k.encode
}

func (k *keptPrograms) decoder(p *Package, batch int) graph.Held {
	if k == nil || k.p != p || k.batch != batch {
		return nil
	}
	return k.decode
}

func (k *keptPrograms) close() {
	if k == nil {
		return
	}
	for _, h := range []graph.Held{k.encode, k.decode} {
		if h != nil {
			// It only gives memory back.
			_ = h.Close()
		}
	}
}
