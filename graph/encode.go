package graph

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxProgram bounds the text of a Program, 256 MiB.
const maxProgram = 256 << 20

// Encode writes p as JSON. Equal Programs give equal bytes, wherever they are made.
func (p *Program) Encode() ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(p); err != nil {
		return nil, fmt.Errorf("program: %w", err)
	}
	return buf.Bytes(), nil
}

// Decode reads and validates a Program. Unknown fields are errors.
func Decode(text []byte) (*Program, error) {
	if len(text) > maxProgram {
		return nil, fmt.Errorf("program: %d bytes of JSON, at most %d are read", len(text), maxProgram)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	p := new(Program)
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("program: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("program: text behind the JSON object")
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return p, nil
}

// String prints the Program for people and for tests: kernels by label, a line a buffer,
// a line a dispatch with the words of its parameters, a line a read. p must be valid.
func (p *Program) String() string {
	var s strings.Builder
	r := p.Requires
	fmt.Fprintf(&s, "program %d\nrequires buffer=%d binding=%d storage=%d groups=%d invocations=%d shared=%d\n",
		p.Version, r.MaxBufferSize, r.MaxStorageBufferBindingSize, r.MaxStorageBuffersPerShaderStage,
		r.MaxComputeWorkgroupsPerDimension, r.MaxComputeInvocationsPerWorkgroup, r.MaxComputeWorkgroupStorageSize)
	if p.Once != "" {
		fmt.Fprintf(&s, "once %s\n", p.Once)
	}
	for i, k := range p.Kernels {
		types := make([]string, len(k.Bindings))
		for j, t := range k.Bindings {
			types[j] = string(t)
		}
		fmt.Fprintf(&s, "kernel k%d %s (%s)\n", i, k.Label, strings.Join(types, " "))
	}
	for i, b := range p.Buffers {
		fmt.Fprintf(&s, "buffer b%d %s %d %s", i, b.Label, b.Bytes, b.Source.Kind)
		switch b.Source.Kind {
		case SourceWeights:
			fmt.Fprintf(&s, " %s %s[%d:%d]", b.Source.Name, b.Source.DType, b.Source.Offset, b.Source.Offset+b.Source.Bytes)
		case SourceInput:
			fmt.Fprintf(&s, " %s[%d:%d]", b.Source.Name, b.Source.Offset, b.Source.Offset+b.Source.Bytes)
		}
		s.WriteByte('\n')
	}
	for _, d := range p.Dispatches {
		fmt.Fprintf(&s, "%s k%d %dx%dx%d", d.Label, d.Kernel, d.Groups[0], d.Groups[1], d.Groups[2])
		var params []uint32
		for i, b := range d.Binds {
			if words := p.Buffers[b.Buffer].Source.Words; p.Kernels[d.Kernel].Bindings[i] == BindUniform && words != nil {
				params = append(params, words[b.Offset/4:(b.Offset+b.Bytes)/4]...)
				continue
			}
			mark := ""
			if p.Kernels[d.Kernel].Bindings[i] == BindReadWrite {
				mark = ">"
			}
			fmt.Fprintf(&s, " %sb%d", mark, b.Buffer)
			if b.Offset != 0 || b.Bytes != p.Buffers[b.Buffer].Bytes {
				fmt.Fprintf(&s, "[%d:%d]", b.Offset, b.Offset+b.Bytes)
			}
		}
		for len(params) > 0 && params[len(params)-1] == 0 {
			params = params[:len(params)-1]
		}
		s.WriteString(" (")
		for i, w := range params {
			if i > 0 {
				s.WriteByte(' ')
			}
			// Offsets may be negative, and floats are large numbers either way.
			fmt.Fprintf(&s, "%d", int32(w))
		}
		fmt.Fprintf(&s, ") %s %d\n", d.Stage, d.Cost)
	}
	for _, r := range p.Reads {
		fmt.Fprintf(&s, "read %s b%d[%d:%d]\n", r.Name, r.Buffer, r.Offset, r.Offset+r.Bytes)
	}
	return s.String()
}
