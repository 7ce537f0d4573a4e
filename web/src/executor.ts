// Runs Programs on navigator.gpu: the browser's side of what package gpu is natively. It
// knows buffers, kernels and dispatches, and nothing of generators.
//
// Buffers are made before the first dispatch that binds them and destroyed after the last;
// weights stream into them in pieces. Dispatches go out in submits of about submitTime, so
// that a display's watchdog, Cancel and progress all see short work.

import { type Buffer, type Dispatch, type Limits, type Program, units } from "./program.js";

export interface WeightSource {
  read(name: string, dtype: string, offset: number, n: number): Promise<Uint8Array>;
}

export interface RunResult {
  outputs: Map<string, Uint8Array>;
  stages: { stage: string; seconds: number }[];
  peakBytes: number;
}

/** A Program that stays on a device: its weights come and its stage once runs with the first run, and every buffer but the inputs keeps its contents. */
export interface Held {
  /**
   * Runs the dispatches of one stage once more, with the inputs that they bind, and hands back
   * the reads of buffers that they bind. After an error it can not go on.
   */
  run(stage: string, inputs: Map<string, Uint8Array>, signal?: AbortSignal, report?: (p: RunProgress) => void): Promise<RunResult>;
  close(): void;
}

/** Progress counts multiply-accumulates. */
export interface RunProgress {
  stage: string;
  done: number;
  total: number;
}

/** What went wrong with the device, for a page to say in plain words. */
export class GPUProblem extends Error {
  readonly kind: "missing" | "lost" | "memory" | "limits" | "invalid";
  constructor(kind: GPUProblem["kind"], message: string) {
    super(message);
    this.kind = kind;
  }
}

const submitTime = 60; // ms
const firstSubmit = 2e8; // multiply-accumulates, before the device's speed is known
const launchCost = 1e6; // what a dispatch weighs at least
const pieceBytes = 8 << 20; // of a tensor in memory at a time, at most
const deadBytes = 192 << 20; // of buffers that wait for their last dispatch

/** The limits that Programs may be planned with. */
export const limitNames = {
  max_buffer_size: "maxBufferSize",
  max_storage_buffer_binding_size: "maxStorageBufferBindingSize",
  max_storage_buffers_per_shader_stage: "maxStorageBuffersPerShaderStage",
  max_compute_workgroups_per_dimension: "maxComputeWorkgroupsPerDimension",
  max_compute_invocations_per_workgroup: "maxComputeInvocationsPerWorkgroup",
  max_compute_workgroup_storage_size: "maxComputeWorkgroupStorageSize",
} as const satisfies Record<Exclude<keyof Limits, Feature>, keyof GPUSupportedLimits>;

/** The features that Programs may use. */
type Feature = "shader_f16" | "subgroups";
const features: readonly GPUFeatureName[] = ["shader-f16", "subgroups"];

/** Device is a GPU and its compiled kernels. */
export class Device {
  readonly name: string;
  readonly software: boolean;
  readonly limits: Limits;
  /** Settles with the reason once the device is gone. */
  readonly lost: Promise<string>;
  private gone: string | undefined;
  private readonly device: GPUDevice;
  private readonly pipelines = new Map<string, Promise<GPUComputePipeline>>();

  private constructor(adapter: GPUAdapter, device: GPUDevice) {
    const info = adapter.info;
    this.name = info.description || [info.vendor, info.architecture].filter(Boolean).join(" ") || "WebGPU device";
    this.software = info.isFallbackAdapter || /swiftshader|llvmpipe|software|basic render/i.test(`${this.name} ${info.architecture}`);
    this.device = device;
    this.limits = {
      ...(Object.fromEntries(Object.entries(limitNames).map(([ours, theirs]) => [ours, device.limits[theirs]])) as Record<keyof typeof limitNames, number>),
      shader_f16: device.features.has("shader-f16"),
      // A kernel has to know which subgroup it is in, which came later.
      subgroups: device.features.has("subgroups") && navigator.gpu.wgslLanguageFeatures.has("subgroup_id"),
    };
    this.lost = device.lost.then((l) => (this.gone = l.message || l.reason || "unknown reason"));
  }

