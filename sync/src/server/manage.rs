//! Pages to manage storage routes, ports and backups, the audit, and what the server does now; and the
//! acts behind them, which the API ([`super::admin_api`]) shares.
use super::accounts::User;
use super::http::{App, Boss};
use super::jobs::{self, Job};
use super::manage_pages::{
    AuditPage, BackupRow, BackupsPage, JobRow, LivePage, PlaceRow, PortsPage, RouteRow, RoutesPage,
};
use super::pages::{problem, show, size, time};
use super::ports::PortState;
use super::replace::space;
use super::users::now_ms;
use super::web::{boss_frame, page, to};
use crate::error::{Result, SyncError};
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;
use std::net::SocketAddr;

type Page = std::result::Result<Response, Response>;
/// So many entries of the audit are on a page.
pub(super) const AUDIT_ROWS: u32 = 50;
/// Somebody who was seen so lately is here.
const LATELY_MS: i64 = 15 * 60_000;

/// Starts to move a user's store.
///
/// # Errors
/// As [`jobs::start`]; no such user or route.
pub(super) fn start_move(app: &App, who: &str, user: i64, route: i64) -> Result<u64> {
    let user = app.accounts.user(user)?;
    let target = app.all_routes()?.into_iter().find(|r| r.id == route);
    let target = target.ok_or_else(|| SyncError::NotFound(format!("route {route}")))?;
    let what = format!("move the store of {} to {}", user.name, target.name);
    jobs::start(app, who, what, move |app| app.move_store(&user, route))
}

fn chosen(app: &App, user: &str) -> Result<Vec<User>> {
    let all = app.accounts.users()?;
    let some: Vec<User> = all.into_iter().filter(|u| user.is_empty() || u.name == user).collect();
    if some.is_empty() { Err(SyncError::NotFound(format!("user {user}"))) } else { Ok(some) }
}

/// Starts to make a backup of a user; empty: of all.
///
/// # Errors
/// As [`jobs::start`]; no such user.
pub(super) fn start_backup(app: &App, who: &str, user: &str) -> Result<u64> {
    let users = chosen(app, user)?;
    let what = format!("backup of {}", if user.is_empty() { "all users" } else { user });
    let why = format!("asked for by {who}");
    jobs::start(app, who, what, move |app| {
        let name = app.make_backup(&users, &why)?;
        let (_, made) = app.backup(&name)?;
        let bad: usize = made.users.iter().map(|u| u.problems.len()).sum();
        Ok(match bad {
            0 => format!("backup {name}"),
            n => {
                format!("backup {name}; {n} files are not what their table says: see its manifest")
            }
        })
    })
}

/// Starts to load a backup.
///
/// # Errors
/// As [`jobs::start`]; no such backup.
pub(super) fn start_load(app: &App, who: &str, name: &str, user: &str) -> Result<u64> {
    app.backup(name)?;
    let whose = if user.is_empty() { "all in it" } else { user };
    let what = format!("load backup {name} for {whose}");
    let (name, user) = (name.to_owned(), user.to_owned());
    jobs::start(app, who, what, move |app| {
        app.load_backup(&name, (!user.is_empty()).then_some(&user))
    })
}

/// Starts to read a backup.
///
/// # Errors
/// As [`jobs::start`]; no such backup.
pub(super) fn start_verify(app: &App, who: &str, name: &str) -> Result<u64> {
    app.backup(name)?;
    let name = name.to_owned();
    jobs::start(app, who, format!("check backup {name}"), move |app| {
        let wrong = app.verify_backup(&name)?;
        match wrong.first() {
            None => Ok("every byte is as it was written".into()),
            Some(first) => Err(SyncError::Damaged(format!("{} files; {first}", wrong.len()))),
        }
    })
}

