//! Pages of the administrator: users, quotas, who is kept out, what was done lately.
use super::http::{App, Boss};
use super::pages::{Admin, UserRow, problem, show, size, time};
use super::settings::KEEP;
use super::users::now_ms;
use super::web::{boss_frame, page, to};
use crate::error::{Result, SyncError};
use crate::secret::Secret;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;

type Page = std::result::Result<Response, Response>;
const MIB: u64 = 1 << 20;
/// So many entries of the audit are shown here; all of them have a page.
const AUDIT_ROWS: u32 = 10;

pub(super) fn quota(text: &str) -> Result<Option<u64>> {
    match text.trim() {
        "" => Ok(None),
        n => match n.parse::<u64>().ok().and_then(|n| n.checked_mul(MIB)) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(SyncError::Invalid(format!("quota {n:?} is no number of MiB"))),
        },
    }
}

/// The users.
pub async fn users(State(app): State<App>, who: Boss) -> Page {
    let shown = page(move || {
        let mut rows = Vec::new();
        for user in app.accounts.users()? {
            let used = match app.worker(&user).and_then(|w| w.store.lock().usage()) {
                Ok((used, _)) => size(used),
                Err(e) => e.to_string(),
            };
            rows.push(UserRow {
                id: user.id,
                name: user.name,
                admin: user.admin,
                quota: user.quota.map_or(String::new(), |q| (q / MIB).to_string()),
                disabled: user.disabled,
                two_step: app.accounts.has_totp(user.id)?,
                used,
            });
        }
        let audit = app.accounts.audited("", 0, AUDIT_ROWS)?;
        let audit = audit.into_iter().map(|e| (time(e.at_ms), e.who, e.what)).collect();
        let keep = KEEP.iter().zip(app.accounts.keep_days()?);
        let keep = keep.map(|((key, what, _), days)| (*key, *what, days)).collect();
        let swept = app.swept.lock().map_or(String::new(), |(ms, done)| {
            format!(
                "{}: {} deleted files, {} old versions, {} marks, {} devices",
                time(ms),
                done.trash,
                done.versions,
                done.marks,
                done.devices
            )
        });
        let message = String::new();
        Ok(Admin { frame: boss_frame(&who), message, users: rows, audit, keep, swept })
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}

/// How long what is kept, in days; 0: for ever.
#[derive(Debug, Deserialize)]
pub struct Keep {
    trash_days: i64,
    version_days: i64,
    mark_days: i64,
    device_days: i64,
}

/// Sets it.
pub async fn keep(State(app): State<App>, who: Boss, Form(form): Form<Keep>) -> Page {
    page(move || {
        let days = [form.trash_days, form.version_days, form.mark_days, form.device_days];
        app.accounts.set_keep_days(days)?;
        let what = format!("set days of trash, versions, marks, devices to {days:?}");
        app.accounts.audit(&who.session.user.name, &what, now_ms())
    })
    .await?;
    Ok(to("/admin"))
}

/// A new user.
#[derive(Debug, Deserialize)]
pub struct NewUser {
    user: String,
    password: Secret,
    quota: String,
    #[serde(default)]
    admin: String,
}

/// Makes a user.
pub async fn create(State(app): State<App>, who: Boss, Form(form): Form<NewUser>) -> Page {
    page(move || {
        let (quota, admin) = (quota(&form.quota)?, form.admin == "yes");
        app.accounts.create(&form.user, &form.password, admin, quota, now_ms())?;
        let what = format!("made user {}", form.user);
        app.accounts.audit(&who.session.user.name, &what, now_ms())
    })
    .await?;
    Ok(to("/admin"))
}

/// A user's quota, whether the user is kept out, and a new password if one is given.
#[derive(Debug, Deserialize)]
pub struct Change {
    quota: String,
    #[serde(default)]
    disabled: String,
    #[serde(default)]
    password: Secret,
    #[serde(default)]
    one_step: String,
}

/// Changes a user.
pub async fn change(
    State(app): State<App>,
    who: Boss,
    Path(id): Path<i64>,
    Form(form): Form<Change>,
) -> Page {
    page(move || {
        let (quota, disabled) = (quota(&form.quota)?, form.disabled == "yes");
        let user = &who.session.user;
        set_user(&app, &user.name, user.id, id, quota, disabled, &form.password)?;
        if form.one_step == "yes" {
            turn_totp_off(&app, &user.name, id)?;
        }
        Ok(())
    })
    .await?;
    Ok(to("/admin"))
}

/// Turns the two-step sign-in of somebody off who lost phone and recovery codes.
///
/// # Errors
/// No such user; database.
pub(super) fn turn_totp_off(app: &App, who: &str, id: i64) -> Result<()> {
    let user = app.accounts.user(id)?;
    app.accounts.turn_totp_off(id)?;
    app.accounts.audit(who, &format!("turned two-step sign-in of {} off", user.name), now_ms())
}

/// Sets an account's quota, whether it is kept out, and a password if it is not empty.
///
/// # Errors
/// [`SyncError::Invalid`] for one who would keep out themselves; as the accounts say.
pub(super) fn set_user(
    app: &App,
    who: &str,
    own: i64,
    id: i64,
    quota: Option<u64>,
    disabled: bool,
    password: &str,
) -> Result<()> {
    let user = app.accounts.user(id)?;
    if disabled && id == own {
        return Err(SyncError::Invalid("you cannot keep yourself out".into()));
    }
    app.accounts.set_user(id, quota, disabled)?;
    // A store that is not open takes it when it opens, also one whose route is not mounted now.
    if let Some(worker) = app.open_worker(id) {
        worker.store.lock().set_quota(quota);
    }
    if !password.is_empty() {
        app.accounts.set_password(&user, password)?;
    }
    app.accounts.audit(who, &format!("changed user {}", user.name), now_ms())
}
