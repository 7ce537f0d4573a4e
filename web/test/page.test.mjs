// The page in a real browser, see visitor.mjs. What it generates is compared with what dndgen
// generates natively.
//
//	npm test        wants build/web and build/web-test (make web), build/bin/dndgen and Chromium

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { unzipSync } from "fflate";
import { Server } from "./server.mjs";
import { build, few, generate, generator, killGPU, load, madeup, minute, note, problem, running, scratch, screenshots, server, start, test, visit } from "./visitor.mjs";

start(generator);

const prompts = JSON.parse(readFileSync(new URL("../../models/data/test/topic-tag.json", import.meta.url))).slice(0, 16).map((r) => r.prompt.replaceAll("\n", " "));

/** The tensors of a safetensors file. */
function tensors(raw) {
  const n = Number(raw.readBigUInt64LE(0));
  const table = JSON.parse(raw.subarray(8, 8 + n));
  return new Map(Object.entries(table).filter(([name]) => name !== "__metadata__").map(([name, t]) => {
    assert.equal(t.dtype, "F32", `${name} is ${t.dtype}`);
    return [name, new Float32Array(Uint8Array.from(raw.subarray(8 + n + t.data_offsets[0], 8 + n + t.data_offsets[1])).buffer)];
  }));
}

test("generates what dndgen generates", { timeout: 10 * minute }, async (t) => {
  const page = await visit(t);
  await load(page);
  await page.locator("#prompts").fill(prompts.join("\n"));
  await generate(page);
  const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#download").click()]);
  const saved = join(scratch, "adapter.zip");
  await download.saveAs(saved);
  const zip = unzipSync(readFileSync(saved));
  assert.deepEqual(Object.keys(zip).sort(), ["adapter_config.json", "adapter_model.safetensors", "dnd.json"].filter((n) => n in zip).sort());
  writeFileSync(join(scratch, "prompts.txt"), prompts.join("\n"));
  const native = join(scratch, "native");
  execFileSync(join(build, "bin", "dndgen"), ["generate", "--quiet", "--backend", "cpu", "--generator", generator, "--prompts", join(scratch, "prompts.txt"), "--out", native]);
  assert.deepEqual(JSON.parse(Buffer.from(zip["adapter_config.json"])), JSON.parse(readFileSync(join(native, "adapter_config.json"))));
  const [got, want] = [tensors(Buffer.from(zip["adapter_model.safetensors"])), tensors(readFileSync(join(native, "adapter_model.safetensors")))];
  assert.deepEqual([...got.keys()].sort(), [...want.keys()].sort());
  let worst = 0, scale = 0;
  for (const [name, values] of want) {
    values.forEach((v, i) => {
      worst = Math.max(worst, Math.abs(v - got.get(name)[i]));
      scale = Math.max(scale, Math.abs(v));
    });
  }
  t.diagnostic(`largest difference ${worst.toExponential(2)} of ${scale.toFixed(3)}`);
  assert.ok(worst <= 1e-5 * Math.max(scale, 1), `differs by ${worst} from the native adapter, whose largest value is ${scale}`);

  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.screenshot({ path: join(screenshots, `${colorScheme}.png`), fullPage: true });
  }
  await page.setViewportSize({ width: 380, height: 800 });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(wide, 0, "the page scrolls sideways on a phone");
  await page.screenshot({ path: join(screenshots, "phone.png"), fullPage: true });
});

/** A visitor of a server with a made-up generator, small enough for many steps, and its base model. */
async function visitMadeUp(t) {
  const own = await new Server(join(build, "web"), join(madeup, "generator"), join(madeup, "base.gguf")).start();
  t.after(() => own.stop());
  const page = await visit(t, {}, own.url);
  await load(page);
  await page.locator("#prompts").fill(few);
  await generate(page);
  await page.locator("#try").waitFor();
  return page;
}

