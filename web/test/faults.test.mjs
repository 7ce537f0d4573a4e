// What can go wrong around the page, each made to happen in a real browser (visitor.mjs): what
// the browser lacks, what the device refuses, what a server does. A small generator with
// made-up weights does for all of it.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import axe from "axe-core";
import { unzipSync } from "fflate";
import { Server } from "./server.mjs";
import { build, few, generate, load, madeup, minute, note, problem, scratch, screenshots, server, start, test, visit } from "./visitor.mjs";

const package_ = join(madeup, "generator");
start(package_, join(madeup, "base.gguf"));

/** Code that runs in the worker before its own: what a browser lacks, or a device refuses. */
function inWorker(code) {
  server.spoil = (path, _, response) => {
    if (!/worker-[0-9a-f]+\.js$/.test(path)) return false;
    response.setHeader("Content-Type", "text/javascript");
    response.end(`${code};\n${readFileSync(server.file(path))}`);
    return true;
  };
}

/** The adapter's weights, from its download. */
async function weights(page) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#download").click()]);
  const saved = join(scratch, "adapter.zip");
  await download.saveAs(saved);
  const raw = Buffer.from(unzipSync(readFileSync(saved))["adapter_model.safetensors"]);
  return new Float32Array(Uint8Array.from(raw.subarray(8 + Number(raw.readBigUInt64LE(0)))).buffer);
}

const noPrivateFiles = "delete FileSystemFileHandle.prototype.createSyncAccessHandle";

test("without a private file system, the Cache API keeps files and resumes them", { timeout: 2 * minute }, async (t) => {
  const page = await visit(t);
  inWorker(noPrivateFiles);
  const missing = server.spoil;
  let cut = false;
  server.spoil = (path, request, response) => {
    if (cut || !path.endsWith("decoder.safetensors")) return missing(path, request, response);
    cut = true;
    const raw = readFileSync(server.file(path));
    response.writeHead(200, { "Content-Length": raw.length });
    response.write(raw.subarray(0, raw.length >> 1), () => setTimeout(() => request.socket.destroy(), 200));
    return true;
  };
  server.requests.length = 0;
  await load(page);
  assert.ok(await page.evaluate(async () => (await caches.has("dnd-files")) && (await (await caches.open("dnd-files")).keys()).length > 3), "nothing is in the Cache API");
  const parts = server.requests.filter((r) => r.path.endsWith("decoder.safetensors"));
  assert.ok(parts.length === 2 && parts[1].from > 0, `requests ${JSON.stringify(parts)}: expected the second to begin where the first was cut`);
  await page.reload();
  await load(page);
  assert.equal(server.requests.filter((r) => r.path.endsWith("decoder.safetensors")).length, 2, "the cache was not used");
  await page.locator("#prompts").fill(few);
  await generate(page);
});

test("without any storage, files stay in memory", { timeout: 2 * minute }, async (t) => {
  const page = await visit(t);
  inWorker(`${noPrivateFiles}; Object.defineProperty(self, "caches", { value: undefined })`);
  await page.locator("#prompts").fill(few);
  await generate(page); // loads, too
});

test("without subgroups and shader-f16, the adapter is the same", { timeout: 2 * minute }, async (t) => {
  const page = await visit(t);
  await page.locator("#prompts").fill(few);
  await generate(page);
  const want = await weights(page);
  inWorker(`Object.defineProperty(GPUAdapter.prototype, "features", { get: () => new Set() })`);
  await page.reload();
  await page.locator("#prompts").fill(few);
  await generate(page);
  const got = await weights(page);
  assert.equal(got.length, want.length);
  const largest = want.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  const worst = want.reduce((most, v, i) => Math.max(most, Math.abs(v - got[i])), 0);
  t.diagnostic(`largest difference ${worst.toExponential(1)} of ${largest.toFixed(2)}`);
  assert.ok(largest > 0.01 && worst <= 1e-5 * largest, `differs by ${worst} of ${largest}`);
});

