// repack: weights as they are stored to the order in which conv reads them, widened to f32 or,
// with Half, as the f16 that they are.
//
//   dst[o/8][r][o%8] = src[o][r],  r = (c,i,j);  0 for outputs from `outputs` on
//
// Bindings and shapes
//   src   [outputs][taps] from value base on, f32, f16 or Q8 (Store)
//   dst   vec4 [⌈outputs/8⌉][taps][2], f32 or f16
//
// Constants: Store, Half.
//
// Workgroup: one invocation a vec4 of dst in one or two dimensions; neighbours write
// neighbouring vec4 and read four runs of neighbouring values.
{{- if .Half}}
enable f16;
{{- end}}
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> src: array<u32>;
@group(0) @binding(2) var<storage, read_write> dst: array<vec4<{{template "packed" .}}>>;
{{template "stored" .}}
{{- define "packed"}}{{if .Half}}f16{{else}}f32{{end}}{{end}}

fn value(o: u32, r: u32) -> f32 {
  if (o >= p.outputs) {
    return 0.0;
  }
  return stored(p.base + o * p.taps + r);
}

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  let r = (i / 2u) % p.taps;
  let o = i / (2u * p.taps) * 8u + (i % 2u) * 4u;
  dst[i] = vec4<{{template "packed" .}}>(vec4<f32>(value(o, r), value(o + 1u, r), value(o + 2u, r), value(o + 3u, r)));
}
