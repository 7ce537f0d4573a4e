/**
 * Generates LoRA adapters in the browser. Prompts never leave it.
 *
 * ```ts
 * import { Generator } from "@dnd/web";
 * const generator = await Generator.open("/generator/", { onProgress: (p) => console.log(p.done, p.total) });
 * const adapter = await generator.generate({ name: "prompts.txt", data: new TextEncoder().encode("…") });
 * adapter.files["adapter_model.safetensors"];
 * await generator.answer({ base: "/base.gguf", prompt: "…" }, { onText: (row, piece) => console.log(row, piece) });
 * generator.close();
 * ```
 *
 * The work is done in a worker, worker.js beside this module; it loads dnd.wasm from there
 * too, unless it is told other places.
 */

import type { Adapter, AnswerRequest, GenerateOptions } from "./session.js";
import type { Answers } from "./llama.js";
import type { RunProgress } from "./executor.js";
import type { DownloadProgress, Manifest, Place } from "./store.js";
import type { Reply, Request } from "./worker.js";

export type { Adapter, AnswerRequest, Answers, DownloadProgress, GenerateOptions, Manifest, Place, RunProgress };
export type { FeedInfo, Report } from "./abi.js";

/** What went wrong; problem says whether it was the GPU, or that the user cancelled. */
export class GenerateError extends Error {
  readonly problem: "missing" | "lost" | "memory" | "limits" | "invalid" | "cancelled" | undefined;
  constructor(message: string, problem: GenerateError["problem"]) {
    super(message);
    this.problem = problem;
  }
}

export interface OpenOptions {
  worker?: URL | string;
  wasm?: URL | string;
  signal?: AbortSignal;
  onProgress?: (p: DownloadProgress) => void;
}

export class Generator {
  private constructor(private readonly work: Work, readonly manifest: Manifest) {}

  /** Opens the generator at a URL, or in the files of a folder. */
  static async open(place: Place, o: OpenOptions = {}): Promise<Generator> {
    const work = new Work(o.worker ?? new URL("./worker.js", import.meta.url));
    const wasm = new URL(o.wasm ?? new URL("./dnd.wasm", import.meta.url), document.baseURI).href;
    try {
      const absolute = typeof place === "string" ? new URL(place, document.baseURI).href : place;
      return new Generator(work, (await work.ask({ do: "open", wasm, place: absolute }, o.signal, (p) => o.onProgress?.(p as DownloadProgress))) as Manifest);
    } catch (err) {
      work.end();
      throw err;
    }
  }

  /** Makes an adapter of prompts. One at a time. */
  async generate(options: GenerateOptions, o: { signal?: AbortSignal; onProgress?: (p: RunProgress) => void } = {}): Promise<Adapter> {
    return (await this.work.ask({ do: "generate", options }, o.signal, (p) => o.onProgress?.(p as RunProgress))) as Adapter;
  }

  /**
   * Lets the base model answer a prompt without and with the adapter that was generated last.
   * onText is called with each piece of an answer as it comes.
   */
  async answer(options: AnswerRequest, o: { signal?: AbortSignal; onProgress?: (p: DownloadProgress) => void; onText?: (row: "base" | "adapter", piece: string) => void } = {}): Promise<Answers & { device: string; software: boolean }> {
    return (await this.work.ask({ do: "answer", options }, o.signal, (p) => {
      const said = p as DownloadProgress | { row: "base" | "adapter"; piece: string };
      if ("row" in said) o.onText?.(said.row, said.piece);
      else o.onProgress?.(said);
    })) as Answers & { device: string; software: boolean };
  }

  close(): void {
    this.work.end();
  }
}

type Ask = Request extends infer R ? (R extends { id: number } ? Omit<R, "id"> : never) : never;

/** The worker's other end. */
class Work {
  private readonly worker: Worker;
  private next = 0;
  private readonly open = new Map<number, { done: (v: unknown) => void; failed: (e: Error) => void; progress: (p: unknown) => void }>();

  constructor(url: URL | string) {
    this.worker = new Worker(url, { type: "module" });
    this.worker.onmessage = (e: MessageEvent<Reply>) => {
      const r = e.data;
      const call = this.open.get(r.id);
      if (!call) return;
      if ("progress" in r) return call.progress(r.progress);
      this.open.delete(r.id);
      if ("done" in r) call.done(r.done);
      else call.failed(new GenerateError(r.failed, r.problem));
    };
    this.worker.onerror = (e) => {
      e.preventDefault();
      for (const call of this.open.values()) call.failed(new GenerateError(e.message || "the worker could not be started", undefined));
      this.open.clear();
    };
  }

  ask(request: Ask, signal: AbortSignal | undefined, progress: (p: unknown) => void): Promise<unknown> {
    const id = this.next++;
    const cancel = (): void => this.worker.postMessage({ id, do: "cancel" } satisfies Request);
    return new Promise((done, failed) => {
      this.open.set(id, { done, failed, progress });
      this.worker.postMessage({ id, ...request });
      if (signal?.aborted) cancel();
      signal?.addEventListener("abort", cancel, { once: true });
    }).finally(() => signal?.removeEventListener("abort", cancel));
  }

  end(): void {
    this.worker.terminate();
    for (const call of this.open.values()) call.failed(new GenerateError("closed", "cancelled"));
    this.open.clear();
  }
}
