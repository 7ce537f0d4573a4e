{{/* How stored weights are read; package graph/quant describes Q8 and Q4_1. */}}

{{define "stored"}}
// The i-th value of src, in one of four storage types: f32; f16, two to a word; Q8, blocks
// of 32 values in nine words, a scale and four signed bytes a word; Q4_1, blocks of 32 values
// in five words, scale and offset as f16, and nibbles: value k beside value k+16.
fn stored(i: u32) -> f32 {
  {{- if eq .Store 3}}
  let block = i / 32u * 5u;
  let k = i % 32u;
  let word = src[block + 1u + k % 16u / 4u];
  let range = unpack2x16float(src[block]);
  return range.x * f32(extractBits(word, k % 4u * 8u + k / 16u * 4u, 4u)) + range.y;
  {{- else if eq .Store 2}}
  let block = i / 32u * 9u;
  let code = extractBits(bitcast<i32>(src[block + 1u + i % 32u / 4u]), i % 4u * 8u, 8u);
  return bitcast<f32>(src[block]) * f32(code);
  {{- else if eq .Store 1}}
  let pair = unpack2x16float(src[i / 2u]);
  return select(pair.x, pair.y, i % 2u == 1u);
  {{- else}}
  return bitcast<f32>(src[i]);
  {{- end}}
}
{{- end}}
