package gpu

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/cogentcore/webgpu/wgpu"
)

// timedPasses is how many passes of one submit are timed: a query set holds two queries for
// each, of 4096 at most.
const timedPasses = 256

// calibration is how long they are compared with the host's.
const calibration = 100 * time.Millisecond

// timestamps time compute passes by the device's own timestamps, without waiting for each. They
// are for one submit at a time.
type timestamps struct {
	set              *wgpu.QuerySet
	resolved, mapped *wgpu.Buffer
	tick             float64 // nanoseconds
}

// newTimestamps are those of a device, nil where it has none that work: what is timed then
// waits instead.
func newTimestamps(d *Device) *timestamps {
	if !d.device.HasFeature(wgpu.FeatureNameTimestampQuery) {
		return nil
	}
	c := &timestamps{}
	err := guard(d.device, "timestamps", func() (err error) {
		if c.set, err = d.device.CreateQuerySet(&wgpu.QuerySetDescriptor{Type: wgpu.QueryTypeTimestamp, Count: 2 * timedPasses}); err != nil {
			return err
		}
		const size = 2 * 8 * timedPasses
		if c.resolved, err = d.device.CreateBuffer(&wgpu.BufferDescriptor{Size: size, Usage: wgpu.BufferUsageQueryResolve | wgpu.BufferUsageCopySrc}); err != nil {
			return err
		}
		c.mapped, err = d.device.CreateBuffer(&wgpu.BufferDescriptor{Size: size, Usage: wgpu.BufferUsageMapRead | wgpu.BufferUsageCopyDst})
		return err
	})
	if err == nil {
		err = c.calibrate(d)
	}
	if err != nil {
		c.release()
		return nil
	}
	return c
}

// calibrate measures a tick, which the library does not tell: nanoseconds on most devices,
// up to a hundred of them on others.
func (c *timestamps) calibrate(d *Device) error {
	var at [2]time.Time
	var ticks [2]uint64
	r := &run{d: d, ctx: context.Background(), stamps: c}
	for i := range at {
		if i > 0 {
			time.Sleep(calibration)
		}
		if err := guard(d.device, "timestamps", func() (err error) {
			if r.encoder, err = d.device.CreateCommandEncoder(nil); err != nil {
				return err
			}
			return r.beginPass()
		}); err != nil {
			return err
		}
		r.timed = func(_ int, begin, _ uint64) { at[i], ticks[i] = time.Now(), begin }
		if err := r.drain(); err != nil {
			return err
		}
	}
	if c.tick = 1; ticks[1] > ticks[0] {
		// A busy host's clock is off by more than that; no ticks are so near a nanosecond.
		if v := float64(at[1].Sub(at[0])) / float64(ticks[1]-ticks[0]); v < 0.7 || v > 1.5 {
			c.tick = v
		}
	}
	return nil
}

// resolve adds commands that bring the queries of n passes to where they can be read.
func (c *timestamps) resolve(encoder *wgpu.CommandEncoder, n int) error {
	if err := encoder.ResolveQuerySet(c.set, 0, uint32(2*n), c.resolved, 0); err != nil {
		return err
	}
	return encoder.CopyBufferToBuffer(c.resolved, 0, c.mapped, 0, uint64(16*n))
}

// read waits for the timestamps of n passes: begin and end of each.
func (c *timestamps) read(r *run, n int) ([]uint64, error) {
	var f flag
	size := int64(16 * n)
	if err := guard(r.d.device, "timestamps", func() error { f = mapForReading(c.mapped, size); return nil }); err != nil {
		return nil, err
	}
	if err := r.wait(f); err != nil {
		return nil, err
	}
	ok := f.ok()
	f.free()
	if !ok {
		return nil, &DeviceLostError{What: "timestamps", Message: "the buffer could not be mapped"}
	}
	raw := c.mapped.GetMappedRange(0, uint(size))
	ticks := make([]uint64, 2*n)
	for i := range ticks {
		ticks[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	if err := c.mapped.Unmap(); err != nil {
		return nil, classify("unmap timestamps", errorValidation, err.Error())
	}
	return ticks, nil
}

func (c *timestamps) release() {
	if c == nil {
		return
	}
	if c.set != nil {
		c.set.Release()
	}
	for _, b := range []*wgpu.Buffer{c.resolved, c.mapped} {
		if b != nil {
			b.Release()
		}
	}
}
