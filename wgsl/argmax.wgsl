// argmax: the index of each row's largest value, the first of equal ones.
//
// Bindings and shapes
//   x   [rows][channels]
//   y   u32 [rows]
//
// Constants: none.
//
// Workgroup: WG invocations share one row; neighbours read neighbouring values.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

var<workgroup> best: array<f32, {{.WG}}>;
var<workgroup> place: array<u32, {{.WG}}>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let at = group.x * p.channels;
  var top = -3.4e38;
  var where_top = p.channels - 1u;
  for (var c = local; c < p.channels; c += {{.WG}}u) {
    let v = x[at + c];
    if (v > top) {
      top = v;
      where_top = c;
    }
  }
  best[local] = top;
  place[local] = where_top;
  for (var n = {{div .WG 2}}u; n > 0u; n /= 2u) {
    workgroupBarrier();
    if (local < n) {
      let v = best[local + n];
      let i = place[local + n];
      if (v > best[local] || (v == best[local] && i < place[local])) {
        best[local] = v;
        place[local] = i;
      }
    }
  }
  if (local == 0u) {
    y[group.x] = place[0];
  }
}