  /** Opens the best device. A GPUProblem of kind "missing" says that there is none. */
  static async open(): Promise<Device> {
    if (!navigator.gpu) throw new GPUProblem("missing", "this browser has no WebGPU");
    const adapter = (await navigator.gpu.requestAdapter({ powerPreference: "high-performance" })) ?? (await navigator.gpu.requestAdapter());
    if (!adapter) throw new GPUProblem("missing", "this browser offers no GPU");
    // WebGPU's guaranteed limits, raised only where a Program can be the faster for it.
    const raised = Math.min(adapter.limits.maxBufferSize, adapter.limits.maxStorageBufferBindingSize, 1 << 30);
    const requiredLimits = { maxStorageBufferBindingSize: Math.max(raised, 128 << 20), maxBufferSize: Math.max(raised, 256 << 20) };
    try {
      return new Device(adapter, await adapter.requestDevice({ requiredLimits, requiredFeatures: features.filter((f) => adapter.features.has(f)) }));
    } catch (err) {
      throw new GPUProblem("limits", `the GPU could not be opened: ${(err as Error).message}`);
    }
  }

  close(): void {
    this.device.destroy();
  }

  /** Runs a checked Program. It stops soon after the signal is aborted, with its reason. */
  async run(p: Program, weights: WeightSource, inputs: Map<string, Uint8Array>, signal?: AbortSignal, report?: (p: RunProgress) => void): Promise<RunResult> {
    this.fits(p);
    const run = new Run(this, this.device, p, weights, false);
    try {
      return await this.told(run.execute(inputs, signal, report), signal);
    } finally {
      run.release();
    }
  }

  /** Keeps a checked Program on the device. */
  hold(p: Program, weights: WeightSource): Held {
    this.fits(p);
    const run = new Run(this, this.device, p, weights, true);
    return { run: (stage, inputs, signal, report) => this.told(run.execute(inputs, signal, report, stage), signal), close: () => run.release() };
  }

  private fits(p: Program): void {
    for (const [name, need] of Object.entries(p.requires) as [keyof Limits, number | boolean][]) {
      if (Number(need) > Number(this.limits[name] ?? 0)) throw new GPUProblem("limits", `the program needs ${name} ${need}, this GPU has ${this.limits[name]}`);
    }
  }

  /** A run's result; its error names the device's loss if that is the cause. */
  private async told(result: Promise<RunResult>, signal: AbortSignal | undefined): Promise<RunResult> {
    try {
      return await result;
    } catch (err) {
      if (this.gone !== undefined && !signal?.aborted) throw new GPUProblem("lost", `the GPU was lost: ${this.gone}`);
      throw err;
    }
  }

  /** The pipeline of a kernel. */
  pipeline(code: string, entry: string, label: string): Promise<GPUComputePipeline> {
    const key = `${entry} ${code}`;
    let made = this.pipelines.get(key);
    if (!made) {
      const module = this.device.createShaderModule({ code, label });
      made = this.device.createComputePipelineAsync({ label, layout: "auto", compute: { module, entryPoint: entry } }).catch(async (err: Error) => {
        const first = (await module.getCompilationInfo()).messages.find((m) => m.type === "error");
        throw new GPUProblem("invalid", `kernel ${label}: ${first ? `line ${first.lineNum}: ${first.message}` : err.message}`);
      });
      this.pipelines.set(key, made);
    }
    return made;
  }
}

class Run {
  private readonly buffers: (GPUBuffer | undefined)[] = [];
  private readonly groups: GPUBindGroup[] = []; // of the dispatches, where they are kept
  private readonly copies = new Map<number, GPUBuffer>(); // readback buffers by size, likewise
  private readonly last = new Map<number, number>(); // the last dispatch that binds each buffer
  private inputs = new Map<string, Uint8Array>();
  private signal: AbortSignal | undefined;
  private report: ((p: RunProgress) => void) | undefined;
  private prepared = false; // the dispatches that run once have run
  private stages: { stage: string; seconds: number }[] = [];
  private dead: number[] = [];
  private deadSize = 0;
  private live = 0;
  private peak = 0;
  private encoder: GPUCommandEncoder | undefined;
  private pass: GPUComputePassEncoder | undefined;
  private cost = 0;
  private load = 0;
  private budget = firstSubmit;
  private done = 0;
  private total = 0;
  private flying: Promise<void> | undefined;

  constructor(private readonly owner: Device, private readonly device: GPUDevice, private readonly p: Program, private readonly weights: WeightSource,
    private readonly keep: boolean) {
    p.dispatches.forEach((d, i) => d.binds.forEach((b) => this.last.set(b.buffer, keep && !this.first(d) ? p.dispatches.length : i)));
    for (const r of p.reads) this.last.set(r.buffer, p.dispatches.length);
  }

