// affine: finishes the weight tokens of a generator that learnt them relative to a mean.
//
//   z[t][i] = y[t][i] · scale[t] + offset[t][i]
//
// Bindings and shapes
//   y, z     [count/plane][plane], from y_base and z_base on; the first token is number t0
//   scale    all tokens' scales
//   offset   [tokens][plane], the value of the first token at offset_base
//
// Constants: none.
//
// Workgroup: one invocation a value in one or two dimensions; bound by memory.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read> offset: array<f32>;
@group(0) @binding(4) var<storage, read_write> z: array<f32>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  z[p.z_base + i] = y[p.y_base + i] * scale[p.t0 + i / p.plane] + offset[p.offset_base + i];
}
