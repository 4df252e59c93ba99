//! Pages of a user: sign up, sign in, browse, upload, download, versions, trash, conflicts, account.
//! Every page works without JavaScript: links and forms only.
use super::content::receive;
use super::http::{App, Boss, COOKIE, Failure, Peer, Who, blocking, from_our_pages, token};
use super::pages::{self, Account, Browse, Details, Enter, Frame, List, Row, show, size, time};
use super::users::now_ms;
use crate::api::{Delete, Mkdir, Move, NodeInfo, UploadBegin};
use crate::error::{Result, SyncError};
use crate::rng::{hex, secret};
use crate::secret::Secret;
use crate::tree::{Kind, NodeId, ROOT};
use axum::Form;
use axum::extract::{Extension, Multipart, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

/// So much of a refused upload is still read.
const DRAIN_BYTES_MAX: usize = 64 << 20;

/// What a page's handler ends with.
type Page = std::result::Result<Response, Response>;

fn failed(e: Failure) -> Response {
    pages::problem(&e.0)
}

/// Sends the browser on, after a form or to sign in.
#[must_use]
pub fn to(place: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, place.to_owned())]).into_response()
}

/// The frame of somebody's pages.
#[must_use]
pub fn frame(who: &Who) -> Frame {
    let user = &who.session.user;
    Frame { user: user.name.clone(), admin: user.admin, conflicts: who.worker.conflicts() }
}

/// The frame of an administrator's management pages.
#[must_use]
pub fn boss_frame(who: &Boss) -> Frame {
    Frame { user: who.session.user.name.clone(), admin: true, conflicts: 0 }
}

/// Runs a page's work where blocking is allowed; an error becomes a page.
///
/// # Errors
/// As `f`, as a page.
pub async fn page<T: Send + 'static>(
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> std::result::Result<T, Response> {
    blocking(f).await.map_err(failed)
}

/// The style sheet.
pub async fn style() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "max-age=3600"),
    ];
    (headers, include_str!("../../templates/style.css")).into_response()
}

/// The front door.
pub async fn home(_who: Who) -> Response {
    to("/files/1")
}

/// The page to sign in.
pub async fn login_page(State(app): State<App>) -> Page {
    let open = app.signup.is_some();
    show(&Enter { new: false, open, error: String::new(), name: String::new() }).map_err(failed)
}

/// The page to make an account.
pub async fn signup_page(State(app): State<App>) -> Page {
    let open = app.signup.is_some();
    show(&Enter { new: true, open, error: String::new(), name: String::new() }).map_err(failed)
}

/// Name and password.
#[derive(Debug, Deserialize)]
pub struct Credentials {
    user: String,
    password: Secret,
}

/// A cookie with a new session, on the way to the files.
pub(super) fn signed_in(token: &str) -> Response {
    let cookie = format!("{COOKIE}={token}; Path=/; Secure; HttpOnly; SameSite=Strict");
    let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, "/files/1".into())];
    (StatusCode::SEE_OTHER, headers).into_response()
}

async fn enter(app: App, peer: Peer, headers: HeaderMap, form: Credentials, new: bool) -> Page {
    if !from_our_pages(&headers) {
        return Err((StatusCode::FORBIDDEN, "this form is from another site").into_response());
    }
    let (open, name) = (app.signup.is_some(), form.user.clone());
    let old = token(&headers);
    let done = blocking(move || {
        let (from, now) = (peer.0.ip().to_string(), now_ms());
        let user = if new {
            let Some(quota) = app.signup else {
                return Err(SyncError::Denied("accounts are made by the administrator".into()));
            };
            app.accounts.attempt(&[&format!("signup {from}")], now)?;
            app.accounts.create(&form.user, &form.password, false, quota, now)?
        } else {
            app.accounts.check(&form.user, &form.password, &from, now)?
        };
        // A new session each time: what the browser had before is ended.
        if let Some((Ok(old), true)) =
            old.map(|(t, cookie)| (app.accounts.session(&t, now), cookie))
        {
            app.accounts.end_session(old.user.id, &old.id)?;
        }
        if app.accounts.has_totp(user.id)? {
            return Ok((app.accounts.wait_for_code(user.id, now)?, true));
        }
        app.accounts.audit(&user.name, if new { "account made" } else { "signed in" }, now)?;
        Ok((app.accounts.begin_session(user.id, "", now)?.0, false))
    });
    match done.await {
        Ok((waiting, true)) => Ok(super::totp_pages::ask(waiting, String::new(), 200)),
        Ok((token, _)) => Ok(signed_in(&token)),
        Err(Failure(e)) => {
            let status = StatusCode::from_u16(e.status()).unwrap_or(StatusCode::BAD_REQUEST);
            let mut page =
                show(&Enter { new, open, error: e.to_string(), name }).map_err(failed)?;
            *page.status_mut() = status;
            Ok(page)
        }
    }
}

