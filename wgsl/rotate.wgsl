// rotate: rotary positions on queries and keys; keys and values go to the cache. Every `run`
// rows are one text's, at following positions.
//
//   (a, b) -> (a·cos - b·sin, b·cos + a·sin) for the pairs of every head of row r,
//   at angle[position + r%run]
//
// Bindings and shapes
//   q          [rows][heads·2·half]
//   k, v       [rows][kv·2·half]
//   position   u32 [1], below length
//   table      [length][half][2], cosine and sine
//   turned     [rows][heads·2·half], the rotated queries
//   keys       [rows/run][length][kv·2·half]; the rows' positions below length are written
//   values     the same for v, as it is
//
// Constants: Halves: 1 pairs value i with half+i of a head (Hugging Face, qwen2 in GGUF), 0
// pairs 2i with 2i+1 (llama in GGUF, whose matrices are stored for that).
//
// Workgroup: one invocation a pair; bound by latency.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read> position: array<u32>;
@group(0) @binding(5) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> turned: array<f32>;
@group(0) @binding(7) var<storage, read_write> keys: array<f32>;
@group(0) @binding(8) var<storage, read_write> values: array<f32>;

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let pairs = (p.heads + p.kv) * p.half;
  let row = g.y;
  let at = position[0] + row % p.run;
  if (g.x >= pairs || at >= p.length) {
    return;
  }
  let head = g.x / p.half;
  let i = g.x % p.half;
  let turn = table[at * p.half + i];
  {{- if .Halves}}
  let first = i;
  let second = i + p.half;
  {{- else}}
  let first = 2u * i;
  let second = 2u * i + 1u;
  {{- end}}
  if (head < p.heads) {
    let base = (row * p.heads + head) * 2u * p.half;
    let a = q[base + first];
    let b = q[base + second];
    turned[base + first] = a * turn.x - b * turn.y;
    turned[base + second] = b * turn.x + a * turn.y;
    return;
  }
  let width = p.kv * 2u * p.half;
  let inner = (head - p.heads) * 2u * p.half;
  let source = row * width + inner;
  let place = (row / p.run * p.length + at) * width + inner;
  let a = k[source + first];
  let b = k[source + second];
  keys[place + first] = a * turn.x - b * turn.y;
  keys[place + second] = b * turn.x + a * turn.y;
  values[place + first] = v[source + first];
  values[place + second] = v[source + second];
}
