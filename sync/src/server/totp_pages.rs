//! Pages of the two-step sign-in: the question for a code after the password, and where a user turns it
//! on and off. The acts are in [`super::totp`].
use super::http::{App, Failure, Peer, Who, blocking, from_our_pages};
use super::pages::{Code, TwoStep, problem, show};
use super::users::now_ms;
use super::web::{frame, page, signed_in, to};
use crate::error::{Result, SyncError};
use crate::secret::Secret;
use axum::Form;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

type Page = std::result::Result<Response, Response>;

/// The question for a code, as an answer.
pub(super) fn ask(waiting: String, error: String, status: u16) -> Response {
    match show(&Code { waiting, error }) {
        Ok(mut page) => {
            *page.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            page
        }
        Err(e) => problem(&e.0),
    }
}

/// What the page holds since the password was right, and the code.
#[derive(Debug, Deserialize)]
pub struct CodeForm {
    waiting: Secret,
    code: Secret,
}

/// Takes the code of somebody whose password was right.
pub async fn login_code(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<CodeForm>,
) -> Page {
    if !from_our_pages(&headers) {
        return Err((StatusCode::FORBIDDEN, "this form is from another site").into_response());
    }
    let waiting = form.waiting.to_string();
    let done = blocking(move || {
        let now = now_ms();
        let user = app.accounts.waiting(&form.waiting, now)?;
        match app.accounts.second_step(&user, &form.code, &peer.ip().to_string(), now) {
            Ok(()) => {}
            // The same question again.
            Err(e @ (SyncError::Denied(_) | SyncError::Busy(_))) => return Ok(Err(e)),
            Err(e) => return Err(e),
        }
        app.accounts.waited(&form.waiting);
        app.accounts.audit(&user.name, "signed in, with a code", now)?;
        Ok(Ok(app.accounts.begin_session(user.id, "", now)?.0))
    });
    match done.await {
        Ok(Ok(token)) => Ok(signed_in(&token)),
        Ok(Err(e)) => Ok(ask(waiting, e.to_string(), e.status())),
        Err(Failure(SyncError::Denied(_))) => Ok(to("/login")),
        Err(e) => Err(problem(&e.0)),
    }
}

fn state(app: &App, who: &Who, message: String) -> Result<TwoStep> {
    let user = &who.session.user;
    Ok(TwoStep {
        frame: frame(who),
        on: app.accounts.has_totp(user.id)?,
        left: app.accounts.recovery_left(user.id)?,
        message,
        shown: None,
        codes: Vec::new(),
    })
}

/// How it stands.
pub async fn two_step(State(app): State<App>, who: Who) -> Page {
    show(&page(move || state(&app, &who, String::new())).await?).map_err(|e| problem(&e.0))
}

/// Makes a secret, and shows it.
pub async fn begin(State(app): State<App>, who: Who) -> Page {
    let shown = page(move || {
        let shown = app.accounts.begin_totp(&who.session.user)?;
        Ok(TwoStep { shown: Some(shown), ..state(&app, &who, String::new())? })
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}

/// A code.
#[derive(Debug, Deserialize)]
pub struct OnForm {
    code: Secret,
}

/// Turns it on, and shows the recovery codes, this once.
pub async fn on(State(app): State<App>, who: Who, Form(form): Form<OnForm>) -> Page {
    let shown = page(move || {
        let user = &who.session.user;
        match app.accounts.turn_totp_on(user, &form.code, now_ms()) {
            Ok(codes) => {
                app.accounts.audit(&user.name, "turned two-step sign-in on", now_ms())?;
                Ok(TwoStep { codes, ..state(&app, &who, String::new())? })
            }
            Err(e @ (SyncError::Denied(_) | SyncError::Busy(_))) => {
                let shown = Some(app.accounts.show_totp(user)?);
                Ok(TwoStep { shown, ..state(&app, &who, e.to_string())? })
            }
            Err(e) => Err(e),
        }
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}

/// The account's password.
#[derive(Debug, Deserialize)]
pub struct PasswordForm {
    password: Secret,
}

/// Does something for which the password is asked again.
async fn with_password(
    app: App,
    peer: Peer,
    who: Who,
    form: PasswordForm,
    f: impl FnOnce(&App, &Who) -> Result<Vec<String>> + Send + 'static,
) -> Page {
    let shown = page(move || {
        let name = &who.session.user.name;
        match app.accounts.check(name, &form.password, &peer.0.ip().to_string(), now_ms()) {
            Ok(_) => {
                let codes = f(&app, &who)?;
                Ok(TwoStep { codes, ..state(&app, &who, String::new())? })
            }
            Err(e @ (SyncError::Denied(_) | SyncError::Busy(_))) => {
                state(&app, &who, e.to_string())
            }
            Err(e) => Err(e),
        }
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}

/// Turns it off.
pub async fn off(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    who: Who,
    Form(form): Form<PasswordForm>,
) -> Page {
    with_password(app, peer, who, form, |app, who| {
        let user = &who.session.user;
        app.accounts.turn_totp_off(user.id)?;
        app.accounts.audit(&user.name, "turned two-step sign-in off", now_ms())?;
        Ok(Vec::new())
    })
    .await
}

/// Makes new recovery codes, and shows them, this once.
pub async fn recovery(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    who: Who,
    Form(form): Form<PasswordForm>,
) -> Page {
    with_password(app, peer, who, form, |app, who| {
        let user = &who.session.user;
        if !app.accounts.has_totp(user.id)? {
            return Err(SyncError::Invalid("two-step sign-in is off".into()));
        }
        app.accounts.audit(&user.name, "made new recovery codes", now_ms())?;
        app.accounts.new_recovery(user.id)
    })
    .await
}
