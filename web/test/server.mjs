// A static file server on localhost whose answers a test can spoil. URLs below /generator/
// are a generator package, /base.gguf is a base model if there is one, all others the page.

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const types = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".json": "application/json" };

/** The headers that dndgen serve sends, too. */
export const csp = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; manifest-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export class Server {
  /** Called with each request's path: may answer itself and return true. */
  spoil = undefined;
  requests = [];

  constructor(site, generator, base) {
    this.site = site;
    this.generator = generator;
    this.base = base;
    this.http = createServer((request, response) => this.answer(request, response));
  }

  async start(port = 0) {
    await new Promise((ready) => this.http.listen(port, "127.0.0.1", ready));
    this.port = this.http.address().port;
    this.url = `http://localhost:${this.port}/`;
    return this;
  }

  async stop() {
    this.http.closeAllConnections();
    await new Promise((done) => this.http.close(done));
  }

  answer(request, response) {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    const range = request.headers.range?.match(/^bytes=(\d+)-$/);
    this.requests.push({ path, from: range ? Number(range[1]) : 0 });
    response.setHeader("Content-Security-Policy", csp);
    response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
    response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    if (this.spoil?.(path, request, response)) return;
    const file = this.file(path);
    if (!file) {
      response.writeHead(404).end();
      return;
    }
    const size = statSync(file).size;
    const from = range ? Number(range[1]) : 0;
    if (range && from >= size) {
      response.writeHead(416).end();
      return;
    }
    response.writeHead(range ? 206 : 200, {
      "Content-Type": types[extname(file)] ?? "application/octet-stream",
      "Content-Length": size - from,
      ...(range ? { "Content-Range": `bytes ${from}-${size - 1}/${size}` } : {}),
    });
    if (request.method === "HEAD") response.end();
    else createReadStream(file, { start: from }).pipe(response);
  }

  file(path) {
    if (path === "/base.gguf") return this.base;
    const inside = normalize(path).replace(/^\/+/, "");
    const file = inside.startsWith("generator/") ? join(this.generator, inside.slice("generator/".length)) : join(this.site, inside || "index.html");
    return existsSync(file) && statSync(file).isFile() ? file : undefined;
  }
}
