// attention: softmax(q·kᵀ/√D)·v for every head of every chunk, keys masked.
//
// Bindings and shapes, channel-major; token t = chunk·period + l, keys l < length
//   q      [heads·D][stride]
//   k, v   [heads·D][stride], as vec4 of four tokens (period and stride are multiples of 8)
//   mask   u32, of key l of a chunk at mask_base + chunk·length + l; 0 hides the key
//   y      [heads·D][stride]
// Every token is a query, masked or not. A chunk without any key gets zeros.
//
// Constants: D (values a head), Q (queries an invocation, 1 or 2); Skip: hidden tokens are no
// queries and get zeros.
//
// Workgroup: WG invocations take neighbouring queries of one head (y) and chunk (z), so
// they read neighbouring q and equal k and v. Softmax is computed as the keys go by, four
// at a time: the running maximum's correction costs D multiplications per four keys. Four
// keys that are all hidden cost one look at the mask, and most of a condition is padding.
{{- $v := "f32"}}{{if eq .Q 2}}{{$v = "vec2<f32>"}}{{end}}
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<{{$v}}>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> mask: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<{{$v}}>;
{{template "exp"}}
fn weight(s: {{$v}}) -> {{$v}} {
  {{- if eq .Q 2}}
  return vec2<f32>(exponential(s.x), exponential(s.y));
  {{- else}}
  return exponential(s);
  {{- end}}
}

fn open(chunk: u32, l: u32) -> bool {
  if (l >= p.length) {
    return false;
  }
  return mask[p.mask_base + chunk * p.length + l] != 0u;
}

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  if (g.x * {{.Q}}u >= p.period) {
    return;
  }
  let chunk = g.z + p.chunk0;
  let q_first = (g.y * {{.D}}u * p.stride + chunk * p.period) / {{.Q}}u + g.x;
  let q_step = p.stride / {{.Q}}u;
  let k_first = (g.y * {{.D}}u * p.stride + chunk * p.period) / 4u;
  let k_step = p.stride / 4u;
  let factor = bitcast<f32>(p.factor);
  {{range $d := seq .D}}let q{{$d}} = q[q_first + {{$d}}u * q_step] * factor;
  {{end -}}
  {{range $d := seq .D}}var y{{$d}} = {{$v}}();
  {{end -}}
  let low = {{$v}}(-3.0e38);
  var top = low;
  var sum = {{$v}}();
  {{- if .Skip}}
  var length = p.length;
  if (!(open(chunk, g.x * {{.Q}}u) || open(chunk, g.x * {{.Q}}u + {{add .Q -1}}u))) {
    length = 0u;
  }
  {{- else}}
  let length = p.length;
  {{- end}}
  for (var l = 0u; l < length; l += 4u) {
    {{range $n, $lane := lanes}}let on{{$n}} = open(chunk, l + {{$n}}u);
    {{end -}}
    if (!(on0 || on1 || on2 || on3)) {
      continue;
    }
    let at = k_first + l / 4u;
    {{range $n, $lane := lanes}}var s{{$n}} = {{$v}}();
    {{end -}}
    {{range $d := seq .D}}{
      let k4 = k[at + {{$d}}u * k_step];
      {{range $n, $lane := lanes}}s{{$n}} += q{{$d}} * k4.{{$lane}};
      {{end -}}
    }
    {{end -}}
    var next = top;
    {{range $n, $lane := lanes}}next = max(next, select(low, s{{$n}}, on{{$n}}));
    {{end -}}
    let keep = weight(top - next);
    top = next;
    {{range $n, $lane := lanes}}s{{$n}} = select({{$v}}(), weight(s{{$n}} - top), on{{$n}});
    {{end -}}
    sum = sum * keep + (s0 + s1) + (s2 + s3);
    {{range $d := seq .D}}{
      let v4 = v[at + {{$d}}u * k_step];
      y{{$d}} = y{{$d}} * keep + (s0 * v4.x + s1 * v4.y) + (s2 * v4.z + s3 * v4.w);
    }
    {{end -}}
  }
  let scale = select({{$v}}(1.0) / sum, {{$v}}(), sum == {{$v}}());
  {{range $d := seq .D}}y[q_first + {{$d}}u * q_step] = y{{$d}} * scale;
  {{end -}}
}
