// What the tests of the page share: a server, Chromium, headless, with WebGPU on SwiftShader, a
// software device, and what a visitor does.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test as once } from "node:test";
import { chromium } from "playwright-core";
import { Server } from "./server.mjs";

export const build = new URL("../../build/", import.meta.url).pathname;
export const generator = new URL("../../models/default/", import.meta.url).pathname;
export const madeup = join(build, "web-test", "madeup");
export const few = "what is the capital of france?\nname a colour";
export const screenshots = join(build, "screenshots");
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const args = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];
export const minute = 60_000;

export let running, browser, server, scratch;

/** A test that may fail once: a browser on an overloaded machine now and then stalls. What failed is printed. */
export function test(name, options, body) {
  once(name, { ...options, timeout: 2 * options.timeout }, async (t) => {
    try {
      await body(t);
    } catch (err) {
      t.diagnostic(`first attempt: ${err.message}`);
      server.spoil = undefined;
      await body(t);
    }
  });
}

/** Before a file's tests: a server of the page with a generator and perhaps a base model, and Chromium. */
export function start(dir, base) {
  before(async () => {
    assert.ok(existsSync(join(build, "web", "index.html")), "build/web is missing: run make web");
    scratch = mkdtempSync(join(tmpdir(), "dnd-web-"));
    mkdirSync(screenshots, { recursive: true });
    server = await new Server(join(build, "web"), dir, base).start();
    running = await chromium.launchServer({ executablePath, args, headless: true, ...(process.getuid() === 0 ? { chromiumSandbox: false } : {}) });
    browser = await chromium.connect(running.wsEndpoint());
  });

  after(async () => {
    await browser?.close();
    await running?.close();
    await server?.stop();
    rmSync(scratch, { recursive: true, force: true });
  });
}

/** A fresh visitor: own cache, own storage. Errors in the page's console fail the test. */
export async function visit(t, options = {}, url = server.url) {
  const context = await browser.newContext({ viewport: { width: 900, height: 1000 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (e) => errors.push(String(e)));
  page.on("console", (m) => m.type() === "error" && !/Failed to load resource/.test(m.text()) && errors.push(m.text()));
  t.after(async () => {
    server.spoil = undefined;
    await context.close();
    assert.deepEqual(errors, [], "errors in the page");
  });
  await page.goto(url);
  return page;
}

/** Waits for a note, or fails with the problem that the page shows instead. */
export async function note(page, id, text, timeout) {
  const failed = page.locator("#problem:not([hidden])");
  await page.locator(`#${id}`).filter({ hasText: text }).or(failed).first().waitFor({ timeout });
  assert.equal(await failed.count(), 0, await failed.textContent({ timeout: 100 }).catch(() => ""));
}

export async function load(page) {
  await page.getByRole("button", { name: "Load", exact: true }).click();
  await note(page, "load-note", "Ready.", minute);
}

export async function generate(page) {
  await page.locator("#generate").click();
  await note(page, "generate-note", "Done", 5 * minute);
}

/** Kills the GPU process among the descendants of a process. */
export function killGPU(root) {
  const processes = readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
    try {
      const parent = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /s, "").split(" ")[1];
      return [[pid, parent, readFileSync(`/proc/${pid}/cmdline`, "utf8")]];
    } catch {
      return []; // it has ended
    }
  });
  const family = new Set([root]);
  for (let size = 0; size !== family.size; ) {
    size = family.size;
    for (const [pid, parent] of processes) if (family.has(Number(parent))) family.add(Number(pid));
  }
  const gpu = processes.filter(([pid, , command]) => family.has(Number(pid)) && command.includes("--type=gpu-process"));
  assert.equal(gpu.length, 1, "Chromium's GPU process was not found");
  process.kill(Number(gpu[0][0]), "SIGKILL");
}

export const problem = (page) => page.locator("#problem:not([hidden])").textContent({ timeout: minute });
