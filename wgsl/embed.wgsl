// embed: the sum of a token's three embeddings, channel-major.
//
//   y[c][t] = word[id][c] + position[l][c] + type[c]
//
// Bindings and shapes
//   ids        u32, token t = chunk·period + l is ids[ids_base + chunk·length + l]; tokens
//              from l = length on are padding of the layout and get zeros
//   src        rows [first, first+rows) of the table word, [rows][channels] from value base
//              on: f32, f16 or Q8 (Store)
//   position   [length][channels]
//   kind       [channels], the only token type
//   y          [channels][stride]
//
// Constants: Store.
//
// Workgroup: WG neighbouring tokens of one channel (y), so that writes are dense. A table
// larger than a binding takes one dispatch a part: tokens of other parts are left alone.
// Ids past the table count as its last row.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> src: array<u32>;
@group(0) @binding(3) var<storage, read> position: array<f32>;
@group(0) @binding(4) var<storage, read> kind: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
{{template "stored" .}}

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let t = g.x;
  let c = g.y;
  if (t >= p.tokens) {
    return;
  }
  let l = t % p.period;
  if (l >= p.length) {
    y[c * p.stride + t] = 0.0;
    return;
  }
  let row = min(ids[p.ids_base + t / p.period * p.length + l], p.vocabulary - 1u) - p.first;
  if (row >= p.rows) {
    return;
  }
  let v = stored(p.base + row * p.channels + c);
  y[c * p.stride + t] = v + position[l * p.channels + c] + kind[c];
}
