// A generator that is ready: its files, the guest and a device. From here data goes the
// way of the design: prompts -> text tokens -> condition -> weight tokens -> adapter.

import { type AnswerInfo, type AnswerOptions, type FeedInfo, type FinishOptions, Guest, json, need, type Report, text } from "./abi.js";
import { Device, GPUProblem, type Held, type RunProgress, type RunResult } from "./executor.js";
import { answer, type Answers, pieces, stepWeights } from "./llama.js";
import { type Limits, parse, type Program } from "./program.js";
import { type DownloadProgress, openFile, type Package } from "./store.js";
import { type Ranged, Weights } from "./weights.js";

export interface GenerateOptions {
  /** The prompts' file: its ending (.txt, .jsonl, .json, .csv) says how it is read. */
  name: string;
  data: Uint8Array;
  /** Key of a record's prompt, "prompt" if empty. */
  field?: string;
  format?: "peft" | "gguf";
  seed?: number;
  draw?: number;
}

export interface AnswerRequest {
  /** The base model's GGUF file: its URL, or the file. */
  base: string | File;
  /** The user's turn, and the system's, the model's own if it is missing. */
  prompt: string;
  system?: string;
  /** The most tokens of an answer, 128 if it is missing. */
  tokens?: number;
}

/** An adapter: its files by name, and what is worth knowing of it. */
export interface Adapter {
  files: Record<string, Uint8Array>;
  report: Report;
  prompts: FeedInfo;
  device: string;
  software: boolean;
  stages: { stage: string; seconds: number }[];
  peakBytes: number;
}

const maxHead = 16 << 20; // of a base model's file: its metadata and table of contents
const maxHalvings = 3; // of what is on the device at a time
const positions = 512; // of prompt and answer

export class Session {
  private device: Device | undefined;
  private program: Program | undefined;
  private last: { tokens: Uint8Array; options: FinishOptions } | undefined; // the adapter that was made
  private base: { place: string | File; file: Ranged } | undefined;
  private step: { program: string; adapter: Uint8Array; held: Held } | undefined; // on the device

  private constructor(private readonly guest: Guest, private readonly pack: Package, private readonly weights: Weights) {}

  static async open(wasm: WebAssembly.Module, pack: Package): Promise<Session> {
    const m = pack.manifest;
    if (!m.encoder || !m.base) throw new Error(`the generator ${m.name} has no text encoder or names no base model: it only decodes`);
    const dir = m.encoder.dir === "" ? "" : `${m.encoder.dir}/`;
    const files = m.files.map((f) => f.path).filter((path) => path.endsWith(".safetensors"));
    const weights = await Weights.open(pack, files.map((path) => ({ path, prefix: path.startsWith(dir) && dir !== "" ? "encoder/" : "decoder/" })));
    return new Session(new Guest(wasm), pack, weights);
  }

  async generate(o: GenerateOptions, signal: AbortSignal, report: (p: RunProgress) => void): Promise<Adapter> {
    const manifest = this.pack.raw;
    const started = performance.now();
    const vocabulary = await this.vocabulary();
    const fed = await this.guest.call("feed", new Map([["manifest", manifest], ...vocabulary, ["prompts", o.data],
      ["options", json({ name: o.name, field: o.field ?? "", seed: o.seed ?? 0, draw: o.draw ?? 0 })]]));
    const prompts = JSON.parse(text(need(fed, "info"))) as FeedInfo;
    signal.throwIfAborted();
    const device = await this.open();
    const dtype = this.weights.common();
    this.program ??= await this.plan(dtype, device.limits);
    const planned = performance.now();
    const ran = await this.run(device, dtype, new Map([["ids", need(fed, "ids")], ["mask", need(fed, "mask")]]), signal, report);
    const tokens = ran.outputs.get("tokens");
    if (!tokens) throw new Error("the program gave no weight tokens");
    const finishing = performance.now();
    const options: FinishOptions = { format: o.format ?? "peft", tool: "dnd web", prompts_sha256: prompts.sha256, seed: o.seed ?? 0, draw: o.draw ?? 0, backend: `webgpu in a browser, ${device.name}` };
    this.last = { tokens, options };
    const parts: [string, Uint8Array][] = [["manifest", manifest], ["tokens", tokens], ["options", json(options)]];
    const condition = ran.outputs.get("condition");
    if (condition) parts.push(["condition", condition], ["mask", need(fed, "mask")]);
    const finished = await this.guest.call("finish", new Map(parts));
    // Copies, since the parts of an answer share memory and a file's is handed on.
    const files = Object.fromEntries([...finished].filter(([name]) => name.startsWith("file/")).map(([name, data]) => [name.slice("file/".length), data.slice()]));
    return {
      files,
      report: JSON.parse(text(need(finished, "report"))) as Report,
      prompts,
      device: device.name,
      software: device.software,
      stages: [{ stage: "read and plan", seconds: (planned - started) / 1000 }, ...ran.stages, { stage: "write", seconds: (performance.now() - finishing) / 1000 }],
      peakBytes: ran.peakBytes,
    };
  }