/// Opens or drains a port.
///
/// # Errors
/// As [`super::users::Users::change_port`].
pub(super) fn set_port(app: &App, who: &str, address: &str, open: bool) -> Result<()> {
    let addr: SocketAddr = address.trim().parse().map_err(|_| {
        SyncError::Invalid(format!("{address:?} is no address with a port, such as 0.0.0.0:8444"))
    })?;
    app.change_port(addr, open)?;
    let what = format!("{} port {addr}", if open { "opened" } else { "closed" });
    app.accounts.audit(who, &what, now_ms())
}

/// The ports.
pub(super) fn ports_of(app: &App) -> Vec<PortState> {
    let ports = app.ports.get().and_then(std::sync::Weak::upgrade);
    ports.map(|p| p.list()).unwrap_or_default()
}

fn job_row(j: Job) -> JobRow {
    let state = if j.ended_ms == 0 { "under way".into() } else { j.result };
    let failed = j.ended_ms != 0 && !j.ok;
    JobRow { what: j.what, began: time(j.began_ms), bytes: size(j.bytes), state, failed }
}

fn job_rows(app: &App) -> Vec<JobRow> {
    app.jobs.list().into_iter().map(job_row).collect()
}

/// Storage routes.
pub async fn routes(State(app): State<App>, who: Boss) -> Page {
    let shown = page(move || {
        let default = app.default_route()?;
        let all = app.all_routes()?;
        let mut places = Vec::new();
        for user in app.accounts.users()? {
            let route = app.place(&user)?;
            let name = all.iter().find(|r| r.id == route).map_or("?", |r| r.name.as_str());
            places.push(PlaceRow { id: user.id, name: user.name, route, route_name: name.into() });
        }
        let row = |r: super::local::Route| {
            let found = app.route(r.id).and_then(|open| space(open.root.path()));
            let fine = found.is_ok();
            RouteRow {
                space: match found {
                    Ok((free, all)) => format!("{} free of {}", size(free), size(all)),
                    Err(e) => e.to_string(),
                },
                fine,
                stores: places.iter().filter(|p| p.route == r.id).count(),
                default: r.id == default,
                id: r.id,
                name: r.name,
                path: r.path.display().to_string(),
            }
        };
        let routes = all.into_iter().map(row).collect();
        Ok(RoutesPage { frame: boss_frame(&who), routes, places, jobs: job_rows(&app) })
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}

/// A name and a directory.
#[derive(Debug, Deserialize)]
pub struct NewRoute {
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub path: String,
}

impl NewRoute {
    /// Adds it.
    ///
    /// # Errors
    /// As [`super::users::Users::add_route`].
    pub(super) fn add(&self, app: &App, who: &str) -> Result<super::local::Route> {
        let made = app.add_route(self.name.trim(), std::path::Path::new(self.path.trim()))?;
        let what = format!("added route {} at {}", made.name, made.path.display());
        app.accounts.audit(who, &what, now_ms())?;
        Ok(made)
    }
}

/// Adds a route.
pub async fn add_route(State(app): State<App>, who: Boss, Form(form): Form<NewRoute>) -> Page {
    page(move || form.add(&app, &who.session.user.name)).await?;
    Ok(to("/admin/routes"))
}

/// Lets new users' stores begin on a route.
///
/// # Errors
/// No such route, or not mounted; database.
pub(super) fn set_default(app: &App, who: &str, id: i64) -> Result<()> {
    app.route(id)?;
    app.local.set_word("route", &id.to_string())?;
    app.accounts.audit(who, &format!("new users' stores begin on route {id}"), now_ms())
}

/// Lets new users' stores begin on a route.
pub async fn default_route(State(app): State<App>, who: Boss, Path(id): Path<i64>) -> Page {
    page(move || set_default(&app, &who.session.user.name, id)).await?;
    Ok(to("/admin/routes"))
}

/// Forgets a route.
pub async fn drop_route(State(app): State<App>, who: Boss, Path(id): Path<i64>) -> Page {
    page(move || {
        app.drop_route(id)?;
        app.accounts.audit(&who.session.user.name, &format!("forgot route {id}"), now_ms())
    })
    .await?;
    Ok(to("/admin/routes"))
}

/// Where to.
#[derive(Debug, Deserialize)]
pub struct To {
    /// The route.
    pub route: i64,
}

/// Moves a user's store.
pub async fn move_user(
    State(app): State<App>,
    who: Boss,
    Path(id): Path<i64>,
    Form(form): Form<To>,
) -> Page {
    page(move || start_move(&app, &who.session.user.name, id, form.route)).await?;
    Ok(to("/admin/routes"))
}

/// Ports.
pub async fn ports(State(app): State<App>, who: Boss) -> Page {
    let shown = page(move || {
        let ports = ports_of(&app);
        let many = ports.iter().filter(|p| !p.draining).count() > 1;
        let ports = ports.into_iter().map(|p| (p.address, p.draining, p.connections)).collect();
        Ok(PortsPage { frame: boss_frame(&who), ports, many })
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}

/// An address with a port.
#[derive(Debug, Deserialize)]
pub struct Address {
    /// The address.
    pub address: String,
}

/// Opens a port.
pub async fn open_port(State(app): State<App>, who: Boss, Form(form): Form<Address>) -> Page {
    page(move || set_port(&app, &who.session.user.name, &form.address, true)).await?;
    Ok(to("/admin/ports"))
}

/// Drains a port.
pub async fn drain_port(State(app): State<App>, who: Boss, Form(form): Form<Address>) -> Page {
    page(move || set_port(&app, &who.session.user.name, &form.address, false)).await?;
    Ok(to("/admin/ports"))
}

/// Backups.
pub async fn backups(State(app): State<App>, who: Boss) -> Page {
    let shown = page(move || {
        let (rows, error) = match app.backups() {
            Ok(all) => (all, String::new()),
            Err(e) => (Vec::new(), e.to_string()),
        };
        let row = |b: super::backups::Listed| {
            let m = b.manifest;
            let files: usize = m.users.iter().map(|u| u.files).sum();
            let bytes: u64 = m.users.iter().map(|u| u.bytes).sum();
            BackupRow {
                name: b.name,
                why: m.why,
                when: time(m.at_ms),
                what: format!("{} users, {files} files, {}", m.users.len(), size(bytes)),
                users: m.users.into_iter().map(|u| (u.name, u.problems.len())).collect(),
            }
        };
        Ok(BackupsPage {
            frame: boss_frame(&who),
            dir: app.local.word("backups")?.unwrap_or_default(),
            error,
            users: app.accounts.users()?.into_iter().map(|u| u.name).collect(),
            rows: rows.into_iter().map(row).collect(),
            jobs: job_rows(&app),
        })
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}

/// A user's name; empty: all.
#[derive(Debug, Deserialize)]
pub struct Whose {
    /// The name.
    #[serde(default)]
    pub user: String,
    /// A page's second question.
    #[serde(default)]
    pub sure: String,
}

/// Makes a backup.
pub async fn make_backup(State(app): State<App>, who: Boss, Form(form): Form<Whose>) -> Page {
    page(move || start_backup(&app, &who.session.user.name, &form.user)).await?;
    Ok(to("/admin/backups"))
}

/// Loads a backup.
pub async fn load_backup(
    State(app): State<App>,
    who: Boss,
    Path(name): Path<String>,
    Form(form): Form<Whose>,
) -> Page {
    page(move || {
        if form.sure != "yes" {
            let why = "say that it takes the place of what is there now";
            return Err(SyncError::Invalid(why.into()));
        }
        start_load(&app, &who.session.user.name, &name, &form.user)
    })
    .await?;
    Ok(to("/admin/backups"))
}

/// Reads a backup.
pub async fn verify_backup(State(app): State<App>, who: Boss, Path(name): Path<String>) -> Page {
    page(move || start_verify(&app, &who.session.user.name, &name)).await?;
    Ok(to("/admin/backups"))
}

/// Starts to remove a backup.
///
/// # Errors
/// As [`jobs::start`]; no such backup.
pub(super) fn start_drop(app: &App, who: &str, name: &str) -> Result<u64> {
    app.backup(name)?;
    let name = name.to_owned();
    jobs::start(app, who, format!("remove backup {name}"), move |app| {
        app.drop_backup(&name).map(|()| "removed".into())
    })
}

/// Removes a backup.
pub async fn drop_backup(State(app): State<App>, who: Boss, Path(name): Path<String>) -> Page {
    page(move || start_drop(&app, &who.session.user.name, &name)).await?;
    Ok(to("/admin/backups"))
}

/// A folder.
#[derive(Debug, Deserialize)]
pub struct Dir {
    dir: String,
}

/// Says where backups lie.
pub async fn backup_dir(State(app): State<App>, who: Boss, Form(form): Form<Dir>) -> Page {
    page(move || {
        app.set_backup_dir(form.dir.trim())?;
        let what = format!("backups lie at {:?}", form.dir.trim());
        app.accounts.audit(&who.session.user.name, &what, now_ms())
    })
    .await?;
    Ok(to("/admin/backups"))
}

/// Which part of the audit.
#[derive(Debug, Deserialize)]
pub struct Part {
    /// Whose; empty: all.
    #[serde(default)]
    pub who: String,
    /// Before this number; 0: the newest.
    #[serde(default)]
    pub before: i64,
}

/// The audit.
pub async fn audit(State(app): State<App>, who: Boss, Query(part): Query<Part>) -> Page {
    let shown = page(move || {
        let name = part.who.trim().to_owned();
        let rows = app.accounts.audited(&name, part.before, AUDIT_ROWS)?;
        let full = rows.len() == AUDIT_ROWS as usize;
        let older = rows.last().filter(|_| full).map_or(0, |e| e.id);
        let rows = rows.into_iter().map(|e| (time(e.at_ms), e.who, e.what)).collect();
        Ok(AuditPage { frame: boss_frame(&who), who: name, rows, older })
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}

/// What the server does now.
pub async fn live(State(app): State<App>, who: Boss) -> Page {
    let shown = page(move || {
        let ports = ports_of(&app);
        let users = app.accounts.users()?;
        let mut stores = Vec::new();
        let mut seen = Vec::new();
        for user in &users {
            if let Some(worker) = app.open_worker(user.id) {
                let store = worker.store.lock();
                let (used, (uploads, reserved)) = (store.usage()?.0, store.uploads()?);
                stores.push((user.name.clone(), size(used), uploads, size(reserved)));
            }
            for s in app.accounts.sessions(user.id)? {
                if s.seen_ms > now_ms() - LATELY_MS {
                    let device = if s.device.is_empty() { "browser".into() } else { s.device };
                    seen.push((s.seen_ms, user.name.clone(), device));
                }
            }
        }
        seen.sort_by(|a, b| b.cmp(a));
        let (free, all) = space(app.root().path())?;
        let connections: usize = ports.iter().map(|p| p.connections).sum();
        let addresses: Vec<String> = ports.into_iter().map(|p| p.address).collect();
        let facts = vec![
            ("Version".into(), env!("CARGO_PKG_VERSION").into()),
            ("Running since (UTC)".into(), time(app.began_ms)),
            ("Root".into(), app.root().path().display().to_string()),
            ("Space there".into(), format!("{} free of {}", size(free), size(all))),
            ("Listens on".into(), addresses.join(", ")),
            ("Connections".into(), connections.to_string()),
            ("Requests answered".into(), app.requests.total().to_string()),
            ("Accounts".into(), users.len().to_string()),
        ];
        let seen = seen.into_iter().map(|(ms, user, device)| (user, device, time(ms))).collect();
        Ok(LivePage { frame: boss_frame(&who), facts, stores, seen, jobs: job_rows(&app) })
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}
