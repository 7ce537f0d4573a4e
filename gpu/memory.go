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
	// stagedBytes is how much may wait in the queue's own staging copies before the queue
	// is drained: the binding copies every write.
	stagedBytes = 64 << 20
	// deadBytes is how much memory of buffers no longer needed may wait for their last
	// dispatch before the queue is drained.
	deadBytes = 192 << 20
)

// lifetimes finds, for each buffer, the first and last dispatch that binds it: -1 where
// none does, and beyond the last for buffers that are read back.
func lifetimes(p *graph.Program) (first, last []int) {
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

// need is the largest number of bytes that are live at a time.
func need(p *graph.Program, first, last []int) int64 {
	change := make([]int64, len(p.Dispatches)+2)
	for i, b := range p.Buffers {
		if last[i] >= 0 {
			change[max(first[i], 0)] += b.Bytes
			change[last[i]+1] -= b.Bytes
		}
	}
	live, peak := int64(0), int64(0)
	for _, c := range change {
		live += c
		peak = max(peak, live)
	}
	return peak
}

// buffer has buffer i on the device, filled from its source.
func (r *run) buffer(i int) (*wgpu.Buffer, error) {
	if r.buffers[i] != nil {
		return r.buffers[i], nil
	}
	b := &r.p.Buffers[i]
	if limit := r.d.options.MemoryBudget; limit > 0 && r.live+b.Bytes > limit {
		if err := r.drain(); err != nil { // dead buffers still count until then
			return nil, err
		}
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
	r.peak = max(r.peak, r.live)
	return r.buffers[i], r.fill(i)
}

// again runs f a second time where memory ran out the first time, once all memory that
// only waits for the queue is given back.
func (r *run) again(f func() error) error {
	err := f()
	var full *OutOfMemoryError
	if !errors.As(err, &full) || len(r.dead) == 0 && r.staged == 0 {
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
		return r.write(i, 0, raw)
	case graph.SourceInput:
		data, err := r.input(b.Source.Name)
		if err != nil {
			return err
		}
		if b.Source.Offset > int64(len(data)) || b.Source.Bytes > int64(len(data))-b.Source.Offset {
			return fmt.Errorf("gpu: input %q has %d bytes, the Program reads %d from byte %d", b.Source.Name, len(data), b.Source.Bytes, b.Source.Offset)
		}
		data = data[b.Source.Offset : b.Source.Offset+b.Source.Bytes]
		for off := 0; off < len(data); off += pieceBytes {
			if err := r.write(i, int64(off), data[off:min(off+pieceBytes, len(data))]); err != nil {
				return err
			}
		}
		return nil
	case graph.SourceWeights:
		if r.piece == nil {
			r.piece = make([]byte, pieceBytes)
		}
		size := int64(pieceBytes)
		switch b.Source.DType {
		case quant.Q8:
			size = size / quant.Bytes * quant.Bytes
		case quant.Q41:
			size = size / quant.BytesQ41 * quant.BytesQ41
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

// write queues a write. The queue wants whole words; the buffer's padding is zero.
func (r *run) write(i int, off int64, data []byte) error {
	if rest := len(data) % 4; rest != 0 {
		data = append(data[:len(data):len(data)], make([]byte, 4-rest)...)
	}
	if err := r.again(func() error {
		return guard(r.d.device, "upload to "+r.p.Buffers[i].Label, func() error {
			return r.d.queue.WriteBuffer(r.buffers[i], uint64(off), data)
		})
	}); err != nil {
		return err
	}
	if r.staged += int64(len(data)); r.staged >= stagedBytes {
		return r.drain()
	}
	return r.ctx.Err()
}

// retire marks a buffer as no longer needed after the dispatches so far.
func (r *run) retire(i int) {
	r.dead = append(r.dead, i)
	r.deadSize += r.p.Buffers[i].Bytes
}

// bury destroys retired buffers. Everything that uses them must have completed.
func (r *run) bury() {
	for _, i := range r.dead {
		r.destroy(i)
	}
	r.dead, r.deadSize = r.dead[:0], 0
}

func (r *run) destroy(i int) {
	if b := r.buffers[i]; b != nil {
		b.Destroy()
		b.Release()
		r.buffers[i] = nil
		r.live -= r.p.Buffers[i].Bytes
	}
}
