// The few functions of WASI preview 1 that a Go reactor imports. The guest gets no file,
// no clock that tells the time and no network: what it writes to stderr is kept for error
// messages, everything else is refused.

const success = 0;
const badf = 8;
const kept = 4096;

/** Makes the imports of one instance; bind gives them its memory. */
export function imports(): { functions: WebAssembly.ModuleImports; bind: (m: WebAssembly.Memory) => void; stderr: () => string } {
  let memory: WebAssembly.Memory;
  let stderr = "";
  const view = (): DataView => new DataView(memory.buffer);
  const refuse = (): number => badf;
  // A clock that stands still. One that moves when it is looked at tells the garbage collector,
  // who looks most, that it takes all of the time. Go refuses 0.
  const stopped = (at: number): number => {
    view().setBigUint64(at, 1n, true);
    return success;
  };
  const empty = (count: number, size: number): number => {
    view().setUint32(count, 0, true);
    view().setUint32(size, 0, true);
    return success;
  };
  const functions: WebAssembly.ModuleImports = {
    args_sizes_get: empty,
    args_get: () => success,
    environ_sizes_get: empty,
    environ_get: () => success,
    clock_time_get: (_clock: number, _precision: bigint, at: number) => stopped(at),
    clock_res_get: (_clock: number, at: number) => stopped(at),
    random_get: (at: number, n: number) => {
      // Go seeds its maps from this, so it must not be constant; the results do not depend on it.
      for (let done = 0; done < n; done += 65536) crypto.getRandomValues(new Uint8Array(memory.buffer, at + done, Math.min(65536, n - done)));
      return success;
    },
    sched_yield: () => success,
    poll_oneoff: (_in: number, _out: number, _n: number, at: number) => {
      view().setUint32(at, 0, true);
      return success;
    },
    proc_exit: (code: number) => {
      throw new Error(`exit ${code}`);
    },
    fd_write: (fd: number, vectors: number, count: number, at: number) => {
      let n = 0;
      for (let i = 0; i < count; i++) {
        const from = view().getUint32(vectors + 8 * i, true);
        const size = view().getUint32(vectors + 8 * i + 4, true);
        if (fd === 2 && stderr.length < kept) stderr += new TextDecoder().decode(new Uint8Array(memory.buffer, from, Math.min(size, kept)));
        n += size;
      }
      view().setUint32(at, n, true);
      return success;
    },
  };
  // Whatever else the module asks for is a file, a folder or a socket.
  const all = new Proxy(functions, { get: (target, name: string) => target[name] ?? refuse, has: () => true });
  return { functions: all, bind: (m) => (memory = m), stderr: () => stderr };
}
