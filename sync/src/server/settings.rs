//! Settings that the administrator changes while the server runs: how long what is kept. They are in the
//! accounts' database.
use super::accounts::Accounts;
use crate::error::{Result, SyncError};
use crate::store::Ages;
use rusqlite::{OptionalExtension, params};

const DAY_MS: i64 = 24 * 3_600_000;
/// The longest time that can be set.
const DAYS_MAX: i64 = 36_500;

/// One setting: its key, what it says to a person, its default in days. 0 keeps for ever.
pub const KEEP: [(&str, &str, i64); 4] = [
    ("trash_days", "Deleted files in the trash", 30),
    ("version_days", "Old versions (at most 20 of a file)", 180),
    ("mark_days", "Deleted marks that every device has seen", 90),
    ("device_days", "Devices that do not come back", 180),
];

impl Accounts {
    /// The days of each setting of [`KEEP`], in its order.
    ///
    /// # Errors
    /// Database.
    pub fn keep_days(&self) -> Result<[i64; KEEP.len()]> {
        let db = self.db.lock();
        let mut q = db.prepare_cached("SELECT v FROM setting WHERE k = ?1")?;
        let mut days = KEEP.map(|(_, _, default)| default);
        for (day, (key, ..)) in days.iter_mut().zip(KEEP) {
            if let Some(set) = q.query_row([key], |r| r.get(0)).optional()? {
                *day = set;
            }
        }
        Ok(days)
    }

    /// Sets them.
    ///
    /// # Errors
    /// [`SyncError::Invalid`]; database.
    pub fn set_keep_days(&self, days: [i64; KEEP.len()]) -> Result<()> {
        if let Some((bad, (_, what, _))) =
            days.iter().zip(KEEP).find(|(d, _)| !(0..=DAYS_MAX).contains(*d))
        {
            let why = format!("{what}: {bad} is not from 0 (for ever) to {DAYS_MAX} days");
            return Err(SyncError::Invalid(why));
        }
        let mut db = self.db.lock();
        let tx = db.transaction()?;
        for (day, (key, ..)) in days.iter().zip(KEEP) {
            tx.execute("INSERT OR REPLACE INTO setting VALUES (?1, ?2)", params![key, day])?;
        }
        Ok(tx.commit()?)
    }

    /// The same as a store takes it.
    ///
    /// # Errors
    /// Database.
    pub fn ages(&self) -> Result<Ages> {
        let [trash, versions, marks, devices] =
            self.keep_days()?.map(|d| (d > 0).then_some(d * DAY_MS));
        Ok(Ages { trash_ms: trash, versions_ms: versions, marks_ms: marks, devices_ms: devices })
    }
}
