//! What lets a browser install the pages as an app: manifest, icons, and a service worker that keeps the
//! static shell (style, icons, a page that says "offline") and nothing of anybody's data. The pages work
//! without it and without any script.
use super::content::insert;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

fn fixed(kind: &'static str, body: impl IntoResponse) -> Response {
    let mut answer = body.into_response();
    insert(&mut answer, header::CONTENT_TYPE, kind);
    insert(&mut answer, header::CACHE_CONTROL, "max-age=3600");
    answer
}

/// The manifest.
pub async fn manifest() -> Response {
    fixed("application/manifest+json", include_str!("../../templates/manifest.webmanifest"))
}

/// The icon, drawn.
pub async fn icon() -> Response {
    fixed("image/svg+xml", include_str!("../../templates/icon.svg"))
}

/// The icon, 192 pixels.
pub async fn icon_192() -> Response {
    fixed("image/png", &include_bytes!("../../templates/icon-192.png")[..])
}

/// The icon, 512 pixels.
pub async fn icon_512() -> Response {
    fixed("image/png", &include_bytes!("../../templates/icon-512.png")[..])
}

/// Registers the service worker.
pub async fn script() -> Response {
    fixed("text/javascript; charset=utf-8", include_str!("../../templates/app.js"))
}

/// The service worker; what it may fetch is told by its own policy.
pub async fn worker() -> Response {
    let mut answer = fixed("text/javascript; charset=utf-8", include_str!("../../templates/sw.js"));
    insert(&mut answer, header::CACHE_CONTROL, "no-cache");
    insert(&mut answer, header::CONTENT_SECURITY_POLICY, "default-src 'none'; connect-src 'self'");
    answer
}

/// What an installed app shows without a net.
pub async fn offline() -> Response {
    let mut answer = Html(include_str!("../../templates/offline.html")).into_response();
    insert(&mut answer, header::CACHE_CONTROL, "max-age=3600");
    answer
}
