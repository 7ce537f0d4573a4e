// inversecolumns: makes complex numbers of fourierproduct's three, adds up its slices, and
// transforms columns back, to the S rows of a tile that are results.
//
//   dst[f2][r][j] = Σ_k (y0-y2 + (y0+y1)i)[f2][k][j] · e^(2πi·kr/T),  r < S
//
// Bindings and shapes
//   y     [slices][3][half][T][block], block is [outputs][tiles]
//   dst   complex [half][S][block]
//
// Constants: T, S.
//
// Workgroup: one invocation a column, in the order [half][block], in one or two
// dimensions; neighbours read and write neighbouring values.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> dst: array<vec2<f32>>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  let f2 = i / p.block;
  let j = i % p.block;
  let plane = p.count * {{.T}}u;
  var at = f2 * {{.T}}u * p.block + j;
  {{range $k := seq .T}}var x{{$k}} = vec2<f32>();
  {{end}}
  for (var s = 0u; s < p.slices; s++) {
    {{- range $k := seq .T}}
    let a{{$k}} = y[at + {{$k}}u * p.block];
    x{{$k}} += vec2<f32>(a{{$k}} - y[at + {{$k}}u * p.block + 2u * plane], a{{$k}} + y[at + {{$k}}u * p.block + plane]);
    {{- end}}
    at += 3u * plane;
  }
  {{- range $k := seq .T}}
  let xr{{$k}} = x{{$k}}.x;
  let xi{{$k}} = x{{$k}}.y;
  {{- end}}
{{complexBack .T .S}}
  let to = f2 * {{.S}}u * p.block + j;
  {{- range $r := seq .S}}
  dst[to + {{$r}}u * p.block] = vec2<f32>(yr{{$r}}, yi{{$r}});
  {{- end}}
}
