// conv: "same" convolution with stride 1, as an implicit matrix product.
//
//   out[b,o,p,q] = bias[o] + Σ_{c,i,j} w[o,c,i,j] · x[b,c,p+i-pad,q+j-pad]
//
// A linear layer is this with K = 1.
//
// Bindings and shapes
//   x     vec4 [item][cin][rows][stride]  made by gather: every row carries its zeros on the
//                                         left and at least K+7 values past the last tile's
//                                         start; rows outside of the plane are not stored
//   w     vec4 [tile of 8 outputs][cin][K][K][2]  made by repack; with Half, of f16
//   bias  [o]                             with HasBias
//   out   Partial = 0: any layout, by strides (out_item, out_o, out_p, out_q)
//         Partial = 1: vec4 [slice][positions · OutFours][tile of outputs][tile], for reduce to
//         finish
//
//   mask  u32, of token l of a chunk at mask_base + chunk·length + l; with Skip
//
// Constants: K, HasBias, Gelu (erf form, on the result), Partial, Half; Skip: positions are
// tokens t = chunk·period + l, and where all of a tile are hidden (0 in the mask, or
// l >= length) nothing is summed: the result there is that of zeros. OutFours and
// PositionFours: an invocation's outputs and positions, in fours; 2 and 2 where left out.
//
// Workgroup: WG invocations along x share one tile of outputs (y) and one slice of the
// input channels (z), so they read neighbouring x and equal w.
//
// Tiling: an invocation holds 8 outputs x 8 positions along q in sixteen named vec4. A row
// segment of 8+K-1 values is loaded once for K·64 multiplications, and every vec4 pair of w
// serves 64. Larger tiles load less for a multiplication, smaller ones leave registers for
// more invocations at a time; which is faster depends on the device, so dndgen tune measures
// those of graph.Tiles there. w stays packed by 8 outputs in all of them. There is no shared
// memory, no barrier and no indexed array: those are slow on software devices and keep values
// out of registers elsewhere; j is unrolled because one of the two WGSL compilers does not
// unroll.
{{- $letters := letters .OutFours}}
{{- $positions := mul 4 .PositionFours}}
{{- if .Half}}
enable f16;
{{- end}}
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<{{if .Half}}f16{{else}}f32{{end}}>>;
{{- if .Partial}}
@group(0) @binding(3) var<storage, read_write> part: array<vec4<f32>>;
{{- else}}
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
{{- if .HasBias}}
@group(0) @binding(4) var<storage, read> bias: array<f32>;
{{- end}}
{{template "erf" .}}
{{template "store" .}}
{{- end}}
{{- if .Skip}}
@group(0) @binding({{add 4 .HasBias}}) var<storage, read> mask: array<u32>;

