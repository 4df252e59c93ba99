//! Routes, who is asking, errors as statuses, and the headers that every answer carries.
//!
//! A device shows its token as `Authorization: Bearer`. A browser has it in a cookie that no script can
//! read and no other site can send (`__Host-`, HttpOnly, Secure, SameSite=Strict); what changes
//! something must also come from our own pages, told by Origin (trap 19).
use super::accounts::Session;
use super::users::{Users, Worker, now_ms};
use super::{activity, preview, pwa, totp_pages};
use super::{
    admin, admin_api, api, content, dav, delta, manage, many, metrics, pages, share_pages, web, zip,
};
use crate::error::{Result, SyncError};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The cookie of a browser's session.
pub const COOKIE: &str = "__Host-pvfs2";
/// Bodies of forms and JSON.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What every handler gets.
pub type App = Arc<Users>;

/// From which address a request came; put in by the listener.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// An error on its way out.
#[derive(Debug)]
pub struct Failure(pub SyncError);

impl From<SyncError> for Failure {
    fn from(e: SyncError) -> Self {
        Self(e)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // What is inside the machine is for its log.
        let text = if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %self.0, "request failed");
            "an internal error; the server's log tells more".to_owned()
        } else {
            self.0.to_string()
        };
        let mut answer = (status, text).into_response();
        if let SyncError::Busy(secs) = self.0 {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        answer
    }
}

/// Marks requests of the API, which are not sent on to a page to sign in: beneath a nested router the
/// path does not tell any more.
#[derive(Clone, Copy, Debug)]
struct Api;

/// Answer or failure.
pub type Answer<T> = std::result::Result<T, Failure>;

/// Runs what may block on the pool for that.
///
/// # Errors
/// As `f`.
pub async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> Answer<T> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result.map_err(Failure),
        Err(e) => Err(Failure(SyncError::Net(format!("the worker ended: {e}")))),
    }
}

/// Somebody who is signed in, with their worker.
#[derive(Clone, Debug)]
pub struct Who {
    /// The session.
    pub session: Session,
    /// The user's worker.
    pub worker: Arc<Worker>,
}

impl Who {
    /// For the journal: which device.
    #[must_use]
    pub fn by(&self) -> String {
        if self.session.device.is_empty() { "web".into() } else { self.session.device.clone() }
    }
}

/// The token of a request, and whether it came in the cookie.
#[must_use]
pub fn token(headers: &HeaderMap) -> Option<(String, bool)> {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    if let Some(bearer) = text(header::AUTHORIZATION).and_then(|a| a.strip_prefix("Bearer ")) {
        return Some((bearer.to_owned(), false));
    }
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut pairs = cookies.flat_map(|c| c.split(';')).filter_map(|p| p.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| (value.to_owned(), true))
}

/// Whether a request that changes something comes from our own pages.
#[must_use]
pub fn from_our_pages(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => origin.strip_prefix("https://") == Some(host),
        _ => false,
    }
}

/// The token of a request, and whether a page is asked for, which an answer may send to sign in.
fn asked(parts: &Parts) -> std::result::Result<(String, bool), Box<Response>> {
    let page = parts.extensions.get::<Api>().is_none();
    let Some((token, cookie)) = token(&parts.headers) else {
        return Err(Box::new(not_in(SyncError::Denied("not signed in".into()).into(), page)));
    };
    let safe = matches!(parts.method, Method::GET | Method::HEAD);
    if cookie && !safe && !from_our_pages(&parts.headers) {
        let why = (StatusCode::FORBIDDEN, "this request is from another site");
        return Err(Box::new(why.into_response()));
    }
    Ok((token, page))
}

fn not_in(e: Failure, page: bool) -> Response {
    match e.0 {
        SyncError::Denied(_) if page => web::to("/login"),
        _ if page => pages::problem(&e.0),
        _ => e.into_response(),
    }
}

impl FromRequestParts<App> for Who {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &App,
    ) -> std::result::Result<Self, Response> {
        let (token, page) = asked(parts).map_err(|r| *r)?;
        let app = app.clone();
        let who = blocking(move || {
            let session = app.accounts.session(&token, now_ms())?;
            let worker = app.worker(&session.user)?;
            Ok(Self { session, worker })
        });
        who.await.map_err(|e| not_in(e, page))
    }
}

/// An administrator who is signed in. Management needs no store of one's own: it goes on while that one
/// is held or its route is away.
#[derive(Clone, Debug)]
pub struct Boss {
    /// The session.
    pub session: Session,
}

impl FromRequestParts<App> for Boss {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &App,
    ) -> std::result::Result<Self, Response> {
        let (token, page) = asked(parts).map_err(|r| *r)?;
        let app = app.clone();
        let boss = blocking(move || {
            let session = app.accounts.session(&token, now_ms())?;
            if session.user.admin {
                Ok(Self { session })
            } else {
                // The same as for a page that is not there.
                Err(SyncError::NotFound("this page".into()))
            }
        });
        boss.await.map_err(|e| not_in(e, page))
    }
}