/// Signs in.
pub async fn login(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Page {
    enter(app, peer, headers, form, false).await
}

/// Makes an account.
pub async fn signup(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Page {
    enter(app, peer, headers, form, true).await
}

/// Signs out.
pub async fn logout(State(app): State<App>, who: Who) -> Page {
    page(move || app.accounts.end_session(who.session.user.id, &who.session.id)).await?;
    let gone = format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
    let headers = [(header::SET_COOKIE, gone), (header::LOCATION, "/login".into())];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

/// How much room is left, for a person.
fn room(who: &Who) -> Result<String> {
    let (used, quota) = who.worker.store.lock().usage()?;
    Ok(match quota {
        Some(q) => format!("{} of {}", size(used), size(q)),
        None => size(used),
    })
}

/// A directory.
pub async fn browse(who: Who, Path(id): Path<NodeId>) -> Page {
    let shown = page(move || {
        let store = who.worker.store.lock();
        let sealed = store.vault_of(id)?.is_some();
        let mut rows = Vec::new();
        for n in store.children(id)? {
            let lock = n.kind == Kind::Dir && !sealed && store.vault_of(n.id)?.is_some();
            rows.push(Row { lock, ..Row::of(&n, n.name.clone()) });
        }
        let mut way = Vec::new();
        let mut at = id;
        while at != ROOT {
            let dir = store.node(at)?;
            at = dir.parent;
            way.push((dir.id, dir.name));
        }
        way.reverse();
        drop(store);
        Ok(Browse { frame: frame(&who), id, way, sealed, rows, room: room(&who)? })
    });
    show(&shown.await?).map_err(failed)
}

/// A name in a form.
#[derive(Debug, Deserialize)]
pub struct Name {
    name: String,
    #[serde(default)]
    rev: i64,
}

/// Makes a directory.
pub async fn mkdir(who: Who, Path(id): Path<NodeId>, Form(form): Form<Name>) -> Page {
    page(move || {
        let req = Mkdir { parent: id, name: form.name, key: String::new() };
        who.worker.change(|s| s.mkdir(&req, "web"))
    })
    .await?;
    Ok(to(&format!("/files/{id}")))
}

/// Takes files from a form. The length of one is not known before it is here: the room for the whole
/// request is reserved, and the file is begun again with its true length.
pub async fn upload(
    who: Who,
    Path(id): Path<NodeId>,
    headers: HeaderMap,
    mut form: Multipart,
) -> Page {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let Some(most) = length.and_then(|v| v.parse::<u64>().ok()) else {
        return Err(StatusCode::LENGTH_REQUIRED.into_response());
    };
    let done = take_files(&who, id, most, &mut form).await;
    if done.is_err() {
        // A browser shows an answer only after it has sent all; very much is cut off all the same.
        let mut left = DRAIN_BYTES_MAX;
        while let Ok(Some(mut field)) = form.next_field().await {
            while let Ok(Some(piece)) = field.chunk().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    return done;
                }
            }
        }
    }
    done
}

async fn take_files(who: &Who, id: NodeId, most: u64, form: &mut Multipart) -> Page {
    loop {
        let field = match form.next_field().await {
            Ok(Some(field)) => field,
            Ok(None) => return Ok(to(&format!("/files/{id}"))),
            Err(e) => return Err(pages::problem(&SyncError::Invalid(e.to_string()))),
        };
        let name = field.file_name().unwrap_or_default();
        // Some browsers send a path.
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        if name.is_empty() {
            continue;
        }
        let key =
            page(|| secret::<16>().map(|b| hex(&b)).map_err(|e| SyncError::io("random bytes", e)))
                .await?;
        let mut req = UploadBegin {
            id: key.clone(),
            parent: id,
            name: name.clone(),
            replace: None,
            size: most,
            hash: String::new(),
            mtime_ns: now_ms() * 1_000_000,
            exec: false,
        };
        let worker = who.worker.clone();
        req = page(move || {
            let mut store = worker.store.lock();
            // The same name again is a new version of that file.
            let there = store.children(id)?.into_iter().find(|n| n.name == req.name);
            if let Some(old) = there {
                req.replace = Some((old.id, old.rev));
                req.exec = old.exec;
            }
            store.upload_begin(&req)?;
            Ok(req)
        })
        .await?;
        let got = receive(who, &key, 0, field).await.map_err(failed)?;
        let (worker, by) = (who.worker.clone(), who.by());
        page(move || {
            worker.store.lock().upload_resize(&req.id, got)?;
            worker.commit(&req.id, &by)
        })
        .await?;
    }
}

/// One file or directory.
pub async fn details(who: Who, Path(id): Path<NodeId>) -> Page {
    let shown = page(move || {
        let store = who.worker.store.lock();
        let node = store.node(id)?;
        if node.deleted || id == ROOT {
            return Err(SyncError::NotFound(format!("{:?}", node.name)));
        }
        let versions = store.versions(id)?;
        let vault = store.vault_of(id)?;
        Ok(Details {
            frame: frame(&who),
            row: Row { lock: vault == Some(id), ..Row::of(&node, node.name.clone()) },
            sealed: vault.is_some_and(|v| v != id),
            path: store.path(id)?,
            parent: node.parent,
            rev: node.rev,
            hash: node.hash,
            versions: versions.iter().map(|v| (v.rev, size(v.size), time(v.at_ms))).collect(),
        })
    });
    show(&shown.await?).map_err(failed)
}

/// Renames within the directory.
pub async fn rename(who: Who, Path(id): Path<NodeId>, Form(form): Form<Name>) -> Page {
    let parent = page(move || {
        who.worker.change(|s| {
            let parent = s.node(id)?.parent;
            let (rev, name) = (form.rev, form.name);
            s.move_node(&Move { node: id, rev, parent, name, key: String::new() }, "web")?;
            Ok(parent)
        })
    })
    .await?;
    Ok(to(&format!("/files/{parent}")))
}

/// A revision in a form.
#[derive(Debug, Deserialize)]
pub struct Rev {
    #[serde(default)]
    rev: i64,
}

/// Deletes, with all that is below.
pub async fn delete(who: Who, Path(id): Path<NodeId>, Form(form): Form<Rev>) -> Page {
    let gone: NodeInfo = page(move || {
        let req = Delete { node: id, rev: form.rev, tree: true, key: String::new() };
        who.worker.change(|s| s.delete(&req, "web"))
    })
    .await?;
    Ok(to(&format!("/files/{}", gone.parent)))
}

/// Puts back a version (`rev` in the form), or what lies in the trash.
pub async fn restore(who: Who, Path(id): Path<NodeId>, Form(form): Form<Rev>) -> Page {
    let node = page(move || {
        who.worker.change(|s| match form.rev {
            0 => s.restore_trash(id, "web"),
            rev => s.restore_version(id, rev, "web"),
        })
    })
    .await?;
    debug_assert_eq!(node.kind, Kind::File);
    Ok(to(&format!("/node/{id}")))
}

/// Drops what lies in the trash for good.
pub async fn purge(who: Who, Path(id): Path<NodeId>) -> Page {
    page(move || who.worker.store.lock().purge(id)).await?;
    Ok(to("/trash"))
}

/// The trash.
pub async fn trash(who: Who) -> Page {
    let shown = page(move || {
        let all = who.worker.store.lock().trash()?;
        let row = |(n, ms): &(NodeInfo, i64)| Row { when: time(*ms), ..Row::of(n, n.name.clone()) };
        let rows = all.iter().map(row).collect();
        Ok(List { frame: frame(&who), trash: true, rows })
    });
    show(&shown.await?).map_err(failed)
}

/// The conflict copies.
pub async fn conflicts(who: Who) -> Page {
    let shown = page(move || {
        let all = who.worker.store.lock().conflicts()?;
        let rows = all.iter().map(|(n, path)| Row::of(n, path.clone())).collect();
        Ok(List { frame: frame(&who), trash: false, rows })
    });
    show(&shown.await?).map_err(failed)
}

fn account_page(app: &App, who: &Who, message: String) -> Result<Account> {
    let used = |ms| if ms == 0 { "never".into() } else { time(ms) };
    let apps = app.accounts.app_passwords(who.session.user.id)?;
    let sessions = app.accounts.sessions(who.session.user.id)?;
    let one = |s: super::accounts::SessionInfo| {
        let this = s.id == who.session.id;
        let name = if s.device.is_empty() { "browser".into() } else { s.device };
        (s.id, name, time(s.seen_ms), this)
    };
    Ok(Account {
        frame: frame(who),
        room: room(who)?,
        two_step: app.accounts.has_totp(who.session.user.id)?,
        message,
        secret: String::new(),
        apps: apps.into_iter().map(|a| (a.id, a.name, used(a.used_ms))).collect(),
        sessions: sessions.into_iter().map(one).collect(),
    })
}

/// The user's own data.
pub async fn account(State(app): State<App>, who: Who) -> Page {
    let shown = page(move || account_page(&app, &who, String::new()));
    show(&shown.await?).map_err(failed)
}

/// Makes an app password, and shows it once.
pub async fn make_app(State(app): State<App>, who: Who, Form(form): Form<Name>) -> Page {
    let shown = page(move || {
        let user = &who.session.user;
        let made = app.accounts.make_app_password(user.id, &form.name, now_ms());
        let (secret, message) = match made {
            Ok(secret) => {
                app.accounts.audit(&user.name, "made an app password", now_ms())?;
                (secret, String::new())
            }
            Err(SyncError::Invalid(why)) => (String::new(), why),
            Err(e) => return Err(e),
        };
        Ok(Account { secret, ..account_page(&app, &who, message)? })
    });
    show(&shown.await?).map_err(failed)
}

/// Revokes an app password.
pub async fn revoke_app(State(app): State<App>, who: Who, Path(id): Path<i64>) -> Page {
    page(move || {
        app.accounts.revoke_app_password(who.session.user.id, id)?;
        app.accounts.audit(&who.session.user.name, "revoked an app password", now_ms())
    })
    .await?;
    Ok(to("/account"))
}

/// The old password and the new one.
#[derive(Debug, Deserialize)]
pub struct NewPassword {
    old: Secret,
    new: Secret,
}

/// Sets a new password; every session ends, and this browser gets a new one.
pub async fn password(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    who: Who,
    Form(form): Form<NewPassword>,
) -> Page {
    let done = page(move || {
        let (user, now) = (&who.session.user, now_ms());
        let changed = app
            .accounts
            .check(&user.name, &form.old, &peer.0.ip().to_string(), now)
            .and_then(|user| app.accounts.set_password(&user, &form.new));
        match changed {
            Ok(()) => {
                app.accounts.audit(&user.name, "new password", now)?;
                Ok(Ok(app.accounts.begin_session(user.id, "", now)?.0))
            }
            Err(e @ (SyncError::Denied(_) | SyncError::Invalid(_) | SyncError::Busy(_))) => {
                Ok(Err(account_page(&app, &who, e.to_string())?))
            }
            Err(e) => Err(e),
        }
    });
    match done.await? {
        Ok(token) => Ok(signed_in(&token)),
        Err(again) => show(&again).map_err(failed),
    }
}

/// Signs everything else out.
pub async fn end_others(State(app): State<App>, who: Who) -> Page {
    page(move || {
        let user = &who.session.user;
        for other in app.accounts.sessions(user.id)? {
            if other.id != who.session.id {
                app.accounts.end_session(user.id, &other.id)?;
                who.worker.store.lock().forget_device(&other.id)?;
            }
        }
        app.accounts.audit(&user.name, "signed everything else out", now_ms())
    })
    .await?;
    Ok(to("/account"))
}

/// Signs a device or browser out.
pub async fn end_session(State(app): State<App>, who: Who, Path(id): Path<String>) -> Page {
    page(move || {
        app.accounts.end_session(who.session.user.id, &id)?;
        who.worker.store.lock().forget_device(&id)
    })
    .await?;
    Ok(to("/account"))
}
