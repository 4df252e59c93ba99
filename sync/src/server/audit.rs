//! Who did what: written at every sign-in, change of an account and act of an administrator; read by
//! administrators, newest first, page by page.
use super::accounts::Accounts;
use crate::error::Result;
use rusqlite::params;
use serde::Serialize;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number; later ones are larger.
    pub id: i64,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// Who.
    pub who: String,
    /// What.
    pub what: String,
}

impl Accounts {
    /// Writes down who did what.
    ///
    /// # Errors
    /// Database.
    pub fn audit(&self, who: &str, what: &str, now_ms: i64) -> Result<()> {
        let sql = "INSERT INTO audit VALUES (?1, ?2, ?3)";
        self.db.lock().execute(sql, params![now_ms, who, what])?;
        Ok(())
    }

    /// Entries before number `before` (0: the newest), newest first; of one user if `who` is not empty.
    ///
    /// # Errors
    /// Database.
    pub fn audited(&self, who: &str, before: i64, count: u32) -> Result<Vec<Entry>> {
        let db = self.db.lock();
        let mut q = db.prepare_cached(
            "SELECT rowid, at_ms, who, what FROM audit \
             WHERE (?1 = '' OR who = ?1) AND (?2 = 0 OR rowid < ?2) ORDER BY rowid DESC LIMIT ?3",
        )?;
        let rows = q.query_map(params![who, before, count], |r| {
            Ok(Entry { id: r.get(0)?, at_ms: r.get(1)?, who: r.get(2)?, what: r.get(3)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