  /** Says whether a dispatch is one of those that run once where the Program is held. */
  private first(d: Dispatch): boolean {
    return this.p.once !== undefined && d.stage === this.p.once;
  }

  /** Runs all dispatches, or those of a stage. */
  async execute(inputs: Map<string, Uint8Array>, signal?: AbortSignal, report?: (p: RunProgress) => void, stage?: string): Promise<RunResult> {
    const p = this.p;
    const todo = [...p.dispatches.entries()].filter(([, d]) => stage === undefined || (this.first(d) ? !this.prepared : d.stage === stage));
    if (stage !== undefined && !p.dispatches.some((d) => d.stage === stage)) throw new Error(`the held program has no stage ${stage.slice(0, 64)}`);
    this.report = report;
    const bound = new Set(todo.filter(([, d]) => stage === undefined || d.stage === stage).flatMap(([, d]) => d.binds.map((b) => b.buffer)));
    [this.inputs, this.signal, this.stages, this.done] = [inputs, signal, [], 0];
    this.total = todo.reduce((sum, [, d]) => sum + d.cost, 0);
    for (const [i, made] of this.buffers.entries()) {
      if (made && bound.has(i) && p.buffers[i]!.source.kind === "input") await this.fill(p.buffers[i]!, made);
    }
    const pipelines = await Promise.all(p.kernels.map((k) => this.owner.pipeline(k.wgsl, k.entry, k.label)));
    let started = performance.now();
    let before: Dispatch | undefined;
    for (const [i, d] of todo) {
      if (before && d.stage !== before.stage) started = await this.clock(before.stage, started);
      before = d;
      await this.dispatch(i, d, pipelines[d.kernel]!);
      for (const b of d.binds) {
        if (this.last.get(b.buffer) === i && !this.dead.includes(b.buffer)) {
          this.dead.push(b.buffer);
          this.deadSize += p.buffers[b.buffer]!.bytes;
        }
      }
      if (this.load >= this.budget || this.deadSize >= deadBytes) await this.submit(d.stage);
    }
    this.prepared = true;
    // A held Program's runs are short: the next waits for their work anyway.
    if (before) await (this.keep ? this.submit(before.stage) : this.clock(before.stage, started));
    const outputs = new Map<string, Uint8Array>();
    for (const r of stage === undefined ? p.reads : p.reads.filter((r) => bound.has(r.buffer))) {
      const data = await this.read(r.buffer, r.offset ?? 0, r.bytes);
      const before = outputs.get(r.name);
      if (!before) outputs.set(r.name, data);
      else {
        const joined = new Uint8Array(before.length + data.length);
        joined.set(before);
        joined.set(data, before.length);
        outputs.set(r.name, joined);
      }
    }
    await this.land();
    return { outputs, stages: this.stages, peakBytes: this.peak };
  }

  /** Adds the time since started to a stage, once all its work is done. */
  private async clock(stage: string, started: number): Promise<number> {
    await this.submit(stage);
    await this.land();
    const now = performance.now();
    const seconds = (now - started) / 1000;
    const known = this.stages.find((s) => s.stage === stage);
    if (known) known.seconds += seconds;
    else this.stages.push({ stage, seconds });
    return now;
  }

  private async dispatch(i: number, d: Dispatch, pipeline: GPUComputePipeline): Promise<void> {
    let group = this.groups[i];
    if (!group) {
      const entries: GPUBindGroupEntry[] = [];
      for (const [binding, b] of d.binds.entries()) entries.push({ binding, resource: { buffer: await this.buffer(b.buffer), offset: b.offset ?? 0, size: b.bytes } });
      group = this.device.createBindGroup({ label: d.label, layout: pipeline.getBindGroupLayout(0), entries });
      if (this.keep && !this.first(d)) this.groups[i] = group;
    }
    if (!this.encoder) {
      this.device.pushErrorScope("validation");
      this.encoder = this.device.createCommandEncoder();
      this.pass = this.encoder.beginComputePass();
    }
    this.pass!.setPipeline(pipeline);
    this.pass!.setBindGroup(0, group);
    this.pass!.dispatchWorkgroups(...d.groups);
    this.cost += d.cost;
    this.load += Math.max(d.cost, launchCost);
  }