/** The error scopes of the first so many buffers say that there is no memory: each ends a try. Once a failure is told, there is. */
const scarce = (tries) => `{
  const [pop, post] = [GPUDevice.prototype.popErrorScope, self.postMessage.bind(self)];
  let left = ${tries};
  GPUDevice.prototype.popErrorScope = function () {
    return pop.call(this).then((e) => (left-- > 0 ? new GPUOutOfMemoryError("none") : e));
  };
  self.postMessage = (message, options) => {
    if (message.failed) left = 0;
    post(message, options);
  };
}`;

test("where memory is scarce, the adapter is made in smaller pieces", { timeout: 2 * minute }, async (t) => {
  const page = await visit(t);
  await page.locator("#prompts").fill(few);
  await generate(page);
  const want = await weights(page);
  inWorker(scarce(1));
  await page.reload();
  await page.locator("#prompts").fill(few);
  await generate(page);
  const got = await weights(page);
  const largest = want.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  const worst = want.reduce((most, v, i) => Math.max(most, Math.abs(v - got[i])), 0);
  assert.ok(got.length === want.length && worst <= 1e-5 * largest, `differs by ${worst} of ${largest}`);
});

for (const [name, code, expected] of [
  ["no memory on the device", scarce(Infinity), /no memory for \d+ bytes.*Close other tabs/s],
  ["a device that cannot be opened", `{
    const open = GPUAdapter.prototype.requestDevice;
    let left = 1;
    GPUAdapter.prototype.requestDevice = function (d) {
      return left-- > 0 ? Promise.reject(new DOMException("limits", "OperationError")) : open.call(this, d);
    };
  }`, /could not be opened.*limits are too small/s],
  ["no GPU", `{
    const request = GPU.prototype.requestAdapter;
    let left = 2;
    GPU.prototype.requestAdapter = function (o) { return left-- > 0 ? Promise.resolve(null) : request.call(this, o); };
  }`, /offers no GPU.*dndgen/s],
  ["a device lost in the middle", `{
    const submit = GPUQueue.prototype.submit;
    const open = GPUAdapter.prototype.requestDevice;
    let device, left = 3;
    GPUAdapter.prototype.requestDevice = async function (d) { return (device = await open.call(this, d)); };
    GPUQueue.prototype.submit = function (list) { submit.call(this, list); if (--left === 0) device.destroy(); };
  }`, /lost.*Press the button again/s],
]) {
  test(`explained, and gone without a reload: ${name}`, { timeout: 2 * minute }, async (t) => {
    const page = await visit(t);
    inWorker(code);
    await load(page);
    await page.locator("#prompts").fill(few);
    await page.locator("#generate").click();
    assert.match(await problem(page), expected);
    assert.ok(await page.locator("#problem").evaluate((e) => e.getBoundingClientRect().top >= 0 && e.getBoundingClientRect().bottom <= innerHeight), "the problem is out of sight");
    await generate(page);
    assert.ok(await page.locator("#problem").isHidden());
  });
}

test("limits that are too small are explained", { timeout: 2 * minute }, async (t) => {
  const page = await visit(t);
  inWorker(`for (const name of ["maxComputeInvocationsPerWorkgroup", "maxStorageBuffersPerShaderStage"]) Object.defineProperty(GPUSupportedLimits.prototype, name, { get: () => 2 })`);
  await page.locator("#prompts").fill(few);
  await page.locator("#generate").click();
  assert.match(await problem(page), /limits are too small/);
});

test("full storage is explained", { timeout: 2 * minute }, async (t) => {
  const page = await visit(t);
  inWorker("FileSystemSyncAccessHandle.prototype.write = () => 0");
  await page.locator("#load").click();
  assert.match(await problem(page), /storage for this page is full/);
});

test("redirects on the same server are followed, to others refused", { timeout: 3 * minute }, async (t) => {
  const page = await visit(t);
  const moved = (to) => (path, _, response) => path.startsWith("/generator/decoder") && !path.includes("moved") && Boolean(response.writeHead(302, { Location: to(path) }).end());
  server.spoil = (path, request, response) => {
    if (path.startsWith("/moved/")) {
      response.end(readFileSync(join(package_, path.slice("/moved/".length))));
      return true;
    }
    return moved((p) => p.replace("/generator/", "/moved/"))(path, request, response);
  };
  await load(page);

  const other = await new Server(join(build, "web"), package_).start();
  t.after(() => other.stop());
  const foreign = await visit({ after: (f) => t.after(() => f().catch(() => undefined)) }); // a console error is expected
  server.spoil = moved((p) => `http://127.0.0.1:${other.port}${p}`);
  await foreign.locator("#load").click();
  assert.match(await problem(foreign), /decoder\.safetensors could not be loaded/);
  assert.equal(other.requests.length, 0, "the other server was asked");
});

