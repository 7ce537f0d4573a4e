// The guest: the generator's compiler as a WebAssembly module (Go's package wasm). This
// file is its host.
//
// # ABI, version 3
//
// The same text stands in Go's graph/guest.
//
// Everything is a message, a list of named parts: u32le count; for each part u32le name
// length, name (UTF-8), u32le data length, data. No name twice, nothing behind the last.
//
// The module is a WASI preview 1 reactor. It exports _initialize; abi_version() i32;
// alloc(n i32) i32 (0 when refused; memory is the guest's until free); free(ptr i32); and
// four calls that take a message (ptr, len of memory got from alloc) and return i64 =
// ptr<<32|len of a result message, which the host copies at once and frees with free(ptr):
//
//	compile  manifest (generator.json), options (CompileOptions)
//	         -> program (Program, JSON)
//	feed     manifest, tokenizer (tokenizer.json), or vocab (vocab.txt) and tokenizer_config
//	         (may be missing), prompts (the file's bytes), options (FeedOptions)
//	         -> ids, mask (the Program's inputs), info (FeedInfo)
//	finish   manifest, tokens (float32le weight tokens (T,h,w)), options (FinishOptions); and
//	         condition and mask (what the Program read and was fed), for Report's Nearest,
//	         and for the alpha that befits it
//	         -> file/NAME for each file of the adapter, report (Report)
//	answer   base (a base model's GGUF file up to the end of its table of contents, or more),
//	         adapter (an adapter's GGUF file, whole), options (AnswerOptions)
//	         -> program (a step's, JSON), pieces (for each token of the vocabulary: u32le
//	         length, bytes), info (AnswerInfo)
//
// A call that failed returns one part, error (UTF-8, one line). Calls keep nothing: each
// carries all that it needs. A host takes exactly the version that it was built for, and throws
// a guest that trapped away.

import { imports } from "./wasi.js";

/** The ABI version of this host. */
export const abiVersion = 3;

export type Message = Map<string, Uint8Array>;

/** What each call takes and gives beside bytes: the JSON of Go's package guest. */
export interface CompileOptions {
  stage: "generate" | "encode" | "decode";
  batch: number;
  dtype: string;
  limits?: import("./program.js").Limits;
}
export interface FeedOptions {
  name: string;
  field: string;
  seed: number;
  draw: number;
}
export interface FeedInfo {
  prompts: number;
  texts: number;
  cycled: boolean;
  sha256: string;
}
export interface FinishOptions {
  format: "peft" | "gguf";
  tool: string;
  prompts_sha256: string;
  seed: number;
  draw: number;
  backend: string;
}
export interface Report {
  /**
   * How far the prompts are from the generator's training tasks, where it knows them, and what
   * the adapter's alpha was multiplied by for that.
   */
  nearest?: { task: string; distance: number; limit: number; far: boolean; scale: number };
  layers: { layer: number; norm: number; modules: { name: string; norm: number }[] }[];
}

export interface AnswerOptions {
  prompt: string;
  system: string;
  length: number;
  base_bytes: number;
  limits?: import("./program.js").Limits;
}
export interface AnswerInfo {
  prompt: number[];
  read: number;
  ends: number[];
  factor: number[];
  tensors: { name: string; file: "base" | "adapter"; type: string; offset: number; bytes: number }[];
}

export type Call = "compile" | "feed" | "finish" | "answer";

interface Exports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  abi_version(): number;
  alloc(n: number): number;
  free(ptr: number): void;
  compile(ptr: number, n: number): bigint;
  feed(ptr: number, n: number): bigint;
  finish(ptr: number, n: number): bigint;
  answer(ptr: number, n: number): bigint;
}

/** Guest is one instance of the module. It is used by one caller at a time. */
export class Guest {
  private readonly module: WebAssembly.Module;
  private instance: Exports | undefined;
  private messages: () => string = () => "";

  constructor(module: WebAssembly.Module) {
    this.module = module;
  }

  private async exports(): Promise<Exports> {
    if (this.instance) return this.instance;
    const wasi = imports();
    this.messages = wasi.stderr;
    const made = await WebAssembly.instantiate(this.module, { wasi_snapshot_preview1: wasi.functions });
    const e = made.exports as unknown as Exports;
    wasi.bind(e.memory);
    e._initialize();
    const version = e.abi_version();
    if (version !== abiVersion) throw new Error(`dnd.wasm speaks version ${version} of the guest's ABI, this page version ${abiVersion}: reload both`);
    this.instance = e;
    return e;
  }

  /** Calls the guest. A trap throws the instance away; the next call has a new one. */
  async call(name: Call, message: Message): Promise<Message> {
    const e = await this.exports();
    let result: Message;
    try {
      const raw = encode(message);
      const ptr = e.alloc(raw.length);
      if (ptr === 0) throw new Refused(`dnd.wasm: a message of ${raw.length} bytes was refused`);
      new Uint8Array(e.memory.buffer).set(raw, ptr >>> 0);
      const packed = e[name](ptr, raw.length);
      e.free(ptr);
      const at = Number(BigInt.asUintN(32, packed >> 32n));
      const n = Number(BigInt.asUintN(32, packed));
      if (at + n > e.memory.buffer.byteLength) throw new Error(`dnd.wasm: ${name} answered with ${n} bytes at ${at}, outside of its memory`);
      result = decode(new Uint8Array(e.memory.buffer, at, n).slice());
      e.free(at | 0);
    } catch (err) {
      if (err instanceof Refused) throw err;
      this.instance = undefined;
      throw new Error(`dnd.wasm: ${name} failed: ${(err as Error).message} ${this.messages()}`.trim());
    }
    const failed = result.get("error");
    if (failed) throw new Error(text(failed));
    return result;
  }
}

class Refused extends Error {}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export const bytes = (s: string): Uint8Array => encoder.encode(s);
export const text = (b: Uint8Array): string => decoder.decode(b);
export const json = (v: unknown): Uint8Array => bytes(JSON.stringify(v));

/** The part of that name. */
export function need(m: Message, name: string): Uint8Array {
  const part = m.get(name);
  if (!part) throw new Error(`dnd.wasm: the answer has no part ${name}`);
  return part;
}

export function encode(m: Message): Uint8Array {
  const parts = [...m].map(([name, data]) => [bytes(name), data] as const);
  let size = 4;
  for (const [name, data] of parts) size += 8 + name.length + data.length;
  const out = new Uint8Array(size);
  const view = new DataView(out.buffer);
  let at = 0;
  const word = (n: number): void => {
    view.setUint32(at, n, true);
    at += 4;
  };
  word(parts.length);
  for (const pair of parts) {
    for (const part of pair) {
      word(part.length);
      out.set(part, at);
      at += part.length;
    }
  }
  return out;
}

/** The inverse of encode. Parts share raw's memory. */
export function decode(raw: Uint8Array): Message {
  const view = new DataView(raw.buffer, raw.byteOffset, raw.length);
  let at = 0;
  const word = (): number => {
    if (at + 4 > raw.length) throw new Error("message: cut short");
    at += 4;
    return view.getUint32(at - 4, true);
  };
  const take = (): Uint8Array => {
    const n = word();
    if (n > raw.length - at) throw new Error("message: a part is longer than the message");
    at += n;
    return raw.subarray(at - n, at);
  };
  const m: Message = new Map();
  for (let count = word(); count > 0; count--) {
    const name = text(take());
    if (m.has(name)) throw new Error(`message: two parts ${name.slice(0, 64)}`);
    m.set(name, take());
  }
  if (at !== raw.length) throw new Error("message: bytes behind the last part");
  return m;
}
