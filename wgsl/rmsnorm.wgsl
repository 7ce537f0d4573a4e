// rmsnorm: root mean square normalisation of rows, as Llama has it.
//
//   y[r][c] = x[r][c] / √(mean(x[r]²) + eps) · weight[c]
//
// Bindings and shapes
//   x, y     [rows][channels]
//   weight   [channels]
//
// Constants: none.
//
// Workgroup: WG invocations share one row, since there are few rows; neighbours read
// neighbouring values.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

var<workgroup> sums: array<f32, {{.WG}}>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let at = group.x * p.channels;
  var sum = 0.0;
  for (var c = local; c < p.channels; c += {{.WG}}u) {
    sum += x[at + c] * x[at + c];
  }
  sums[local] = sum;
  for (var n = {{div .WG 2}}u; n > 0u; n /= 2u) {
    workgroupBarrier();
    if (local < n) {
      sums[local] += sums[local + n];
    }
  }
  workgroupBarrier();
  let v = sums[0] / f32(p.channels) + bitcast<f32>(p.eps);
  var scale = inverseSqrt(v);
  scale *= 1.5 - 0.5 * v * scale * scale; // devices may be off by more than rounding
  for (var c = local; c < p.channels; c += {{.WG}}u) {
    y[at + c] = x[at + c] * scale * weight[c];
  }
}
