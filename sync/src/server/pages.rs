//! The pages' templates and what they show. All text is escaped by askama (trap 19). The one
//! script registers the service worker ([`super::pwa`]).
use super::http::Failure;
use super::preview::{Shown, promised};
use crate::api::NodeInfo;
use crate::error::SyncError;
use crate::tree::{Kind, NodeId};
use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

/// A page as an answer.
///
/// # Errors
/// A template that does not render.
pub fn show(page: &impl Template) -> Result<Response, Failure> {
    match page.render() {
        Ok(text) => Ok(Html(text).into_response()),
        Err(e) => Err(Failure(SyncError::Invalid(format!("page: {e}")))),
    }
}

/// Milliseconds since 1970 as a date and a time of day, UTC.
#[must_use]
pub fn time(ms: i64) -> String {
    let secs = ms.div_euclid(1_000);
    let (day, sec) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let (y, m, d) = date(day);
    format!("{y:04}-{m:02}-{d:02} {:02}:{:02}", sec / 3_600, sec % 3_600 / 60)
}

/// Days since 1970 as year, month, day (Howard Hinnant's civil_from_days).
#[must_use]
pub fn date(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// Bytes as a person reads them.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = bytes as f64;
    while rest >= 1_024.0 && unit + 1 < UNITS.len() {
        rest /= 1_024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{bytes} {name}") } else { format!("{rest:.1} {name}") }
}

/// A row of a table of files.
#[derive(Debug)]
pub struct Row {
    /// The node.
    pub id: NodeId,
    /// Its name, or its path where that says more.
    pub name: String,
    /// Whether it is a directory.
    pub dir: bool,
    /// Whether it is a folder that is encrypted end to end.
    pub lock: bool,
    /// Whether it can be looked at.
    pub view: bool,
    /// Whether a picture of it can be made.
    pub image: bool,
    /// For a person.
    pub size: String,
    /// For a person.
    pub when: String,
}

impl Row {
    /// A row for a node, under `name`.
    #[must_use]
    pub fn of(n: &NodeInfo, name: String) -> Self {
        let dir = n.kind == Kind::Dir;
        Self {
            id: n.id,
            name,
            dir,
            lock: false,
            view: !dir && promised(&n.name) != Shown::None,
            image: !dir && promised(&n.name) == Shown::Image,
            size: if dir { String::new() } else { size(n.size) },
            when: time(n.mtime_ns / 1_000_000),
        }
    }
}

/// What every page of somebody who is signed in shows.
#[derive(Debug)]
pub struct Frame {
    /// The user's name.
    pub user: String,
    /// Whether the management pages are open.
    pub admin: bool,
    /// How many conflict copies there are.
    pub conflicts: usize,
}

/// The question for a code after the password.
#[derive(Debug, Template)]
#[template(path = "code.html")]
pub struct Code {
    /// What says that the password was right.
    pub waiting: String,
    /// What went wrong.
    pub error: String,
}

/// Two-step sign-in.
#[derive(Debug, Template)]
#[template(path = "two_step.html")]
pub struct TwoStep {
    /// The frame.
    pub frame: Frame,
    /// Whether it is on.
    pub on: bool,
    /// Recovery codes that are left.
    pub left: i64,
    /// What went wrong.
    pub message: String,
    /// A secret that was begun.
    pub shown: Option<super::totp::Shown>,
    /// Recovery codes that were just made; shown this once.
    pub codes: Vec<String>,
}

/// Sign in, sign up.
#[derive(Debug, Template)]
#[template(path = "enter.html")]
pub struct Enter {
    /// Whether it is the page to make an account.
    pub new: bool,
    /// Whether accounts may be made.
    pub open: bool,
    /// What went wrong.
    pub error: String,
    /// The name that was typed.
    pub name: String,
}

/// A directory.
#[derive(Debug, Template)]
#[template(path = "browse.html")]
pub struct Browse {
    /// The frame.
    pub frame: Frame,
    /// The directory.
    pub id: NodeId,
    /// The way to it: number and name of each directory.
    pub way: Vec<(NodeId, String)>,
    /// Whether it is or lies in a folder that is encrypted end to end.
    pub sealed: bool,
    /// Its entries.
    pub rows: Vec<Row>,
    /// Room, for a person.
    pub room: String,
}

/// One file or directory.
#[derive(Debug, Template)]
#[template(path = "node.html")]
pub struct Details {
    /// The frame.
    pub frame: Frame,
    /// The node.
    pub row: Row,
    /// Its path.
    pub path: String,
    /// The directory it lies in.
    pub parent: NodeId,
    /// Whether it lies in a folder that is encrypted end to end.
    pub sealed: bool,
    /// Its revision.
    pub rev: i64,
    /// Its hash.
    pub hash: String,
    /// Old contents: revision, size, until when.
    pub versions: Vec<(i64, String, String)>,
}

/// The trash, or the conflict copies.
#[derive(Debug, Template)]
#[template(path = "list.html")]
pub struct List {
    /// The frame.
    pub frame: Frame,
    /// Whether it is the trash.
    pub trash: bool,
    /// What lies there.
    pub rows: Vec<Row>,
}

/// The user's own data.
#[derive(Debug, Template)]
#[template(path = "account.html")]
pub struct Account {
    /// The frame.
    pub frame: Frame,
    /// Room, for a person.
    pub room: String,
    /// Whether signing in has two steps.
    pub two_step: bool,
    /// What went wrong or well.
    pub message: String,
    /// An app password that was just made; shown this once.
    pub secret: String,
    /// App passwords: number, what for, last use.
    pub apps: Vec<(i64, String, String)>,
    /// Who is signed in: id, name, last seen, whether it is this one.
    pub sessions: Vec<(String, String, String, bool)>,
}

/// A link in the list of its user.
#[derive(Debug)]
pub struct ShareRow {
    /// Its number.
    pub id: i64,
    /// What it leads to.
    pub path: String,
    /// Whether it has a password.
    pub password: bool,
    /// When it ends.
    pub ends: String,
    /// How often it was opened.
    pub opened: i64,
}

/// The user's links.
#[derive(Debug, Template)]
#[template(path = "shares.html")]
pub struct Shares {
    /// The frame.
    pub frame: Frame,
    /// The links.
    pub rows: Vec<ShareRow>,
    /// One that was just made; shown this once.
    pub link: String,
}

/// What a link leads to, or the question for its password.
#[derive(Debug, Default, Template)]
#[template(path = "share.html")]
pub struct SharePage {
    /// The token.
    pub token: String,
    /// The password is asked for.
    pub ask: bool,
    /// What went wrong.
    pub error: String,
    /// The name of what is shared.
    pub name: String,
    /// Its number.
    pub id: NodeId,
    /// Whether it is a directory.
    pub dir: bool,
    /// The directory above, within the share; 0: none.
    pub up: NodeId,
    /// Its entries; a file is its own.
    pub rows: Vec<Row>,
}

/// A user, for the administrator.
#[derive(Debug)]
pub struct UserRow {
    /// Number.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Administrator.
    pub admin: bool,
    /// Quota in MiB; empty: none.
    pub quota: String,
    /// Kept out.
    pub disabled: bool,
    /// Signs in in two steps.
    pub two_step: bool,
    /// What is kept, for a person.
    pub used: String,
}

/// Users and what was done lately.
#[derive(Debug, Template)]
#[template(path = "admin.html")]
pub struct Admin {
    /// The frame.
    pub frame: Frame,
    /// What went wrong or well.
    pub message: String,
    /// The users.
    pub users: Vec<UserRow>,
    /// When, who, what.
    pub audit: Vec<(String, String, String)>,
    /// How long what is kept: key, what, days.
    pub keep: Vec<(&'static str, &'static str, i64)>,
    /// The last round that dropped what was kept long enough.
    pub swept: String,
}

/// Something went wrong.
#[derive(Debug, Template)]
#[template(path = "error.html")]
pub struct Problem {
    /// What, and what to do.
    pub message: String,
}

/// An error as a page, with its status.
#[must_use]
pub fn problem(e: &SyncError) -> Response {
    let status = StatusCode::from_u16(e.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let message = if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(error = %e, "page failed");
        "An internal error; the server's log tells more.".to_owned()
    } else {
        e.to_string()
    };
    match show(&(Problem { message })) {
        Ok(mut page) => {
            *page.status_mut() = status;
            page
        }
        Err(e) => e.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            (size(0), size(1_023), size(1_536)),
            ("0 B".into(), "1023 B".into(), "1.5 KiB".into())
        );
        assert_eq!(time(0), "1970-01-01 00:00");
        assert_eq!(time(1_709_210_096_000), "2024-02-29 12:34");
        assert_eq!(time(-1), "1969-12-31 23:59");
    }

    #[test]
    fn trap19_what_users_write_is_text_and_nothing_else() {
        let page = Problem { message: "<script>alert('x')</script>&\"".into() };
        let text = page.render().unwrap();
        assert!(!text.contains("<script>") && text.contains("&#60;script&#62;"), "{text}");
    }
}
