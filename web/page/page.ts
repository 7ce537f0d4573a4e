// The page: forms in, progress and results out. All work is the library's.

import { zipSync } from "fflate";

import { type Adapter, GenerateError, Generator, type Place } from "../src/index";
import { examples } from "./examples";

declare const WORKER: string;
declare const WASM: string;

const $ = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const prompts = $<HTMLTextAreaElement>("prompts");
const maxPrompts = 256 << 20; // bytes, as dndgen

let generator: Generator | undefined;
let file: File | undefined; // what was chosen or dropped; undefined: the text in the page
let working: AbortController | undefined;
let shown: string | undefined; // URL of the download
let made = false; // whether the generator has made an adapter
const servedBase = "base.gguf"; // where dndgen serve --base has it

// What to do about a problem, in words for people.
const advice: Record<string, string> = {
  missing: "This page needs WebGPU: a current Chrome, Edge, Safari 26 or Firefox on a device with a graphics driver. In Chrome on Linux it may have to be enabled at chrome://flags/#enable-unsafe-webgpu. Without it, dndgen on the command line does the same.",
  lost: "The graphics driver was reset or the device went to sleep. Press the button again: nothing has to be reloaded.",
  memory: "Close other tabs and programs that use the GPU, then press the button again.",
  limits: "This GPU's limits are too small for this. Try a smaller model, or dndgen on the command line with --backend cpu.",
  invalid: "This looks like a fault of this page or the driver. Updating the browser may help.",
};

function problem(err: unknown): void {
  const box = $("problem");
  const kind = err instanceof GenerateError ? err.problem : undefined;
  if (kind === "cancelled" || (err as Error)?.name === "AbortError") return;
  const message = err instanceof Error ? err.message : String(err);
  const sentence = /^[a-z]+ /.test(message) ? message[0]!.toUpperCase() + message.slice(1) : message; // not a file's name
  box.textContent = `${sentence}. ${kind ? advice[kind] : ""}`.trim();
  box.hidden = false;
}

const clearProblem = (): void => void ($("problem").hidden = true);

const mega = (n: number): string => (n < 1e6 ? `${(n / 1e3).toFixed(0)} kB` : `${(n / 1e6).toFixed(1)} MB`);

function element(tag: string, text: string, attributes: Record<string, string> = {}): HTMLElement {
  const e = document.createElement(tag);
  e.textContent = text;
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  return e;
}

// Generator.

let opened = ""; // the choice that the generator was opened for

const chosen = (): string => document.querySelector<HTMLInputElement>("input[name=place]:checked")!.value;

function place(): Place {
  switch (chosen()) {
    case "url": {
      const url = $<HTMLInputElement>("url").value.trim();
      if (!url) throw new Error("the address of the generator is empty");
      return url;
    }
    case "folder": {
      const files = [...($<HTMLInputElement>("folder").files ?? [])];
      if (files.length === 0) throw new Error("no folder is chosen");
      return files;
    }
    default:
      return "generator/";
  }
}

for (const radio of document.querySelectorAll<HTMLInputElement>("input[name=place]")) {
  radio.addEventListener("change", () => {
    $("place-url").hidden = chosen() !== "url";
    $("place-folder").hidden = chosen() !== "folder";
  });
}

/** Runs one long job: its button off, its Cancel button and bar on. */
async function busy(prefix: string, job: (signal: AbortSignal) => Promise<string>): Promise<void> {
  clearProblem();
  const control = new AbortController();
  working = control;
  const cancel = $<HTMLButtonElement>(`${prefix}-cancel`);
  const [start, note, bar] = [$<HTMLButtonElement>(prefix), $(`${prefix}-note`), $<HTMLProgressElement>(`${prefix}-bar`)];
  const stop = (): void => control.abort();
  cancel.addEventListener("click", stop);
  start.disabled = true;
  for (const id of jobs) $<HTMLButtonElement>(id).disabled = true;
  cancel.hidden = bar.hidden = false;
  bar.removeAttribute("value");
  note.textContent = "";
  note.setAttribute("aria-live", "off"); // a screen reader hears how it ended, not every number on the way
  try {
    const end = await job(control.signal);
    note.removeAttribute("aria-live");
    note.textContent = end;
  } catch (err) {
    note.removeAttribute("aria-live");
    note.textContent = control.signal.aborted ? "Cancelled." : "";
    problem(err);
  } finally {
    working = undefined;
    cancel.removeEventListener("click", stop);
    cancel.hidden = bar.hidden = true;
    ready();
  }
}

const jobs = ["load", "generate", "answer"];

