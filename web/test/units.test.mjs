// What needs no browser: what a Program, a message and a type must look like, and the package.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { build } from "esbuild";

const root = new URL("..", import.meta.url).pathname;

/** A source file as a module. */
async function load(path) {
  const { outputFiles } = await build({ entryPoints: [join(root, path)], bundle: true, format: "esm", write: false });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
}

const limits = { max_buffer_size: 1 << 28, max_storage_buffer_binding_size: 1 << 27, max_storage_buffers_per_shader_stage: 8, max_compute_workgroups_per_dimension: 65535, max_compute_invocations_per_workgroup: 256, max_compute_workgroup_storage_size: 16384 };
const good = () => ({
  version: 1,
  requires: { ...limits },
  kernels: [{ label: "k", wgsl: "", entry: "main", bindings: ["uniform", "read", "read_write"] }],
  buffers: [
    { label: "p", bytes: 16, uniform: true, source: { kind: "inline", words: [1, 2, 3, 4] } },
    { label: "w", bytes: 64, source: { kind: "weights", name: "decoder/w", dtype: "F32", bytes: 64 } },
    { label: "y", bytes: 512, source: { kind: "zero" } },
  ],
  dispatches: [{ label: "d", kernel: 0, groups: [1, 1, 1], binds: [{ buffer: 0, bytes: 16 }, { buffer: 1, bytes: 64 }, { buffer: 2, offset: 256, bytes: 256 }], stage: "decode", cost: 1 }],
  reads: [{ name: "tokens", buffer: 2, bytes: 512 }],
});

test("a Program is checked before anything is made of it", async () => {
  const { parse } = await load("src/program.ts");
  assert.equal(parse(JSON.stringify(good())).kernels.length, 1);
  for (const [name, spoil, expected] of [
    ["version", (p) => (p.version = 2), /version 2/],
    ["no kernels", (p) => delete p.kernels, /kernels: expected a list/],
    ["requires", (p) => (p.requires.max_buffer_size = -1), /max_buffer_size/],
    ["many dispatches", (p) => (p.dispatches = Array((1 << 20) + 1).fill(0)), /dispatches: expected a list of at most/],
    ["bindings", (p) => (p.kernels[0].bindings[0] = "write"), /kernel 0/],
    ["endless text", (p) => (p.kernels[0].wgsl = "x".repeat((1 << 20) + 1)), /kernel 0/],
    ["an empty buffer", (p) => (p.buffers[2].bytes = 0), /positive multiple of 4/],
    ["an odd buffer", (p) => (p.buffers[2].bytes = 510), /positive multiple of 4/],
    ["a huge buffer", (p) => (p.buffers[2].bytes = 2 ** 40), /max_buffer_size/],
    ["many large buffers", (p) => { p.requires.max_buffer_size = 2 ** 39; p.buffers.push(...Array(4).fill({ label: "b", bytes: 2 ** 39, source: { kind: "zero" } })); }, /buffers of/],
    ["no source", (p) => delete p.buffers[2].source, /unknown source/],
    ["unknown source", (p) => (p.buffers[2].source.kind = "file"), /unknown source/],
    ["words that do not fill", (p) => p.buffers[0].source.words.pop(), /do not fill/],
    ["unknown type", (p) => (p.buffers[1].source.dtype = "F64"), /type F64/],
    ["weights beyond", (p) => (p.buffers[1].source.bytes = 68), /does not fit/],
    ["half a block", (p) => Object.assign(p.buffers[1].source, { dtype: "Q8" }), /does not fit/],
    ["kernel index", (p) => (p.dispatches[0].kernel = 1), /kernel 1 of 1/],
    ["no groups", (p) => (p.dispatches[0].groups = [0, 1, 1]), /groups 0,1,1/],
    ["many groups", (p) => (p.dispatches[0].groups = [1, 70000, 1]), /groups 1,70000,1/],
    ["a missing bind", (p) => p.dispatches[0].binds.pop(), /expected 3 binds/],
    ["a buffer that is not there", (p) => (p.dispatches[0].binds[1].buffer = 9), /binding 1 does not fit/],
    ["beyond a buffer", (p) => (p.dispatches[0].binds[2].bytes = 512), /binding 2 does not fit/],
    ["an unaligned offset", (p) => (p.dispatches[0].binds[2].offset = 4), /binding 2 does not fit/],
    ["a uniform as storage", (p) => (p.dispatches[0].binds[1].buffer = 0), /binding 1 does not fit/],
    ["read and written at once", (p) => (p.dispatches[0].binds[1] = { buffer: 2, bytes: 256 }), /share a buffer and one writes/],
    ["a fraction", (p) => (p.dispatches[0].cost = 0.5), /cost/],
    ["a read of a uniform", (p) => (p.reads[0].buffer = 0), /read 0/],
    ["a read beyond", (p) => (p.reads[0].bytes = 516), /read 0/],
  ]) {
    const p = good();
    spoil(p);
    assert.throws(() => parse(JSON.stringify(p)), expected, name);
  }
});

