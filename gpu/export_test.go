package gpu

import "github.com/cogentcore/webgpu/wgpu"

// Held counts the objects of d that are not released yet.
func (d *Device) Held() (buffers, bindGroups, commands uint64) {
	d.device.Poll(true, nil) // what was in use is let go of with the work that used it
	report := d.instance.GenerateReport()
	hub := report.Vulkan
	for _, other := range []*wgpu.HubReport{report.Metal, report.Dx12} {
		if hub == nil {
			hub = other
		}
	}
	return hub.Buffers.NumKeptFromUser, hub.BindGroups.NumKeptFromUser, hub.CommandBuffers.NumKeptFromUser
}
