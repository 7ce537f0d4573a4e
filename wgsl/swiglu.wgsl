// swiglu: the gate of a Llama's MLP, z[i] = silu(gate[i]) · up[i].
//
// Bindings and shapes
//   gate, up, z   [count]
//
// Constants: none.
//
// Workgroup: one invocation a value in one or two dimensions; bound by memory.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read_write> z: array<f32>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  let v = gate[i];
  // Written so that exp never overflows.
  let e = exp(-abs(v));
  z[i] = v * select(e, 1.0, v >= 0.0) / (1.0 + e) * up[i];
}
