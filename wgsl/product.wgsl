// product: a linear layer on a few rows, with all that a language model adds to one.
//
//   y[r][o] = factor[r/run] · (Σ_i w[o][i]·x[r][i] + bias[o] + residual[r][o] + Σ_k up[o][k]·low[r][k])
//
// Bindings and shapes
//   x          vec4, [Rows][units·U]
//   w          [count][units] units of U values: outputs [first, first+count) of the matrix, as
//              f32 or f16 (U = 4), Q8 or Q4_1 (U = 32)
//   y          [Rows][out]
//   bias       [out], if HasBias
//   residual   [Rows][out], if HasResidual
//   low, up    [Rows][rank] and [out][rank], if HasLow: a LoRA's A·x and its B
//   factor     [Rows/run], if HasFactor: an adapter's strength, for every run rows
//
// Constants: Store; Rows; HasBias, HasResidual, HasLow, HasFactor; Subgroups.
//
// Workgroup: every four invocations share four outputs and take every fourth unit of their
// rows of w, for all rows of x: what is read of x serves four outputs, what is read of w
// serves all rows. A quantised unit is multiplied in whole numbers of its steps; scale and
// minimum follow once a unit. The four sums meet in shared memory or, with Subgroups, without
// it and without a barrier.
{{- if .Subgroups}}
enable subgroups;
requires subgroup_id;
{{- end}}
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
{{- if not .Subgroups}}

var<workgroup> partial: array<vec4<f32>, {{mul .WG .Rows}}>;
{{- end}}

