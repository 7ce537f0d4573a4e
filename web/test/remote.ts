// Runs the Programs of a Go test (package internal/chromium) with the page's executor.

import { bytes, decode, encode, text } from "../src/abi";
import { Device, type Held } from "../src/executor";
import { parse } from "../src/program";

async function post(path: string, body: string | Uint8Array): Promise<void> {
  await fetch(path, { method: "POST", body: body as BodyInit });
}

async function main(): Promise<void> {
  const device = await Device.open();
  await post("ready", JSON.stringify({ Device: device.name, Limits: device.limits }));
  const held = new Map<string, Held>();
  for (;;) {
    const response = await fetch("next");
    const job = decode(new Uint8Array(await response.arrayBuffer()));
    const inputs = new Map([...job].filter(([name]) => name.startsWith("input/")).map(([name, data]) => [name.slice("input/".length), data]));
    const weights = {
      async read(name: string, dtype: string, offset: number, n: number): Promise<Uint8Array> {
        const answer = await fetch(`weights?${new URLSearchParams({ name, dtype, offset: String(offset), n: String(n) })}`);
        if (!answer.ok) throw new Error(await answer.text());
        return new Uint8Array(await answer.arrayBuffer());
      },
    };
    try {
      const name = text(job.get("held")!);
      const stage = text(job.get("stage")!);
      let outputs = new Map<string, Uint8Array>();
      if (name === "") outputs = (await device.run(parse(text(job.get("program")!)), weights, inputs)).outputs;
      else if (stage === "") {
        held.get(name)?.close();
        held.delete(name);
      } else {
        const h = held.get(name) ?? device.hold(parse(text(job.get("program")!)), weights);
        held.set(name, h);
        outputs = (await h.run(stage, inputs)).outputs;
      }
      await post("done", encode(outputs));
    } catch (err) {
      await post("done", encode(new Map([["error", bytes((err as Error).message)]])));
    }
  }
}

main().catch((err: Error) => post("ready", JSON.stringify({ Error: err.message })));
