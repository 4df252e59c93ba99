//! Pages of share links: made, listed and ended by their user; opened by anybody who has one, at
//! `/s/TOKEN`. A link with a password asks for it and answers with a cookie for this link alone, which
//! proves that the present password was known and is worthless after a restart. The pages keep the
//! referrer policy of all others (same-origin): it tells no other site the token, and without one a
//! browser would not say where the form with the password comes from.
use super::content;
use super::http::{Answer, App, Failure, Peer, Who, blocking, from_our_pages};
use super::pages::{self, Row, SharePage, ShareRow, Shares, show, time};
use super::shares::Share;
use super::users::{Worker, now_ms};
use super::web::{frame, page, to};
use super::zip;
use crate::api::NodeInfo;
use crate::error::{Result, SyncError};
use crate::files::{Area, At};
use crate::secret::Secret;
use crate::tree::{Kind, NodeId, ROOT};
use axum::Form;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;

type Page = std::result::Result<Response, Response>;

const COOKIE: &str = "__Secure-pvfs2-link";
/// A link's password is asked for again after so long.
const COOKIE_S: u32 = 3_600;
const DAY_MS: i64 = 24 * 3_600_000;
const DAYS_MAX: i64 = 3_650;

fn failed(e: Failure) -> Response {
    pages::problem(&e.0)
}

/// What a new share is to be.
#[derive(Debug, Deserialize)]
pub struct NewShare {
    #[serde(default)]
    password: Secret,
    #[serde(default)]
    days: String,
}

/// When something ends that is to last `days`; empty: never.
fn ends(days: &str, now_ms: i64) -> Result<Option<i64>> {
    match days.trim() {
        "" => Ok(None),
        n => match n.parse::<i64>() {
            Ok(n) if (1..=DAYS_MAX).contains(&n) => Ok(Some(now_ms + n * DAY_MS)),
            _ => Err(SyncError::Invalid(format!("{n:?} is not from 1 to {DAYS_MAX} days"))),
        },
    }
}

fn list(app: &App, who: &Who, link: String) -> Result<Shares> {
    let store = who.worker.store.lock();
    let row = |s: Share| -> Result<ShareRow> {
        let live = store.node(s.node).is_ok_and(|n| !n.deleted);
        let path = if live { store.path(s.node) } else { Ok("(deleted)".into()) };
        Ok(ShareRow {
            id: s.id,
            path: path?,
            password: s.password.is_some(),
            ends: s.ends_ms.map_or("never".into(), time),
            opened: s.opened,
        })
    };
    let all = app.accounts.shares(who.session.user.id, now_ms())?;
    let rows = all.into_iter().map(row).collect::<Result<_>>()?;
    Ok(Shares { frame: frame(who), rows, link })
}

/// Shares a node, and shows the link once.
pub async fn make(
    State(app): State<App>,
    who: Who,
    Path(id): Path<NodeId>,
    headers: HeaderMap,
    Form(form): Form<NewShare>,
) -> Page {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let host = host.unwrap_or_default().to_owned();
    let shown = page(move || {
        let node = who.worker.store.lock().node(id)?;
        if node.deleted || id == ROOT {
            return Err(SyncError::NotFound("what is to be shared".into()));
        }
        if who.worker.store.lock().vault_of(id)?.is_some() {
            let why =
                "an encrypted folder cannot be shared by a link: whoever opens it cannot read it";
            return Err(SyncError::Invalid(format!("{:?}: {why}", node.name)));
        }
        let (now, user) = (now_ms(), &who.session.user);
        let ends = ends(&form.days, now)?;
        let token = app.accounts.share(user.id, id, &form.password, ends, now)?;
        app.accounts.audit(&user.name, &format!("shared {:?}", node.name), now)?;
        list(&app, &who, format!("https://{host}/s/{token}"))
    });
    show(&shown.await?).map_err(failed)
}

/// The user's links.
pub async fn all(State(app): State<App>, who: Who) -> Page {
    show(&page(move || list(&app, &who, String::new())).await?).map_err(failed)
}

/// Ends a link.
pub async fn end(State(app): State<App>, who: Who, Path(id): Path<i64>) -> Page {
    page(move || {
        app.accounts.end_share(who.session.user.id, id)?;
        app.accounts.audit(&who.session.user.name, "ended a link", now_ms())
    })
    .await?;
    Ok(to("/shares"))
}

/// What proves that a share's password was known.
fn proof(app: &App, token: &str, share: &Share) -> String {
    let text = format!("{token}\0{}", share.password.as_deref().unwrap_or_default());
    blake3::keyed_hash(&app.key, text.as_bytes()).to_hex().to_string()
}

fn proved(app: &App, token: &str, share: &Share, headers: &HeaderMap) -> bool {
    if share.password.is_none() {
        return true;
    }
    let want = proof(app, token, share);
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut pairs = cookies.flat_map(|c| c.split(';')).filter_map(|p| p.trim().split_once('='));
    // Compared as hashes, which takes the same time wherever they differ.
    pairs.any(|(name, value)| {
        name == COOKIE && blake3::hash(value.as_bytes()) == blake3::hash(want.as_bytes())
    })
}

/// A link that may be opened: the share, its user's worker; `None`: the password is asked for.
fn enter(app: &App, token: &str, headers: &HeaderMap) -> Result<Option<(Share, Arc<Worker>)>> {
    let share = app.accounts.shared(token, now_ms())?;
    if !proved(app, token, &share, headers) {
        return Ok(None);
    }
    let worker = app.worker(&app.accounts.user(share.user)?)?;
    Ok(Some((share, worker)))
}

