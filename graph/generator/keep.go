package generator

import (
	"context"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// keptPrograms are a package's Programs on a device, with their weights.
type keptPrograms struct {
	p              *Package
	batch          int
	encode, decode graph.Held
}

// Keep keeps p's weights on the device, and what is computed with them, for runs of Encode
// and of Decode with that batch, if all of it takes at most so many bytes. The first run
// brings them. kept is false where the executor cannot, or there is too little memory:
// then each run brings them anew. Nothing of an earlier Keep stays.
func (r *ExecutorRunner) Keep(p *Package, batch int, bytes int64) (kept bool, err error) {
	r.kept.close()
	r.kept = nil
	holder, ok := r.exec.(graph.Holder)
	if !ok || p.Manifest.Encoder == nil {
		return false, nil
	}
	encode, _, err := r.plan(r.encodeProgram(p))
	if err != nil {
		return false, err
	}
	decode, _, err := r.plan(r.decodeProgram(p, batch))
	if err != nil {
		return false, err
	}
	if b, ok := r.exec.(graph.Budgeted); ok {
		// Both are there when a piece of either is on its way.
		e, d := encode.Memory(), decode.Memory()
		bytes -= max(b.Need(encode)-e.Peak, b.Need(decode)-d.Peak)
	}
	if encode.Memory().All+decode.Memory().All > bytes {
		return false, nil
	}
	k := &keptPrograms{p: p, batch: batch}
	if k.encode, err = holder.Hold(encode, p.Weights()); err != nil {
		return false, err
	}
	if k.decode, err = holder.Hold(decode, p.Weights()); err != nil {
		k.close()
		return false, err
	}
	r.kept = k
	return true, nil
}

// again runs a Program that is kept. After an error nothing is.
func (r *ExecutorRunner) again(ctx context.Context, held graph.Held, stage string, in []graph.Input) ([]float32, error) {
	result, err := held.Run(ctx, stage, in)
	if err != nil {
		r.kept.close()
		r.kept = nil
		return nil, err
	}
	return r.values(result), nil
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
