//! The device's settings page: on 127.0.0.1 only, for whoever can read `page.json` of the state directory,
//! which holds the address with a token. The token becomes a cookie that no other site's page can send;
//! Host must be ours, so that no name that somebody points to 127.0.0.1 reaches it; what changes something
//! must come from the page itself, told by Origin. It works without JavaScript.
use super::config::Config;
use super::daemon::{Status, wish};
use super::engine::Progress;
use super::settings::{Settings, rate};
use crate::error::{Result, SyncError};
use crate::rng::{hex, secret};
use askama::Template;
use axum::Router;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const COOKIE: &str = "pvfs2-sync-page";
const FILE: &str = "page.json";

/// Where the page is, `page.json` in the state directory; only its owner may read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Address {
    /// With the token in it.
    pub url: String,
}

impl Address {
    /// Of the daemon that runs.
    ///
    /// # Errors
    /// I/O: no daemon runs, or it has no page.
    pub fn load(state: &Path) -> Result<Self> {
        let path = state.join(FILE);
        let text = std::fs::read(&path)
            .map_err(|e| SyncError::io(format!("{} (does the daemon run?)", path.display()), e))?;
        serde_json::from_slice(&text)
            .map_err(|e| SyncError::Invalid(format!("{}: {e}", path.display())))
    }
}

/// A page that is served until this is dropped.
#[derive(Debug)]
pub struct Page {
    /// Where.
    pub addr: SocketAddr,
    state: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.state.join(FILE));
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug)]
struct Ours {
    state: PathBuf,
    token: String,
    host: String,
    progress: Arc<Progress>,
}

type Shared = State<Arc<Ours>>;

/// Serves the page at a free port.
///
/// # Errors
/// I/O.
pub fn serve(state: &Path, progress: Arc<Progress>) -> Result<Page> {
    let token = hex(&secret::<24>().map_err(|e| SyncError::io("random bytes", e))?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("sync-page")
        .enable_all()
        .build()
        .map_err(|e| SyncError::io("runtime", e))?;
    let at = (Ipv4Addr::LOCALHOST, 0);
    let fail = |e| SyncError::io("settings page on 127.0.0.1", e);
    let listener = runtime.block_on(tokio::net::TcpListener::bind(at)).map_err(fail)?;
    let addr = listener.local_addr().map_err(fail)?;
    let address = Address { url: format!("http://{addr}/?token={token}") };
    let path = state.join(FILE);
    let _ = std::fs::remove_file(&path);
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut f| f.write_all(&serde_json::to_vec(&address).unwrap_or_default()))
        .map_err(|e| SyncError::io(path.display().to_string(), e))?;
    let ours = Arc::new(Ours { state: state.to_owned(), token, host: addr.to_string(), progress });
    let app = Router::new()
        .route("/", get(show))
        .route("/style.css", get(style))
        .route("/set", post(set))
        .route("/now", post(now))
        .route("/pause", post(pause))
        .with_state(ours);
    runtime.spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let service = hyper_util::service::TowerToHyperService::new(app.clone());
            tokio::spawn(async move {
                let io = hyper_util::rt::TokioIo::new(stream);
                let executor = hyper_util::rt::TokioExecutor::new();
                let builder = hyper_util::server::conn::auto::Builder::new(executor).http1_only();
                let _ = builder.serve_connection(io, service).await;
            });
        }
    });
    Ok(Page { addr, state: state.to_owned(), runtime: Some(runtime) })
}

impl Ours {
    /// Whether a request may be answered; `changes`: it changes something.
    fn allows(&self, headers: &HeaderMap, changes: bool) -> std::result::Result<(), Box<Response>> {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        let no = |why| Err(Box::new((StatusCode::FORBIDDEN, why).into_response()));
        if text(header::HOST) != Some(self.host.as_str()) {
            return no("this page has another address");
        }
        let origin = text(header::ORIGIN).and_then(|o| o.strip_prefix("http://"));
        if changes && origin != Some(self.host.as_str()) {
            return no("this request is from another site");
        }
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
        let mut pairs = cookies.flat_map(|c| c.split(';')).filter_map(|p| p.trim().split_once('='));
        if pairs.any(|(name, value)| name == COOKIE && same(value, &self.token)) {
            return Ok(());
        }
        no("open the address that `pvfs2 sync page` tells")
    }
}