test("a generator elsewhere needs permission", { timeout: minute }, async (t) => {
  const page = await visit({ after: (f) => t.after(() => f().catch(() => undefined)) });
  await page.locator("input[name=place][value=url]").check();
  await page.locator("#load").click();
  assert.match(await problem(page), /address of the generator is empty/);
  await page.locator("#url").fill("https://example.org/generator/");
  await page.locator("#load").click();
  await page.locator("#problem").filter({ hasText: /CORS.*--connect/s }).waitFor({ timeout: minute });
});

/** A generator whose decoder has these bytes, and the hash of these bytes. */
function withDecoder(raw, name) {
  const dir = join(scratch, name);
  cpSync(package_, dir, { recursive: true });
  const manifest = JSON.parse(readFileSync(join(dir, "generator.json"), "utf8"));
  const file = manifest.files.find((f) => f.path === "decoder.safetensors");
  writeFileSync(join(dir, file.path), raw);
  Object.assign(file, { bytes: raw.length, sha256: createHash("sha256").update(raw).digest("hex") });
  writeFileSync(join(dir, "generator.json"), JSON.stringify(manifest));
  return dir;
}

for (const [name, spoil, expected] of [
  ["a header without end", (raw) => raw.writeBigUInt64LE(1n << 62n, 0), /a header of \d+ bytes in a file/],
  ["a header that is no JSON", (raw) => raw.fill(0x20, 8, 40), /header is no JSON/],
  ["a range outside of the file", (raw) => raw.write(raw.subarray(8, 2000).toString("latin1").replace(/"data_offsets":\[\d/, '"data_offsets":[9'), 8, "latin1"), /range lies outside of the file|bytes of F32|malformed/],
  ["weights that are no numbers", (raw) => raw.fill(0xff, raw.length - 64), /NaN: the weights are damaged/],
]) {
  test(`a hostile generator: ${name}`, { timeout: 2 * minute }, async (t) => {
    const raw = readFileSync(join(package_, "decoder.safetensors"));
    spoil(raw);
    const own = await new Server(join(build, "web"), withDecoder(raw, name)).start();
    t.after(() => own.stop());
    const page = await visit(t, {}, own.url);
    await page.locator("#prompts").fill(few);
    await page.locator("#generate").click();
    assert.match(await problem(page), expected);
  });
}

test("a generator from a folder", { timeout: 2 * minute }, async (t) => {
  const page = await visit(t);
  await page.locator("input[name=place][value=folder]").check();
  await page.locator("#folder").setInputFiles(package_);
  await page.locator("#prompts").fill(few);
  await generate(page);
  const raw = readFileSync(join(package_, "decoder.safetensors"));
  raw[raw.length - 1] ^= 1;
  const dir = withDecoder(raw, "folder");
  cpSync(join(package_, "generator.json"), join(dir, "generator.json"));
  await page.locator("#folder").setInputFiles(dir);
  await page.locator("#load").click();
  assert.match(await problem(page), /decoder\.safetensors is damaged/);
});

test("has no flaw that axe finds, in light, dark and on a phone", { timeout: 3 * minute }, async (t) => {
  const page = await visit(t);
  const check = async (state) => {
    for (const [colorScheme, width] of [["light", 900], ["dark", 900], ["light", 380]]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      await page.evaluate(axe.source);
      const { violations } = await page.evaluate(() => globalThis.axe.run());
      assert.deepEqual(violations.map((v) => [v.id, v.help, v.nodes.map((n) => n.target.join(" "))]), [], `${state}, ${colorScheme}, ${width} pixels`);
    }
  };
  await check("at first");
  await page.locator("#generate").click();
  await problem(page);
  await page.screenshot({ path: join(screenshots, "problem.png") });
  await check("with a problem");
  await page.locator("#prompts").fill(few);
  await generate(page);
  await page.locator("#answer").click();
  await note(page, "answer-note", "Done", minute);
  await check("with results");
});
