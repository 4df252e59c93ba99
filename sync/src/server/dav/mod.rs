//! The WebDAV door, `/dav/USER/...`: class 1 and 2, for programs that know no other way in (file
//! managers, davfs2, rclone). The protocol is the crate dav-server's; names, bytes, properties and locks
//! are ours ([`fs`], [`mod@file`], [`locks`]). Every change goes through the same calls of the store as a
//! device's, so versions, trash, quota and revisions are the same, and devices see it at once.
//!
//! Who asks is told by HTTP Basic, over TLS as everything here: the account's password or an app
//! password. GET and HEAD are answered by what answers downloads ([`super::content`]).
//!
//! ownCloud's dialect, as far as rclone (`vendor = owncloud`) uses it: `X-OC-Mtime`, `OC-Checksum`, and
//! the property `oc:checksums` with the sums of what came in through this door.
pub mod file;
pub mod fs;
pub mod locks;

use super::content;
use super::http::{App, Failure, Peer, blocking, from_our_pages};
use super::users::{Worker, now_ms};
use crate::error::SyncError;
use crate::files::{Area, At};
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use dav_server::DavHandler;
use dav_server::davpath::DavPath;
use fs::{Call, Fs};
use std::sync::Arc;

const ASK: &str = "Basic realm=\"pvfs2 sync\", charset=\"UTF-8\"";
/// What a question without end is answered with.
const FINITE: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
    <D:error xmlns:D=\"DAV:\"><D:propfind-finite-depth/></D:error>\n";

/// Name and password of a request.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = String::from_utf8(BASE64_STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (name, password) = plain.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

fn refused(e: SyncError) -> Response {
    let mut answer = Failure(e).into_response();
    if answer.status() == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(ASK));
    }
    answer
}

/// A header's text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Whether every token and tag of an If header has its end, which dav-server 0.11 relies on.
fn closed(header: &str) -> bool {
    let mut rest = header.chars();
    while let Some(c) = rest.next() {
        let close = match c {
            '<' => '>',
            '[' => ']',
            _ => continue,
        };
        let mut quoted = false;
        loop {
            match rest.next() {
                None => return false,
                Some('"') => quoted = !quoted,
                Some(c) if c == close && !quoted => break,
                Some(_) => {}
            }
        }
    }
    true
}

/// Answers a request of any method.
pub async fn handle(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
) -> Response {
    if request.headers().contains_key(header::ORIGIN) && !from_our_pages(request.headers()) {
        return (StatusCode::FORBIDDEN, "this request is from another site").into_response();
    }
    let Some((name, password)) = basic(request.headers()) else {
        return refused(SyncError::Denied("name and password are asked for".into()));
    };
    let worker = blocking(move || {
        let from = peer.ip().to_string();
        let user = app.accounts.check_basic(&name, &password, &from, now_ms())?;
        Ok((app.worker(&user)?, user.name))
    });
    let (worker, user) = match worker.await {
        Ok(found) => found,
        Err(Failure(e)) => return refused(e),
    };
    let mut answer = match within(request, &user) {
        Ok(request) => answer(request, worker, &user).await,
        Err(e) => refused(e),
    };
    let csp = HeaderValue::from_static("sandbox; default-src 'none'");
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, csp);
    answer
}

/// The request, if it is about the user's own folder; that one always ends in a slash.
fn within(mut request: Request, user: &str) -> Result<Request, SyncError> {
    let top = format!("/dav/{user}");
    let path = request.uri().path();
    match path.strip_prefix(&top) {
        Some(rest) if rest.starts_with('/') => Ok(request),
        Some("") => {
            *request.uri_mut() =
                Uri::try_from(format!("{top}/")).map_err(|e| SyncError::Invalid(e.to_string()))?;
            Ok(request)
        }
        _ => Err(SyncError::NotFound(format!("{path}: your files are at {top}/"))),
    }
}

