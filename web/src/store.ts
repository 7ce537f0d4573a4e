// Brings a generator's files here: from a static server in ranges, resumed after a cut
// connection, each checked against the SHA-256 that generator.json gives; or from a folder
// that the user chose. What is cached is checked again before it is used.

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

import { type Cache, openCache } from "./cache.js";
import type { Files, Ranged } from "./weights.js";

/** The part of generator.json that a page reads itself; the guest checks all of it. */
export interface Manifest {
  name: string;
  base?: { model: string; rank: number; alpha: number };
  condition: { texts: number; length: number };
  encoder?: { id: string; dir: string };
  provenance: { data_sets?: string[]; held_out?: string[]; license?: string };
  files: { path: string; bytes: number; sha256: string }[];
}

/** Where a generator is: a URL of its folder, or the files of a folder. */
export type Place = string | File[];

export interface DownloadProgress {
  path: string;
  done: number; // bytes, of all files
  total: number;
  secondsLeft?: number;
}

/** An opened generator: its manifest, and its files in reach. */
export interface Package extends Files {
  raw: Uint8Array; // generator.json
  manifest: Manifest;
}

const maxManifest = 4 << 20;
const maxFiles = 1000;
const pieceBytes = 4 << 20;
const attempts = 5;
// Larger files are checked when they arrive and trusted afterwards: hashing them anew would
// take longer than using them.
const maxCheck = 512 << 20;

/** Opens a generator. */
export async function open(place: Place, signal: AbortSignal, report: (p: DownloadProgress) => void): Promise<Package> {
  return typeof place === "string" ? fromURL(place, signal, report) : fromFolder(place, signal, report);
}

function parse(raw: Uint8Array, where: string): Manifest {
  let m: Manifest;
  try {
    m = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(raw)) as Manifest;
  } catch (err) {
    throw new Error(`${where} is no generator.json: ${(err as Error).message}`);
  }
  const ok = Array.isArray(m?.files) && m.files.length <= maxFiles && m.files.every((f) => typeof f?.path === "string" && !/(^|\/)\.\.?(\/|$)|^\/|[\\:?#]/.test(f.path) &&
    Number.isSafeInteger(f.bytes) && f.bytes >= 0 && /^[0-9a-f]{64}$/.test(f.sha256));
  if (!ok || typeof m.name !== "string") throw new Error(`${where}: name or the list of files is missing or malformed`);
  return m;
}

async function fromURL(place: string, signal: AbortSignal, report: (p: DownloadProgress) => void): Promise<Package> {
  const root = new URL(place.endsWith("/") ? place : `${place}/`, self.location.href);
  const url = new URL("generator.json", root);
  const cache = await openCache();
  const raw = await newest(cache, url, signal);
  const manifest = parse(raw, `${url}`);
  const total = manifest.files.reduce((n, f) => n + f.bytes, 0);
  const pace = new Pace(total, report);
  for (const f of manifest.files) {
    // One tab at a time works on a file; another then finds it in the cache.
    await navigator.locks.request(`dnd-${f.sha256}`, { signal }, () => bring(cache, new URL(f.path.split("/").map(encodeURIComponent).join("/"), root), f, signal, pace));
    pace.file(f.bytes);
  }
  const sizes = new Map(manifest.files.map((f) => [f.path, f]));
  return {
    raw,
    manifest,
    size: (path) => sizes.get(path)?.bytes ?? 0,
    read: (path, offset, length) => {
      const f = sizes.get(path);
      if (!f) throw new Error(`generator.json does not list ${path}`);
      return cache.read(f.sha256, offset, length);
    },
  };
}

/** generator.json as the server has it now or, without a network, as it was last. */
async function newest(cache: Cache, url: URL, signal: AbortSignal): Promise<Uint8Array> {
  const name = bytesToHex(sha256(new TextEncoder().encode(url.href)));
  let response: Response;
  try {
    response = await fetch(url, { signal, cache: "no-cache" });
  } catch (err) {
    signal.throwIfAborted();
    const kept = await cache.size(name);
    if (kept > 0) return cache.read(name, 0, kept);
    throw unreachable(url, err);
  }
  if (!response.ok) throw new Error(`${url}: the server answered ${response.status} ${response.statusText}`);
  const raw = await bounded(response, maxManifest, `${url}`);
  parse(raw, `${url}`);
  await navigator.locks.request(`dnd-${name}`, async () => {
    await cache.remove(name);
    await cache.append(name, raw);
  });
  return raw;
}

function unreachable(url: URL, err: unknown): Error {
  const foreign = url.origin !== self.location.origin ? "; its server must allow other origins (CORS), and this page's must let it connect (dndgen serve --connect)" : "";
  return new Error(`${url} could not be loaded: ${(err as Error).message}${foreign}`);
}

