// columnnorm: layer normalisation over the channels of every token of a channel-major
// matrix, of x or of the sum x + residual.
//
//   v = x[c][t] + residual[c][t]
//   y[c][t] = (v - mean_c) / √(variance_c + eps) · weight[c] + bias[c]
//
// Bindings and shapes
//   x, residual   [channels][stride]      residual with HasResidual
//   weight, bias  [channels]
//   y             by strides: token t = chunk·period + l goes to
//                 y_base + chunk·y_chunk + l·y_l + c·y_c, and not at all from l = length on
//
// Constants: HasResidual.
//
// Workgroup: one invocation a token, so neighbours read neighbouring values and no
// invocation waits for another. Two passes as in layernorm.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
{{- if .HasResidual}}
@group(0) @binding(5) var<storage, read> residual: array<f32>;

fn value(i: u32) -> f32 {
  return x[i] + residual[i];
}
{{- else}}

fn value(i: u32) -> f32 {
  return x[i];
}
{{- end}}

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let t = g.x;
  if (t >= p.tokens) {
    return;
  }
  let l = t % p.period;
  if (l >= p.length) {
    return;
  }
  let n = f32(p.channels);
  var sum = 0.0;
  for (var c = 0u; c < p.channels; c++) {
    sum += value(c * p.stride + t);
  }
  let mean = sum / n;
  var diff = vec2<f32>();
  for (var c = 0u; c < p.channels; c++) {
    let d = value(c * p.stride + t) - mean;
    diff += vec2<f32>(d, d * d);
  }
  diff /= n;
  let v = max(diff.y - diff.x * diff.x, 0.0) + bitcast<f32>(p.eps);
  var scale = inverseSqrt(v);
  scale *= 1.5 - 0.5 * v * scale * scale; // devices may be off by more than rounding
  let at = p.y_base + t / p.period * p.y_chunk + l * p.y_l;
  for (var c = 0u; c < p.channels; c++) {
    y[at + c * p.y_c] = (value(c * p.stride + t) - mean - diff.x) * scale * weight[c] + bias[c];
  }
}