async fn answer(request: Request, worker: Arc<Worker>, user: &str) -> Response {
    let prefix = format!("/dav/{user}");
    let method = request.method().clone();
    let headers = request.headers();
    if matches!(method, Method::GET | Method::HEAD) {
        let mut path = match DavPath::new(request.uri().path()) {
            Ok(path) => path,
            Err(e) => return refused(SyncError::Invalid(format!("path: {e:?}"))),
        };
        if path.set_prefix(&prefix).is_err() {
            return refused(SyncError::Invalid("path".into()));
        }
        return download(worker, fs::name(&path), request.headers().clone()).await;
    }
    if !text(headers, "if").is_none_or(closed) {
        return refused(SyncError::Invalid("the If header is cut off".into()));
    }
    if method.as_str() == "PROPFIND"
        && !matches!(text(headers, "depth").map(str::trim), Some("0" | "1"))
    {
        let kind = (header::CONTENT_TYPE, "application/xml; charset=utf-8");
        return (StatusCode::FORBIDDEN, [kind], FINITE).into_response();
    }
    let mtime = text(headers, "x-oc-mtime").and_then(|t| t.trim().parse::<i64>().ok());
    let call = Arc::new(Call::new(worker.clone(), &request, &prefix, mtime));
    let handler = DavHandler::builder()
        .filesystem(Box::new(Fs(call.clone())))
        .locksystem(Box::new(worker.locks.clone()))
        .strip_prefix(prefix)
        .principal(user)
        .build_handler();
    let answer = handler.handle(request).await;
    let failed = answer.status().is_client_error() || answer.status().is_server_error();
    if let Some(e) = call.error().filter(|_| failed) {
        return refused(e);
    }
    let mut answer = answer.map(Body::new);
    if method == Method::PUT && !failed && mtime.is_some() {
        answer.headers_mut().insert("x-oc-mtime", HeaderValue::from_static("accepted"));
    }
    answer
}

async fn download(worker: Arc<Worker>, path: String, headers: HeaderMap) -> Response {
    let opened = blocking(move || {
        let store = worker.store.lock();
        let node = store.resolve(&path)?;
        if node.kind == crate::tree::Kind::Dir {
            return Err(SyncError::Invalid(format!("{path:?} is a folder: ask with PROPFIND")));
        }
        let file = worker.files.open_file(At(Area::Tree, &store.path(node.id)?))?;
        Ok((
            content::opened(file, node.size, node.name.clone(), fs::etag(&node))?,
            fs::time(node.mtime_ns),
        ))
    });
    let (opened, time) = match opened.await {
        Ok(found) => found,
        Err(Failure(SyncError::Invalid(why))) => {
            return (StatusCode::METHOD_NOT_ALLOWED, why).into_response();
        }
        Err(Failure(e)) => return refused(e),
    };
    match content::answer(opened, &headers) {
        Ok(mut answer) => {
            if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(time)) {
                answer.headers_mut().insert(header::LAST_MODIFIED, date);
            }
            answer
        }
        Err(Failure(e)) => refused(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_are_read_or_refused() {
        let with = |text: &str| {
            let mut h = HeaderMap::new();
            h.insert(header::AUTHORIZATION, HeaderValue::from_str(text).unwrap());
            basic(&h)
        };
        let enc = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        assert_eq!(with(&enc("ann:p:w")), Some(("ann".into(), "p:w".into())));
        assert_eq!(
            with(&enc("ann:pä").replace("Basic", "bASIC")),
            Some(("ann".into(), "pä".into()))
        );
        for bad in ["Basic", "Basic !!!", "Bearer abc", &enc("no colon")] {
            assert_eq!(with(bad), None, "{bad}");
        }
        assert_eq!(basic(&HeaderMap::new()), None);
    }

    #[test]
    fn an_if_header_that_is_cut_off_is_told_from_a_whole_one() {
        for whole in ["(<a:b> [\"x\"]) (Not <DAV:no-lock> [\"]\"])", "<https://x/> (<t:1>)", ""] {
            assert!(closed(whole), "{whole}");
        }
        for cut in ["(<a:b> [\"x", "(<a:b", "([\"]", "([x", "(<"] {
            assert!(!closed(cut), "{cut}");
        }
    }

    #[test]
    fn trap18_only_ones_own_folder_is_within() {
        let to = |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            within(request, "ann").map(|r| r.uri().path().to_owned()).ok()
        };
        assert_eq!(to("/dav/ann"), Some("/dav/ann/".into()));
        assert_eq!(to("/dav/ann/x"), Some("/dav/ann/x".into()));
        for other in ["/dav/anna/x", "/dav/bob/", "/dav/", "/dav"] {
            assert_eq!(to(other), None, "{other}");
        }
    }
}