/**
 * Brings a single file whose hash nobody gives, such as a base model: from a URL, resumed and
 * cached as a generator's files are, or one that the user chose. It is downloaded anew when the
 * server says that it has changed.
 */
export async function openFile(place: string | File, signal: AbortSignal, report: (p: DownloadProgress) => void): Promise<Ranged> {
  if (typeof place !== "string") {
    return { size: place.size, read: async (offset, n) => new Uint8Array(await place.slice(offset, offset + n).arrayBuffer()) };
  }
  const url = new URL(place, self.location.href);
  const cache = await openCache();
  const name = (s: string): string => bytesToHex(sha256(new TextEncoder().encode(s)));
  const note = name(`file ${url.href}`); // where it is said which version is cached
  const kept = await cache.size(note);
  const last = kept > 0 ? (JSON.parse(new TextDecoder().decode(await cache.read(note, 0, kept))) as { bytes: number; sha256: string }) : undefined;
  let f: { path: string; bytes: number; sha256: string };
  try {
    const response = await fetch(url, { method: "HEAD", signal, cache: "no-cache" });
    if (!response.ok) throw new Refused(`${url}: the server answered ${response.status} ${response.statusText}`);
    const bytes = Number(response.headers.get("content-length"));
    if (!Number.isSafeInteger(bytes) || bytes <= 0) throw new Refused(`${url}: the server does not say how large the file is`);
    f = { path: url.pathname, bytes, sha256: name(`${url.href} ${bytes} ${response.headers.get("etag") ?? response.headers.get("last-modified") ?? ""}`) };
  } catch (err) {
    signal.throwIfAborted();
    if (err instanceof Refused || !last || (await cache.size(last.sha256)) !== last.bytes) throw err instanceof Refused ? err : unreachable(url, err);
    f = { path: url.pathname, ...last }; // without a network
  }
  await navigator.locks.request(`dnd-${f.sha256}`, { signal }, async () => {
    const pace = new Pace(f.bytes, report);
    if ((await cache.size(f.sha256)) > f.bytes) await cache.remove(f.sha256);
    await complete(cache, url, f, signal, pace);
    if (last?.sha256 === f.sha256) return;
    if (last) await cache.remove(last.sha256);
    await cache.remove(note);
    await cache.append(note, new TextEncoder().encode(JSON.stringify({ bytes: f.bytes, sha256: f.sha256 })));
  });
  return { size: f.bytes, read: (offset, n) => cache.read(f.sha256, offset, n) };
}

/** Has a file in the cache, whole and checked. */
async function bring(cache: Cache, url: URL, f: Manifest["files"][number], signal: AbortSignal, pace: Pace): Promise<void> {
  const have = await cache.size(f.sha256);
  if (have === f.bytes) {
    pace.at(f.path, have, false);
    if (f.bytes > maxCheck || (await hash(cache, f.sha256, have, signal)) === f.sha256) return;
  }
  if (have >= f.bytes) await cache.remove(f.sha256); // damaged in the cache
  await complete(cache, url, f, signal, pace);
  if ((await hash(cache, f.sha256, f.bytes, signal)) !== f.sha256) {
    await cache.remove(f.sha256);
    throw new Refused(`${url}: what was downloaded is not the file that generator.json describes (its SHA-256 differs)`);
  }
}

/** Downloads what is missing at the end of a file, and goes on after a cut connection. */
async function complete(cache: Cache, url: URL, f: Manifest["files"][number], signal: AbortSignal, pace: Pace): Promise<void> {
  let known = await cache.size(f.sha256);
  for (let failures = 0; ; ) {
    try {
      return await download(cache, url, f, signal, pace);
    } catch (err) {
      signal.throwIfAborted();
      const now = await cache.size(f.sha256);
      failures = now > known ? 1 : failures + 1; // what got further may go on
      known = now;
      if (failures >= attempts || err instanceof Refused || (err as Error).name === "QuotaExceededError") throw err;
      await new Promise((done) => setTimeout(done, 200 * 2 ** failures));
    }
  }
}

/** An answer that trying again does not change. */
class Refused extends Error {}

