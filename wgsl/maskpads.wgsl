// maskpads: sets the rows of padding tokens to zero, in place.
//
//   x[t][c] = 0 where mask[t] is 0
//
// Bindings and shapes
//   mask   u32, of token t at mask_base + t
//   x      [count/channels][channels], from x_base on
//
// Constants: none.
//
// Workgroup: one invocation a value in one or two dimensions; bound by memory.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> mask: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  if (mask[p.mask_base + i / p.channels] == 0u) {
    x[p.x_base + i] = 0.0;
  }
}
