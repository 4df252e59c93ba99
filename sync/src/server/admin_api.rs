//! `/api/v1/admin/...`: management for programs, with the token of an administrator's device. The acts
//! are those of the pages ([`super::manage`]); for anybody else these paths are not there.
use super::accounts::User;
use super::audit::Entry;
use super::backups::Listed;
use super::http::{Answer, App, Boss, Failure, blocking};
use super::jobs::Job;
use super::manage::{self, Address, NewRoute, Part, To, Whose};
use super::ports::PortState;
use super::users::now_ms;
use crate::error::{Result, SyncError};
use crate::secret::Secret;
use axum::Json;
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A body that is an object; serde would take a list of its fields too.
#[derive(Debug)]
pub struct Obj<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Obj<T> {
    type Rejection = Response;

    async fn from_request(req: Request, state: &S) -> std::result::Result<Self, Response> {
        let object = Json::<serde_json::Map<String, serde_json::Value>>::from_request(req, state);
        let Json(object) = object.await.map_err(IntoResponse::into_response)?;
        serde_json::from_value(object.into())
            .map(Self)
            .map_err(|e| Failure(SyncError::Invalid(e.to_string())).into_response())
    }
}

/// Does an act of an administrator.
async fn act<T: Send + 'static>(
    app: App,
    who: Boss,
    f: impl FnOnce(&App, &str) -> Result<T> + Send + 'static,
) -> Answer<T> {
    blocking(move || f(&app, &who.session.user.name)).await
}

/// Starts a job, and answers with it.
async fn job(
    app: App,
    who: Boss,
    f: impl FnOnce(&App, &str) -> Result<u64> + Send + 'static,
) -> Answer<(StatusCode, Json<Job>)> {
    let begun = act(app, who, |app, who| {
        let id = f(app, who)?;
        let found = app.jobs.list().into_iter().find(|j| j.id == id);
        found.ok_or_else(|| SyncError::NotFound(format!("job {id}")))
    });
    Ok((StatusCode::ACCEPTED, Json(begun.await?)))
}

/// An account, as an administrator sees it.
#[derive(Debug, Serialize)]
pub struct Account {
    id: i64,
    name: String,
    admin: bool,
    quota: Option<u64>,
    disabled: bool,
    two_step: bool,
    route: i64,
}

fn account(app: &App, user: User) -> Result<Account> {
    let route = app.place(&user)?;
    let User { id, name, admin, quota, disabled } = user;
    let two_step = app.accounts.has_totp(id)?;
    Ok(Account { id, name, admin, quota, disabled, two_step, route })
}

/// The accounts.
pub async fn users(State(app): State<App>, who: Boss) -> Answer<Json<Vec<Account>>> {
    let all = act(app, who, |app, _| {
        app.accounts.users()?.into_iter().map(|u| account(app, u)).collect::<Result<_>>()
    });
    Ok(Json(all.await?))
}

/// A new account.
#[derive(Debug, Deserialize)]
pub struct NewAccount {
    name: String,
    password: Secret,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    quota: Option<u64>,
}

/// Makes an account.
pub async fn new_user(
    State(app): State<App>,
    who: Boss,
    Obj(req): Obj<NewAccount>,
) -> Answer<Json<Account>> {
    let made = act(app, who, move |app, who| {
        let made = app.accounts.create(&req.name, &req.password, req.admin, req.quota, now_ms())?;
        app.accounts.audit(who, &format!("made user {}", req.name), now_ms())?;
        account(app, made)
    });
    Ok(Json(made.await?))
}

/// What becomes of an account.
#[derive(Debug, Deserialize)]
pub struct Changed {
    #[serde(default)]
    quota: Option<u64>,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    password: Secret,
    #[serde(default)]
    one_step: bool,
}

/// Sets an account's quota, whether it is kept out, and a password if one is given.
pub async fn set_user(
    State(app): State<App>,
    who: Boss,
    Path(id): Path<i64>,
    Obj(req): Obj<Changed>,
) -> Answer<Json<Account>> {
    let own = who.session.user.id;
    let set = act(app, who, move |app, who| {
        super::admin::set_user(app, who, own, id, req.quota, req.disabled, &req.password)?;
        if req.one_step {
            super::admin::turn_totp_off(app, who, id)?;
        }
        account(app, app.accounts.user(id)?)
    });
    Ok(Json(set.await?))
}

/// Moves a user's store to another route.
pub async fn move_user(
    State(app): State<App>,
    who: Boss,
    Path(id): Path<i64>,
    Obj(req): Obj<To>,
) -> Answer<(StatusCode, Json<Job>)> {
    job(app, who, move |app, who| manage::start_move(app, who, id, req.route)).await
}

/// A storage route.
#[derive(Debug, Serialize)]
pub struct RouteInfo {
    id: i64,
    name: String,
    path: String,
    default: bool,
    free: Option<u64>,
    size: Option<u64>,
    error: String,
}