async function download(cache: Cache, url: URL, f: Manifest["files"][number], signal: AbortSignal, pace: Pace): Promise<void> {
  let at = await cache.size(f.sha256);
  if (f.bytes === 0) return cache.append(f.sha256, new Uint8Array(0));
  if (at === f.bytes) return;
  const response = await fetch(url, { signal, cache: "no-store", headers: at > 0 ? { Range: `bytes=${at}-` } : {} }).catch((err) => {
    signal.throwIfAborted();
    throw unreachable(url, err);
  });
  if (at > 0 && response.status === 200) {
    await cache.remove(f.sha256); // a server that knows no ranges
    at = 0;
  } else if (response.status !== (at > 0 ? 206 : 200)) {
    const message = `${url}: the server answered ${response.status} ${response.statusText}`;
    throw response.status >= 500 ? new Error(message) : new Refused(message);
  }
  const reader = response.body!.getReader();
  const piece = new Uint8Array(pieceBytes);
  let filled = 0;
  const flush = async (): Promise<void> => {
    if (filled > 0) await cache.append(f.sha256, piece.subarray(0, filled));
    filled = 0;
  };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      at += value.length;
      if (at > f.bytes) {
        filled = 0;
        await cache.remove(f.sha256);
        throw new Refused(`${url}: more than the ${f.bytes} bytes that generator.json says`);
      }
      for (let from = 0; from < value.length; ) {
        const n = Math.min(value.length - from, pieceBytes - filled);
        piece.set(value.subarray(from, from + n), filled);
        filled += n;
        from += n;
        if (filled === pieceBytes) await flush();
      }
      pace.at(f.path, at, true);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
    await flush(); // a cut or cancelled download goes on from here
  }
  if (at < f.bytes) throw new Error(`${url}: the connection ended after ${at} of ${f.bytes} bytes`);
}

async function hash(cache: Cache, name: string, size: number, signal: AbortSignal): Promise<string> {
  return digest((offset, n) => cache.read(name, offset, n), size, signal);
}

async function digest(read: (offset: number, n: number) => Promise<Uint8Array>, size: number, signal: AbortSignal): Promise<string> {
  if (crypto.subtle && size <= 64 << 20) {
    return bytesToHex(new Uint8Array(await crypto.subtle.digest("SHA-256", (await read(0, size)) as Uint8Array<ArrayBuffer>)));
  }
  const h = sha256.create();
  for (let at = 0; at < size; at += pieceBytes) {
    signal.throwIfAborted();
    h.update(await read(at, Math.min(pieceBytes, size - at)));
  }
  return bytesToHex(h.digest());
}

async function fromFolder(list: File[], signal: AbortSignal, report: (p: DownloadProgress) => void): Promise<Package> {
  const top = list.find((f) => /(^|\/)generator\.json$/.test(f.webkitRelativePath || f.name));
  if (!top) throw new Error("the folder has no generator.json");
  if (top.size > maxManifest) throw new Error(`generator.json has ${top.size} bytes, expected at most ${maxManifest}`);
  const prefix = (top.webkitRelativePath || top.name).replace(/generator\.json$/, "");
  const raw = new Uint8Array(await top.arrayBuffer());
  const manifest = parse(raw, "generator.json");
  const files = new Map(list.map((f) => [(f.webkitRelativePath || f.name).slice(prefix.length), f]));
  const read = async (path: string, offset: number, n: number): Promise<Uint8Array> => new Uint8Array(await files.get(path)!.slice(offset, offset + n).arrayBuffer());
  const pace = new Pace(manifest.files.reduce((n, f) => n + f.bytes, 0), report);
  for (const f of manifest.files) {
    const file = files.get(f.path);
    if (!file) throw new Error(`the folder has no ${f.path}, which generator.json lists`);
    if (file.size !== f.bytes || (await digest((o, n) => read(f.path, o, n), f.bytes, signal)) !== f.sha256) throw new Error(`${f.path} is damaged: it differs from what generator.json says`);
    pace.file(f.bytes);
  }
  return { raw, manifest, size: (path) => files.get(path)?.size ?? 0, read };
}

async function bounded(response: Response, limit: number, where: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let n = 0;
  const reader = response.body!.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    n += value.length;
    if (n > limit) {
      await reader.cancel().catch(() => undefined);
      throw new Error(`${where}: more than ${limit} bytes, expected a small file`);
    }
    parts.push(value);
  }
  const out = new Uint8Array(n);
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

/** Counts bytes, and guesses the time left from those that came over the network. */
class Pace {
  private readonly started = performance.now();
  private before = 0; // of finished files
  private came = 0;
  private last = 0;

  constructor(private readonly total: number, private readonly report: (p: DownloadProgress) => void) {}

  at(path: string, bytes: number, network: boolean): void {
    const done = this.before + bytes;
    if (network) this.came += Math.max(0, done - Math.max(this.last, this.before));
    this.last = done;
    const seconds = (performance.now() - this.started) / 1000;
    const left = this.came > 0 && seconds > 0.5 ? { secondsLeft: ((this.total - done) / this.came) * seconds } : {};
    this.report({ path, done, total: this.total, ...left });
  }

  file(bytes: number): void {
    this.before += bytes;
    this.last = this.before;
    this.report({ path: "", done: this.before, total: this.total });
  }
}
