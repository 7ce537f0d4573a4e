{{/* How stored weights are read; package graph/quant describes Q8. */}}

{{define "stored"}}
// The i-th value of src, in one of three storage types: f32; f16, two to a word; Q8, blocks
// of 32 values in nine words, a scale and four signed bytes a word.
fn stored(i: u32) -> f32 {
  {{- if eq .Store 2}}
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