test("a message is checked while it is read", async () => {
  const { decode, encode } = await load("src/abi.ts");
  const raw = encode(new Map([["a", new Uint8Array([1, 2, 3])], ["b", new Uint8Array(0)]]));
  assert.deepEqual([...decode(raw)].map(([name, data]) => [name, [...data]]), [["a", [1, 2, 3]], ["b", []]]);
  for (let n = 0; n < raw.length; n++) assert.throws(() => decode(raw.subarray(0, n)), /message/, `${n} bytes`);
  assert.throws(() => decode(new Uint8Array([...raw, 0])), /behind the last part/);
  assert.throws(() => decode(encode(new Map([["a", new Uint8Array(0)]])).map((b, i) => (i === 4 ? 255 : b))), /longer than the message/);
  const twice = new Uint8Array([2, 0, 0, 0, ...Array(2).fill([1, 0, 0, 0, 97, 0, 0, 0, 0]).flat()]);
  assert.throws(() => decode(twice), /two parts/);
});

test("weights in blocks are Go's", async () => {
  const { decodeFloats, encodeFloats } = await load("src/floats.ts");
  const want = JSON.parse(readFileSync(join(root, "../graph/quant/testdata/blocks.json"), "utf8"));
  const values = new Float32Array(want.values);
  for (const [dtype, levels] of [["Q8", 254], ["Q4_1", 15]]) {
    const raw = encodeFloats(dtype, values);
    assert.equal(Buffer.from(raw).toString("hex"), want[dtype], dtype);
    const back = decodeFloats(dtype, raw);
    values.forEach((v, i) => {
      const block = values.subarray(i - (i % 32), i - (i % 32) + 32).map(Math.abs);
      const bound = Math.max(...block) * (1 / levels + 2 / 1024);
      assert.ok(Math.abs(v - back[i]) <= bound, `${dtype}: value ${i} is ${v}, came back as ${back[i]}`);
    });
  }
});

test("a Program asks for what the decoder's matrices are stored as", async () => {
  const { Weights } = await load("src/weights.ts");
  const open = (tensors) => {
    let at = 0;
    const table = Object.fromEntries(tensors.map(([name, dtype, shape, bytes]) => [name, { dtype, shape, data_offsets: [at, (at += bytes)] }]));
    const head = Buffer.from(JSON.stringify(table));
    const raw = Buffer.concat([Buffer.alloc(8), head, Buffer.alloc(at)]);
    raw.writeBigUInt64LE(BigInt(head.length));
    return Weights.open({ size: () => raw.length, read: async (_, from, n) => new Uint8Array(raw.subarray(from, from + n)) }, [{ prefix: "decoder/", path: "d" }]);
  };
  const mean = ["output.offset", "F16", [10, 100], 2000];
  for (const [want, kernel] of [["Q8", ["U8", [2, 36], 72]], ["Q4_1", ["U8", [2, 20], 40]], ["F16", ["F16", [64], 128]], ["F32", ["BF16", [64], 128]], ["F32", ["F32", [64], 256]]]) {
    assert.equal((await open([mean, ["conv.weight", ...kernel]])).common(), want);
  }
});

test("the package packs, and a strict project can import it", { timeout: 120_000 }, () => {
  const dir = mkdtempSync(join(tmpdir(), "dnd-pack-"));
  try {
    const [packed] = JSON.parse(execFileSync("npm", ["pack", "--json", "--pack-destination", dir], { cwd: root, stdio: ["ignore", "pipe", "ignore"] }));
    const paths = packed.files.map((f) => f.path);
    for (const path of ["package.json", "README.md", "dist/index.js", "dist/worker.js", "dist/dnd.wasm", "dist/types/index.d.ts"]) assert.ok(paths.includes(path), `${path} is not packed`);
    assert.ok(paths.every((path) => /^(dist\/|package\.json$|README\.md$|LICENSE)/.test(path)), `${paths}`);
    const installed = join(dir, "node_modules", packed.name);
    mkdirSync(installed, { recursive: true });
    execFileSync("tar", ["xzf", join(dir, packed.filename), "-C", installed, "--strip-components=1"]);
    writeFileSync(join(dir, "package.json"), '{"type": "module"}');
    writeFileSync(join(dir, "main.ts"), readFileSync(join(root, "README.md"), "utf8").match(/```ts\n(.*?)```/s)[1]);
    writeFileSync(join(dir, "wrong.ts"), 'import { Generator } from "@dnd/web";\nconst g: number = await Generator.open("/generator/");\nexport { g };\n');
    const check = (file) => execFileSync("npx", ["tsc", "--strict", "--noEmit", "--ignoreConfig", "--types", "", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom", join(dir, file)], { cwd: root, encoding: "utf8", stdio: "pipe" });
    check("main.ts"); // the README's example
    assert.throws(() => check("wrong.ts"), (err) => /TS2322/.test(err.stdout));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
