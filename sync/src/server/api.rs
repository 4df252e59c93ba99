//! Handlers of `/api/v1`: each decodes, runs one call of the user's store where blocking is allowed,
//! and encodes. Bodies and answers are those of [`crate::api`].
use super::accounts::SessionInfo;
use super::http::{Answer, App, Failure, Peer, Who, blocking};
use super::users::now_ms;
use crate::api::{
    BatchOp, BatchReply, Changes, LoggedIn, LoginWithCode, NodeInfo, Restore, UploadBegin,
    UploadState, VersionInfo,
};
use crate::error::SyncError;
use crate::secret::Secret;
use crate::tree::NodeId;
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A question for changes waits at most so long.
const WAIT_S_MAX: u64 = 120;
/// So many operations fit in one batch.
const BATCH_OPS_MAX: usize = 1_000;

/// Signs a device in.
pub async fn login(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    Json(LoginWithCode { login: req, code }): Json<LoginWithCode>,
) -> Answer<Json<LoggedIn>> {
    blocking(move || {
        let (from, now) = (peer.ip().to_string(), now_ms());
        let user = app.accounts.check(&req.user, &req.password, &from, now)?;
        app.accounts.second_step(&user, &code, &from, now)?;
        let name = if req.device.is_empty() { "device" } else { &req.device };
        let (token, device) = app.accounts.begin_session(user.id, name, now_ms())?;
        app.accounts.audit(&user.name, &format!("signed in device {name:?}"), now_ms())?;
        Ok(Json(LoggedIn { token: token.into(), device }))
    })
    .await
}