/** Lets those jobs be started that can be. */
function ready(): void {
  $<HTMLButtonElement>("load").disabled = false;
  $<HTMLButtonElement>("generate").disabled = false;
  $<HTMLButtonElement>("answer").disabled = !made;
}

$("load").addEventListener("click", () => {
  void busy("load", async (signal) => {
    await open(signal, $("load-note"), $<HTMLProgressElement>("load-bar"));
    return "Ready.";
  });
});

/** The choice of a generator, in words that are equal when it is the same. */
const choice = (p: Place): string => (typeof p === "string" ? p : p.map((f) => `${f.webkitRelativePath} ${f.size} ${f.lastModified}`).join("\n"));

/** Opens the chosen generator. */
async function open(signal: AbortSignal, note: HTMLElement, bar: HTMLProgressElement): Promise<Generator> {
  const from = place();
  const next = await Generator.open(from, {
    worker: new URL(WORKER, document.baseURI),
    wasm: new URL(WASM, document.baseURI),
    signal,
    onProgress: (p) => {
      bar.value = p.total > 0 ? p.done / p.total : 1;
      const left = p.secondsLeft !== undefined && p.secondsLeft > 1 ? `, ${Math.ceil(p.secondsLeft)} s left` : "";
      note.textContent = `${mega(p.done)} of ${mega(p.total)}${left}`;
    },
  });
  generator?.close();
  generator = next;
  opened = choice(from);
  made = false;
  const m = next.manifest;
  const facts: [string, string | undefined][] = [
    ["Generator", m.name],
    ["For the model", m.base?.model],
    ["Makes", m.base ? `LoRA of rank ${m.base.rank}, alpha ${m.base.alpha}` : "weight tokens"],
    ["Reads", `${m.condition.texts} prompts of up to ${m.condition.length} tokens`],
    ["Fitted on", m.provenance.data_sets?.join(", ")],
    ["Licence", m.provenance.license],
  ];
  $("about").replaceChildren(...facts.flatMap(([term, text]) => (text ? [element("dt", term), element("dd", text)] : [])));
  $("about").hidden = false;
  $("load-note").textContent = "Ready.";
  return next;
}

// Prompts.

for (const e of examples) $("example").append(element("option", e.name, { value: e.name }));

function useFile(f: File | undefined): void {
  file = f;
  if (!f) return;
  prompts.value = "";
  $("prompts-note").textContent = `${f.name}, ${mega(f.size)}`;
}

$("example").addEventListener("change", (e) => {
  const found = examples.find((x) => x.name === (e.target as HTMLSelectElement).value);
  if (!found) return;
  file = undefined;
  $<HTMLInputElement>("file").value = "";
  prompts.value = found.prompts.join("\n");
  $("prompts-note").textContent = `${found.prompts.length} prompts`;
});
$("file").addEventListener("change", (e) => useFile((e.target as HTMLInputElement).files?.[0]));
prompts.addEventListener("input", () => {
  file = undefined;
  const n = prompts.value.split("\n").filter((line) => line.trim()).length;
  $("prompts-note").textContent = n > 0 ? `${n} prompts` : "";
});
prompts.addEventListener("dragover", (e) => {
  e.preventDefault();
  prompts.classList.add("over");
});
prompts.addEventListener("dragleave", () => prompts.classList.remove("over"));
prompts.addEventListener("drop", (e) => {
  prompts.classList.remove("over");
  const dropped = e.dataTransfer?.files[0];
  if (!dropped) return;
  e.preventDefault();
  useFile(dropped);
});

async function input(): Promise<{ name: string; data: Uint8Array }> {
  if (!file) {
    if (!prompts.value.trim()) throw new Error("there are no prompts: paste some, choose a file or an example");
    return { name: "prompts.txt", data: new TextEncoder().encode(prompts.value) };
  }
  if (file.size > maxPrompts) throw new Error(`${file.name} has ${mega(file.size)}, expected at most ${mega(maxPrompts)}`);
  return { name: file.name, data: new Uint8Array(await file.arrayBuffer()) };
}

// Adapter.

$("generate").addEventListener("click", () => {
  void busy("generate", async (signal) => {
    const given = await input();
    const format = $<HTMLSelectElement>("format").value as "peft" | "gguf";
    const [note, bar] = [$("generate-note"), $<HTMLProgressElement>("generate-bar")];
    const loaded = generator && opened === choice(place()) ? generator : await open(signal, note, bar);
    bar.removeAttribute("value");
    const started = performance.now();
    const adapter = await loaded.generate({ ...given, format }, {
      signal,
      onProgress: (p) => {
        bar.value = p.total > 0 ? p.done / p.total : 1;
        note.textContent = p.stage;
      },
    });
    const seconds = (performance.now() - started) / 1000;
    made = true;
    show(adapter, format, loaded.manifest.base!.model);
    await offerBase();
    return `Done in ${seconds.toFixed(1)} s.`;
  });
});

