// fouriercolumns: the second half of a two-dimensional transform: the columns of what
// fourierrows made. A result a+bi is stored as the three real numbers whose products give
// a complex one's: multiplying takes three multiplications then instead of four.
//
//   y[k] = Σ_u x[u]·e^(-2πi·ku/T)
//   Taps = 0: dst[0..2][f2][k][c][tile]         = a+b, a, b
//   Taps = 1: dst[0..2][f2][k][o/8][c][o%8]     = a, -b-a, a-b   (a correlation's conjugate)
//
// Bindings and shapes
//   src   complex [half][lines][across], as fourierrows left it: lines are
//         Taps = 0: [items][channels][rows]; a tile's row u is row tile·step+top+u, zero
//                   outside of them
//         Taps = 1: [outputs][channels][N]
//   dst   [3][half][T][block]: block is [channels][tiles rounded up to eights] or
//         [⌈outputs/8⌉][channels][8], zero for outputs from `outputs` on
//
// Constants: T, N (how many rows are not zero), Taps.
//
// Workgroup: one invocation a column, in the order [half][block], in one or two
// dimensions: neighbours write neighbouring values and read neighbouring columns or runs.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> src: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> dst: array<f32>;
{{- if not .Taps}}

fn value(at: u32, row: u32) -> vec2<f32> {
  if (row < p.rows) {
    return src[at + row * p.across];
  }
  return vec2<f32>();
}
{{- end}}

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  let f2 = i / p.block;
  let j = i % p.block;
  let to = f2 * {{.T}}u * p.block + j;
  let plane = p.count * {{.T}}u;
  {{- if .Taps}}
  let o = j / (8u * p.channels) * 8u + j % 8u;
  if (o >= p.outputs) {
    {{- range $k := seq .T}}
    dst[to + {{$k}}u * p.block] = 0.0;
    dst[to + {{$k}}u * p.block + plane] = 0.0;
    dst[to + {{$k}}u * p.block + 2u * plane] = 0.0;
    {{- end}}
    return;
  }
  let c = j / 8u % p.channels;
  let at = ((f2 * p.outputs + o) * p.channels + c) * {{.N}}u;
  {{- range $u := seq .N}}
  let x{{$u}} = src[at + {{$u}}u];
  {{- end}}
  {{- else}}
  let tile = j % p.padded;
  if (tile >= p.tiles) {
    return;
  }
  let c = j / p.padded;
  let tq = tile % p.across;
  let tp = tile / p.across % p.down;
  let item = tile / (p.across * p.down);
  let at = ((f2 * p.items + item) * p.channels + c) * p.rows * p.across + tq;
  // Above the first row this wraps around to a large number, so one comparison does.
  let row = tp * p.step + p.top;
  {{- range $u := seq .N}}
  let x{{$u}} = value(at, row + {{$u}}u);
  {{- end}}
  {{- end}}
  {{- range $u := seq .N}}
  let xr{{$u}} = x{{$u}}.x;
  let xi{{$u}} = x{{$u}}.y;
  {{- end}}
{{complexForward .T .N}}
  {{- range $k := seq .T}}
  {{- if $.Taps}}
  dst[to + {{$k}}u * p.block] = yr{{$k}};
  dst[to + {{$k}}u * p.block + plane] = -yi{{$k}} - yr{{$k}};
  dst[to + {{$k}}u * p.block + 2u * plane] = yr{{$k}} - yi{{$k}};
  {{- else}}
  dst[to + {{$k}}u * p.block] = yr{{$k}} + yi{{$k}};
  dst[to + {{$k}}u * p.block + plane] = yr{{$k}};
  dst[to + {{$k}}u * p.block + 2u * plane] = yi{{$k}};
  {{- end}}
  {{- end}}
}
