// Where downloaded files stay between visits: the origin's private file system or, where a
// browser lacks it, the Cache API. Files are named by their SHA-256 and grow at the end
// only, so that a cut download goes on where it stopped. Runs in a worker.

export interface Cache {
  /** How many bytes of a file are there. */
  size(sha256: string): Promise<number>;
  read(sha256: string, offset: number, length: number): Promise<Uint8Array>;
  append(sha256: string, data: Uint8Array): Promise<void>;
  remove(sha256: string): Promise<void>;
}

/** Opens the best cache that there is. */
export async function openCache(): Promise<Cache> {
  try {
    const root = await navigator.storage.getDirectory();
    const dir = await root.getDirectoryHandle("dnd", { create: true });
    if (typeof FileSystemFileHandle.prototype.createSyncAccessHandle === "function") return new PrivateFiles(dir);
  } catch {
    // Private windows of some browsers have the function and refuse the folder.
  }
  if (typeof caches !== "undefined") {
    try {
      return new CachedPieces(await caches.open("dnd-files"));
    } catch {
      // Refused likewise.
    }
  }
  return new Memory();
}

class PrivateFiles implements Cache {
  constructor(private readonly dir: FileSystemDirectoryHandle) {}

  private async file(name: string): Promise<File | undefined> {
    try {
      return await (await this.dir.getFileHandle(name)).getFile();
    } catch (err) {
      if ((err as Error).name === "NotFoundError") return undefined;
      throw err;
    }
  }

  async size(name: string): Promise<number> {
    return (await this.file(name))?.size ?? 0;
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    const f = await this.file(name);
    if (!f || offset + length > f.size) throw new Error(`the cached file ${name} is gone: load the generator again`);
    return new Uint8Array(await f.slice(offset, offset + length).arrayBuffer());
  }

  async append(name: string, data: Uint8Array): Promise<void> {
    const handle = await (await this.dir.getFileHandle(name, { create: true })).createSyncAccessHandle();
    try {
      const at = handle.getSize();
      if (handle.write(data as Uint8Array<ArrayBuffer>, { at }) !== data.length) {
        handle.truncate(at);
        throw new DOMException("the browser's storage for this page is full", "QuotaExceededError");
      }
      handle.flush();
    } finally {
      handle.close();
    }
  }

  async remove(name: string): Promise<void> {
    await this.dir.removeEntry(name).catch((err: Error) => {
      if (err.name !== "NotFoundError") throw err;
    });
  }
}

/** Each append is an entry /sha256/offset/bytes. */
class CachedPieces implements Cache {
  constructor(private readonly cache: globalThis.Cache) {}

  private async pieces(name: string): Promise<{ url: string; offset: number; bytes: number }[]> {
    const list = [];
    for (const { url } of await this.cache.keys()) {
      const [, sha256, offset, bytes] = new URL(url).pathname.match(/\/dnd-files\/([0-9a-f]+)\/(\d+)\/(\d+)$/) ?? [];
      if (sha256 === name) list.push({ url, offset: Number(offset), bytes: Number(bytes) });
    }
    return list.sort((a, b) => a.offset - b.offset);
  }

  async size(name: string): Promise<number> {
    let end = 0;
    for (const p of await this.pieces(name)) if (p.offset === end) end += p.bytes;
    return end;
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    const out = new Uint8Array(length);
    let filled = 0;
    for (const p of await this.pieces(name)) {
      const from = Math.max(offset, p.offset);
      const to = Math.min(offset + length, p.offset + p.bytes);
      if (from >= to) continue;
      const blob = await (await this.cache.match(p.url))?.blob();
      if (!blob) break;
      out.set(new Uint8Array(await blob.slice(from - p.offset, to - p.offset).arrayBuffer()), from - offset);
      filled += to - from;
    }
    if (filled !== length) throw new Error(`the cached file ${name} is gone: load the generator again`);
    return out;
  }

  async append(name: string, data: Uint8Array): Promise<void> {
    await this.cache.put(`/dnd-files/${name}/${await this.size(name)}/${data.length}`, new Response(data as Uint8Array<ArrayBuffer>));
  }

  async remove(name: string): Promise<void> {
    for (const p of await this.pieces(name)) await this.cache.delete(p.url);
  }
}

/** For browsers that store nothing: each visit downloads again. */
class Memory implements Cache {
  private readonly files = new Map<string, Uint8Array[]>();

  async size(name: string): Promise<number> {
    return (this.files.get(name) ?? []).reduce((n, p) => n + p.length, 0);
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    const out = new Uint8Array(length);
    let at = 0;
    for (const p of this.files.get(name) ?? []) {
      const from = Math.max(offset, at);
      const to = Math.min(offset + length, at + p.length);
      if (from < to) out.set(p.subarray(from - at, to - at), from - offset);
      at += p.length;
    }
    if (offset + length > at) throw new Error("the file is not in memory any more");
    return out;
  }

  async append(name: string, data: Uint8Array): Promise<void> {
    this.files.set(name, [...(this.files.get(name) ?? []), data.slice()]);
  }

  async remove(name: string): Promise<void> {
    this.files.delete(name);
  }
}
