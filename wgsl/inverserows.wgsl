// inverserows: transforms rows back to the S real values of a tile that are results, and
// stores those that lie in a box.
//
//   out[item][o][p][q] = bias[o] + scale · Σ_k src[k][r][o][tile] · e^(2πi·kt/T)
//   with p = p0 + tile's row·step_p + r,  q = tile's column·step_q + t
//
// Bindings and shapes
//   src   complex [T/2+1][rows][outputs][tiles rounded up to eights]
//   out   any layout, by strides (out_item, out_o, out_p, out_q)
//   bias  [o]                             with HasBias
//
// Constants: T, S, HasBias, Gelu (erf form, on the result).
//
// Workgroup: one invocation a row of a tile, in one or two dimensions; neighbours differ in
// the tile, or in the output where that is out's dense axis (o_fast).
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> src: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
{{- if .HasBias}}
@group(0) @binding(3) var<storage, read> bias: array<f32>;
{{- end}}
{{template "erf" .}}
fn finish(v: f32, bias: f32) -> f32 {
  let y = v * bitcast<f32>(p.scale) + bias;
  {{- if .Gelu}}
  return 0.5 * y * (1.0 + erf(y * 0.707106781));
  {{- else}}
  return y;
  {{- end}}
}

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  let block = p.outputs * p.padded;
  let r = i / block;
  let j = i % block;
  var o_local = j / p.padded;
  var tile = j % p.padded;
  if (p.o_fast != 0u) {
    o_local = j % p.outputs;
    tile = j / p.outputs;
  }
  let item = tile / (p.across * p.down) - p.item_lo;
  let row = tile / p.across % p.down * p.step_p + r + p.p0;
  let q = tile % p.across * p.step_q;
  let o = o_local + p.o0;
  // What is below a range's start wraps around to a large number.
  if (tile >= p.tiles || item >= p.items || o - p.o_lo >= p.o_count || row - p.p_lo >= p.p_count || q >= p.q_end) {
    return;
  }
  let first = r * block + o_local * p.padded + tile;
  let half = p.rows * block;
  {{- range $k := seq (add (div .T 2) 1)}}
  let x{{$k}} = src[first + {{$k}}u * half];
  let xr{{$k}} = x{{$k}}.x;
  let xi{{$k}} = x{{$k}}.y;
  {{- end}}
{{realBack .T .S}}
  {{- if .HasBias}}
  let b = bias[o];
  {{- else}}
  let b = 0.0;
  {{- end}}
  // A tile's results are q to end-1, of which the box takes those from q_lo on.
  let end = min(q + p.step_q, p.q_end);
  let at = p.out_base + item * p.out_item + o * p.out_o + row * p.out_p;
  {{- range $t := seq .S}}
  if (q + {{$t}}u >= p.q_lo && q + {{$t}}u < end) {
    out[at + (q + {{$t}}u) * p.out_q] = finish(y{{$t}}, b);
  }
  {{- end}}
}
