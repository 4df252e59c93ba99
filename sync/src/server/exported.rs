//! Accounts in a backup: with the hash of the password and the
//! secret of the two-step sign-in, so that they can be made again where they are not
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
    /// The secret of the two-step sign-in, if it is on.
    #[serde(default)]
    totp: Option<Vec<u8>>,
    /// Hashes of recovery codes.
    #[serde(default)]
    recovery: Vec<Vec<u8>>,
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
        let mut secret = db.prepare("SELECT secret FROM totp WHERE user = ?1 AND is_on = 1")?;
        let mut codes = db.prepare("SELECT hash FROM recovery WHERE user = ?1")?;
        let mut one = |(u, password): (User, String)| {
            Ok(Exported {
                totp: secret.query_row([u.id], |r| r.get(0)).optional()?,
                recovery: codes
                    .query_map([u.id], |r| r.get(0))?
                    .collect::<rusqlite::Result<_>>()?,
                name: u.name,
                password,
                admin: u.admin,
                quota: u.quota,
                disabled: u.disabled,
            })
        };
        kept.map(&mut one).collect()
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
        let mut db = self.db.lock();
        let tx = db.transaction()?;
        let made = tx.query_row(&sql, values, user_of).optional()?;
        let made = made.ok_or_else(|| SyncError::Taken(format!("user {}", account.name)))?;
        if let Some(secret) = &account.totp {
            tx.execute("INSERT INTO totp VALUES (?1, ?2, 0, 1)", params![made.id, secret])?;
            for hash in &account.recovery {
                tx.execute("INSERT INTO recovery VALUES (?1, ?2)", params![made.id, hash])?;
            }
        }
        tx.commit()?;
        Ok(made)
    }
}
