// add: z[i] = x[i] + y[i], the residual of a decoder layer.
//
// Bindings and shapes
//   x, y, z   [count], from x_base, y_base and z_base on
//
// Constants: none.
//
// Workgroup: one invocation a value in one or two dimensions; bound by memory.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> z: array<f32>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  z[p.z_base + i] = x[p.x_base + i] + y[p.y_base + i];
}
