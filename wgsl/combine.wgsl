// combine: joins a decoder layer's two branches.
//
//   z[i] = (a[i] + tanh(b[i]) + bias[i mod plane]) / 3
//
// Bindings and shapes
//   a, b, z   [planes][plane], from a_base, b_base and z_base on
//   bias      [plane]
//
// Constants: none.
//
// Workgroup: one invocation a value in one or two dimensions; bound by memory.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> z: array<f32>;
{{template "tanh"}}
@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  z[p.z_base + i] = (a[p.a_base + i] + tangent(b[p.b_base + i]) + bias[i % p.plane]) / 3.0;
}