fn hidden(t: u32) -> bool {
  let l = t % p.period;
  let at = p.mask_base + t / p.period * p.length + l;
  {{- range $u := seq $positions}}
  if (l + {{$u}}u < p.length && mask[at + {{$u}}u] != 0u) {
    return false;
  }
  {{- end}}
  return true;
}
{{- end}}

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  if (g.x >= p.tiles) {
    return;
  }
  let tile = g.x + p.tile0;
  let qt = tile % p.nq;
  let pb = tile / p.nq;
  let row = pb % p.np;
  let item = pb / p.np;
  let c_first = g.z * p.slice + p.c_first;
  {{- if .Skip}}
  var c_last = min(g.z * p.slice + p.c_last, p.cin);
  if (hidden(qt * {{$positions}}u)) {
    c_last = c_first;
  }
  {{- else}}
  let c_last = min(g.z * p.slice + p.c_last, p.cin);
  {{- end}}

  // Taps outside of the plane are skipped: rows [0, rows) hold all that is inside.
  let top = i32(row) + bitcast<i32>(p.top);
  let i_first = max(0, -top);
  let i_last = min({{.K}}, i32(p.rows) - top);

  {{range $q := seq $positions}}{{range $h := seq $.OutFours}}var a{{$q}}{{$h}} = vec4<f32>();
  {{end}}{{end}}
  let x_first = item * p.x_item + p.q0 + qt * {{.PositionFours}}u;
{{- if eq .OutFours 2}}
  let w_first = (g.y + p.o_tile0) * p.cin * {{mul .K .K 2}}u;
{{- else}}
  let o_four = g.y + p.o_tile0;
  let w_first = o_four / 2u * p.cin * {{mul .K .K 2}}u + o_four % 2u;
{{- end}}
{{- if eq .K 1}}
  // One tap is too little work for a loop's step: four channels a step, then the rest.
  let x_step = p.rows * p.stride;
  var xi = x_first + c_first * x_step + u32(top) * p.stride;
  var wi = w_first + c_first * 2u;
  var c = c_first;
  for (; c + 4u <= c_last; c += 4u) {
    {{- range $u := seq 4}}
    {{- range $v := seq $.PositionFours}}
    let x{{$u}}{{$v}} = x[xi + {{$u}}u * x_step{{if $v}} + {{$v}}u{{end}}];
    {{- end}}
    {{- end}}
    {{- range $u := seq 4}}
    {{- range $h, $l := $letters}}
    let w{{$u}}{{$l}} = vec4<f32>(w[wi + {{add (mul $u 2) $h}}u]);
    {{- end}}
    {{- range $q := seq $positions}}
    {{- range $h, $l := $letters}}
    a{{$q}}{{$h}} += w{{$u}}{{$l}} * x{{$u}}{{lane $q}};
    {{- end}}
    {{- end}}
    {{- end}}
    xi += 4u * x_step;
    wi += 8u;
  }
  for (; c < c_last; c++) {
    {{- range $v := seq .PositionFours}}
    let x{{$v}} = x[xi{{if $v}} + {{$v}}u{{end}}];
    {{- end}}
    {{- range $h, $l := $letters}}
    let w{{$l}} = vec4<f32>(w[wi{{if $h}} + {{$h}}u{{end}}]);
    {{- end}}
    {{- range $q := seq $positions}}
    {{- range $h, $l := $letters}}
    a{{$q}}{{$h}} += w{{$l}} * x{{lane $q}};
    {{- end}}
    {{- end}}
    xi += x_step;
    wi += 2u;
  }
{{- else}}
  for (var c = c_first; c < c_last; c++) {
    for (var i = i_first; i < i_last; i++) {
      let xi = x_first + (c * p.rows + u32(top + i)) * p.stride;
      let wi = w_first + (c * {{.K}}u + u32(i)) * {{mul .K 2}}u;
      {{range $v := seq (vecs $positions .K)}}let x{{$v}} = x[xi + {{$v}}u];
      {{end -}}
      {{range $j := seq .K}}
      {{- range $h, $l := $letters}}
      let w{{$j}}{{$l}} = vec4<f32>(w[wi + {{add (mul $j 2) $h}}u]);
      {{- end}}
      {{- range $q := seq $positions}}
      {{- range $h, $l := $letters}}
      a{{$q}}{{$h}} += w{{$j}}{{$l}} * x{{lane (add $j $q)}};
      {{- end}}
      {{- end}}
      {{- end}}
    }
  }
{{- end}}
{{if .Partial}}
  let at = (g.z * {{mul .OutFours $positions}}u * p.o_tiles + g.y) * p.tiles + g.x;
  let step = p.o_tiles * p.tiles;
  if (p.again != 0u) {
    {{range $q := seq $positions}}{{range $h := seq $.OutFours}}a{{$q}}{{$h}} += part[at + {{add (mul $q $.OutFours) $h}}u * step];
    {{end}}{{end}}
  }
  {{range $q := seq $positions}}{{range $h := seq $.OutFours}}part[at + {{add (mul $q $.OutFours) $h}}u * step] = a{{$q}}{{$h}};
  {{end}}{{end}}
{{- else}}
  {{range $q := seq $positions}}{{range $h := seq $.OutFours}}store(item, g.y * {{mul 4 $.OutFours}}u + {{mul $h 4}}u, row, qt * {{$positions}}u + {{$q}}u, a{{$q}}{{$h}});
  {{end}}{{end}}
{{- end}}
}