/** Runs of bytes that are no UTF-8 are one mark in Go and may be several in a browser. */
const marked = (text) => text.replace(/\uFFFD+/g, "\uFFFD");

test("the base model answers without and with the adapter, as it does natively", { timeout: 5 * minute }, async (t) => {
  const page = await visitMadeUp(t);
  const dndgen = join(build, "bin", "dndgen");
  const [file, adapter] = [join(scratch, "few.txt"), join(scratch, "few")];
  writeFileSync(file, few);
  execFileSync(dndgen, ["generate", "--quiet", "--backend", "cpu", "--generator", join(madeup, "generator"), "--prompts", file, "--out", adapter]);
  assert.equal(await page.locator("#question").inputValue(), few.split("\n")[0]);
  assert.equal(await page.locator("input[name=base][value=served]").isChecked(), true);
  for (const question of ["the capital", "name one"]) { // the second on what is on the device
    await page.locator("#question").fill(question);
    await page.locator("#answer").click();
    await note(page, "answer-note", "Done", 2 * minute);
    const native = JSON.parse(execFileSync(dndgen, ["try", "--json", "--quiet", "--base", join(madeup, "base.gguf"), "--adapter", adapter, question]));
    const [without, with_] = [await page.locator("#said-base").textContent(), await page.locator("#said-adapter").textContent()];
    t.diagnostic(`${question}: ${JSON.stringify(with_)}, ${await page.locator("#answer-note").textContent()}`);
    assert.ok(without.length > 5 && with_.length > 5 && without !== with_, `${without} and ${with_}`);
    assert.equal(marked(without), marked(native.base));
    assert.equal(marked(with_), marked(native.adapters[0].answer));
  }
  await page.locator("#try").scrollIntoViewIfNeeded();
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.locator("#try").screenshot({ path: join(screenshots, `try-${colorScheme}.png`) });
  }
});

test("a base model that does not fit is explained, an answer is cancelled", { timeout: 5 * minute }, async (t) => {
  const page = await visitMadeUp(t);
  await page.locator("input[name=base][value=file]").check();
  await page.locator("#answer").click();
  assert.match(await problem(page), /file of the base model is chosen/);
  const whole = readFileSync(join(madeup, "base.gguf"));
  for (const [data, expected] of [
    [Buffer.from("what?"), /GGUF/],
    [whole.subarray(0, whole.length - 1000), /truncated/],
    [Buffer.from(whole.toString("latin1").replaceAll("qwen2", "llama"), "latin1"), /pre-tokenizer/],
  ]) {
    await page.locator("#base-file").setInputFiles({ name: "base.gguf", mimeType: "application/octet-stream", buffer: data });
    await page.locator("#answer").click();
    await page.locator("#problem").filter({ hasText: expected }).waitFor({ timeout: minute });
  }
  await page.locator("input[name=base][value=url]").check();
  await page.locator("#base-url").fill("missing.gguf");
  await page.locator("#answer").click();
  assert.match(await problem(page), /answered 404/);

  await page.locator("input[name=base][value=served]").check();
  await page.locator("#answer").click();
  await page.locator("#answer-cancel").click();
  await page.locator("#answer-note").filter({ hasText: /Cancelled|Done/ }).waitFor({ timeout: 20_000 });
  await page.locator("#answer").click(); // and once more from the start
  await note(page, "answer-note", "Done", 2 * minute);
});

test("a generation is cancelled, and a file of 10 MB is no trouble", { timeout: 5 * minute }, async (t) => {
  const page = await visit(t);
  await load(page);
  const line = `${"a rather long prompt ".repeat(10)}\n`;
  await page.locator("#file").setInputFiles({ name: "many.txt", mimeType: "text/plain", buffer: Buffer.from(line.repeat(Math.ceil(10e6 / line.length))) });
  await page.locator("#generate").click();
  await note(page, "generate-note", "encode", 2 * minute);
  await page.locator("#generate-cancel").click();
  await page.locator("#generate-note").filter({ hasText: "Cancelled." }).waitFor({ timeout: 20_000 });
  assert.equal(await page.locator("#generate").isDisabled(), false);
});

