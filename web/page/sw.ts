// The service worker: a second visit works without a network. The page and its parts are
// taken from the network if it answers, else from the cache; the generator's large files
// are the store's business.

export {};

declare const self: ServiceWorkerGlobalScope;
declare const PARTS: string[];
declare const VERSION: string;

const name = `dnd-page-${VERSION}`;

self.addEventListener("install", (e) => {
  e.waitUntil(caches.open(name).then((c) => c.addAll(PARTS)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (e) => {
  e.waitUntil(caches.keys().then(async (keys) => {
    for (const k of keys) if (k.startsWith("dnd-page-") && k !== name) await caches.delete(k);
    await self.clients.claim();
  }));
});

self.addEventListener("fetch", (e) => {
  const url = new URL(e.request.url);
  const own = url.origin === self.location.origin && e.request.method === "GET" && !e.request.headers.has("range");
  if (!own || /\.(safetensors|gguf)$/.test(url.pathname)) return;
  e.respondWith(answer(e.request));
});

async function answer(request: Request): Promise<Response> {
  const cache = await caches.open(name);
  try {
    const response = await fetch(request);
    if (response.ok && response.status === 200 && /\/(generator\.json|[^/]*\.html|)$/.test(new URL(request.url).pathname)) await cache.put(request, response.clone());
    return response;
  } catch (err) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return kept;
    throw err;
  }
}
