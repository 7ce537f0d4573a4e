// The worker: everything that takes time happens here, away from the page. index.ts talks
// to it by the messages below.

import { GPUProblem, type RunProgress } from "./executor.js";
import { type Adapter, type AnswerRequest, type GenerateOptions, Session } from "./session.js";
import type { Answers } from "./llama.js";
import { type DownloadProgress, type Manifest, open, type Place } from "./store.js";

export type Request =
  | { id: number; do: "open"; wasm: string; place: Place }
  | { id: number; do: "generate"; options: GenerateOptions }
  | { id: number; do: "answer"; options: AnswerRequest }
  | { id: number; do: "cancel" }; // the request of that id

export type Reply =
  | { id: number; progress: DownloadProgress | RunProgress }
  | { id: number; progress: { row: "base" | "adapter"; piece: string } }
  | { id: number; done: Manifest | Adapter | Answers }
  | { id: number; failed: string; problem: GPUProblem["kind"] | "cancelled" | undefined };

let session: Session | undefined;
const running = new Map<number, AbortController>();
const send = (r: Reply, transfer: Transferable[] = []): void => self.postMessage(r, { transfer });

self.onmessage = async (e: MessageEvent<Request>): Promise<void> => {
  const r = e.data;
  if (r.do === "cancel") {
    running.get(r.id)?.abort(new DOMException("cancelled", "AbortError"));
    return;
  }
  const control = new AbortController();
  running.set(r.id, control);
  try {
    if (r.do === "open") {
      send({ id: r.id, done: await load(r, control.signal) });
      return;
    }
    if (!session) throw new Error("no generator is open");
    if (r.do === "answer") {
      const done = await session.answer(r.options, control.signal, (progress) => send({ id: r.id, progress }), (row, piece) => send({ id: r.id, progress: { row, piece } }));
      send({ id: r.id, done });
    } else {
      const adapter = await session.generate(r.options, control.signal, (progress) => send({ id: r.id, progress }));
      send({ id: r.id, done: adapter }, Object.values(adapter.files).map((f) => f.buffer as ArrayBuffer));
    }
  } catch (err) {
    const problem = control.signal.aborted ? "cancelled" : err instanceof GPUProblem ? err.kind : undefined;
    send({ id: r.id, failed: err instanceof Error ? err.message : String(err), problem });
  } finally {
    running.delete(r.id);
  }
};

async function load(r: Extract<Request, { do: "open" }>, signal: AbortSignal): Promise<Manifest> {
  const [wasm, pack] = await Promise.all([
    fetch(r.wasm, { signal }).then(async (response) => {
      if (!response.ok) throw new Error(`${r.wasm}: the server answered ${response.status} ${response.statusText}`);
      return WebAssembly.compile(await response.arrayBuffer());
    }),
    open(r.place, signal, (progress) => send({ id: r.id, progress })),
  ]);
  const opened = await Session.open(wasm, pack);
  session?.close();
  session = opened;
  return pack.manifest;
}
