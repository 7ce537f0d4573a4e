// A Program: what the guest compiles a generator to, and what the executor runs. Plain
// data; docs/formats.md describes each field. It comes from a guest that may be hostile, so
// check() looks at every size, range and count before anything is allocated.

export interface Program {
  version: number;
  requires: Limits;
  kernels: Kernel[];
  buffers: Buffer[];
  dispatches: Dispatch[];
  reads: Read[];
  /** The stage, first of all, that runs once where the Program is held: it depends on no input. */
  once?: string;
}

/** WebGPU limits, in bytes or counts, and features. */
export interface Limits {
  max_buffer_size: number;
  max_storage_buffer_binding_size: number;
  max_storage_buffers_per_shader_stage: number;
  max_compute_workgroups_per_dimension: number;
  max_compute_invocations_per_workgroup: number;
  max_compute_workgroup_storage_size: number;
  /** Features: WebGPU's "shader-f16", and "subgroups" with WGSL's subgroup_id. */
  shader_f16?: boolean;
  subgroups?: boolean;
}

export type BindType = "uniform" | "read" | "read_write";

export interface Kernel {
  label: string;
  wgsl: string;
  entry: string;
  bindings: BindType[];
}

/** Where a buffer's first contents come from. */
export interface Source {
  kind: "zero" | "weights" | "input" | "inline";
  name?: string;
  dtype?: string;
  offset?: number;
  bytes?: number;
  words?: number[];
}

export interface Buffer {
  label: string;
  bytes: number;
  uniform?: boolean;
  source: Source;
}

export interface Bind {
  buffer: number;
  offset?: number;
  bytes: number;
}

export interface Dispatch {
  label: string;
  kernel: number;
  groups: [number, number, number];
  binds: Bind[];
  stage: string;
  cost: number;
}

export interface Read {
  name: string;
  buffer: number;
  offset?: number;
  bytes: number;
}

/** The version of Programs that this executor runs, and no other. */
export const programVersion = 1;

/** How many bytes a unit of a storage type has that is never cut. */
export const units: Readonly<Record<string, number>> = { F32: 4, F16: 4, Q8: 36, Q4_1: 20 };

const most = { kernels: 1 << 10, buffers: 1 << 20, dispatches: 1 << 20, reads: 1 << 16, bytes: 2 ** 40, text: 1 << 20 };

/** Parses and checks a Program. Errors say what is wrong with which part of it. */
export function parse(text: string): Program {
  const p = JSON.parse(text) as Program;
  check(p);
  return p;
}

function check(p: Program): void {
  if (p?.version !== programVersion) throw new Error(`program: version ${p?.version}, expected ${programVersion}`);
  for (const part of ["kernels", "buffers", "dispatches", "reads"] as const) {
    if (!Array.isArray(p[part]) || p[part].length > most[part]) throw new Error(`program: ${part}: expected a list of at most ${most[part]}`);
  }
  for (const name of ["max_buffer_size", "max_storage_buffer_binding_size", "max_storage_buffers_per_shader_stage",
    "max_compute_workgroups_per_dimension", "max_compute_invocations_per_workgroup", "max_compute_workgroup_storage_size"] as const) {
    if (!whole(p.requires?.[name])) throw new Error(`program: requires.${name} is no whole number`);
  }
  p.kernels.forEach((k, i) => {
    const ok = typeof k.label === "string" && typeof k.wgsl === "string" && k.wgsl.length <= most.text && typeof k.entry === "string" &&
      Array.isArray(k.bindings) && k.bindings.length <= 16 && k.bindings.every((b) => b === "uniform" || b === "read" || b === "read_write");
    if (!ok) throw new Error(`program: kernel ${i}: malformed`);
  });
  let total = 0;
  p.buffers.forEach((b, i) => {
    const where = `program: buffer ${i} (${String(b.label).slice(0, 64)})`;
    if (!whole(b.bytes) || b.bytes === 0 || b.bytes % 4 !== 0) throw new Error(`${where}: ${b.bytes} bytes, expected a positive multiple of 4`);
    if (b.bytes > p.requires.max_buffer_size) throw new Error(`${where}: ${b.bytes} bytes, but requires.max_buffer_size is ${p.requires.max_buffer_size}`);
    total += b.bytes;
    checkSource(b, where);
  });
  if (total > most.bytes) throw new Error(`program: buffers of ${total} bytes`);
  p.dispatches.forEach((d, i) => checkDispatch(p, d, `program: dispatch ${i} (${String(d.label).slice(0, 64)})`));
  checkOnce(p);
  p.reads.forEach((r, i) => {
    const b = p.buffers[r.buffer];
    if (typeof r.name !== "string" || !b || b.uniform || !inside(r, b.bytes)) throw new Error(`program: read ${i}: no range of a storage buffer`);
  });
}

