// Measures the page's decoder beside onnxruntime-web's in one headless Chromium, on the
// WebGPU device that it has (without a GPU: SwiftShader, a software device, where only the
// ratio says anything), and onnxruntime-web without a GPU too. Each in a page of its own, by
// turns.
//
//	node bench/run.mjs --generator ../models/default --onnx decoder.onnx --prompts prompts.json [--base base.gguf] [--rounds 3] [--runs 3] [--json]
//
// With --base, the base model answers the first prompt, too, without and with the adapter.
// decoder.onnx is bench/onnx.py's. Wants web/dist (make web) and bench/node_modules.

import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { Server } from "../test/server.mjs";

const here = new URL(".", import.meta.url).pathname;
const text = { type: "string" };
const { values: args } = parseArgs({ options: { generator: text, onnx: text, prompts: text, base: text, rounds: { type: "string", default: "3" }, runs: { type: "string", default: "3" }, json: { type: "boolean", default: false } } });
for (const name of ["generator", "onnx", "prompts"]) if (!args[name]) throw new Error(`--${name} is missing`);
const [rounds, runs] = [Number(args.rounds), Number(args.runs)];
if (!Number.isInteger(rounds) || rounds < 1 || !Number.isInteger(runs) || runs < 2) throw new Error("--rounds is at least 1, --runs at least 2");

const site = mkdtempSync(join(tmpdir(), "dnd-web-bench-"));
const ort = join(here, "node_modules/onnxruntime-web");
const result = { onnxruntime_web: JSON.parse(readFileSync(join(ort, "package.json"))).version, rounds, runs, difference: 0, seconds: { dnd: [], webgpu: [], wasm: [], adapter: [] } };
try {
  await build({ bundle: true, format: "esm", target: "es2022", minify: true, logLevel: "warning", entryPoints: [join(here, "page.ts")], outfile: join(site, "page.js"), conditions: ["onnxruntime-web-use-extern-wasm"] });
  for (const name of ["worker.js", "dnd.wasm"]) copyFileSync(join(here, "../dist", name), join(site, name));
  writeFileSync(join(site, "index.html"), '<!doctype html><title>bench</title><script type="module" src="page.js"></script>');
  symlinkSync(resolve(args.onnx), join(site, "decoder.onnx"));
  symlinkSync(join(ort, "dist"), join(site, "ort"));
  const server = await new Server(site, resolve(args.generator), args.base && resolve(args.base)).start();
  const software = existsSync("/dev/dri") ? [] : ["--use-webgpu-adapter=swiftshader"];
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: ["--enable-unsafe-webgpu", "--enable-features=Vulkan", ...software], ...(process.getuid() === 0 ? { chromiumSandbox: false } : {}) });
  try {
    result.browser = `Chromium ${browser.version()}`;
    const context = await browser.newContext();
    const measure = async (what, ...more) => {
      const page = await context.newPage();
      await page.goto(server.url);
      await page.waitForFunction(() => "measure" in self);
      const figures = await page.evaluate(([what, more]) => self.measure[what](...more), [what, [runs, ...more]]);
      await page.close();
      return figures;
    };
    for (let i = 0; i < rounds; i++) {
      const ours = await measure("dnd");
      result.device = ours.device;
      result.seconds.dnd.push(ours.seconds);
      for (const provider of ["webgpu", "wasm"]) {
        const theirs = await measure("onnxruntime", provider);
        result.seconds[provider].push(theirs.seconds);
        result.difference = Math.max(result.difference, theirs.difference);
        result.scale = theirs.scale;
      }
      result.seconds.adapter.push((await measure("adapter", readFileSync(args.prompts, "utf8"))).seconds);
    }
    if (args.base) result.answers = await measure("answers", readFileSync(args.prompts, "utf8"));
  } finally {
    await browser.close();
    await server.stop();
  }
} finally {
  rmSync(site, { recursive: true, force: true });
}

const median = (list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)];
const cold = (who) => median(result.seconds[who].map((s) => s[0]));
const warm = (who) => median(result.seconds[who].flatMap((s) => s.slice(1)));
result.cold = Object.fromEntries(Object.keys(result.seconds).map((who) => [who, cold(who)]));
result.warm = Object.fromEntries(Object.keys(result.seconds).map((who) => [who, warm(who)]));
if (args.json) console.log(JSON.stringify(result, null, 2));
else {
  console.log(`${result.browser}, ${result.device}; onnxruntime-web ${result.onnxruntime_web}; medians of ${rounds} rounds of ${runs} runs; outputs differ by at most ${result.difference.toExponential(1)} of ${result.scale.toFixed(1)}\n`);
  const row = (name, f) => {
    const of = (who) => (who === "dnd" || who === "adapter" ? "" : `, ${(f(who) / f("dnd")).toFixed(2)} times dnd's`);
    console.log(`| ${name} | ${["dnd", "webgpu", "wasm"].map((who) => `${f(who).toFixed(2)} s${of(who)}`).join(" | ")} | ${f("adapter").toFixed(2)} s |`);
  };
  console.log("| | decode, dnd | decode, onnxruntime-web on WebGPU | decode, onnxruntime-web on the CPU | prompts to adapter, dnd |\n|---|---|---|---|---|");
  row("first run", cold);
  row("later runs", warm);
  const a = result.answers;
  if (a) console.log(`\nThe base model read ${a.promptTokens} tokens in ${a.readSeconds.toFixed(2)} s and answered in ${a.steps} steps of two tokens, ${(a.steps / a.seconds).toFixed(1)} a second:\n  without the adapter  ${a.base}\n  with it              ${a.adapter}`);
}
