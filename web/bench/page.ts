// What run.mjs measures in a page of its own each: the decoder of a generator on this
// library, the same on onnxruntime-web, this library's whole way from prompts to the
// adapter's files, and the base model's answers with it.

import * as ort from "onnxruntime-web/webgpu";

import { Guest, json, need, text } from "../src/abi";
import { Device } from "../src/executor";
import { type Answers, Generator } from "../src/index";
import { parse } from "../src/program";
import { open } from "../src/store";
import { Weights } from "../src/weights";

export interface Figures {
  device?: string;
  /** A value a run; the first one makes pipelines. */
  seconds: number[];
}

const kept = "outputs"; // of the last decoder, for compare

async function repeat(runs: number, work: () => Promise<Float32Array | undefined>): Promise<number[]> {
  const seconds: number[] = [];
  for (let i = 0; i < runs; i++) {
    const begin = performance.now();
    const output = await work();
    seconds.push((performance.now() - begin) / 1000);
    if (output && i === runs - 1) await (await caches.open(kept)).put(location.href, new Response(output.slice().buffer));
  }
  return seconds;
}

async function compare(output: Float32Array): Promise<{ difference: number; scale: number }> {
  const before = await (await caches.open(kept)).match(location.href);
  if (!before) throw new Error("no outputs to compare with");
  const other = new Float32Array(await before.arrayBuffer());
  if (output.length === 0 || output.length !== other.length) throw new Error(`${output.length} and ${other.length} values`);
  let [difference, scale] = [0, 0];
  output.forEach((v, i) => {
    difference = Math.max(difference, Math.abs(v - other[i]!));
    scale = Math.max(scale, Math.abs(v));
  });
  return { difference, scale };
}

const condition = (dims: number[]): Float32Array<ArrayBuffer> => Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i * i));

async function dnd(runs: number): Promise<Figures> {
  const pack = await open("generator/", new AbortController().signal, () => undefined);
  const paths = pack.manifest.files.map((f) => f.path).filter((path) => path.endsWith(".safetensors"));
  const weights = await Weights.open(pack, paths.map((path) => ({ path, prefix: path.startsWith("encoder/") ? "encoder/" : "decoder/" })));
  const guest = new Guest(await WebAssembly.compileStreaming(fetch("dnd.wasm")));
  const device = await Device.open();
  const options = json({ stage: "decode", batch: 1, dtype: weights.common(), limits: device.limits });
  const program = parse(text(need(await guest.call("compile", new Map([["manifest", pack.raw], ["options", options]])), "program")));
  const input = new Uint8Array(condition([pack.manifest.condition.texts, pack.manifest.condition.length, 384]).buffer);
  const seconds = await repeat(runs, async () => {
    const { outputs } = await device.run(program, weights, new Map([["condition", input]]));
    return new Float32Array(outputs.get("tokens")!.slice().buffer);
  });
  return { device: device.name, seconds };
}

async function onnxruntime(runs: number, provider: "webgpu" | "wasm"): Promise<Figures & { difference: number; scale: number }> {
  const { condition: c } = (await (await fetch("generator/generator.json")).json()) as { condition: { texts: number; length: number } };
  const dims = [1, c.texts, c.length, 384];
  const data = condition(dims);
  ort.env.wasm.wasmPaths = new URL("ort/", document.baseURI).href;
  const model = new Uint8Array(await (await fetch("decoder.onnx")).arrayBuffer());
  const session = await ort.InferenceSession.create(model, { executionProviders: [provider] });
  let last = new Float32Array();
  const seconds = await repeat(runs, async () => {
    const { output } = await session.run({ condition: new ort.Tensor("float32", data, dims) });
    last = new Float32Array((await output!.getData()) as Float32Array);
    return undefined;
  });
  return { seconds, ...(await compare(last)) };
}

async function adapter(runs: number, prompts: string): Promise<Figures> {
  const generator = await Generator.open("generator/", { worker: new URL("worker.js", document.baseURI), wasm: new URL("dnd.wasm", document.baseURI) });
  const data = new TextEncoder().encode(prompts);
  const seconds = await repeat(runs, async () => {
    await generator.generate({ name: "prompts.json", data: data.slice() });
    return undefined;
  });
  return { seconds };
}

async function answers(_: number, prompts: string): Promise<Answers> {
  const generator = await Generator.open("generator/", { worker: new URL("worker.js", document.baseURI), wasm: new URL("dnd.wasm", document.baseURI) });
  await generator.generate({ name: "prompts.json", data: new TextEncoder().encode(prompts) });
  const [{ prompt }] = JSON.parse(prompts) as [{ prompt: string }];
  const base = new URL("base.gguf", document.baseURI).href;
  await generator.answer({ base, prompt, tokens: 1 }); // brings the weights
  return generator.answer({ base, prompt });
}

Object.assign(self, { measure: { dnd, onnxruntime, adapter, answers } });