test("a lost GPU is explained, and found again without a reload", { timeout: 8 * minute }, async (t) => {
  const page = await visit(t);
  await load(page);
  await page.locator("#prompts").fill(prompts.join("\n"));
  await page.locator("#generate").click();
  await note(page, "generate-note", "encode", 2 * minute);
  killGPU(running.process().pid);
  assert.match(await problem(page), /lost.*Press the button again/s);
  await page.locator("#generate").click();
  await page.locator("#problem").waitFor({ state: "hidden" });
  await note(page, "generate-note", "encode", 2 * minute);
});

test("two tabs share one download, and a closed one leaves a cache that works", { timeout: 4 * minute }, async (t) => {
  const page = await visit(t);
  const tab = await page.context().newPage();
  await tab.goto(server.url);
  server.spoil = (path, _, response) => {
    if (!path.endsWith("model.safetensors")) return false;
    server.spoil = undefined;
    const raw = readFileSync(server.file(path));
    response.writeHead(200, { "Content-Length": raw.length });
    response.write(raw.subarray(0, 12 << 20)); // and then nothing, until the tab is closed
    return true;
  };
  server.requests.length = 0;
  await tab.locator("#load").click();
  await tab.locator("#load-note").filter({ hasText: / of / }).waitFor({ timeout: minute });
  await page.waitForTimeout(1500);
  const loading = load(page); // waits for the other's lock
  await page.waitForTimeout(1000);
  await tab.close();
  await loading;
  const fetched = server.requests.filter((r) => r.path.endsWith("model.safetensors"));
  assert.equal(fetched.length, 2, `requests ${JSON.stringify(fetched)}: expected the closed tab's, and one that goes on`);
  await page.reload();
  await load(page);
  assert.equal(server.requests.filter((r) => r.path.endsWith("model.safetensors")).length, 2, "the cache was not used");
});

test("works by keyboard, with names for a screen reader", { timeout: 3 * minute }, async (t) => {
  const page = await visit(t);
  for (const [role, name] of [["button", "Load"], ["radio", "URL"], ["combobox", "Example"], ["textbox", /Some prompts/], ["button", "Generate"], ["combobox", "Format"]]) {
    await page.getByRole(role, { name, exact: typeof name === "string" }).first().waitFor();
  }
  await page.locator("input[value=default]").focus();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "load");
  await page.keyboard.press("Enter");
  await page.locator("#load-note").filter({ hasText: "Ready." }).waitFor({ timeout: 2 * minute });
});

test("goes on where a download was cut or cancelled", { timeout: 3 * minute }, async (t) => {
  const page = await visit(t);
  let cut = 0;
  server.spoil = (path, request, response) => {
    if (!path.endsWith("model.safetensors") || cut > 1) return false;
    cut++;
    if (cut === 2) return false; // the second attempt is slow enough to be cancelled
    const raw = readFileSync(server.file(path));
    response.writeHead(200, { "Content-Length": raw.length });
    response.write(raw.subarray(0, 10 << 20), () => setTimeout(() => request.socket.destroy(), 200));
    return true;
  };
  server.requests.length = 0;
  await load(page);
  const resumed = server.requests.filter((r) => r.path.endsWith("model.safetensors"));
  assert.ok(resumed.length >= 2 && resumed[1].from >= 4 << 20, `requests ${JSON.stringify(resumed)}: expected the second to begin where the first was cut`);
});

test("a download is cancelled", { timeout: 2 * minute }, async (t) => {
  const page = await visit(t);
  server.spoil = (path, request, response) => {
    if (!path.endsWith("model.safetensors")) return false;
    response.writeHead(200, { "Content-Length": 45_000_000 });
    response.write(Buffer.alloc(1 << 20)); // and then nothing more
    return true;
  };
  await page.locator("#load").click();
  await page.locator("#load-cancel").waitFor();
  await page.waitForTimeout(500);
  await page.locator("#load-cancel").click();
  await page.locator("#load-note").filter({ hasText: "Cancelled." }).waitFor({ timeout: 5000 });
  assert.equal(await page.locator("#about").isHidden(), true);
});

