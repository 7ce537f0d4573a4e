// reduce: adds up the slices that conv left in a scratch buffer and stores the results.
//
//   out[b,o,p,q] = bias[o] + Σ_slice part[slice][(q%Q)·O+(o/4)%O][o tile][tile].(o%4)
//
// Bindings and shapes
//   part  vec4 [slices][Q·O][o_tiles][tiles]
//   out   any layout, by strides (out_item, out_o, out_p, out_q)
//   bias  [o]                             with HasBias
//
// Constants: HasBias, Gelu (erf form, on the result); OutFours = O and PositionFours = Q/4,
// those of conv.
//
// Workgroup: WG invocations along x, one a tile; y is the tile of outputs, z one of the
// tile's vec4. Neighbours read neighbouring vec4; the work is a few loads a value,
// next to the thousands of multiplications behind it.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> part: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
{{- if .HasBias}}
@group(0) @binding(3) var<storage, read> bias: array<f32>;
{{- end}}
{{template "erf" .}}
{{template "store" .}}
@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  if (g.x >= p.tiles) {
    return;
  }
  var sum = vec4<f32>();
  let step = {{mul 4 .OutFours .PositionFours}}u * p.o_tiles * p.tiles;
  var at = (g.z * p.o_tiles + g.y) * p.tiles + g.x;
  for (var s = 0u; s < p.slices; s++) {
    sum += part[at];
    at += step;
  }
  let tile = g.x + p.tile0;
  let pb = tile / p.nq;
  store(pb / p.np, g.y * {{mul 4 .OutFours}}u + (g.z % {{.OutFours}}u) * 4u, pb % p.np, (tile % p.nq) * {{mul 4 .PositionFours}}u + g.z / {{.OutFours}}u, sum);
}
