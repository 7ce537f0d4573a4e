// Storage types of weights, as Go's packages safetensors and quant convert them: F32, F16,
// BF16; Q8, blocks of 32 values in 36 bytes (a float32 scale, 32 signed bytes); and Q4_1, blocks
// of 32 values in 20 bytes (scale and offset as F16, nibbles: value k beside value k+16).

/** Values and bytes of a unit that is never cut. */
export const unit: Readonly<Record<string, { values: number; bytes: number }>> = {
  F32: { values: 1, bytes: 4 },
  F16: { values: 1, bytes: 2 },
  BF16: { values: 1, bytes: 2 },
  Q8: { values: 32, bytes: 36 },
  Q4_1: { values: 32, bytes: 20 },
};

const word = new Float32Array(1);
const bits = new Uint32Array(word.buffer);

/** Reads little-endian values; raw holds whole units. */
export function decodeFloats(dtype: string, raw: Uint8Array): Float32Array {
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  const u = unit[dtype]!;
  const out = new Float32Array((raw.byteLength / u.bytes) * u.values);
  switch (dtype) {
    case "F32":
      for (let i = 0; i < out.length; i++) out[i] = view.getFloat32(4 * i, true);
      break;
    case "F16":
      for (let i = 0; i < out.length; i++) out[i] = halfToFloat(view.getUint16(2 * i, true));
      break;
    case "BF16":
      for (let i = 0; i < out.length; i++) {
        bits[0] = view.getUint16(2 * i, true) << 16;
        out[i] = word[0]!;
      }
      break;
    case "Q8":
      for (let b = 0; b * 36 < raw.byteLength; b++) {
        const scale = view.getFloat32(36 * b, true);
        for (let i = 0; i < 32; i++) out[32 * b + i] = scale * view.getInt8(36 * b + 4 + i);
      }
      break;
    default:
      for (let b = 0; b * 20 < raw.byteLength; b++) {
        const scale = halfToFloat(view.getUint16(20 * b, true));
        const offset = halfToFloat(view.getUint16(20 * b + 2, true));
        for (let i = 0; i < 32; i++) out[32 * b + i] = Math.fround(scale * ((raw[20 * b + 4 + (i % 16)]! >> (i < 16 ? 0 : 4)) & 15)) + offset;
      }
  }
  return out;
}

/** Writes values as F32, F16, Q8 or Q4_1; what fills the last block up is no value. */
export function encodeFloats(dtype: string, values: Float32Array): Uint8Array {
  const u = unit[dtype]!;
  const out = new Uint8Array(Math.ceil(values.length / u.values) * u.bytes);
  const view = new DataView(out.buffer);
  switch (dtype) {
    case "F32":
      for (let i = 0; i < values.length; i++) view.setFloat32(4 * i, values[i]!, true);
      break;
    case "F16":
      for (let i = 0; i < values.length; i++) view.setUint16(2 * i, floatToHalf(values[i]!), true);
      break;
    case "Q8":
      for (let b = 0; b * 32 < values.length; b++) {
        const block = values.subarray(32 * b, 32 * b + 32);
        let peak = 0;
        for (const v of block) peak = Math.max(peak, Math.abs(v));
        const scale = Math.fround(peak / 127);
        view.setFloat32(36 * b, scale, true);
        if (scale > 0) block.forEach((v, i) => view.setInt8(36 * b + 4 + i, Math.max(-127, Math.min(127, roundEven(v / scale)))));
      }
      break;
    default:
      for (let b = 0; b * 32 < values.length; b++) writeQ41(values.subarray(32 * b, 32 * b + 32), view, 20 * b);
  }
  return out;
}

/** A block as Q4_1, in float32 arithmetic: the scale that is stored is a half, the one that is divided by is not. */
function writeQ41(block: Float32Array, view: DataView, at: number): void {
  const low = block.reduce((a, b) => Math.min(a, b));
  const scale = Math.fround(Math.fround(block.reduce((a, b) => Math.max(a, b)) - low) / 15);
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
  view.setUint16(at, floatToHalf(scale), true);
  view.setUint16(at + 2, floatToHalf(low), true);
  const code = (i: number) => {
    const v = i < block.length ? block[i]! : block[0]!;
    return Math.min(15, Math.trunc(Math.fround(Math.fround(Math.fround(v - low) * inverse) + 0.5)));
  };
  for (let i = 0; i < 16; i++) view.setUint8(at + 4 + i, code(i) | (code(i + 16) << 4));
}

function roundEven(v: number): number {
  const r = Math.round(v);
  return r - v === 0.5 && r % 2 !== 0 ? r - 1 : r;
}

export function halfToFloat(h: number): number {
  const exponent = (h >> 10) & 0x1f;
  const mantissa = h & 0x3ff;
  const sign = h & 0x8000 ? -1 : 1;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

/** To nearest, ties to even; too large becomes infinite. */
export function floatToHalf(v: number): number {
  word[0] = v;
  const b = bits[0]! & 0x7fffffff;
  const sign = (bits[0]! >>> 16) & 0x8000;
  if (b > 0x7f800000) return sign | 0x7e00;
  if (b >= 0x477ff000) return sign | 0x7c00;
  if (b < 0x38800000) return sign | roundEven(Math.abs(v) * 2 ** 24);
  return sign | ((b - 0x38000000 + 0xfff + ((b >>> 13) & 1)) >>> 13);
}

/** The index of the first NaN or infinite value, -1 if there is none. */
export function nonFinite(values: Float32Array): number {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i]!)) return i;
  return -1;
}