test("a second visit needs no network; a damaged cache is noticed", { timeout: 5 * minute }, async (t) => {
  const own = await new Server(join(build, "web"), generator).start();
  t.after(() => own.stop()); // of an attempt that failed before it stops below: node waits for it
  const page = await visit(t, {}, own.url);
  await load(page);
  await page.evaluate(() => navigator.serviceWorker.ready.then(() => undefined));
  await own.stop();
  await page.reload();
  await load(page);

  const again = await new Server(join(build, "web"), generator).start(own.port);
  t.after(() => again.stop());
  const damaged = await page.evaluate(async () => {
    const dir = await (await navigator.storage.getDirectory()).getDirectoryHandle("dnd");
    let largest;
    for await (const handle of dir.values()) {
      const file = await handle.getFile();
      if (!largest || file.size > largest.size) largest = { handle, size: file.size };
    }
    const w = await largest.handle.createWritable({ keepExistingData: true });
    await w.write({ type: "write", position: 12345, data: new Uint8Array([1, 2, 3]) });
    await w.close();
    return largest.size;
  });
  await page.reload();
  await load(page);
  assert.ok(again.requests.some((r) => r.path.endsWith("model.safetensors")), `the damaged file of ${damaged} bytes was not fetched again`);
});

for (const [name, spoil, expected] of [
  ["no generator", (path, _, response) => path.endsWith("generator.json") && response.writeHead(404).end(), /answered 404/],
  ["a manifest that is no JSON", (path, _, response) => path.endsWith("generator.json") && response.end("<html>"), /no generator\.json/],
  ["an endless manifest", (path, _, response) => path.endsWith("generator.json") && response.end(Buffer.alloc(5 << 20, 32)), /expected a small file/],
  ["a truncated file", (path, _, response) => path.endsWith("decoder.safetensors") && response.end(readFileSync(join(generator, "decoder.safetensors")).subarray(0, 1000)), /connection ended|416|more than/i],
  ["a file of other bytes", (path, _, response) => path.endsWith("vocab.txt") && response.end(Buffer.alloc(readFileSync(join(generator, "encoder", "vocab.txt")).length)), /SHA-256/],
  ["a file that is too long", (path, _, response) => path.endsWith("vocab.txt") && response.end(Buffer.alloc(1 << 20)), /more than the/],
]) {
  test(`a hostile server: ${name}`, { timeout: 2 * minute }, async (t) => {
    const page = await visit(t);
    server.spoil = (...a) => Boolean(spoil(...a));
    await page.locator("#load").click();
    assert.match(await problem(page), expected);
    assert.equal(await page.locator("#about").isHidden(), true);
  });
}

test("bad prompts are explained", { timeout: 3 * minute }, async (t) => {
  const page = await visit(t);
  await load(page);
  await page.locator("#generate").click();
  assert.match(await problem(page), /no prompts/);
  for (const [name, data, expected] of [
    ["p.json", "{", /JSON/i],
    ["p.txt", Buffer.from([0xff, 0xfe, 0x41]), /UTF-8/],
    ["p.exe", "x", /\.txt/],
  ]) {
    await page.locator("#file").setInputFiles({ name, mimeType: "application/octet-stream", buffer: Buffer.from(data) });
    await page.locator("#generate").click();
    await page.locator("#problem").filter({ hasText: expected }).waitFor({ timeout: minute });
  }
});

test("no WebGPU is said in plain words", { timeout: minute }, async (t) => {
  const page = await visit(t);
  await page.addInitScript(() => Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined }));
  await page.reload();
  assert.match(await problem(page), /no WebGPU.*dndgen/s);
});
