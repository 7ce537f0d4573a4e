// gather: copies a box of a tensor, its axes permuted, into the padded rows that conv reads.
//
//   dst[item][c][p][4v+l] = src[item][c][p][q]  with q = 4v+l-left, 0 where q is outside
//
// Bindings and shapes
//   src   any layout, by strides (src_item, src_c, src_p, src_q)
//   dst   vec4 [items][cn][pn][qn], by strides (dst_item, dst_c, dst_p), from dst_base on
//
// Constants: none.
//
// Workgroup: one invocation a vec4 of dst, in one or two dimensions (width invocations a
// row of workgroups). When the source's channel axis is the dense one (c_fast), neighbours
// differ in c, so that reads stay dense and writes are whole vec4; else in q.
{{.Params}}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> src: array<f32>;
@group(0) @binding(2) var<storage, read_write> dst: array<vec4<f32>>;

// value is src's value q, or what the row holds already, when others write it (merge).
fn value(at: u32, q: u32, old: f32) -> f32 {
  if (q < p.q_count) {
    return src[at + q * p.src_q];
  }
  return old;
}

@compute @workgroup_size({{.WG}})
fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  let i = g.x + g.y * p.width;
  if (i >= p.count) {
    return;
  }
  var c: u32;
  var v: u32;
  var rest: u32;
  if (p.c_fast != 0u) {
    c = i % p.cn;
    v = (i / p.cn) % p.qn;
    rest = i / (p.cn * p.qn);
  } else {
    v = i % p.qn;
    c = (i / p.qn) % p.cn;
    rest = i / (p.cn * p.qn);
  }
  let row = rest % p.pn;
  let item = rest / p.pn;
  let at = p.src_base + item * p.src_item + c * p.src_c + row * p.src_p;
  // Left of the first value q wraps around to a large number, so one comparison does.
  let q = v * 4u - p.left;
  let to = p.dst_base + item * p.dst_item + c * p.dst_c + row * p.dst_p + v;
  var old = vec4<f32>();
  if (p.merge != 0u) {
    old = dst[to];
  }
  dst[to] = vec4<f32>(value(at, q, old.x), value(at, q + 1u, old.y), value(at, q + 2u, old.z), value(at, q + 3u, old.w));
}
