// The base model in the page: its weights from ranges of two GGUF files, and its answers,
// token after token, without and with an adapter. The guest plans the Program (answer).

import { type AnswerInfo } from "./abi.js";
import type { Held, RunResult, WeightSource } from "./executor.js";
import type { Ranged } from "./weights.js";
import { decodeFloats, encodeFloats, floatToHalf, halfToFloat } from "./floats.js";

const rows = 2;

/** How an element or block of from bytes in a file becomes one of to bytes on the device. Nothing is lost. */
interface Conversion {
  from: number;
  to: number;
  convert?: (raw: Uint8Array, out: Uint8Array) => void;
}

const widen = (dtype: string) => (raw: Uint8Array, out: Uint8Array): void => out.set(encodeFloats("F32", decodeFloats(dtype, raw)));

/** By the file's type and the device's. */
const conversions: Readonly<Record<string, Conversion>> = {
  "F32 F32": { from: 4, to: 4 },
  "F16 F16": { from: 2, to: 2 },
  "Q4_1 Q4_1": { from: 20, to: 20 },
  "F16 F32": { from: 2, to: 4, convert: widen("F16") },
  "BF16 F32": { from: 2, to: 4, convert: widen("BF16") },
  // A Q8_0 block's scale is a half, the device's a float32.
  "Q8_0 Q8": {
    from: 34,
    to: 36,
    convert: (raw, out) => {
      const [from, to] = [view(raw), view(out)];
      for (let block = 0; block * 34 < raw.length; block++) {
        to.setFloat32(36 * block, halfToFloat(from.getUint16(34 * block, true)), true);
        out.set(raw.subarray(34 * block + 2, 34 * block + 34), 36 * block + 4);
      }
    },
  },
  // Q4_0 is scale·(nibble - 8): Q4_1 with the offset -8·scale.
  "Q4_0 Q4_1": {
    from: 18,
    to: 20,
    convert: (raw, out) => {
      const [from, to] = [view(raw), view(out)];
      for (let block = 0; block * 18 < raw.length; block++) {
        const scale = from.getUint16(18 * block, true);
        to.setUint16(20 * block, scale, true);
        to.setUint16(20 * block + 2, floatToHalf(-8 * halfToFloat(scale)), true);
        out.set(raw.subarray(18 * block + 2, 18 * block + 18), 20 * block + 4);
      }
    },
  },
};

const view = (b: Uint8Array): DataView => new DataView(b.buffer, b.byteOffset, b.byteLength);

/** The weights that a step's Program names, from the files of the base and the adapter. */
export function stepWeights(tensors: AnswerInfo["tensors"], files: Record<"base" | "adapter", Ranged>, report: (done: number, total: number) => void): WeightSource {
  const places = new Map(tensors.map((t) => [t.name, t]));
  const total = tensors.reduce((n, t) => n + t.bytes, 0);
  let done = 0;
  return {
    read: async (name, dtype, offset, n) => {
      const t = places.get(name);
      if (!t) throw new Error(`the base has no tensor ${name.slice(0, 64)}`);
      const c = conversions[`${t.type} ${dtype}`];
      const first = c ? (offset / c.to) * c.from : 0;
      const bytes = c ? (n / c.to) * c.from : 0;
      if (!c || !Number.isInteger(first) || !Number.isInteger(bytes) || first + bytes > t.bytes || t.offset + t.bytes > files[t.file].size) {
        throw new Error(`tensor ${name}: bytes ${offset}+${n} as ${dtype} are asked for, it has ${t.bytes} of ${t.type}`);
      }
      const raw = await files[t.file].read(t.offset + first, bytes);
      report((done += bytes), total);
      if (!c.convert) return raw;
      const out = new Uint8Array(n);
      c.convert(raw, out);
      return out;
    },
  };
}

/** The bytes of each token of a vocabulary (the guest's part pieces). */
export function pieces(raw: Uint8Array): Uint8Array[] {
  const list: Uint8Array[] = [];
  const words = view(raw);
  for (let at = 0; at < raw.length; ) {
    const n = words.getUint32(at, true);
    if (n > raw.length - at - 4) throw new Error("dnd.wasm: a token is longer than the list of tokens");
    list.push(raw.subarray(at + 4, at + 4 + n));
    at += 4 + n;
  }
  return list;
}

/** What was said, and how fast. */
export interface Answers {
  base: string;
  adapter: string;
  promptTokens: number;
  /** Spent with the prompt, but for its last token. */
  readSeconds: number;
  /** Taken for the answers, of a token in each row, and how long that took. */
  steps: number;
  seconds: number;
}

/** Answers the prompt in both rows, up to so many tokens each. text is called with each piece as it comes. */
export async function answer(held: Held, info: AnswerInfo, vocabulary: Uint8Array[], tokens: number, signal: AbortSignal, text: (row: "base" | "adapter", piece: string) => void): Promise<Answers> {
  if (info.prompt.length === 0 || !Number.isSafeInteger(info.read) || info.read < 1 || info.read > 1024) throw new Error(`dnd.wasm: a prompt of ${info.prompt.length} tokens, read ${info.read} at a time`);
  const words = (list: number[]): Uint8Array => new Uint8Array(new Uint32Array(list).buffer);
  const factor = new Uint8Array(new Float32Array(info.factor).buffer);
  const decoders = [new TextDecoder(), new TextDecoder()];
  const said: [string, string] = ["", ""];
  const add = (row: number, piece: string): void => {
    if (piece === "") return;
    said[row as 0 | 1] += piece;
    text(row === 0 ? "base" : "adapter", piece);
  };
  const run = (stage: string, input: string, ids: number[], at: number): Promise<RunResult> =>
    held.run(stage, new Map([[input, words(ids)], ["position", words([at])], ["factor", factor]]), signal);
  const began = performance.now();
  const last = info.prompt.length - 1;
  for (let at = 0; at < last; at += info.read) {
    // The last token is the first answer's. What is read beyond it is written anew before it is used.
    const ids = Array.from({ length: info.read }, (_, i) => info.prompt[Math.min(at + i, last)]!);
    await run("read", "prompt", [...ids, ...ids], at);
  }
  const started = performance.now();
  const ended = [false, false];
  let next = [info.prompt[last]!, info.prompt[last]!];
  let steps = 0;
  while (steps < tokens && !ended.every(Boolean)) {
    const raw = (await run("answer", "tokens", next, last + steps)).outputs.get("next");
    steps++;
    if (raw?.length !== 4 * rows) throw new Error("the program gave no next tokens");
    next = [...new Uint32Array(raw.slice().buffer)];
    for (let row = 0; row < rows; row++) {
      ended[row] ||= info.ends.includes(next[row]!);
      const piece = vocabulary[next[row]!];
      if (ended[row]) continue;
      if (!piece) throw new Error(`the program gave token ${next[row]} of a vocabulary of ${vocabulary.length}`);
      add(row, decoders[row]!.decode(piece, { stream: true }));
    }
  }
  decoders.forEach((d, row) => add(row, d.decode()));
  return { base: said[0], adapter: said[1], promptTokens: info.prompt.length, steps, readSeconds: (started - began) / 1000, seconds: (performance.now() - started) / 1000 };
}