  /** Sends the open work off, once what went before is done. */
  private async submit(stage: string): Promise<void> {
    await this.land();
    this.signal?.throwIfAborted();
    if (!this.encoder) return;
    this.pass!.end();
    this.device.queue.submit([this.encoder.finish()]);
    const scope = this.device.popErrorScope();
    this.encoder = this.pass = undefined;
    const { cost, load, dead } = this;
    [this.cost, this.load, this.dead, this.deadSize] = [0, 0, [], 0];
    const started = performance.now();
    this.flying = Promise.race([this.device.queue.onSubmittedWorkDone(), this.owner.lost]).then(async (lost) => {
      const error = await scope;
      if (error) throw new GPUProblem("invalid", error.message);
      if (lost !== undefined) throw new GPUProblem("lost", lost);
      this.budget = Math.max((load * submitTime) / Math.max(performance.now() - started, 0.1), launchCost);
      for (const i of dead) this.destroy(i);
      this.done += cost;
      this.report?.({ stage, done: Math.min(this.done, this.total), total: this.total });
    });
    this.flying.catch(() => undefined); // land tells
  }

  private async land(): Promise<void> {
    const flying = this.flying;
    this.flying = undefined;
    await flying;
  }

  /** The buffer, made and filled if this is its first use. */
  private async buffer(i: number): Promise<GPUBuffer> {
    let made = this.buffers[i];
    if (made) return made;
    const b = this.p.buffers[i]!;
    const usage = (b.uniform ? GPUBufferUsage.UNIFORM : GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC) | GPUBufferUsage.COPY_DST;
    made = await this.create(b.label, b.bytes, usage);
    this.buffers[i] = made;
    this.live += b.bytes;
    this.peak = Math.max(this.peak, this.live);
    await this.fill(b, made);
    return made;
  }

  private async create(label: string, size: number, usage: number): Promise<GPUBuffer> {
    this.device.pushErrorScope("out-of-memory");
    const made = this.device.createBuffer({ label, size, usage });
    const error = await this.device.popErrorScope();
    if (error) throw new GPUProblem("memory", `the GPU has no memory for ${size} bytes of ${label}`);
    return made;
  }

  private async fill(b: Buffer, made: GPUBuffer): Promise<void> {
    const s = b.source;
    if (s.kind === "inline") this.write(made, 0, new Uint8Array(new Uint32Array(s.words!).buffer));
    if (s.kind === "input") {
      const data = this.inputs.get(s.name!);
      const offset = s.offset ?? 0;
      if (!data || offset + s.bytes! > data.length) throw new Error(`the program needs ${s.bytes} bytes at ${offset} of the input ${s.name}`);
      this.write(made, 0, data.subarray(offset, offset + s.bytes!));
    }
    if (s.kind === "weights") {
      const piece = Math.floor(pieceBytes / units[s.dtype!]!) * units[s.dtype!]!;
      for (let at = 0; at < s.bytes!; at += piece) {
        this.signal?.throwIfAborted();
        this.write(made, at, await this.weights.read(s.name!, s.dtype!, (s.offset ?? 0) + at, Math.min(piece, s.bytes! - at)));
      }
    }
  }

  /** Queues a write, of whole words. */
  private write(to: GPUBuffer, at: number, data: Uint8Array): void {
    if (data.length % 4 !== 0) {
      const padded = new Uint8Array(Math.ceil(data.length / 4) * 4);
      padded.set(data);
      data = padded;
    }
    this.device.queue.writeBuffer(to, at, data as Uint8Array<ArrayBuffer>);
  }

  private async read(i: number, offset: number, bytes: number): Promise<Uint8Array> {
    const copy = this.copies.get(bytes) ?? (await this.create("readback", bytes, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST));
    if (this.keep) this.copies.set(bytes, copy);
    try {
      const encoder = this.device.createCommandEncoder();
      encoder.copyBufferToBuffer(await this.buffer(i), offset, copy, 0, bytes);
      this.device.queue.submit([encoder.finish()]);
      await copy.mapAsync(GPUMapMode.READ);
      const data = new Uint8Array(copy.getMappedRange()).slice();
      copy.unmap();
      return data;
    } finally {
      if (!this.keep) copy.destroy();
    }
  }

  private destroy(i: number): void {
    const b = this.buffers[i];
    if (!b) return;
    b.destroy();
    this.buffers[i] = undefined;
    this.live -= this.p.buffers[i]!.bytes;
  }

  release(): void {
    if (this.encoder) {
      this.pass!.end();
      this.encoder.finish();
      void this.device.popErrorScope().catch(() => undefined);
    }
    this.p.buffers.forEach((_, i) => this.destroy(i));
    for (const copy of this.copies.values()) copy.destroy();
    this.copies.clear();
  }
}
