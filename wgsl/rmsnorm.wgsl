// rmsnorm: root mean square normalisation of rows, as Llama has it.
//
//   y[r][c] = x[r][c] / √(mean(x[r]²) + eps) · weight[c]
//
// Bindings and shapes
//   x, y     [rows][channels]
//   weight   [channels]
//
// Constants: Subgroups.
//
// Workgroup: WG invocations share one row, since there are few rows; neighbours read
// neighbouring values.
{{- if .Subgroups}}
enable subgroups;
requires subgroup_id;
{{- end}}
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

{{template "total" .}}

@compute @workgroup_size({{.WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, {{template "place" .}}) {
  {{template "enter" .}}
  let row = group.x * p.channels;
  var sum = 0.0;
  for (var c = local; c < p.channels; c += {{.WG}}u) {
    sum += x[row + c] * x[row + c];
  }
  let v = total(vec2<f32>(sum, 0.0)).x / f32(p.channels) + bitcast<f32>(p.eps);
  var scale = inverseSqrt(v);
  scale *= 1.5 - 0.5 * v * scale * scale; // devices may be off by more than rounding
  for (var c = local; c < p.channels; c += {{.WG}}u) {
    y[row + c] = x[row + c] * scale * weight[c];
  }
}