function show(a: Adapter, format: "peft" | "gguf", model: string): void {
  const names = Object.keys(a.files);
  const data = format === "gguf" ? a.files[names.find((n) => n.endsWith(".gguf"))!]! : zipSync(a.files, { level: 0 });
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(new Blob([data as Uint8Array<ArrayBuffer>], { type: "application/octet-stream" }));
  const link = $<HTMLAnchorElement>("download");
  link.href = shown;
  link.download = format === "gguf" ? "adapter.gguf" : "adapter.zip";
  link.textContent = `Download ${link.download}`;
  $("size").textContent = `${mega(data.length)}: ${names.join(", ")}`;

  const commands: [string, string][] = format === "gguf"
    ? [
        ["llama.cpp", "llama-cli -m base.gguf --lora adapter.gguf"],
        ["Ollama", `dndgen convert --adapter adapter.gguf --base base.gguf --format merged-gguf --out merged && echo "FROM ./merged/model.gguf" > Modelfile && ollama create task`],
      ]
    : [
        ["PEFT", `from peft import PeftModel; model = PeftModel.from_pretrained(model, "adapter")`],
        ["vLLM", `vllm serve ${model} --enable-lora --lora-modules task=./adapter`],
        ["llama.cpp", `dndgen convert --adapter adapter --base base.gguf --format gguf --out gguf && llama-cli -m base.gguf --lora gguf/adapter.gguf`],
        ["Ollama", `dndgen convert --adapter adapter --base base.gguf --format merged-gguf --out merged && echo "FROM ./merged/model.gguf" > Modelfile && ollama create task`],
      ];
  $("commands").replaceChildren(...commands.map(([client, command]) => {
    const row = element("div", "", { class: "command" });
    const copy = element("button", "Copy", { type: "button", class: "second", "aria-label": `Copy the command for ${client}` });
    copy.addEventListener("click", () => {
      void navigator.clipboard.writeText(command).then(() => {
        copy.textContent = "Copied";
        setTimeout(() => (copy.textContent = "Copy"), 2000);
      }, problem);
    });
    row.append(element("span", client), element("code", command), copy);
    return row;
  }));

  $("stages").querySelector("tbody")!.replaceChildren(...a.stages.map((s) => {
    const row = document.createElement("tr");
    row.append(element("td", s.stage), element("td", s.seconds.toFixed(2)));
    return row;
  }));
  $("device").textContent = `${a.device}${a.software ? " (software: correct, but slow)" : ""}, at most ${mega(a.peakBytes)} of its memory`;
  const used = Math.min(a.prompts.texts, a.prompts.prompts);
  $("prompts-note").textContent = `${used} of ${a.prompts.prompts} prompts were read${a.prompts.cycled ? `, again and again: the generator reads ${a.prompts.texts}` : ""}`;
  const n = a.report.nearest;
  $("nearest").hidden = !n;
  if (n) {
    $("nearest").textContent = n.far
      ? `These prompts are unlike all tasks that the generator was fitted on: the nearest, ${n.task}, is ${n.distance.toFixed(2)} away, expected at most ${n.limit.toFixed(2)}. The adapter may be no better than none${n.scale === 1 ? "" : `, and is written at ${n.scale} of its strength, as the generator asks for with such prompts`}.`
      : `Nearest training task: ${n.task}, distance ${n.distance.toFixed(3)} (new kinds of task begin at ${n.limit.toFixed(3)}).`;
    $("nearest").className = n.far ? "problem" : "quiet";
  }
  heat(a);
  $("result").hidden = false;
  $("result").focus();
}

