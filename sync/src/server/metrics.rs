//! Counters of the server as Prometheus reads them, at `/metrics`: for this machine (a loopback address,
//! and no proxy in between that says whom it asks for), or with the token of an administrator's device.
//! All names of metrics are in this file.
use super::http::{Answer, App, Peer, blocking, token};
use super::users::now_ms;
use crate::error::{Result, SyncError};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Requests by route and status.
#[derive(Debug, Default)]
pub struct Requests(Mutex<BTreeMap<(String, u16), (u64, Duration)>>);

impl Requests {
    /// How many were answered.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.lock().values().map(|(n, _)| n).sum()
    }
}

/// The first words of the paths that there are; what is beneath them is not told apart.
const PAGES: [&str; 26] = [
    "",
    "account",
    "activity",
    "admin",
    "app.js",
    "icon.svg",
    "manifest.webmanifest",
    "pdf",
    "sw.js",
    "thumb",
    "view",
    "conflicts",
    "dav",
    "download",
    "files",
    "healthz",
    "login",
    "logout",
    "metrics",
    "node",
    "s",
    "shares",
    "signup",
    "style.css",
    "trash",
    "zip",
];
const API: [&str; 19] = [
    "activity",
    "admin",
    "batch",
    "changes",
    "contents",
    "devices",
    "files",
    "login",
    "logout",
    "me",
    "nodes",
    "op",
    "openapi.json",
    "outcome",
    "purge",
    "restore",
    "totp",
    "trash",
    "uploads",
];

/// The route of a path, without numbers, names and tokens: one of a few.
fn route(path: &str) -> String {
    let first = |p: &str| p.split('/').next().unwrap_or_default().to_owned();
    let (prefix, name, known) = match path.strip_prefix("/api/v1/") {
        Some(rest) => ("/api/v1/", first(rest), &API[..]),
        None => ("/", first(path.trim_start_matches('/')), &PAGES[..]),
    };
    if known.contains(&name.as_str()) { format!("{prefix}{name}") } else { "other".into() }
}

/// Counts each request, by its route and status, with the time until its answer began.
pub async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let route = route(request.uri().path());
    let began = Instant::now();
    let answer = next.run(request).await;
    let mut all = app.requests.0.lock();
    let one = all.entry((route, answer.status().as_u16())).or_default();
    one.0 += 1;
    one.1 += began.elapsed();
    answer
}

/// Whether it is a question from this machine itself.
fn from_here(peer: &Peer, headers: &HeaderMap) -> bool {
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    peer.0.ip().is_loopback() && !forwarded.iter().any(|name| headers.contains_key(*name))
}

fn allowed(app: &App, headers: &HeaderMap) -> Result<()> {
    match token(headers) {
        Some((token, false)) if app.accounts.session(&token, now_ms())?.user.admin => Ok(()),
        _ => Err(SyncError::Denied(
            "metrics are for this machine itself, or with an administrator's device token".into(),
        )),
    }
}

/// The counters.
pub async fn show(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Answer<Response> {
    let text = blocking(move || {
        if !from_here(&peer, &headers) {
            allowed(&app, &headers)?;
        }
        render(&app)
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

fn render(app: &App) -> Result<String> {
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, lines: &[(String, f64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in lines {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let (mut count, mut secs) = (Vec::new(), Vec::new());
    for ((route, status), (n, time)) in app.requests.0.lock().iter() {
        let labels = format!("{{route=\"{route}\",status=\"{status}\"}}");
        count.push((labels.clone(), *n as f64));
        secs.push((labels, time.as_secs_f64()));
    }
    let one = |n: f64| [(String::new(), n)];
    metric("pvfs2_sync_requests_total", "counter", "Requests answered.", &count);
    metric(
        "pvfs2_sync_request_seconds_total",
        "counter",
        "Seconds until their answers began.",
        &secs,
    );
    let users = app.accounts.users()?;
    metric("pvfs2_sync_users", "gauge", "Accounts.", &one(users.len() as f64));
    let (mut stores, mut used, mut reserved) = (0.0, 0.0, 0.0);
    for worker in app.open_workers() {
        let store = worker.store.lock();
        stores += 1.0;
        used += store.usage()?.0 as f64;
        reserved += store.uploads()?.1 as f64;
    }
    metric("pvfs2_sync_stores_open", "gauge", "Stores that are open.", &one(stores));
    metric(
        "pvfs2_sync_used_bytes",
        "gauge",
        "Bytes kept in them, versions and trash included.",
        &one(used),
    );
    metric("pvfs2_sync_reserved_bytes", "gauge", "Bytes reserved by uploads.", &one(reserved));
    if let Some((ms, done)) = *app.swept.lock() {
        let at = ms as f64 / 1_000.0;
        metric(
            "pvfs2_sync_expiry_timestamp_seconds",
            "gauge",
            "When what was kept long enough was dropped last.",
            &one(at),
        );
        let line = |what: &str, n: usize| (format!("{{what=\"{what}\"}}"), n as f64);
        metric(
            "pvfs2_sync_expired_last",
            "gauge",
            "How many were dropped then.",
            &[
                line("trash", done.trash),
                line("versions", done.versions),
                line("marks", done.marks),
                line("devices", done.devices),
            ],
        );
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_few_and_tell_nobodys_names() {
        for (path, want) in [
            ("/", "/"),
            ("/s/0123456789abcdef/get/5", "/s"),
            ("/dav/ann/secret plan.txt", "/dav"),
            ("/api/v1/nodes/7/content", "/api/v1/nodes"),
            ("/api/v1/guess", "other"),
            ("/wp-login.php", "other"),
        ] {
            assert_eq!(route(path), want, "{path}");
        }
    }

    #[test]
    fn only_a_question_from_this_machine_itself_is_from_here() {
        let here = Peer("127.0.0.1:5".parse().unwrap());
        let mut headers = HeaderMap::new();
        assert!(from_here(&here, &headers));
        assert!(from_here(&Peer("[::1]:5".parse().unwrap()), &headers));
        assert!(!from_here(&Peer("192.0.2.1:5".parse().unwrap()), &headers));
        headers.insert("x-forwarded-for", "192.0.2.1".parse().unwrap());
        assert!(!from_here(&here, &headers), "a proxy asks for somebody else");
    }
}
