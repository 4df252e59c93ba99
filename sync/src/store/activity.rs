//! What was done lately to a user's files, as the journal has it: newest first, page by page.
use super::{Store, path_of};
use crate::error::Result;
use crate::tree::{Kind, NodeId};
use rusqlite::params;
use serde::Serialize;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// The revision that it made.
    pub rev: i64,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// By which device, or `web`.
    pub by: String,
    /// What was done: `put`, `mkdir`, `move`, `delete`, ...
    pub op: String,
    /// The node.
    pub node: NodeId,
    /// Its path now; its name if it is not alive any more.
    pub path: String,
    /// Whether it is alive.
    pub live: bool,
    /// Whether it is a directory.
    pub dir: bool,
}

impl Store {
    /// Changes before revision `before` (0: the newest), newest first.
    ///
    /// # Errors
    /// Database.
    pub fn activity(&self, before: i64, count: u32) -> Result<Vec<Activity>> {
        let before = if before > 0 { before } else { i64::MAX };
        let mut q = self.db.prepare_cached(
            "SELECT seq, at_ms, who, op, journal.node, name, deleted, kind \
             FROM journal JOIN node ON node.id = journal.node \
             WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
        )?;
        let rows = q.query_map(params![before, count], |r| {
            Ok(Activity {
                rev: r.get(0)?,
                at_ms: r.get(1)?,
                by: r.get(2)?,
                op: r.get(3)?,
                node: r.get(4)?,
                path: r.get(5)?,
                live: r.get::<_, i64>(6)? == 0,
                dir: r.get::<_, i64>(7)? == Kind::Dir as i64,
            })
        })?;
        let mut all = rows.collect::<rusqlite::Result<Vec<Activity>>>()?;
        for one in all.iter_mut().filter(|a| a.live) {
            one.path = path_of(&self.db, one.node)?;
        }
        Ok(all)
    }

    /// How many conflict copies live.
    ///
    /// # Errors
    /// Database.
    pub fn count_conflicts(&self) -> Result<usize> {
        // The index `node_conflict` has exactly these.
        let sql = "SELECT count(*) FROM node WHERE deleted = 0 AND instr(name, ' (conflict ') > 0";
        let n: i64 = self.db.prepare_cached(sql)?.query_row([], |r| r.get(0))?;
        Ok(usize::try_from(n).unwrap_or(0))
    }
}