/** The norm of each generated module, as a table whose cells are coloured. */
function heat(a: Adapter): void {
  const layers = a.report.layers;
  const modules = layers[0]?.modules.map((m) => m.name) ?? [];
  const most = Math.max(...layers.flatMap((l) => l.modules.map((m) => m.norm)), Number.MIN_VALUE);
  const whole = Math.hypot(...layers.map((l) => l.norm));
  const strongest = layers.reduce((a, b) => (b.norm > a.norm ? b : a), layers[0]!);
  $("heat-note").textContent = `Norm of what the adapter adds to each matrix: ${whole.toPrecision(3)} in all, most in layer ${strongest.layer} (${strongest.norm.toPrecision(3)}).`;
  $("heat-most").textContent = most.toPrecision(3);
  const head = document.createElement("tr");
  head.append(element("th", "layer", { scope: "col" }), ...layers.map((l) => element("th", String(l.layer), { scope: "col" })));
  const rows = modules.map((name, i) => {
    const row = document.createElement("tr");
    row.append(element("th", name.replace(/^.*\./, ""), { scope: "row" }));
    for (const l of layers) {
      const norm = l.modules[i]?.norm ?? 0;
      const cell = element("td", "", { title: `layer ${l.layer}, ${name}: ${norm.toPrecision(3)}` });
      cell.append(element("span", norm.toPrecision(3)));
      cell.style.setProperty("--share", String(norm / most));
      row.append(cell);
    }
    return row;
  });
  const [thead, tbody] = [document.createElement("thead"), document.createElement("tbody")];
  thead.append(head);
  tbody.append(...rows);
  $("heat").replaceChildren(thead, tbody);
}

// Try it.

const chosenBase = (): string => document.querySelector<HTMLInputElement>("input[name=base]:checked")!.value;

function showBase(): void {
  $("base-url-row").hidden = chosenBase() !== "url";
  $("base-file-row").hidden = chosenBase() !== "file";
}
for (const radio of document.querySelectorAll("input[name=base]")) radio.addEventListener("change", showBase);

/** Shows the section, at first with the server's base model if it has one. */
async function offerBase(): Promise<void> {
  if (!$("try").hidden) return;
  const there = await fetch(servedBase, { method: "HEAD" }).then((r) => r.ok, () => false);
  if (there) {
    $("base-served").hidden = false;
    document.querySelector<HTMLInputElement>("input[name=base][value=served]")!.checked = true;
    showBase();
  }
  const first = prompts.value.split("\n").find((line) => line.trim());
  $<HTMLTextAreaElement>("question").value = first ?? "";
  $("try").hidden = false;
}

function base(): string | File {
  switch (chosenBase()) {
    case "served":
      return new URL(servedBase, document.baseURI).href;
    case "url": {
      const url = $<HTMLInputElement>("base-url").value.trim();
      if (!url) throw new Error("the address of the base model is empty");
      return new URL(url, document.baseURI).href;
    }
    default: {
      const chosen = $<HTMLInputElement>("base-file").files?.[0];
      if (!chosen) throw new Error("no file of the base model is chosen");
      return chosen;
    }
  }
}

$("answer").addEventListener("click", () => {
  void busy("answer", async (signal) => {
    if (!generator) throw new Error("no generator is loaded");
    const prompt = $<HTMLTextAreaElement>("question").value.trim();
    if (!prompt) throw new Error("the prompt is empty");
    const [note, bar, said] = [$("answer-note"), $<HTMLProgressElement>("answer-bar"), $("answers")];
    const boxes = { base: $("said-base"), adapter: $("said-adapter") };
    boxes.base.textContent = boxes.adapter.textContent = "";
    said.hidden = false;
    said.setAttribute("aria-busy", "true"); // until all is said, a screen reader waits
    try {
      const a = await generator.answer({ base: base(), prompt }, {
        signal,
        onProgress: (p) => {
          bar.value = p.total > 0 ? p.done / p.total : 1;
          note.textContent = `${mega(p.done)} of ${mega(p.total)}`;
        },
        onText: (row, piece) => {
          note.textContent = "";
          bar.removeAttribute("value");
          boxes[row].textContent += piece;
        },
      });
      return `Done: ${a.promptTokens} tokens of prompt in ${a.readSeconds.toFixed(1)} s, then both answers in ${a.seconds.toFixed(1)} s, ${(a.steps / a.seconds).toFixed(1)} tokens a second each.`;
    } finally {
      said.removeAttribute("aria-busy");
    }
  });
});

// The rest.

$("forget").addEventListener("click", () => {
  void (async () => {
    working?.abort();
    generator?.close();
    generator = undefined;
    made = false;
    $("about").hidden = true;
    ready();
    const root = await navigator.storage.getDirectory();
    await root.removeEntry("dnd", { recursive: true }).catch(() => undefined);
    for (const name of await caches.keys()) await caches.delete(name);
    $("load-note").textContent = "Cached files are removed.";
  })().catch(problem);
});

window.addEventListener("beforeunload", (e) => {
  if (working) e.preventDefault();
});

if (!navigator.gpu) problem(new GenerateError("this browser has no WebGPU", "missing"));
if ("serviceWorker" in navigator) void navigator.serviceWorker.register("sw.js").catch(() => undefined);