@compute @workgroup_size({{.WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, {{template "place" .}}) {
  {{- if .Subgroups}}
  let index = team * ({{.WG}}u / teams) + in_team;
  {{- else}}
  let index = local;
  {{- end}}
  let lane = index % 4u;
  let o = (group.x + group.y * p.width) * {{.WG}}u + index - lane;
  // Outputs beyond the last are computed as the last and not written.
  let row = min(vec4<u32>(o, o + 1u, o + 2u, o + 3u), vec4<u32>(p.count - 1u)) * p.units;
  let vecs = p.units{{if ge .Store 2}} * 8u{{end}}; // of a row of x
  {{- range $r := seq .Rows}}
  var s{{$r}} = vec4<f32>();
  {{- end}}
  for (var unit = lane; unit < p.units; unit += 4u) {
    {{- if ge .Store 2}}
    let at = (row + unit) * {{if eq .Store 3}}5u{{else}}9u{{end}};
    {{- range $r := seq .Rows}}
    var t{{$r}} = vec4<f32>();
    {{- if eq $.Store 3}}
    var x{{$r}} = vec4<f32>();
    {{- end}}
    {{- end}}
    {{- if eq .Store 3}}
    for (var j = 0u; j < 4u; j++) {
      {{- range $r := seq .Rows}}
      let a{{$r}} = x[{{$r}}u * vecs + unit * 8u + j];
      let b{{$r}} = x[{{$r}}u * vecs + unit * 8u + 4u + j];
      x{{$r}} += a{{$r}} + b{{$r}};
      {{- end}}
      {{- range $i := seq 4}}
      let word{{$i}} = bitcast<i32>(w[at[{{$i}}] + 1u + j]);
      let bytes{{$i}} = vec4<i32>(word{{$i}}, word{{$i}} >> 8u, word{{$i}} >> 16u, word{{$i}} >> 24u);
      let low{{$i}} = vec4<f32>(bytes{{$i}} & vec4<i32>(15));
      let high{{$i}} = vec4<f32>((bytes{{$i}} >> vec4<u32>(4u)) & vec4<i32>(15));
      {{- range $r := seq $.Rows}}
      t{{$r}}[{{$i}}] += dot(low{{$i}}, a{{$r}}) + dot(high{{$i}}, b{{$r}});
      {{- end}}
      {{- end}}
    }
    let range0 = unpack2x16float(w[at[0]]);
    let range1 = unpack2x16float(w[at[1]]);
    let range2 = unpack2x16float(w[at[2]]);
    let range3 = unpack2x16float(w[at[3]]);
    let scale = vec4<f32>(range0.x, range1.x, range2.x, range3.x);
    let least = vec4<f32>(range0.y, range1.y, range2.y, range3.y);
    {{- range $r := seq .Rows}}
    s{{$r}} += scale * t{{$r}} + least * dot(x{{$r}}, vec4<f32>(1.0));
    {{- end}}
    {{- else}}
    for (var j = 0u; j < 8u; j++) {
      {{- range $r := seq .Rows}}
      let a{{$r}} = x[{{$r}}u * vecs + unit * 8u + j];
      {{- end}}
      {{- range $i := seq 4}}
      let word{{$i}} = bitcast<i32>(w[at[{{$i}}] + 1u + j]);
      let v{{$i}} = vec4<f32>(vec4<i32>(extractBits(word{{$i}}, 0u, 8u), extractBits(word{{$i}}, 8u, 8u), extractBits(word{{$i}}, 16u, 8u), extractBits(word{{$i}}, 24u, 8u)));
      {{- range $r := seq $.Rows}}
      t{{$r}}[{{$i}}] += dot(v{{$i}}, a{{$r}});
      {{- end}}
      {{- end}}
    }
    let scale = bitcast<vec4<f32>>(vec4<u32>(w[at[0]], w[at[1]], w[at[2]], w[at[3]]));
    {{- range $r := seq .Rows}}
    s{{$r}} += scale * t{{$r}};
    {{- end}}
    {{- end}}
    {{- else}}
    let at = (row + unit) * {{if eq .Store 1}}2u{{else}}4u{{end}};
    {{- range $i := seq 4}}
    {{- if eq $.Store 1}}
    let v{{$i}} = vec4<f32>(unpack2x16float(w[at[{{$i}}]]), unpack2x16float(w[at[{{$i}}] + 1u]));
    {{- else}}
    let v{{$i}} = bitcast<vec4<f32>>(vec4<u32>(w[at[{{$i}}]], w[at[{{$i}}] + 1u], w[at[{{$i}}] + 2u], w[at[{{$i}}] + 3u]));
    {{- end}}
    {{- end}}
    {{- range $r := seq .Rows}}
    let a{{$r}} = x[{{$r}}u * vecs + unit];
    s{{$r}} += vec4<f32>(dot(v0, a{{$r}}), dot(v1, a{{$r}}), dot(v2, a{{$r}}), dot(v3, a{{$r}}));
    {{- end}}
    {{- end}}
  }
  {{- range $r := seq .Rows}}
  {{- if $.Subgroups}}
  s{{$r}} += quadSwapX(s{{$r}});
  s{{$r}} += quadSwapY(s{{$r}});
  {{- else}}
  partial[index * {{$.Rows}}u + {{$r}}u] = s{{$r}};
  {{- end}}
  {{- end}}
  {{- if not .Subgroups}}
  workgroupBarrier();
  {{- end}}
  if (o + lane >= p.count) {
    return;
  }
  let out = p.first + o + lane;
  {{- range $r := seq .Rows}}
  {
    {{- if $.Subgroups}}
    var v = s{{$r}}[lane];
    {{- else}}
    let at = (index - lane) * {{$.Rows}}u + {{$r}}u;
    var v = (partial[at][lane] + partial[at + {{$.Rows}}u][lane]) + (partial[at + {{mul 2 $.Rows}}u][lane] + partial[at + {{mul 3 $.Rows}}u][lane]);
    {{- end}}
    {{- if $.HasBias}}
    v += bias[out];
    {{- end}}
    {{- if $.HasLow}}
    for (var k = 0u; k < p.rank; k++) {
      v += up[out * p.rank + k] * low[{{$r}}u * p.rank + k];
    }
    {{- end}}
    {{- if $.HasResidual}}
    v += residual[{{$r}}u * p.out + out];
    {{- end}}
    {{- if $.HasFactor}}
    v *= factor[{{$r}}u / p.run];
    {{- end}}
    y[{{$r}}u * p.out + out] = v;
  }
  {{- end}}
}
