// Keeps the static shell only. Pages and files always come from the server, and are never kept.
const SHELL = "shell-1";
const KEPT = ["/style.css", "/icon.svg", "/icon-192.png", "/offline"];

self.addEventListener("install", (e) => {
  e.waitUntil(caches.open(SHELL).then((c) => c.addAll(KEPT)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (e) => {
  e.waitUntil(
    caches.keys()
      .then((all) => Promise.all(all.filter((k) => k !== SHELL).map((k) => caches.delete(k))))
      .then(() => self.clients.claim()));
});

self.addEventListener("fetch", (e) => {
  const url = new URL(e.request.url);
  if (e.request.method !== "GET" || url.origin !== location.origin) return;
  if (e.request.mode === "navigate") {
    e.respondWith(fetch(e.request).catch(() => caches.match("/offline")));
  } else if (KEPT.includes(url.pathname)) {
    // The server's first, so that a new version is seen at once.
    e.respondWith(fetch(e.request).catch(() => caches.match(url.pathname)));
  }
});