function checkSource(b: Buffer, where: string): void {
  const s = b.source;
  switch (s?.kind) {
    case "zero":
      return;
    case "inline":
      if (!Array.isArray(s.words) || s.words.length * 4 !== b.bytes || !s.words.every(whole)) throw new Error(`${where}: inline words do not fill it`);
      return;
    case "weights":
    case "input": {
      const unit = s.kind === "input" ? 4 : units[s.dtype ?? ""];
      if (!unit) throw new Error(`${where}: type ${s.dtype}, expected F32, F16, Q8 or Q4_1`);
      const offset = s.offset ?? 0;
      const ok = typeof s.name === "string" && s.name !== "" && whole(offset) && offset % unit === 0 && offset <= most.bytes &&
        whole(s.bytes) && s.bytes > 0 && s.bytes <= b.bytes && b.bytes - s.bytes <= 3 && (unit === 4 || s.bytes % unit === 0);
      if (!ok) throw new Error(`${where}: source of ${s.bytes} bytes at ${offset} does not fit`);
      return;
    }
    default:
      throw new Error(`${where}: unknown source`);
  }
}

function checkDispatch(p: Program, d: Dispatch, where: string): void {
  const k = p.kernels[d.kernel];
  if (!k) throw new Error(`${where}: kernel ${d.kernel} of ${p.kernels.length}`);
  const limit = p.requires.max_compute_workgroups_per_dimension;
  if (!Array.isArray(d.groups) || d.groups.length !== 3 || !d.groups.every((g) => whole(g) && g >= 1 && g <= limit)) {
    throw new Error(`${where}: groups ${d.groups}, expected 1 to ${limit}`);
  }
  if (!whole(d.cost) || typeof d.stage !== "string") throw new Error(`${where}: no cost or stage`);
  if (!Array.isArray(d.binds) || d.binds.length !== k.bindings.length) throw new Error(`${where}: expected ${k.bindings.length} binds`);
  d.binds.forEach((bind, i) => {
    const b = p.buffers[bind.buffer];
    const uniform = k.bindings[i] === "uniform";
    if (!b || !!b.uniform !== uniform || !inside(bind, b.bytes) || (bind.offset ?? 0) % 256 !== 0 ||
      bind.bytes > (uniform ? 65536 : p.requires.max_storage_buffer_binding_size)) {
      throw new Error(`${where}: binding ${i} does not fit buffer ${bind.buffer}`);
    }
    for (let j = 0; j < i; j++) {
      if (d.binds[j]!.buffer === bind.buffer && (k.bindings[i] === "read_write" || k.bindings[j] === "read_write")) {
        throw new Error(`${where}: bindings ${j} and ${i} share a buffer and one writes`);
      }
    }
  });
}

function checkOnce(p: Program): void {
  if (p.once === undefined) return;
  if (typeof p.once !== "string" || p.once === "" || p.dispatches[0]?.stage !== p.once) throw new Error("program: once is not the first dispatch's stage");
  const left = new Set<number>();
  let over = false;
  p.dispatches.forEach((d, i) => {
    over ||= d.stage !== p.once;
    if (over && d.stage === p.once) throw new Error(`program: dispatch ${i}: its stage is to run once, but comes after others`);
    d.binds.forEach((b, j) => {
      const writes = p.kernels[d.kernel]!.bindings[j] === "read_write";
      if (!over && p.buffers[b.buffer]!.source.kind === "input") throw new Error(`program: dispatch ${i}: its stage is to run once, but binds an input`);
      if (over && writes && left.has(b.buffer)) throw new Error(`program: dispatch ${i} writes buffer ${b.buffer}, which is made once`);
      if (!over && writes) left.add(b.buffer);
    });
  });
}

function inside(r: { offset?: number; bytes: number }, size: number): boolean {
  const offset = r.offset ?? 0;
  return whole(offset) && whole(r.bytes) && r.bytes > 0 && offset % 4 === 0 && r.bytes % 4 === 0 && offset + r.bytes <= size;
}

function whole(n: unknown): n is number {
  return typeof n === "number" && Number.isSafeInteger(n) && n >= 0;
}
