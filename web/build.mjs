// Builds the npm package (dist); given --site DIR, the page: static files whose names carry
// their hash, but for index.html and sw.js; given --remote FILE, the script with which a Go
// test runs Programs in a browser.
//
//	node build.mjs [--wasm dnd.wasm] [--site DIR] [--remote FILE]

import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const { values: args } = parseArgs({ options: { wasm: { type: "string", default: "../build/wasm/dnd.wasm" }, site: { type: "string" }, remote: { type: "string" } } });
if (!existsSync(args.wasm)) throw new Error(`${args.wasm} is missing: run make wasm`);
const common = { bundle: true, format: "esm", target: "es2022", minify: true, legalComments: "eof", logLevel: "warning" };

rmSync("dist", { recursive: true, force: true });
await build({ ...common, entryPoints: ["src/index.ts", "src/worker.ts"], outdir: "dist" });
copyFileSync(args.wasm, "dist/dnd.wasm");
copyFileSync("../LICENSE", "dist/LICENSE");
if (args.site) await site(args.site);
if (args.remote) await build({ ...common, entryPoints: ["test/remote.ts"], outfile: args.remote });

async function site(dir) {
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(join(dir, "assets"), { recursive: true });
  const put = (name, data) => {
    const [stem, ending] = name.split(".");
    const path = `assets/${stem}-${createHash("sha256").update(data).digest("hex").slice(0, 16)}.${ending}`;
    writeFileSync(join(dir, path), data);
    return path;
  };
  const compiled = async (entry, define = {}) => {
    const { outputFiles } = await build({ ...common, entryPoints: [entry], write: false, define: Object.fromEntries(Object.entries(define).map(([k, v]) => [k, JSON.stringify(v)])) });
    return outputFiles[0].contents;
  };
  const worker = put("worker.js", readFileSync("dist/worker.js"));
  const wasm = put("dnd.wasm", readFileSync(args.wasm));
  const style = put("style.css", await compiled("page/style.css"));
  const page = put("page.js", await compiled("page/page.ts", { WORKER: worker, WASM: wasm, EXAMPLES: examples() }));
  const html = readFileSync("page/index.html", "utf8").replace("{{style}}", style).replace("{{page}}", page);
  writeFileSync(join(dir, "index.html"), html);
  const parts = ["./", style, page, worker, wasm];
  const version = createHash("sha256").update(html).digest("hex").slice(0, 16);
  writeFileSync(join(dir, "sw.js"), await compiled("page/sw.ts", { PARTS: parts, VERSION: version }));
  let raw = 0, wire = 0;
  for (const file of ["index.html", "sw.js", ...parts.slice(1)]) {
    const data = readFileSync(join(dir, file));
    raw += data.length;
    wire += gzipSync(data).length;
  }
  if (wire > 4e6) throw new Error(`${dir}: ${wire} bytes with gzip: the page is to load in a moment, with at most 4 MB`);
  console.log(`${dir}: ${(raw / 1e6).toFixed(2)} MB, ${(wire / 1e6).toFixed(2)} MB with gzip`);
}

/** Sixteen prompts of each task that the shipped generator was not fitted on. */
function examples() {
  const dir = "../models/data";
  const grid = JSON.parse(readFileSync(join(dir, "grid.json"), "utf8"));
  return grid.held_out.map((name) => ({
    name: name.replace("-", ", answered as "),
    prompts: JSON.parse(readFileSync(join(dir, "test", `${name}.json`), "utf8")).slice(0, 16).map((r) => r.prompt.replaceAll("\n", " ")),
  }));
}
