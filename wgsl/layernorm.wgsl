// layernorm: normalises rows of any length to mean 0 and variance 1 (population), then an
// affine map by element.
//
//   y[row][i] = (x[row][i] - mean) / √(variance + eps) · weight[i] + bias[i]
//
// Bindings and shapes
//   x, y          [rows][len], from x_base and y_base on
//   weight, bias  [len]
//
// Constants: Subgroups.
//
// Workgroup: WG invocations share one row (a decoder plane has up to 150,000 values);
// neighbours read neighbouring values. Two passes: the variance is summed from the
// differences to the mean, less what the mean's own rounding left over.
{{- if .Subgroups}}
enable subgroups;
requires subgroup_id;
{{- end}}
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

{{template "total" .}}

@compute @workgroup_size({{.WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, {{template "place" .}}) {
  {{template "enter" .}}
  // A row past the end runs along with no values: barriers need the whole workgroup.
  let row = group.x + group.y * p.width;
  let len = select(0u, p.len, row < p.rows);
  let x0 = p.x_base + row * p.len;
  let y0 = p.y_base + row * p.len;
  let n = f32(p.len);

  var sum = 0.0;
  for (var i = local; i < len; i += {{.WG}}u) {
    sum += x[x0 + i];
  }
  let mean = total(vec2<f32>(sum, 0.0)).x / n;

  var diff = vec2<f32>();
  for (var i = local; i < len; i += {{.WG}}u) {
    let d = x[x0 + i] - mean;
    diff += vec2<f32>(d, d * d);
  }
  diff = total(diff) / n;
  let v = max(diff.y - diff.x * diff.x, 0.0) + bitcast<f32>(p.eps);
  var scale = inverseSqrt(v);
  scale *= 1.5 - 0.5 * v * scale * scale; // devices may be off by more than rounding

  for (var i = local; i < len; i += {{.WG}}u) {
    y[y0 + i] = (x[x0 + i] - mean - diff.x) * scale * weight[i] + bias[i];
  }
}