/// Ends the session that asks; its device is no longer waited for.
pub async fn logout(State(app): State<App>, who: Who) -> Answer<StatusCode> {
    blocking(move || {
        app.accounts.end_session(who.session.user.id, &who.session.id)?;
        who.worker.store.lock().forget_device(&who.session.id)?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Who is asking, and how much room is left.
#[derive(Debug, Serialize, Deserialize)]
pub struct Me {
    /// User name.
    pub user: String,
    /// Whether the management pages are open.
    pub admin: bool,
    /// Bytes kept, versions and trash included.
    pub used: u64,
    /// Bytes that may be kept.
    pub quota: Option<u64>,
    /// The server's newest revision for this user.
    pub rev: i64,
    /// How many conflict copies there are.
    #[serde(default)]
    pub conflicts: usize,
    /// Whether signing in has two steps.
    #[serde(default)]
    pub two_step: bool,
}

/// Who is asking.
pub async fn me(State(app): State<App>, who: Who) -> Answer<Json<Me>> {
    blocking(move || {
        let two_step = app.accounts.has_totp(who.session.user.id)?;
        let conflicts = who.worker.conflicts();
        let store = who.worker.store.lock();
        let (used, quota) = store.usage()?;
        let (rev, _) = store.head()?;
        let user = who.session.user;
        let (admin, user) = (user.admin, user.name);
        Ok(Json(Me { user, admin, used, quota, rev, conflicts, two_step }))
    })
    .await
}

/// A secret of the two-step sign-in.
#[derive(Debug, Serialize)]
pub struct TotpKey {
    key: String,
    uri: String,
}

/// Makes a secret; it is not asked for before it is turned on with a code.
pub async fn totp_begin(State(app): State<App>, who: Who) -> Answer<Json<TotpKey>> {
    blocking(move || {
        let shown = app.accounts.begin_totp(&who.session.user)?;
        Ok(Json(TotpKey { key: shown.text, uri: shown.uri }))
    })
    .await
}

/// A code of it.
#[derive(Debug, Deserialize)]
pub struct TotpCode {
    code: Secret,
}

/// Recovery codes.
#[derive(Debug, Serialize)]
pub struct TotpCodes {
    recovery: Vec<String>,
}

/// Turns the two-step sign-in on; the recovery codes are told once.
pub async fn totp_on(
    State(app): State<App>,
    who: Who,
    Json(req): Json<TotpCode>,
) -> Answer<Json<TotpCodes>> {
    blocking(move || {
        let user = &who.session.user;
        let recovery = app.accounts.turn_totp_on(user, &req.code, now_ms())?;
        app.accounts.audit(&user.name, "turned two-step sign-in on", now_ms())?;
        Ok(Json(TotpCodes { recovery }))
    })
    .await
}

/// The account's password.
#[derive(Debug, Deserialize)]
pub struct TotpOff {
    password: Secret,
}

/// Turns it off.
pub async fn totp_off(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    who: Who,
    Json(req): Json<TotpOff>,
) -> Answer<StatusCode> {
    blocking(move || {
        let (user, from) = (&who.session.user, peer.ip().to_string());
        app.accounts.check(&user.name, &req.password, &from, now_ms())?;
        app.accounts.turn_totp_off(user.id)?;
        app.accounts.audit(&user.name, "turned two-step sign-in off", now_ms())?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// `changes?epoch=&since=&wait=`.
#[derive(Debug, Deserialize)]
pub struct Since {
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    since: i64,
    #[serde(default)]
    wait: u64,
}

/// What changed; waits for the first change if nothing has.
pub async fn changes(
    State(app): State<App>,
    who: Who,
    Query(q): Query<Since>,
) -> Answer<Json<Changes>> {
    let mut watch = who.worker.watch();
    let mut closing = app.closing.subscribe();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(q.wait.min(WAIT_S_MAX));
    loop {
        watch.mark_unchanged();
        let (worker, epoch, since) = (who.worker.clone(), q.epoch.clone(), q.since);
        let session = who.session.clone();
        let found = blocking(move || {
            let mut store = worker.store.lock();
            let found = store.changes(&epoch, since)?;
            if !session.device.is_empty() && since > 0 {
                store.acknowledge(&session.id, &session.device, since)?;
            }
            Ok(found)
        })
        .await?;
        let nothing = found.nodes.is_empty() && found.next == q.since && !who.worker.is_retired();
        let news = tokio::select! {
            changed = tokio::time::timeout_at(deadline, watch.changed()), if nothing => changed.is_ok(),
            _ = closing.wait_for(|c| *c), if nothing => false,
            else => false,
        };
        if !news {
            return Ok(Json(found));
        }
    }
}

/// One node.
pub async fn node(who: Who, Path(id): Path<NodeId>) -> Answer<Json<NodeInfo>> {
    blocking(move || who.worker.store.lock().node(id).map(Json)).await
}

/// A directory's entries.
pub async fn children(who: Who, Path(id): Path<NodeId>) -> Answer<Json<Vec<NodeInfo>>> {
    blocking(move || who.worker.store.lock().children(id).map(Json)).await
}

/// Old contents.
pub async fn versions(who: Who, Path(id): Path<NodeId>) -> Answer<Json<Vec<VersionInfo>>> {
    blocking(move || who.worker.store.lock().versions(id).map(Json)).await
}

/// Begins an upload.
pub async fn upload_begin(who: Who, Json(req): Json<UploadBegin>) -> Answer<Json<UploadState>> {
    blocking(move || who.worker.store.lock().upload_begin(&req).map(Json)).await
}

/// How far an upload is.
pub async fn upload_state(who: Who, Path(id): Path<String>) -> Answer<Json<UploadState>> {
    blocking(move || {
        who.worker.store.lock().upload_size(&id)?;
        let offset = who.worker.progress(&id)?.lock().offset;
        Ok(Json(UploadState { offset }))
    })
    .await
}

/// Gives an upload up.
pub async fn upload_drop(who: Who, Path(id): Path<String>) -> Answer<StatusCode> {
    blocking(move || who.worker.drop_upload(&id).map(|()| StatusCode::NO_CONTENT)).await
}

/// Makes an upload the file's content.
pub async fn upload_commit(who: Who, Path(id): Path<String>) -> Answer<Json<NodeInfo>> {
    blocking(move || who.worker.commit(&id, &who.by()).map(Json)).await
}

/// One operation on names.
pub async fn op(who: Who, Json(op): Json<BatchOp>) -> Answer<Json<NodeInfo>> {
    blocking(move || {
        let by = who.by();
        who.worker.change(|s| match &op {
            BatchOp::Mkdir(r) => s.mkdir(r, &by),
            BatchOp::Move(r) => s.move_node(r, &by),
            BatchOp::Exchange(r) => s.exchange(r, &by),
            BatchOp::Delete(r) => s.delete(r, &by),
        })
    })
    .await
    .map(Json)
}

/// Several operations on names, in order, each with its own status.
pub async fn batch(who: Who, Json(ops): Json<Vec<BatchOp>>) -> Answer<Json<Vec<BatchReply>>> {
    if ops.len() > BATCH_OPS_MAX {
        let why = format!("a batch has at most {BATCH_OPS_MAX} operations");
        return Err(Failure(SyncError::Invalid(why)));
    }
    blocking(move || who.worker.change(|s| Ok(s.batch(&ops, &who.by()))).map(Json)).await
}

/// What was answered to the request with this key; `null` if it was not done.
pub async fn outcome(who: Who, Path(key): Path<String>) -> Answer<Json<Option<NodeInfo>>> {
    blocking(move || who.worker.store.lock().done_before(&key).map(Json)).await
}

/// What lies in the trash.
pub async fn trash(who: Who) -> Answer<Json<Vec<NodeInfo>>> {
    blocking(move || {
        let all = who.worker.store.lock().trash()?;
        Ok(Json(all.into_iter().map(|(n, _)| n).collect()))
    })
    .await
}

/// Puts back a version, or what lies in the trash.
pub async fn restore(who: Who, Json(req): Json<Restore>) -> Answer<Json<NodeInfo>> {
    blocking(move || {
        let by = who.by();
        who.worker.change(|s| match req.version {
            Some(rev) => s.restore_version(req.node, rev, &by),
            None => s.restore_trash(req.node, &by),
        })
    })
    .await
    .map(Json)
}

/// Drops what lies in the trash for good.
pub async fn purge(who: Who, Path(id): Path<NodeId>) -> Answer<StatusCode> {
    blocking(move || who.worker.store.lock().purge(id).map(|()| StatusCode::NO_CONTENT)).await
}

/// What this API is, in OpenAPI's words.
pub async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../../openapi.json"))
}

/// A device or browser that is signed in.
#[derive(Debug, Serialize)]
pub struct Device {
    id: String,
    name: String,
    seen_ms: i64,
    this: bool,
}

/// Who is signed in.
pub async fn devices(State(app): State<App>, who: Who) -> Answer<Json<Vec<Device>>> {
    blocking(move || {
        let all = app.accounts.sessions(who.session.user.id)?;
        let one = |s: SessionInfo| Device {
            this: s.id == who.session.id,
            id: s.id,
            name: s.device,
            seen_ms: s.seen_ms,
        };
        Ok(Json(all.into_iter().map(one).collect()))
    })
    .await
}

/// Signs a device out; its deleted marks are no longer kept for it.
pub async fn end_device(
    State(app): State<App>,
    who: Who,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    blocking(move || {
        app.accounts.end_session(who.session.user.id, &id)?;
        who.worker.store.lock().forget_device(&id)?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
