// A generator's tensors by name, from ranges of its safetensors files: what a Program's
// buffers are filled with. Headers are checked before anything is read by them.

import { decodeFloats, encodeFloats, nonFinite, unit } from "./floats.js";

/** A file of which ranges can be read. */
export interface Ranged {
  size: number;
  read(offset: number, n: number): Promise<Uint8Array>;
}

/** Files are a generator's files, wherever they are. */
export interface Files {
  read(path: string, offset: number, length: number): Promise<Uint8Array>;
  size(path: string): number;
}

interface Tensor {
  path: string;
  dtype: string;
  count: number; // values; in blocks with those that fill the last block up
  offset: number;
  bytes: number;
}

const maxHeader = 64 << 20;

export class Weights {
  private readonly files: Files;
  private readonly tensors = new Map<string, Tensor>();

  private constructor(files: Files) {
    this.files = files;
  }

  /** Reads the headers of files, whose tensors get the prefix of each. */
  static async open(files: Files, parts: { prefix: string; path: string }[]): Promise<Weights> {
    const w = new Weights(files);
    for (const p of parts) await w.header(p.prefix, p.path);
    return w;
  }

  private async header(prefix: string, path: string): Promise<void> {
    const size = this.files.size(path);
    if (size < 8) throw new Error(`${path}: ${size} bytes are no safetensors file`);
    const head = await this.files.read(path, 0, 8);
    const n = Number(new DataView(head.buffer, head.byteOffset, 8).getBigUint64(0, true));
    if (n > maxHeader || n > size - 8) throw new Error(`${path}: a header of ${n} bytes in a file of ${size}`);
    let table: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
    try {
      table = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(await this.files.read(path, 8, n))) as typeof table;
    } catch (err) {
      throw new Error(`${path}: the header is no JSON: ${(err as Error).message}`);
    }
    for (const [name, t] of Object.entries(table)) {
      if (name === "__metadata__") continue;
      const where = `${path}: tensor ${name.slice(0, 64)}`;
      const [from, to] = t?.data_offsets ?? [];
      if (!Number.isSafeInteger(from) || !Number.isSafeInteger(to) || from < 0 || to < from || to > size - 8 - n) throw new Error(`${where}: its range lies outside of the file`);
      if (!Array.isArray(t.shape) || !t.shape.every((d) => Number.isSafeInteger(d) && d >= 0)) throw new Error(`${where}: malformed shape`);
      let dtype = t.dtype;
      let count = t.shape.reduce((a, b) => a * b, 1);
      const blocks = dtype === "U8" && t.shape.length === 2 ? ["Q8", "Q4_1"].find((d) => unit[d]!.bytes === t.shape[1]) : undefined;
      if (blocks) {
        dtype = blocks;
        count = t.shape[0]! * 32;
      }
      const u = unit[dtype];
      if (!u) continue; // integers, which no Program asks for
      if ((count / u.values) * u.bytes !== to - from) throw new Error(`${where}: ${to - from} bytes of ${dtype} for shape ${t.shape}`);
      this.tensors.set(prefix + name, { path, dtype, count, offset: 8 + n + from, bytes: to - from });
    }
  }

  /**
   * The storage type that most bytes of the decoder's matrices and kernels have: what a Program
   * should ask for. Everything else goes to the device as F32, whatever it is stored as.
   */
  common(): string {
    const sums = new Map<string, number>();
    for (const [name, t] of this.tensors) {
      if (name.startsWith("decoder/") && name.endsWith(".weight")) sums.set(t.dtype, (sums.get(t.dtype) ?? 0) + t.bytes);
    }
    const best = [...sums].sort((a, b) => b[1] - a[1])[0]?.[0] ?? "F32";
    return best === "BF16" ? "F32" : best;
  }

  /**
   * The n bytes from offset on of a tensor stored as dtype, "F32", "F16", "Q8" or "Q4_1"; both are
   * multiples of that type's unit. NaN and infinity are errors.
   */
  async read(name: string, dtype: string, offset: number, n: number): Promise<Uint8Array> {
    const t = this.tensors.get(name);
    if (!t) throw new Error(`the generator has no tensor ${name.slice(0, 64)}`);
    const where = `${t.path}: tensor ${name}`;
    const u = unit[dtype];
    const s = unit[t.dtype]!;
    if (!u || offset % u.bytes !== 0 || n % u.bytes !== 0 || offset + n > Math.ceil(t.count / u.values) * u.bytes) {
      throw new Error(`${where}: bytes ${offset}+${n} as ${dtype} are asked for, it has ${t.count} values`);
    }
    const first = (offset / u.bytes) * u.values;
    const last = Math.min(t.count, ((offset + n) / u.bytes) * u.values);
    const from = Math.floor(first / s.values);
    const to = Math.ceil(last / s.values);
    const raw = await this.files.read(t.path, t.offset + from * s.bytes, (to - from) * s.bytes);
    const values = decodeFloats(t.dtype, raw);
    const bad = nonFinite(values);
    if (bad >= 0) throw new Error(`${where}: value ${from * s.values + bad} is ${values[bad]}: the weights are damaged`);
    if (t.dtype === dtype) return raw;
    const out = encodeFloats(dtype, values.subarray(first - from * s.values, last - from * s.values));
    if (dtype !== "F32" && nonFinite(decodeFloats(dtype, out)) >= 0) throw new Error(`${where}: a value is too large for ${dtype}`);
    return out;
  }
}