fn route_info(app: &App, route: super::local::Route) -> Result<RouteInfo> {
    let found = app.route(route.id).and_then(|open| super::replace::space(open.root.path()));
    let (space, error) = match found {
        Ok(space) => (Some(space), String::new()),
        Err(e) => (None, e.to_string()),
    };
    Ok(RouteInfo {
        default: app.default_route()? == route.id,
        id: route.id,
        name: route.name,
        path: route.path.display().to_string(),
        free: space.map(|s| s.0),
        size: space.map(|s| s.1),
        error,
    })
}

/// The storage routes; 0 is the root.
pub async fn routes(State(app): State<App>, who: Boss) -> Answer<Json<Vec<RouteInfo>>> {
    let all = act(app, who, |app, _| {
        app.all_routes()?.into_iter().map(|r| route_info(app, r)).collect::<Result<_>>()
    });
    Ok(Json(all.await?))
}

/// Adds a route.
pub async fn add_route(
    State(app): State<App>,
    who: Boss,
    Obj(req): Obj<NewRoute>,
) -> Answer<Json<RouteInfo>> {
    let made = act(app, who, move |app, who| {
        let made = req.add(app, who)?;
        route_info(app, made)
    });
    Ok(Json(made.await?))
}

/// Forgets a route on which no store lies.
pub async fn drop_route(
    State(app): State<App>,
    who: Boss,
    Path(id): Path<i64>,
) -> Answer<StatusCode> {
    act(app, who, move |app, who| {
        app.drop_route(id)?;
        app.accounts.audit(who, &format!("forgot route {id}"), now_ms())
    })
    .await
    .map(|()| StatusCode::NO_CONTENT)
}

/// Lets new users' stores begin on a route.
pub async fn default_route(
    State(app): State<App>,
    who: Boss,
    Path(id): Path<i64>,
) -> Answer<StatusCode> {
    act(app, who, move |app, who| manage::set_default(app, who, id))
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

/// Where the server listens.
pub async fn ports(State(app): State<App>, who: Boss) -> Answer<Json<Vec<PortState>>> {
    act(app, who, |app, _| Ok(manage::ports_of(app))).await.map(Json)
}

/// Opens a port too.
pub async fn open_port(
    State(app): State<App>,
    who: Boss,
    Obj(req): Obj<Address>,
) -> Answer<Json<Vec<PortState>>> {
    let done = act(app, who, move |app, who| {
        manage::set_port(app, who, &req.address, true)?;
        Ok(manage::ports_of(app))
    });
    Ok(Json(done.await?))
}

/// Drains a port.
pub async fn drain_port(
    State(app): State<App>,
    who: Boss,
    Obj(req): Obj<Address>,
) -> Answer<Json<Vec<PortState>>> {
    let done = act(app, who, move |app, who| {
        manage::set_port(app, who, &req.address, false)?;
        Ok(manage::ports_of(app))
    });
    Ok(Json(done.await?))
}

/// The backups, newest first.
pub async fn backups(State(app): State<App>, who: Boss) -> Answer<Json<Vec<Listed>>> {
    act(app, who, |app, _| app.backups()).await.map(Json)
}

/// Makes a backup.
pub async fn make_backup(
    State(app): State<App>,
    who: Boss,
    Obj(req): Obj<Whose>,
) -> Answer<(StatusCode, Json<Job>)> {
    job(app, who, move |app, who| manage::start_backup(app, who, &req.user)).await
}

/// Loads a backup.
pub async fn load_backup(
    State(app): State<App>,
    who: Boss,
    Path(name): Path<String>,
    Obj(req): Obj<Whose>,
) -> Answer<(StatusCode, Json<Job>)> {
    job(app, who, move |app, who| manage::start_load(app, who, &name, &req.user)).await
}

/// Reads a backup and compares it with what it wrote down.
pub async fn verify_backup(
    State(app): State<App>,
    who: Boss,
    Path(name): Path<String>,
) -> Answer<(StatusCode, Json<Job>)> {
    job(app, who, move |app, who| manage::start_verify(app, who, &name)).await
}

/// Removes a backup.
pub async fn drop_backup(
    State(app): State<App>,
    who: Boss,
    Path(name): Path<String>,
) -> Answer<(StatusCode, Json<Job>)> {
    job(app, who, move |app, who| manage::start_drop(app, who, &name)).await
}

/// Long work, newest first.
pub async fn jobs(State(app): State<App>, who: Boss) -> Answer<Json<Vec<Job>>> {
    act(app, who, |app, _| Ok(app.jobs.list())).await.map(Json)
}

/// Who did what, newest first.
pub async fn audit(
    State(app): State<App>,
    who: Boss,
    Query(part): Query<Part>,
) -> Answer<Json<Vec<Entry>>> {
    let rows = act(app, who, move |app, _| {
        app.accounts.audited(&part.who, part.before, manage::AUDIT_ROWS)
    });
    Ok(Json(rows.await?))
}
