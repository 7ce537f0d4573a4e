// product: a linear layer on a few rows, with all that a language model adds to one.
//
//   y[r][o] = factor[r] · (Σ_i w[o][i]·x[r][i] + bias[o] + residual[r][o] + Σ_k up[o][k]·low[r][k])
//
// Bindings and shapes
//   x          vec4, [Rows][units·U]
//   w          [count][units] units of U values: outputs [first, first+count) of the matrix, as
//              f32 or f16 (U = 4), Q8 or Q4_1 (U = 32)
//   y          [Rows][out]
//   bias       [out], if HasBias
//   residual   [Rows][out], if HasResidual
//   low, up    [Rows][rank] and [out][rank], if HasLow: a LoRA's A·x and its B
//   factor     [Rows], if HasFactor: an adapter's strength in each row
//
// Constants: Store; Rows; HasBias, HasResidual, HasLow, HasFactor.
//
// Workgroup: 16 outputs by 4 invocations each, which take every fourth unit. With so few rows
// it is reading the weights that takes time: each is read once for all rows, and expanded in
// registers.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
{{- $at := 4}}
{{- if .HasBias}}
@group(0) @binding({{$at}}) var<storage, read> bias: array<f32>;
{{- $at = add $at 1}}
{{- end}}
{{- if .HasResidual}}
@group(0) @binding({{$at}}) var<storage, read> residual: array<f32>;
{{- $at = add $at 1}}
{{- end}}
{{- if .HasLow}}
@group(0) @binding({{$at}}) var<storage, read> low: array<f32>;
@group(0) @binding({{add $at 1}}) var<storage, read> up: array<f32>;
{{- $at = add $at 2}}
{{- end}}
{{- if .HasFactor}}
@group(0) @binding({{$at}}) var<storage, read> factor: array<f32>;
{{- end}}

const Rows = {{.Rows}}u;
var<workgroup> partial: array<f32, {{mul .WG .Rows}}>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let o = (group.x + group.y * p.width) * {{div .WG 4}}u + local / 4u;
  let vecs = p.units{{if ge .Store 2}} * 8u{{end}}; // of a row of x
  {{- range $r := seq .Rows}}
  var s{{$r}} = 0.0;
  {{- end}}
  if (o < p.count) {
    for (var unit = local % 4u; unit < p.units; unit += 4u) {
      {{- if eq .Store 3}}
      let at = (o * p.units + unit) * 5u;
      let range = unpack2x16float(w[at]);
      for (var j = 0u; j < 4u; j++) {
        let word = w[at + 1u + j];
        let nibbles = vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u);
        let a = range.x * vec4<f32>(nibbles & vec4<u32>(15u)) + range.y;
        let b = range.x * vec4<f32>((nibbles >> vec4<u32>(4u)) & vec4<u32>(15u)) + range.y;
        {{- range $r := seq .Rows}}
        s{{$r}} += dot(a, x[{{$r}}u * vecs + unit * 8u + j]) + dot(b, x[{{$r}}u * vecs + unit * 8u + 4u + j]);
        {{- end}}
      }
      {{- else if eq .Store 2}}
      let at = (o * p.units + unit) * 9u;
      let scale = bitcast<f32>(w[at]);
      for (var j = 0u; j < 8u; j++) {
        let word = bitcast<i32>(w[at + 1u + j]);
        let a = scale * vec4<f32>(vec4<i32>(extractBits(word, 0u, 8u), extractBits(word, 8u, 8u), extractBits(word, 16u, 8u), extractBits(word, 24u, 8u)));
        {{- range $r := seq .Rows}}
        s{{$r}} += dot(a, x[{{$r}}u * vecs + unit * 8u + j]);
        {{- end}}
      }
      {{- else}}
      {{- if eq .Store 1}}
      let at = (o * p.units + unit) * 2u;
      let a = vec4<f32>(unpack2x16float(w[at]), unpack2x16float(w[at + 1u]));
      {{- else}}
      let at = (o * p.units + unit) * 4u;
      let a = bitcast<vec4<f32>>(vec4<u32>(w[at], w[at + 1u], w[at + 2u], w[at + 3u]));
      {{- end}}
      {{- range $r := seq .Rows}}
      s{{$r}} += dot(a, x[{{$r}}u * vecs + unit]);
      {{- end}}
      {{- end}}
    }
  }
  {{- range $r := seq .Rows}}
  partial[local * Rows + {{$r}}u] = s{{$r}};
  {{- end}}
  workgroupBarrier();
  if (local % 4u != 0u || o >= p.count) {
    return;
  }
  let out = p.first + o;
  for (var r = 0u; r < Rows; r++) {
    let at = local * Rows + r;
    var v = (partial[at] + partial[at + Rows]) + (partial[at + 2u * Rows] + partial[at + 3u * Rows]);
    {{- if .HasBias}}
    v += bias[out];
    {{- end}}
    {{- if .HasLow}}
    for (var k = 0u; k < p.rank; k++) {
      v += up[out * p.rank + k] * low[r * p.rank + k];
    }
    {{- end}}
    {{- if .HasResidual}}
    v += residual[r * p.out + out];
    {{- end}}
    {{- if .HasFactor}}
    v *= factor[r];
    {{- end}}
    y[r * p.out + out] = v;
  }
}