/// Headers on every answer: nothing is guessed, framed, scripted from elsewhere or kept.
async fn headers(request: Request, next: Next) -> Response {
    // Told to a browser it binds every port of the name, so only where we have the name's own.
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    let name_is_ours = host.is_some_and(|h| !h.contains(':'));
    let mut answer = next.run(request).await;
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; \
             worker-src 'self'; manifest-src 'self'; form-action 'self'; \
             frame-ancestors 'none'; base-uri 'none'",
        ),
    ];
    if name_is_ours {
        let year = HeaderValue::from_static("max-age=31536000");
        answer.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
    for (name, value) in fixed {
        answer.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}

/// How long the root's file system may take to say that it is there.
const ROOT_WAIT: Duration = Duration::from_secs(10);

/// Nothing is answered while the root is not there: 503 for everything (trap 5).
async fn root_there(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = app.root().path().display().to_string();
    let look = blocking(move || app.root().check());
    match tokio::time::timeout(ROOT_WAIT, look).await {
        Ok(Ok(())) => next.run(request).await,
        Ok(Err(e)) => {
            tracing::error!(error = %e.0, "the root is gone");
            e.into_response()
        }
        Err(_) => Failure(SyncError::RootLost(format!("{path} does not answer"))).into_response(),
    }
}

/// All routes.
pub fn router(app: App) -> Router {
    let api = Router::new()
        .route("/login", post(api::login))
        .route("/logout", post(api::logout))
        .route("/me", get(api::me))
        .route("/activity", get(activity::list))
        .route("/totp", post(api::totp_begin))
        .route("/totp/on", post(api::totp_on))
        .route("/totp/off", post(api::totp_off))
        .route("/changes", get(api::changes))
        .route("/nodes/{id}", get(api::node))
        .route("/nodes/{id}/children", get(api::children))
        .route("/nodes/{id}/content", get(content::node))
        .route("/nodes/{id}/signature", post(delta::signature))
        .route("/nodes/{id}/ranges", post(delta::ranges))
        .route("/nodes/{id}/versions", get(api::versions))
        .route("/nodes/{id}/versions/{rev}", get(content::version))
        .route("/uploads", post(api::upload_begin))
        .route(
            "/uploads/{id}",
            put(content::append).get(api::upload_state).delete(api::upload_drop),
        )
        .route("/uploads/{id}/commit", post(api::upload_commit))
        .route(
            "/uploads/{id}/parts",
            post(delta::parts).layer(DefaultBodyLimit::max(many::BODY_BYTES_MAX)),
        )
        .route("/files", post(many::put).layer(DefaultBodyLimit::max(many::BODY_BYTES_MAX)))
        .route("/contents", post(many::get))
        .route("/op", post(api::op))
        .route("/batch", post(api::batch))
        .route("/outcome/{key}", get(api::outcome))
        .route("/trash", get(api::trash))
        .route("/restore", post(api::restore))
        .route("/purge/{id}", post(api::purge))
        .route("/openapi.json", get(api::openapi))
        .route("/devices", get(api::devices))
        .route("/devices/{id}", axum::routing::delete(api::end_device))
        .route("/admin/users", get(admin_api::users).post(admin_api::new_user))
        .route("/admin/users/{id}", put(admin_api::set_user))
        .route("/admin/users/{id}/move", post(admin_api::move_user))
        .route("/admin/routes", get(admin_api::routes).post(admin_api::add_route))
        .route("/admin/routes/{id}", axum::routing::delete(admin_api::drop_route))
        .route("/admin/routes/{id}/default", post(admin_api::default_route))
        .route("/admin/ports", get(admin_api::ports).post(admin_api::open_port))
        .route("/admin/ports/drain", post(admin_api::drain_port))
        .route("/admin/backups", get(admin_api::backups).post(admin_api::make_backup))
        .route("/admin/backups/{name}", axum::routing::delete(admin_api::drop_backup))
        .route("/admin/backups/{name}/load", post(admin_api::load_backup))
        .route("/admin/backups/{name}/verify", post(admin_api::verify_backup))
        .route("/admin/jobs", get(admin_api::jobs))
        .route("/admin/audit", get(admin_api::audit));
    let pages = Router::new()
        .route("/", get(web::home))
        .route("/login", get(web::login_page).post(web::login))
        .route("/login/code", post(totp_pages::login_code))
        .route("/signup", get(web::signup_page).post(web::signup))
        .route("/logout", post(web::logout))
        .route("/files/{id}", get(web::browse))
        .route("/files/{id}/mkdir", post(web::mkdir))
        .route("/files/{id}/upload", post(web::upload).layer(DefaultBodyLimit::disable()))
        .route("/zip/{id}", get(zip::own))
        .route("/node/{id}/share", post(share_pages::make))
        .route("/shares", get(share_pages::all))
        .route("/shares/{id}/end", post(share_pages::end))
        .route("/s/{token}", get(share_pages::top).post(share_pages::password))
        .route("/s/{token}/d/{id}", get(share_pages::below))
        .route("/s/{token}/get/{id}", get(share_pages::file))
        .route("/s/{token}/zip/{id}", get(share_pages::zipped))
        .route("/node/{id}", get(web::details))
        .route("/node/{id}/rename", post(web::rename))
        .route("/node/{id}/delete", post(web::delete))
        .route("/node/{id}/restore", post(web::restore))
        .route("/node/{id}/purge", post(web::purge))
        .route("/download/{id}", get(content::node))
        .route("/download/{id}/{rev}", get(content::version))
        .route("/trash", get(web::trash))
        .route("/conflicts", get(web::conflicts))
        .route("/activity", get(activity::show_page))
        .route("/view/{id}", get(preview::view))
        .route("/thumb/{id}", get(preview::thumb))
        .route("/pdf/{id}", get(preview::pdf))
        .route("/account", get(web::account))
        .route("/account/password", post(web::password))
        .route("/account/two-step", get(totp_pages::two_step))
        .route("/account/two-step/begin", post(totp_pages::begin))
        .route("/account/two-step/on", post(totp_pages::on))
        .route("/account/two-step/off", post(totp_pages::off))
        .route("/account/two-step/recovery", post(totp_pages::recovery))
        .route("/account/sessions/end-others", post(web::end_others))
        .route("/account/apps", post(web::make_app))
        .route("/account/apps/{id}/revoke", post(web::revoke_app))
        .route("/account/sessions/{id}/end", post(web::end_session))
        .route("/admin", get(admin::users))
        .route("/admin/keep", post(admin::keep))
        .route("/admin/users", post(admin::create))
        .route("/admin/users/{id}", post(admin::change))
        .route("/admin/users/{id}/move", post(manage::move_user))
        .route("/admin/routes", get(manage::routes).post(manage::add_route))
        .route("/admin/routes/{id}/default", post(manage::default_route))
        .route("/admin/routes/{id}/drop", post(manage::drop_route))
        .route("/admin/ports", get(manage::ports).post(manage::open_port))
        .route("/admin/ports/drain", post(manage::drain_port))
        .route("/admin/backups", get(manage::backups).post(manage::make_backup))
        .route("/admin/backups/dir", post(manage::backup_dir))
        .route("/admin/backups/{name}/load", post(manage::load_backup))
        .route("/admin/backups/{name}/verify", post(manage::verify_backup))
        .route("/admin/backups/{name}/drop", post(manage::drop_backup))
        .route("/admin/audit", get(manage::audit))
        .route("/admin/live", get(manage::live))
        .route("/style.css", get(web::style))
        .route("/manifest.webmanifest", get(pwa::manifest))
        .route("/icon.svg", get(pwa::icon))
        .route("/icon-192.png", get(pwa::icon_192))
        .route("/icon-512.png", get(pwa::icon_512))
        .route("/app.js", get(pwa::script))
        .route("/sw.js", get(pwa::worker))
        .route("/offline", get(pwa::offline))
        .route("/metrics", get(metrics::show))
        .route("/healthz", get(|| async { "ok\n" }));
    Router::new()
        .nest("/api/v1", api.layer(Extension(Api)))
        .merge(pages)
        .route("/dav", any(dav::handle))
        .route("/dav/{*path}", any(dav::handle))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), root_there))
        .layer(middleware::from_fn_with_state(app.clone(), metrics::count))
        .layer(middleware::from_fn(headers))
        .with_state(app)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn trap19_requests_of_other_sites_are_told_apart() {
        let ours = with(&[(header::ORIGIN, "https://a:1"), (header::HOST, "a:1")]);
        assert!(from_our_pages(&ours));
        for bad in ["https://b:1", "http://a:1", "null", "https://a:1.evil"] {
            let h = with(&[(header::ORIGIN, bad), (header::HOST, "a:1")]);
            assert!(!from_our_pages(&h), "{bad}");
        }
        assert!(!from_our_pages(&with(&[(header::HOST, "a:1")])), "no Origin, no change");
        let both = with(&[(header::COOKIE, "x=1; __Host-pvfs2=abc; y")]);
        assert_eq!(token(&both), Some(("abc".into(), true)));
        let bearer = with(&[(header::AUTHORIZATION, "Bearer t")]);
        assert_eq!(token(&bearer), Some(("t".into(), false)));
    }
}