  /** Runs the Program. Where the GPU's memory does not suffice, it is planned anew in smaller pieces, as Go's generator.InPieces does. */
  private async run(device: Device, dtype: string, inputs: Map<string, Uint8Array>, signal: AbortSignal, report: (p: RunProgress) => void): Promise<RunResult> {
    for (let halvings = 0; ; halvings++) {
      try {
        return await device.run(this.program!, this.weights, inputs, signal, report);
      } catch (err) {
        if (!(err instanceof GPUProblem) || err.kind !== "memory" || halvings === maxHalvings || !this.program) throw err;
        const whole = this.program.buffers.reduce((most, b) => Math.max(most, b.bytes), 0);
        this.program = await this.plan(dtype, { ...device.limits, max_storage_buffer_binding_size: Math.floor(whole / 2) }).catch(() => {
          throw err;
        });
      }
    }
  }

  private async plan(dtype: string, limits: Limits): Promise<Program> {
    const options = json({ stage: "generate", batch: 1, dtype, limits });
    const planned = await this.guest.call("compile", new Map([["manifest", this.pack.raw], ["options", options]])).catch((err: Error) => {
      throw new GPUProblem("limits", err.message); // the manifest has been read before: what is left is the device
    });
    return parse(text(need(planned, "program")));
  }

  /** The base model's answers to a prompt, without and with the adapter that was made last. */
  async answer(o: AnswerRequest, signal: AbortSignal, report: (p: DownloadProgress) => void, say: (row: "base" | "adapter", piece: string) => void): Promise<Answers & { device: string; software: boolean }> {
    if (!this.last) throw new Error("no adapter was generated yet");
    const tokens = o.tokens ?? 128;
    if (!Number.isSafeInteger(tokens) || tokens < 1) throw new Error(`an answer of ${tokens} tokens, expected at least 1`);
    if (this.base?.place !== o.base) {
      this.drop();
      this.base = { place: o.base, file: await openFile(o.base, signal, report) };
    }
    const file = this.base.file;
    const finished = await this.guest.call("finish", new Map([["manifest", this.pack.raw], ["tokens", this.last.tokens], ["options", json({ ...this.last.options, format: "gguf" })]]));
    const adapter = need(finished, "file/adapter.gguf");
    const device = await this.open();
    const options: AnswerOptions = { prompt: o.prompt, system: o.system ?? "", length: positions, base_bytes: file.size, limits: device.limits };
    const planned = await this.guest.call("answer", new Map([["base", await file.read(0, Math.min(maxHead, file.size))], ["adapter", adapter], ["options", json(options)]]));
    const info = JSON.parse(text(need(planned, "info"))) as AnswerInfo;
    const vocabulary = pieces(need(planned, "pieces"));
    signal.throwIfAborted();
    // Another prompt has the same Program: what is on the device serves again.
    const program = text(need(planned, "program"));
    if (!this.step || this.step.program !== program || !equal(this.step.adapter, adapter)) {
      this.drop();
      const weights = stepWeights(info.tensors, { base: file, adapter: { size: adapter.length, read: async (offset, n) => adapter.subarray(offset, offset + n) } },
        (done, total) => report({ path: "", done, total }));
      this.step = { program, adapter, held: device.hold(parse(program), weights) };
    }
    try {
      return { ...(await answer(this.step.held, info, vocabulary, Math.min(tokens, positions - info.prompt.length + 1), signal, say)), device: device.name, software: device.software };
    } catch (err) {
      this.drop();
      throw err;
    }
  }

  /** Takes the base model off the device. */
  private drop(): void {
    this.step?.held.close();
    this.step = undefined;
  }

  /** The device; a new one if the last was lost. */
  private async open(): Promise<Device> {
    if (!this.device) {
      const device = await Device.open();
      this.device = device;
      void device.lost.then(() => {
        if (this.device === device) this.device = this.program = this.step = undefined;
      });
    }
    return this.device;
  }

  private async vocabulary(): Promise<[string, Uint8Array][]> {
    const dir = this.pack.manifest.encoder!.dir;
    const file = async (name: string): Promise<Uint8Array | undefined> => {
      const path = dir === "" ? name : `${dir}/${name}`;
      return this.pack.manifest.files.some((f) => f.path === path) ? this.pack.read(path, 0, this.pack.size(path)) : undefined;
    };
    const tokenizer = await file("tokenizer.json");
    if (tokenizer) return [["tokenizer", tokenizer]];
    const vocab = await file("vocab.txt");
    if (!vocab) throw new Error("the generator's text encoder has neither tokenizer.json nor vocab.txt");
    const config = await file("tokenizer_config.json");
    return config ? [["vocab", vocab], ["tokenizer_config", config]] : [["vocab", vocab]];
  }

  close(): void {
    this.device?.close();
  }
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((v, i) => v === b[i]);
}
