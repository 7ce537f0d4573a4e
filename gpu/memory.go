package gpu

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cogentcore/webgpu/wgpu"

	"github.com/drag-and-drop-lora/dnd/graph"
	"github.com/drag-and-drop-lora/dnd/graph/quant"
)

const (
	// pieceBytes is how much of a tensor is in host memory at a time.
	pieceBytes = 8 << 20
	// stagedBytes is how much may wait in the queue's own staging copies: the binding copies
	// every write, so that one half is on its way to the device while the other is filled.
	stagedBytes = 128 << 20
	// deadBytes is how much memory of buffers no longer needed may wait for their last
	// dispatch.
	deadBytes = 192 << 20
)

// Budget is Options.MemoryBudget (graph.Budgeted).
func (d *Device) Budget() int64 { return d.options.MemoryBudget }

// Need is the smallest budget that a run of p can keep (graph.Budgeted): what is live at a
// time, and one piece on its way to or from the device.
func (d *Device) Need(p *graph.Program) int64 { return p.Memory().Peak + piece(p) }

// piece is the largest that is on its way to or from the device at a time.
func piece(p *graph.Program) int64 {
	piece := int64(0)
	for i := range p.Buffers {
		if p.Buffers[i].Source.Kind != graph.SourceZero {
			piece = max(piece, p.Buffers[i].Bytes)
		}
	}
	for _, read := range p.Reads {
		piece = max(piece, read.Bytes)
	}
	return min(piece, pieceBytes)
}

// room waits until n bytes more are within the budget, as far as waiting helps.
func (r *run) room(n int64) error {
	for limit := r.d.options.MemoryBudget; limit > 0 && r.live+r.staged+n > limit && r.busy(); {
		if err := r.reclaim(); err != nil {
			return err
		}
	}
	return nil
}

// use counts the memory that is in use now.
func (r *run) use(extra int64) { r.peak = max(r.peak, r.live+r.staged+extra) }

// buffer has buffer i on the device, filled from its source.
func (r *run) buffer(i int) (*wgpu.Buffer, error) {
	if r.buffers[i] != nil {
		return r.buffers[i], nil
	}
	b := &r.p.Buffers[i]
	if err := r.room(b.Bytes); err != nil {
		return nil, err
	}
	usage := wgpu.BufferUsageStorage | wgpu.BufferUsageCopyDst | wgpu.BufferUsageCopySrc
	if b.Uniform {
		usage = wgpu.BufferUsageUniform | wgpu.BufferUsageCopyDst
	}
	if err := r.again(func() (err error) {
		r.buffers[i], err = r.create(b.Label, b.Bytes, usage)
		return err
	}); err != nil {
		return nil, err
	}
	r.live += b.Bytes
	r.use(0)
	return r.buffers[i], r.fill(i)
}

// again runs f a second time where memory ran out the first time, once all memory that
// only waits for the queue is given back.
func (r *run) again(f func() error) error {
	err := f()
	var full *OutOfMemoryError
	if !errors.As(err, &full) || !r.busy() {
		return err
	}
	if err := r.drain(); err != nil {
		return err
	}
	return f()
}

func (r *run) create(label string, bytes int64, usage wgpu.BufferUsage) (b *wgpu.Buffer, err error) {
	err = guard(r.d.device, fmt.Sprintf("buffer %s of %d bytes", label, bytes), func() (err error) {
		b, err = r.d.device.CreateBuffer(&wgpu.BufferDescriptor{Label: label, Size: uint64(bytes), Usage: usage})
		return err
	})
	if err != nil && b != nil { // the library hands out a buffer of no memory
		b.Release()
		b = nil
	}
	return b, err
}

// fill writes a buffer's first contents, in pieces. Buffers are zero when new.
func (r *run) fill(i int) error {
	b := &r.p.Buffers[i]
	switch b.Source.Kind {
	case graph.SourceInline:
		raw := make([]byte, 4*len(b.Source.Words))
		for j, w := range b.Source.Words {
			binary.LittleEndian.PutUint32(raw[4*j:], w)
		}
		return r.writeAll(i, raw)
	case graph.SourceInput:
		data, err := r.input(b.Source.Name)
		if err != nil {
			return err
		}
		if b.Source.Offset > int64(len(data)) || b.Source.Bytes > int64(len(data))-b.Source.Offset {
			return fmt.Errorf("gpu: input %q has %d bytes, the Program reads %d from byte %d", b.Source.Name, len(data), b.Source.Bytes, b.Source.Offset)
		}
		return r.writeAll(i, data[b.Source.Offset:b.Source.Offset+b.Source.Bytes])
	case graph.SourceWeights:
		if r.piece == nil {
			r.piece = make([]byte, pieceBytes)
		}
		size := int64(pieceBytes)
		if block := quant.BlockBytes(b.Source.DType); block > 0 {
			size = size / block * block
		}
		for off := int64(0); off < b.Source.Bytes; off += size {
			piece := r.piece[:min(size, b.Source.Bytes-off)]
			if err := r.weights.ReadWeights(b.Source.Name, b.Source.DType, b.Source.Offset+off, piece); err != nil {
				return fmt.Errorf("gpu: weights %s: %w", b.Source.Name, err)
			}
			if err := r.write(i, off, piece); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) input(name string) ([]byte, error) {
	for _, in := range r.inputs {
		if in.Name == name {
			return in.Data, nil
		}
	}
	return nil, fmt.Errorf("gpu: the Program needs the input %q, which was not given", name)
}

// writeAll writes a whole buffer in pieces.
func (r *run) writeAll(i int, data []byte) error {
	for off := 0; off < len(data); off += pieceBytes {
		if err := r.write(i, int64(off), data[off:min(off+pieceBytes, len(data))]); err != nil {
			return err
		}
	}
	return nil
}

// write queues a write. The queue wants whole words; the buffer's padding is zero.
func (r *run) write(i int, off int64, data []byte) error {
	if rest := len(data) % 4; rest != 0 {
		data = append(data[:len(data):len(data)], make([]byte, 4-rest)...)
	}
	n := int64(len(data))
	if err := r.room(n); err != nil {
		return err
	}
	for r.staged+n > stagedBytes && r.busy() {
		if err := r.reclaim(); err != nil {
			return err
		}
	}
	if err := r.again(func() error {
		return guard(r.d.device, "upload to "+r.p.Buffers[i].Label, func() error {
			r.d.device.Poll(false, nil)
			if len(r.flying) > 0 && !r.flying[len(r.flying)-1].flag.done() {
				r.hidden += n
			}
			return r.d.queue.WriteBuffer(r.buffers[i], uint64(off), data)
		})
	}); err != nil {
		return err
	}
	r.uploaded += n
	r.staged += n
	r.open.staged += n
	r.use(0)
	return r.ctx.Err()
}

// retire marks a buffer as no longer needed after the dispatches so far.
func (r *run) retire(i int) {
	r.open.dead = append(r.open.dead, i)
	r.dead += r.p.Buffers[i].Bytes
}

func (r *run) destroy(i int) {
	if b := r.buffers[i]; b != nil {
		b.Destroy()
		b.Release()
		r.buffers[i] = nil
		r.live -= r.p.Buffers[i].Bytes
	}
}
