//! Accounts in a backup: with the hash of the password, so that they can be made again where they are not
//! there any more.
use super::accounts::{Accounts, USER, User, check_name, user_of};
use crate::error::{Result, SyncError};
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

/// An account, as a backup has it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Exported {
    /// The name.
    pub name: String,
    /// The password's hash.
    password: String,
    /// Whether the management pages are open.
    admin: bool,
    /// Bytes that may be kept.
    quota: Option<u64>,
    /// Kept out.
    disabled: bool,
}

impl std::fmt::Debug for Exported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exported").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Accounts {
    /// A user by name.
    ///
    /// # Errors
    /// Database.
    pub fn by_name(&self, name: &str) -> Result<Option<User>> {
        let sql = format!("SELECT {USER} FROM user WHERE name = ?1");
        Ok(self.db.lock().query_row(&sql, [name], user_of).optional()?)
    }

    /// These accounts as a backup has them.
    ///
    /// # Errors
    /// Database.
    pub fn export(&self, names: &[&str]) -> Result<Vec<Exported>> {
        let db = self.db.lock();
        let mut q = db.prepare(&format!("SELECT {USER}, password FROM user ORDER BY name"))?;
        let rows = q.query_map([], |r| Ok((user_of(r)?, r.get(5)?)))?;
        let rows = rows.collect::<rusqlite::Result<Vec<(User, String)>>>()?;
        let kept = rows.into_iter().filter(|(u, _)| names.contains(&u.name.as_str()));
        let one = |(u, password): (User, String)| Exported {
            name: u.name,
            password,
            admin: u.admin,
            quota: u.quota,
            disabled: u.disabled,
        };
        Ok(kept.map(one).collect())
    }

    /// Makes an account again that is not there.
    ///
    /// # Errors
    /// [`SyncError::Taken`], [`SyncError::Invalid`]; database.
    pub fn import(&self, account: &Exported, now_ms: i64) -> Result<User> {
        check_name(&account.name)?;
        let quota = account.quota.map(|q| i64::try_from(q).unwrap_or(i64::MAX));
        let sql = format!(
            "INSERT INTO user (name, password, admin, quota, disabled, created_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING RETURNING {USER}"
        );
        let values =
            params![account.name, account.password, account.admin, quota, account.disabled, now_ms];
        let made = self.db.lock().query_row(&sql, values, user_of).optional()?;
        made.ok_or_else(|| SyncError::Taken(format!("user {}", account.name)))
    }
}