/// Whether `node` is alive and lies within the share.
fn within(worker: &Worker, share: &Share, node: NodeId) -> Result<NodeInfo> {
    let gone = || SyncError::NotFound("this link: what it led to is not there any more".into());
    let store = worker.store.lock();
    let found = store.node(node)?;
    let mut at = found.clone();
    loop {
        if at.deleted {
            return Err(gone());
        }
        if at.id == share.node {
            // A link reaches nothing that is encrypted end to end.
            return if store.vault_of(found.id)?.is_some() { Err(gone()) } else { Ok(found) };
        }
        if at.id == ROOT {
            return Err(gone());
        }
        at = store.node(at.parent)?;
    }
}

fn ask(token: String, error: String) -> Answer<Response> {
    let ask = SharePage { token, ask: true, error, ..SharePage::default() };
    show(&ask)
}

/// What a link leads to, or a folder beneath it.
async fn open(app: App, token: String, node: Option<NodeId>, headers: HeaderMap) -> Page {
    let name = token.clone();
    let shown = page(move || {
        let Some((share, worker)) = enter(&app, &token, &headers)? else { return Ok(None) };
        let node = within(&worker, &share, node.unwrap_or(share.node))?;
        if node.id == share.node {
            app.accounts.count_share(share.id)?;
        }
        let store = worker.store.lock();
        let shown = |n: &NodeInfo| !store.vault_of(n.id).is_ok_and(|v| v.is_some());
        let rows = match node.kind {
            Kind::Dir => store.children(node.id)?.into_iter().filter(shown).collect(),
            Kind::File => vec![node.clone()],
        };
        Ok(Some(SharePage {
            token,
            name: node.name.clone(),
            id: node.id,
            dir: node.kind == Kind::Dir,
            up: if node.id == share.node { 0 } else { node.parent },
            rows: rows.iter().map(|n| Row::of(n, n.name.clone())).collect(),
            ..SharePage::default()
        }))
    });
    match shown.await? {
        Some(shown) => show(&shown).map_err(failed),
        None => ask(name, String::new()).map_err(failed),
    }
}

/// A link.
pub async fn top(State(app): State<App>, Path(token): Path<String>, headers: HeaderMap) -> Page {
    open(app, token, None, headers).await
}

/// A folder beneath a link's.
pub async fn below(
    State(app): State<App>,
    Path((token, id)): Path<(String, NodeId)>,
    headers: HeaderMap,
) -> Page {
    open(app, token, Some(id), headers).await
}

/// A link's password.
#[derive(Debug, Deserialize)]
pub struct Password {
    password: Secret,
}

/// Takes a link's password.
pub async fn password(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    Path(token): Path<String>,
    headers: HeaderMap,
    Form(form): Form<Password>,
) -> Page {
    if !from_our_pages(&headers) {
        return Err((StatusCode::FORBIDDEN, "this form is from another site").into_response());
    }
    let name = token.clone();
    let done = blocking(move || {
        let share = app.accounts.shared(&token, now_ms())?;
        app.accounts.open_share(&share, &form.password, &peer.ip().to_string(), now_ms())?;
        Ok(format!(
            "{COOKIE}={}; Path=/s/{token}; Max-Age={COOKIE_S}; Secure; HttpOnly; SameSite=Strict",
            proof(&app, &token, &share)
        ))
    });
    match done.await {
        Ok(cookie) => {
            let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, format!("/s/{name}"))];
            Ok((StatusCode::SEE_OTHER, headers).into_response())
        }
        Err(Failure(e @ (SyncError::Denied(_) | SyncError::Busy(_)))) => {
            let status = StatusCode::from_u16(e.status()).unwrap_or(StatusCode::FORBIDDEN);
            let mut page = ask(name, e.to_string()).map_err(failed)?;
            *page.status_mut() = status;
            Ok(page)
        }
        Err(e) => Err(failed(e)),
    }
}

/// A file of a link.
pub async fn file(
    State(app): State<App>,
    Path((token, id)): Path<(String, NodeId)>,
    headers: HeaderMap,
) -> Page {
    let (name, asked) = (token.clone(), headers.clone());
    let opened = page(move || {
        let Some((share, worker)) = enter(&app, &token, &headers)? else { return Ok(None) };
        let node = within(&worker, &share, id)?;
        let (node, path) = worker.store.lock().content_path(node.id, None)?;
        let file = worker.files.open_file(At(Area::Tree, &path))?;
        content::opened(file, node.size, node.name, &node.hash).map(Some)
    });
    match opened.await? {
        Some(opened) => content::answer(opened, &asked).map_err(failed),
        None => Ok(to(&format!("/s/{name}"))),
    }
}

/// A folder of a link as a zip.
pub async fn zipped(
    State(app): State<App>,
    Path((token, id)): Path<(String, NodeId)>,
    headers: HeaderMap,
) -> Page {
    let name = token.clone();
    let found = page(move || {
        let Some((share, worker)) = enter(&app, &token, &headers)? else { return Ok(None) };
        within(&worker, &share, id)?;
        Ok(Some(worker))
    });
    match found.await? {
        Some(worker) => zip::answer(worker, id).await.map_err(failed),
        None => Ok(to(&format!("/s/{name}"))),
    }
}
