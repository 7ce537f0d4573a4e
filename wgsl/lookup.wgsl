// lookup: rows of a language model's embedding table.
//
//   y[r][c] = table[ids[r]][c]
//
// Bindings and shapes
//   ids    u32 [rows]
//   src    rows [first, first+count) of the table, [count][channels] from value base on:
//          f32, f16, Q8 or Q4_1 (Store)
//   y      [rows][channels]
//
// Constants: Store.
//
// Workgroup: WG neighbouring channels of one row (y); bound by latency, it is a few rows. A
// table larger than a binding takes one dispatch a part: rows of other parts are left alone.
// Ids past the table count as its last row.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> src: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
{{template "stored" .}}

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let c = g.x;
  if (c >= p.channels) {
    return;
  }
  let row = min(ids[g.y], p.vocabulary - 1u) - p.first;
  if (row < p.count) {
    y[g.y * p.channels + c] = stored(p.base + row * p.channels + c);
  }
}
