//! What was done lately to a user's files, as a page and for programs.
use super::http::{Answer, Who, blocking};
use super::pages::{Frame, problem, show, time};
use super::web::{frame, page};
use crate::store::Activity;
use crate::tree::NodeId;
use askama::Template;
use axum::Json;
use axum::extract::Query;
use axum::response::Response;
use serde::Deserialize;

/// So many are shown at once.
const ROWS: u32 = 100;

/// One change, for a person.
#[derive(Debug)]
pub struct ActivityRow {
    node: NodeId,
    live: bool,
    path: String,
    what: &'static str,
    by: String,
    when: String,
}

/// What was done lately.
#[derive(Debug, Template)]
#[template(path = "activity.html")]
pub struct ActivityPage {
    frame: Frame,
    rows: Vec<ActivityRow>,
    /// Where older ones begin; 0: there are none.
    older: i64,
}

/// `?before=`.
#[derive(Debug, Deserialize)]
pub struct Before {
    #[serde(default)]
    before: i64,
}

fn word(op: &str) -> &'static str {
    match op {
        "put" => "content sent",
        "mkdir" => "folder made",
        "move" => "moved or renamed",
        "delete" => "deleted",
        "restore" => "restored",
        _ => "changed",
    }
}

/// The page.
pub async fn show_page(
    who: Who,
    Query(q): Query<Before>,
) -> std::result::Result<Response, Response> {
    let shown = page(move || {
        let all = who.worker.store.lock().activity(q.before, ROWS)?;
        let full = all.len() == ROWS as usize;
        let older = all.last().filter(|_| full).map_or(0, |a| a.rev);
        let row = |a: Activity| ActivityRow {
            node: a.node,
            live: a.live,
            path: if a.dir { format!("{}/", a.path) } else { a.path },
            what: word(&a.op),
            by: a.by,
            when: time(a.at_ms),
        };
        Ok(ActivityPage { frame: frame(&who), rows: all.into_iter().map(row).collect(), older })
    });
    show(&shown.await?).map_err(|e| problem(&e.0))
}

/// The same for programs.
pub async fn list(who: Who, Query(q): Query<Before>) -> Answer<Json<Vec<Activity>>> {
    blocking(move || who.worker.store.lock().activity(q.before, ROWS).map(Json)).await
}
