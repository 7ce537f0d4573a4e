// A generator that is ready: its files, the guest and a device. From here data goes the
// way of the design: prompts -> text tokens -> condition -> weight tokens -> adapter.

import { type FeedInfo, type FinishOptions, Guest, json, need, type Report, text } from "./abi";
import { Device, type RunProgress } from "./executor";
import { parse, type Program } from "./program";
import type { Package } from "./store";
import { Weights } from "./weights";

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

export class Session {
  private device: Device | undefined;
  private program: Program | undefined;

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
    this.program ??= parse(text(need(await this.guest.call("compile", new Map([["manifest", manifest],
      ["options", json({ stage: "generate", batch: 1, dtype, limits: device.limits })]])), "program")));
    const planned = performance.now();
    const ran = await device.run(this.program, this.weights, new Map([["ids", need(fed, "ids")], ["mask", need(fed, "mask")]]), signal, report);
    const tokens = ran.outputs.get("tokens");
    if (!tokens) throw new Error("the program gave no weight tokens");
    const finishing = performance.now();
    const options: FinishOptions = { format: o.format ?? "peft", tool: "dnd web", prompts_sha256: prompts.sha256, seed: o.seed ?? 0, draw: o.draw ?? 0, backend: `webgpu in a browser, ${device.name}` };
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

  /** The device; a new one if the last was lost. */
  private async open(): Promise<Device> {
    if (!this.device) {
      const device = await Device.open();
      this.device = device;
      void device.lost.then(() => {
        if (this.device === device) this.device = this.program = undefined;
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
