// fourierrows: the first half of a two-dimensional transform: rows of real values, of tiles
// of a plane or of kernels, to half a spectrum each (the other half are conjugates).
//
//   dst[k][line][tile] = Σ_u x[u]·e^(-2πi·ku/T),  x[u] = src[line][tile·step+u],  k = 0 … T/2
//
// Bindings and shapes
//   src   [lines/group] groups, skip apart, of [group][line] from value base on, f32, f16, Q8
//         or Q4_1 (Store); past a line's end is zero
//   dst   complex [T/2+1][lines][across]
//
// Constants: T; N, how many values are not zero: T for tiles, K for kernels; Store.
//
// Workgroup: one invocation a row of a tile, in one or two dimensions; neighbours write
// neighbouring values, and read step apart.
//
// The transform is straight-line code of the least arithmetic, made by fourier.go: few
// points, so that all of them are in registers, without shared memory or barriers.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> src: array<u32>;
@group(0) @binding(2) var<storage, read_write> dst: array<vec2<f32>>;
{{template "stored" .}}
{{- if eq .N .T}}

fn value(at: u32, end: u32) -> f32 {
  if (at < end) {
    return stored(at);
  }
  return 0.0;
}
{{- end}}

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  let line = i / p.across;
  let start = p.base + line / p.group * p.skip + line % p.group * p.line;
  let at = start + i % p.across * p.step;
  {{- range $u := seq .N}}
  {{- if eq $.N $.T}}
  let x{{$u}} = value(at + {{$u}}u, start + p.line);
  {{- else}}
  let x{{$u}} = stored(at + {{$u}}u);
  {{- end}}
  {{- end}}
{{realForward .T .N}}
  {{- range $k := seq (add (div .T 2) 1)}}
  dst[{{$k}}u * p.count + i] = vec2<f32>(yr{{$k}}, yi{{$k}});
  {{- end}}
}
