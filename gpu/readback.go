package gpu

import (
	"github.com/cogentcore/webgpu/wgpu"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// readPiece is how much is mapped at a time.
const readPiece = 64 << 20

// read copies a buffer's range to host memory through a mappable buffer.
func (r *run) read(read *graph.Read) ([]byte, error) {
	source, err := r.buffer(read.Buffer)
	if err != nil {
		return nil, err
	}
	if err := r.drain(); err != nil { // the buffer may just have been filled
		return nil, err
	}
	size := min(read.Bytes, readPiece)
	if limit := r.d.options.MemoryBudget; limit > 0 {
		size = min(size, max(limit-r.live, pieceBytes)&^3)
	}
	staging, err := r.create("readback", size, wgpu.BufferUsageMapRead|wgpu.BufferUsageCopyDst)
	if err != nil {
		return nil, err
	}
	defer staging.Release()
	r.use(size)
	out := make([]byte, 0, read.Bytes)
	for off := int64(0); off < read.Bytes; off += size {
		n := min(size, read.Bytes-off)
		if err := guard(r.d.device, "readback of "+read.Name, func() error {
			encoder, err := r.d.device.CreateCommandEncoder(nil)
			if err != nil {
				return err
			}
			defer encoder.Release()
			if err := encoder.CopyBufferToBuffer(source, uint64(read.Offset+off), staging, 0, uint64(n)); err != nil {
				return err
			}
			commands, err := encoder.Finish(nil)
			if err != nil {
				return err
			}
			defer commands.Release()
			r.d.queue.Submit(commands)
			return nil
		}); err != nil {
			return nil, err
		}
		var mapped flag
		if err := guard(r.d.device, "map "+read.Name, func() error { mapped = mapForReading(staging, n); return nil }); err != nil {
			return nil, err
		}
		if err := r.wait(mapped); err != nil {
			return nil, err
		}
		ok := mapped.ok()
		mapped.free()
		if !ok {
			return nil, &DeviceLostError{What: "map " + read.Name, Message: "the buffer could not be mapped"}
		}
		out = append(out, staging.GetMappedRange(0, uint(n))...)
		if err := staging.Unmap(); err != nil {
			return nil, classify("unmap "+read.Name, errorValidation, err.Error())
		}
	}
	return out, nil
}
