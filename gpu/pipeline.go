package gpu

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/cogentcore/webgpu/wgpu"

	"github.com/drag-and-drop-lora/dnd/graph"
)

// pipeline is a compiled kernel. It outlives runs: most Programs share most kernels.
type pipeline struct {
	module   *wgpu.ShaderModule
	groups   *wgpu.BindGroupLayout
	layout   *wgpu.PipelineLayout
	pipeline *wgpu.ComputePipeline
}

func (p *pipeline) release() {
	if p.pipeline != nil {
		p.pipeline.Release()
	}
	if p.layout != nil {
		p.layout.Release()
	}
	if p.groups != nil {
		p.groups.Release()
	}
	if p.module != nil {
		p.module.Release()
	}
}

var bindingTypes = map[graph.BindType]wgpu.BufferBindingType{
	graph.BindUniform:   wgpu.BufferBindingTypeUniform,
	graph.BindRead:      wgpu.BufferBindingTypeReadOnlyStorage,
	graph.BindReadWrite: wgpu.BufferBindingTypeStorage,
}

// compile makes a kernel's pipeline, or finds it. Layouts are explicit, so that a
// binding the shader does not use is still part of the group.
func (d *Device) compile(k *graph.Kernel) (*pipeline, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%q %q", k.WGSL, k.Entry)
	entries := make([]wgpu.BindGroupLayoutEntry, len(k.Bindings))
	for i, b := range k.Bindings {
		fmt.Fprintf(hash, " %s", b)
		entries[i] = wgpu.BindGroupLayoutEntry{Binding: uint32(i), Visibility: wgpu.ShaderStageCompute,
			Buffer: wgpu.BufferBindingLayout{Type: bindingTypes[b]}}
	}
	key := string(hash.Sum(nil))
	if p, ok := d.pipelines[key]; ok {
		return p, nil
	}
	p := &pipeline{}
	err := guard(d.device, "kernel "+k.Label, func() (err error) {
		if strings.ContainsRune(k.WGSL, 0) || !utf8.ValidString(k.WGSL) {
			return errors.New("its text is no UTF-8 or holds a zero byte") // the library would abort
		}
		if p.module, err = d.device.CreateShaderModule(&wgpu.ShaderModuleDescriptor{Label: k.Label,
			WGSLDescriptor: &wgpu.ShaderModuleWGSLDescriptor{Code: k.WGSL}}); err != nil {
			return err
		}
		if p.groups, err = d.device.CreateBindGroupLayout(&wgpu.BindGroupLayoutDescriptor{Label: k.Label, Entries: entries}); err != nil {
			return err
		}
		if p.layout, err = d.device.CreatePipelineLayout(&wgpu.PipelineLayoutDescriptor{Label: k.Label,
			BindGroupLayouts: []*wgpu.BindGroupLayout{p.groups}}); err != nil {
			return err
		}
		p.pipeline, err = d.device.CreateComputePipeline(&wgpu.ComputePipelineDescriptor{Label: k.Label, Layout: p.layout,
			Compute: wgpu.ProgrammableStageDescriptor{Module: p.module, EntryPoint: k.Entry}})
		return err
	})
	if err != nil {
		p.release()
		return nil, err
	}
	d.pipelines[key] = p
	return p, nil
}
