{{/* Pieces that several kernels share. The functions are written out because WGSL's own
exp and tanh may be off by 1e-5 or overflow, and their error differs by device. The
polynomials are least-maximum fits. */}}

{{define "exp"}}
// exponential: relative error below 2e-7; 0 below -87, at most e^88.
fn exponential(v: f32) -> f32 {
  let c = clamp(v, -87.0, 88.0);
  let n = round(c * 1.44269504);
  let r = (c - n * 0.693359375) + n * 2.12194440e-4;
  var y = 1.98412698e-4 * r + 1.38888889e-3;
  y = y * r + 8.33333333e-3;
  y = y * r + 4.16666667e-2;
  y = y * r + 1.66666667e-1;
  y = y * r + 0.5;
  y = y * r + 1.0;
  y = y * r + 1.0;
  // 2^n by its exponent bits; c >= -87 keeps them above zero.
  return select(y * bitcast<f32>(u32(i32(n) + 127) << 23u), 0.0, v < -87.0);
}
{{end}}

{{define "tanh"}}
{{template "exp"}}
// hyperbolic tangent: relative error below 4e-7 for every v, however large.
fn tangent(v: f32) -> f32 {
  let s = v * v;
  if (s < 0.36) {
    var y = -5.86321577e-3 * s + 2.07635853e-2;
    y = y * s - 5.37718460e-2;
    y = y * s + 1.33317292e-1;
    y = y * s - 3.33332837e-1;
    return v + v * s * y;
  }
  let e = exponential(-2.0 * abs(v));
  return sign(v) * (1.0 - e) / (1.0 + e);
}
{{end}}

{{define "erf"}}
{{- if .Gelu}}
{{template "exp"}}
// error function: absolute error below 3e-7.
fn erf(v: f32) -> f32 {
  let t = min(abs(v), 4.0);
  if (t < 1.0) {
    let s = v * v;
    var y = 7.88911930e-5 * s - 8.02084105e-4;
    y = y * s + 5.18953521e-3;
    y = y * s - 2.68544443e-2;
    y = y * s + 1.12836003e-1;
    y = y * s - 3.76126260e-1;
    y = y * s + 1.12837911;
    return v * y;
  }
  var y = -2.16868501e-5 * t + 4.41336364e-4;
  y = y * t - 4.20456193e-3;
  y = y * t + 2.52082571e-2;
  y = y * t - 1.08418576e-1;
  y = y * t - 6.33219898e-1;
  y = y * t - 1.12957847;
  y = y * t + 1.88040227e-4;
  return sign(v) * (1.0 - exponential(y));
}
{{- end}}
{{end}}

{{define "store"}}
// store finishes four outputs from o on at one position and writes them by strides.
fn store(item: u32, o: u32, row: u32, q: u32, v: vec4<f32>) {
  if (q >= p.q_end) {
    return;
  }
  let at = p.out_base + item * p.out_item + row * p.out_p + q * p.out_q;
  {{- range $n, $lane := lanes}}
  if (o + {{$n}}u < p.o_end) {
    {{- if $.HasBias}}
    let y = v.{{$lane}} + bias[p.bias0 + o + {{$n}}u];
    {{- else}}
    let y = v.{{$lane}};
    {{- end}}
    {{- if $.Gelu}}
    out[at + (o + {{$n}}u) * p.out_o] = 0.5 * y * (1.0 + erf(y * 0.707106781));
    {{- else}}
    out[at + (o + {{$n}}u) * p.out_o] = y;
    {{- end}}
  }
  {{- end}}
}
{{end}}
