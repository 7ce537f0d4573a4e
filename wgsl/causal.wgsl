// causal: attention of positions to themselves and all before them, whose keys and values are
// in the cache. Query heads share key heads (grouped-query attention). Every `run` rows are
// one text's, at following positions.
//
//   y[r][h] = Σ_j softmax_j(q[r][h]·keys[r/run][j][h/group] · factor) · values[r/run][j][h/group]
//   over j ≤ position + r%run
//
// Bindings and shapes
//   q, y           [rows][heads·D]
//   keys, values   [rows/run][length][kv·D]
//   position       u32 [1], below length
//
// Constants: D, the width of a head.
//
// Workgroup: WG invocations share one head of one row (x, y): each takes every WG-th position
// for the scores, then every WG-th channel for the sums. The scores of all positions are in
// shared memory, which bounds length.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> keys: array<f32>;
@group(0) @binding(3) var<storage, read> values: array<f32>;
@group(0) @binding(4) var<storage, read> position: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

var<workgroup> scores: array<f32, {{.MaxPositions}}>;
var<workgroup> shared_by: array<f32, {{.WG}}>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let head = group.x;
  let row = group.y;
  let count = min(position[0] + row % p.run, p.length - 1u) + 1u;
  let width = p.kv * {{.D}}u;
  let cache = row / p.run * p.length * width + head / (p.heads / p.kv) * {{.D}}u;
  let query = (row * p.heads + head) * {{.D}}u;

  var top = -3.4e38;
  for (var j = local; j < count; j += {{.WG}}u) {
    var s = 0.0;
    for (var d = 0u; d < {{.D}}u; d++) {
      s += q[query + d] * keys[cache + j * width + d];
    }
    s *= bitcast<f32>(p.factor);
    scores[j] = s;
    top = max(top, s);
  }
  shared_by[local] = top;
  for (var n = {{div .WG 2}}u; n > 0u; n /= 2u) {
    workgroupBarrier();
    if (local < n) {
      shared_by[local] = max(shared_by[local], shared_by[local + n]);
    }
  }
  workgroupBarrier();
  top = shared_by[0];
  workgroupBarrier();

  var sum = 0.0;
  for (var j = local; j < count; j += {{.WG}}u) {
    let e = exp(scores[j] - top);
    scores[j] = e;
    sum += e;
  }
  shared_by[local] = sum;
  for (var n = {{div .WG 2}}u; n > 0u; n /= 2u) {
    workgroupBarrier();
    if (local < n) {
      shared_by[local] += shared_by[local + n];
    }
  }
  workgroupBarrier();
  sum = shared_by[0];

  for (var d = local; d < {{.D}}u; d += {{.WG}}u) {
    var v = 0.0;
    for (var j = 0u; j < count; j++) {
      v += scores[j] * values[cache + j * width + d];
    }
    y[query + d] = v / sum;
  }
}
