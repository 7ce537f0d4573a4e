// fourierproduct: multiplies spectra: a product of real matrices for each frequency and
// each of the three numbers that a complex one is stored as.
//
//   y[slice][f][o][tile] = Σ_c w[f][o][c] · x[f][c][tile], added to what is there with again
//
// Bindings and shapes
//   x   vec4 [frequencies][cin][tiles/4]       made by fouriercolumns
//   w   vec4 [frequencies][outs][cin][2]       the same: eight outputs each
//   y   vec4 [slices][frequencies][outs·8][tiles/4]
//
// Constants: none.
//
// Workgroup: WG invocations are wt groups of eight tiles x wo of eight outputs x WG/(wt·wo)
// frequencies, so that what they read is shared as much as the shape allows; groups along x
// are the blocks of tiles and outputs, y the frequencies, z slices of the channels.
//
// Tiling: an invocation holds 8 outputs x 8 tiles in sixteen named vec4, four channels a
// step. There is no shared memory, no barrier and no indexed array, as in conv.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let across = (p.tiles + p.wt - 1u) / p.wt;
  let t = group.x % across * p.wt + local % p.wt;
  let o = group.x / across * p.wo + local / p.wt % p.wo;
  let f = group.y * ({{.WG}}u / (p.wt * p.wo)) + local / (p.wt * p.wo) + p.first;
  if (t >= p.tiles || o >= p.outs || f >= p.last) {
    return;
  }
  {{range $o := seq 8}}{{range $h := seq 2}}var a{{$o}}{{$h}} = vec4<f32>();
  {{end}}{{end}}
  let x_step = p.tiles * 2u;
  var c = group.z * p.slice;
  let c_last = min(c + p.slice, p.cin);
  var xi = (f * p.cin + c) * x_step + t * 2u;
  var wi = ((f * p.outs + o) * p.cin + c) * 2u;
  for (; c + 4u <= c_last; c += 4u) {
    {{- range $u := seq 4}}
    let x{{$u}}0 = x[xi + {{$u}}u * x_step];
    let x{{$u}}1 = x[xi + {{$u}}u * x_step + 1u];
    let w{{$u}}0 = w[wi + {{mul $u 2}}u];
    let w{{$u}}1 = w[wi + {{add (mul $u 2) 1}}u];
    {{- range $o := seq 8}}
    a{{$o}}0 += w{{$u}}{{lane $o}} * x{{$u}}0;
    a{{$o}}1 += w{{$u}}{{lane $o}} * x{{$u}}1;
    {{- end}}
    {{- end}}
    xi += 4u * x_step;
    wi += 8u;
  }
  for (; c < c_last; c++) {
    let x0 = x[xi];
    let x1 = x[xi + 1u];
    let w0 = w[wi];
    let w1 = w[wi + 1u];
    {{- range $o := seq 8}}
    a{{$o}}0 += w{{lane $o}} * x0;
    a{{$o}}1 += w{{lane $o}} * x1;
    {{- end}}
    xi += x_step;
    wi += 2u;
  }
  let at = ((group.z * p.frequencies + f) * p.outs + o) * 8u * x_step + t * 2u;
  if (p.again != 0u) {
    {{range $o := seq 8}}{{range $h := seq 2}}a{{$o}}{{$h}} += y[at + {{$o}}u * x_step + {{$h}}u];
    {{end}}{{end}}
  }
  {{range $o := seq 8}}{{range $h := seq 2}}y[at + {{$o}}u * x_step + {{$h}}u] = a{{$o}}{{$h}};
  {{end}}{{end}}
}