/// Compares without telling by its time how much fits.
fn same(a: &str, b: &str) -> bool {
    blake3::hash(a.as_bytes()) == blake3::hash(b.as_bytes())
}

#[derive(Template)]
#[template(path = "device.html")]
struct DevicePage {
    device: String,
    user: String,
    server: String,
    folder: String,
    state: String,
    working: String,
    paused: bool,
    schedule: String,
    up: u64,
    down: u64,
    ignore: String,
    only: String,
    status: Status,
    error: String,
}

#[derive(Debug, Deserialize)]
struct Enter {
    token: Option<String>,
}

fn page(ours: &Ours, error: String) -> Response {
    let made = Config::load(&ours.state).and_then(|c| Ok((c, Settings::load(&ours.state)?)));
    let (config, set) = match made {
        Ok(found) => found,
        Err(e) => return (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    };
    let status = Status::load(&ours.state).unwrap_or_default();
    let of = ours.progress.of.load(Ordering::Relaxed);
    let working = match of {
        0 => String::new(),
        of => format!(
            "{} of {of} steps, {} KiB",
            ours.progress.done.load(Ordering::Relaxed),
            ours.progress.bytes.load(Ordering::Relaxed) >> 10
        ),
    };
    let page = DevicePage {
        device: config.device,
        user: config.user,
        server: config.server,
        folder: config.folder.display().to_string(),
        state: status.state.clone(),
        working,
        paused: set.paused,
        schedule: set.schedule.to_string(),
        up: set.up >> 10,
        down: set.down >> 10,
        ignore: set.ignore.join("\n"),
        only: set.only.join("\n"),
        status,
        error,
    };
    let code = if page.error.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let fixed = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; \
             base-uri 'none'",
        ),
    ];
    match page.render() {
        Ok(text) => (code, fixed, Html(text)).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn show(State(ours): Shared, Query(enter): Query<Enter>, headers: HeaderMap) -> Response {
    if let Some(token) = enter.token {
        let host = headers.get(header::HOST).and_then(|v| v.to_str().ok());
        if host != Some(ours.host.as_str()) || !same(&token, &ours.token) {
            return (StatusCode::FORBIDDEN, "open the address that `pvfs2 sync page` tells")
                .into_response();
        }
        let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/");
        return ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response();
    }
    match ours.allows(&headers, false) {
        Ok(()) => page(&ours, String::new()),
        Err(no) => *no,
    }
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css")], include_str!("../../templates/style.css"))
}

#[derive(Debug, Deserialize)]
struct SetForm {
    schedule: String,
    up: String,
    down: String,
    ignore: String,
    only: String,
}

async fn set(State(ours): Shared, headers: HeaderMap, Form(form): Form<SetForm>) -> Response {
    if let Err(no) = ours.allows(&headers, true) {
        return *no;
    }
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(str::trim_end).filter(|l| !l.is_empty()).map(str::to_owned).collect()
    };
    let kib = |text: &str| rate(&format!("{}K", text.trim()));
    let changed = form.schedule.parse().and_then(|schedule| {
        let (up, down) = (kib(&form.up)?, kib(&form.down)?);
        Settings::change(&ours.state, |s| {
            (s.schedule, s.up, s.down) = (schedule, up, down);
            (s.ignore, s.only) = (lines(&form.ignore), lines(&form.only));
        })
    });
    match changed {
        Ok(_) => Redirect::to("/").into_response(),
        Err(e) => page(&ours, e.to_string()),
    }
}

async fn now(State(ours): Shared, headers: HeaderMap) -> Response {
    if let Err(no) = ours.allows(&headers, true) {
        return *no;
    }
    match wish(&ours.state, false) {
        Ok(()) => Redirect::to("/").into_response(),
        Err(e) => page(&ours, e.to_string()),
    }
}

async fn pause(State(ours): Shared, headers: HeaderMap) -> Response {
    if let Err(no) = ours.allows(&headers, true) {
        return *no;
    }
    match Settings::change(&ours.state, |s| s.paused = !s.paused) {
        Ok(_) => Redirect::to("/").into_response(),
        Err(e) => page(&ours, e.to_string()),
    }
}
