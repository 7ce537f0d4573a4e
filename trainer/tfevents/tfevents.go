// Package tfevents writes scalars as TensorBoard reads them: a file of records, each an
// Event message of TensorFlow's event.proto in the TFRecord framing (length, masked
// CRC-32C of the length, message, masked CRC-32C of the message; little-endian).
//
// It writes scalars and the note that a run was resumed, nothing else, and reads nothing.
// TensorBoard reads all files of a folder as one run.
package tfevents

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Writer appends to one event file. It is not safe for concurrent use.
type Writer struct {
	f   *os.File
	now func() time.Time
}

// Scalar is a value with the tag that it is drawn under.
type Scalar struct {
	Tag   string
	Value float64
}

// The fields of Event, SessionLog, Summary and Summary.Value that are written.
const (
	eventWallTime    = 1
	eventStep        = 2
	eventFileVersion = 3
	eventSummary     = 5
	eventSessionLog  = 7
	sessionStatus    = 1
	summaryValue     = 1
	valueTag         = 1
	valueSimple      = 2
)

// sessionStart is SessionLog's status with which a run begins or goes on.
const sessionStart = 1

// Create makes a new file in a folder, which may hold others of the same run. step is the
// first one that will be written: what other files have from it on, TensorBoard forgets.
func Create(dir string, step int) (*Writer, error) {
	w := &Writer{now: time.Now}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	// TensorBoard reads files by name: a later file of the same second must sort behind.
	pattern := fmt.Sprintf("events.out.tfevents.%d.%s.%d", w.now().Unix(), host, os.Getpid())
	for i := 0; ; i++ {
		w.f, err = os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s.%d", pattern, i)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if !os.IsExist(err) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("tfevents: %w", err)
	}
	var version, session []byte
	version = protowire.AppendTag(version, eventFileVersion, protowire.BytesType)
	version = protowire.AppendString(version, "brain.Event:2")
	session = protowire.AppendTag(session, sessionStatus, protowire.VarintType)
	session = protowire.AppendVarint(session, sessionStart)
	session = protowire.AppendBytes(protowire.AppendTag(nil, eventSessionLog, protowire.BytesType), session)
	if err := errors.Join(w.event(0, version), w.event(step, session)); err != nil {
		w.f.Close()
		return nil, err
	}
	return w, nil
}

// Add writes the scalars of a step.
func (w *Writer) Add(step int, scalars ...Scalar) error {
	var summary []byte
	for _, s := range scalars {
		var value []byte
		value = protowire.AppendTag(value, valueTag, protowire.BytesType)
		value = protowire.AppendString(value, s.Tag)
		value = protowire.AppendTag(value, valueSimple, protowire.Fixed32Type)
		value = protowire.AppendFixed32(value, math.Float32bits(float32(s.Value)))
		summary = protowire.AppendTag(summary, summaryValue, protowire.BytesType)
		summary = protowire.AppendBytes(summary, value)
	}
	return w.event(step, protowire.AppendBytes(protowire.AppendTag(nil, eventSummary, protowire.BytesType), summary))
}

// Path is the file's.
func (w *Writer) Path() string { return w.f.Name() }

// Close closes the file.
func (w *Writer) Close() error { return w.f.Close() }

// event writes an Event of the time, a step and the field what.
func (w *Writer) event(step int, what []byte) error {
	var message []byte
	message = protowire.AppendTag(message, eventWallTime, protowire.Fixed64Type)
	message = protowire.AppendFixed64(message, math.Float64bits(float64(w.now().UnixNano())/1e9))
	message = protowire.AppendTag(message, eventStep, protowire.VarintType)
	message = protowire.AppendVarint(message, uint64(step))
	// One write a record: a reader never waits for the rest of one for long.
	if _, err := w.f.Write(record(append(message, what...))); err != nil {
		return fmt.Errorf("tfevents: %w", err)
	}
	return nil
}

// record frames a message.
func record(message []byte) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(message)))
	out = binary.LittleEndian.AppendUint32(out, masked(out))
	out = append(out, message...)
	return binary.LittleEndian.AppendUint32(out, masked(message))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is the checksum as TFRecord stores it, so that records can hold records.
func masked(data []byte) uint32 {
	sum := crc32.Checksum(data, castagnoli)
	return (sum>>15 | sum<<17) + 0xa282ead8
}
