//! App passwords: for programs that can only send a name and a password with each request (WebDAV). Made
//! on the account page, shown once, kept as argon2id, revoked one by one, and all of them with a new
//! password of the account.
//!
//! argon2id for each request would be slow on purpose, so a name and password that were right are
//! remembered for `REMEMBERED_MS`, hashed with a key that only this process has. Whatever changes a
//! password or an account forgets all of it.
use super::accounts::{Accounts, User, UserId, hash_password, verify};
use crate::error::{Result, SyncError};
use crate::rng::{hex, secret};
use parking_lot::Mutex;
use rusqlite::{OptionalExtension, params};
use std::collections::HashMap;

/// A user has at most so many.
const EACH_MAX: i64 = 50;
/// A name and password that were right are asked about again after so long.
const REMEMBERED_MS: i64 = 300_000;
const REMEMBERED_MAX: usize = 10_000;

/// Names and passwords that were right.
pub struct Remembered {
    key: [u8; 32],
    all: Mutex<HashMap<[u8; 32], (UserId, i64)>>,
    /// Requests that come at the same time with the same password wait for one of them to be weighed.
    gate: Mutex<()>,
}

impl Remembered {
    /// Nothing yet.
    ///
    /// # Errors
    /// No random bytes.
    pub fn new() -> Result<Self> {
        let key = secret::<32>().map_err(|e| SyncError::io("random bytes", e))?;
        Ok(Self { key, all: Mutex::default(), gate: Mutex::default() })
    }

    fn hash(&self, name: &str, password: &str) -> [u8; 32] {
        *blake3::keyed_hash(&self.key, format!("{name}\0{password}").as_bytes()).as_bytes()
    }

    fn user(&self, hash: &[u8; 32], now_ms: i64) -> Option<UserId> {
        let found = self.all.lock().get(hash).copied();
        found.filter(|(_, until)| now_ms < *until).map(|(user, _)| user)
    }

    /// Forgets everything: something about passwords has changed.
    pub fn forget(&self) {
        self.all.lock().clear();
    }
}

/// An app password as it is listed.
#[derive(Clone, Debug)]
pub struct AppPassword {
    /// Its number.
    pub id: i64,
    /// What it is for.
    pub name: String,
    /// Milliseconds since 1970 of its last use; 0: never.
    pub used_ms: i64,
}

/// The number in an app password.
fn number(password: &str) -> Option<i64> {
    password.strip_prefix("app-")?.split_once('-')?.0.parse().ok()
}

impl Accounts {
    /// Makes an app password; it is told once, here.
    ///
    /// # Errors
    /// [`SyncError::Invalid`]; database.
    pub fn make_app_password(&self, user: UserId, name: &str, now_ms: i64) -> Result<String> {
        let name: String = name.trim().chars().filter(|c| !c.is_control()).take(64).collect();
        if name.is_empty() {
            return Err(SyncError::Invalid("say what the app password is for".into()));
        }
        let text = hex(&secret::<16>().map_err(|e| SyncError::io("random bytes", e))?);
        let hash = hash_password(&text)?;
        let mut db = self.db.lock();
        let tx = db.transaction()?;
        let made = tx.query_row(
            "INSERT INTO app_password (user, name, hash, created_ms) SELECT ?1, ?2, ?3, ?4 \
             WHERE (SELECT count(*) FROM app_password WHERE user = ?1) < ?5 RETURNING id",
            params![user, name, hash, now_ms, EACH_MAX],
            |r| r.get::<_, i64>(0),
        );
        let made = made.optional()?;
        tx.commit()?;
        match made {
            Some(id) => Ok(format!("app-{id}-{text}")),
            None => Err(SyncError::Invalid(format!("there are {EACH_MAX} already: revoke some"))),
        }
    }

    /// A user's app passwords, newest first.
    ///
    /// # Errors
    /// Database.
    pub fn app_passwords(&self, user: UserId) -> Result<Vec<AppPassword>> {
        let db = self.db.lock();
        let mut q = db.prepare_cached(
            "SELECT id, name, used_ms FROM app_password WHERE user = ?1 ORDER BY id DESC",
        )?;
        let rows = q.query_map([user], |r| {
            Ok(AppPassword { id: r.get(0)?, name: r.get(1)?, used_ms: r.get(2)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Revokes one.
    ///
    /// # Errors
    /// [`SyncError::NotFound`]; database.
    pub fn revoke_app_password(&self, user: UserId, id: i64) -> Result<()> {
        let sql = "DELETE FROM app_password WHERE id = ?1 AND user = ?2";
        let gone = self.db.lock().execute(sql, params![id, user])?;
        self.remembered.forget();
        if gone == 1 { Ok(()) } else { Err(SyncError::NotFound(format!("app password {id}"))) }
    }

    /// Whose name and password these are: the account's own, or one of its app passwords.
    ///
    /// # Errors
    /// As [`Accounts::check`].
    pub fn check_basic(&self, name: &str, password: &str, from: &str, now_ms: i64) -> Result<User> {
        let hash = self.remembered.hash(name, password);
        let known = |now| self.remembered.user(&hash, now);
        if known(now_ms).is_none() {
            let _one = self.remembered.gate.lock();
            if known(now_ms).is_none() {
                let user = match number(password) {
                    Some(id) => self.check_app(name, id, password, from, now_ms)?,
                    None => self.check_single(name, password, from, now_ms)?,
                };
                let mut all = self.remembered.all.lock();
                if all.len() >= REMEMBERED_MAX {
                    all.clear();
                }
                all.insert(hash, (user.id, now_ms + REMEMBERED_MS));
                return Ok(user);
            }
        }
        let id = known(now_ms).ok_or_else(denied)?;
        let user = self.user(id)?;
        if user.disabled || user.name != name { Err(denied()) } else { Ok(user) }
    }

    /// The account's own password, of an account that signs in in one step.
    fn check_single(&self, name: &str, password: &str, from: &str, now_ms: i64) -> Result<User> {
        let user = self.check(name, password, from, now_ms)?;
        if self.has_totp(user.id)? {
            let why = "this account signs in in two steps: use an app password here";
            return Err(SyncError::Denied(why.into()));
        }
        Ok(user)
    }

    fn check_app(
        &self,
        name: &str,
        id: i64,
        password: &str,
        from: &str,
        now_ms: i64,
    ) -> Result<User> {
        let keys = [format!("user {name}"), format!("address {from}")];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.attempt(&keys, now_ms)?;
        let found: Option<(UserId, String)> = {
            let sql = "SELECT user.id, hash FROM app_password JOIN user ON user.id = user \
                       WHERE app_password.id = ?1 AND user.name = ?2";
            let db = self.db.lock();
            db.query_row(sql, params![id, name], |r| Ok((r.get(0)?, r.get(1)?))).optional()?
        };
        let secret = password.rsplit('-').next().unwrap_or_default();
        let hash = found.as_ref().map_or(self.dummy.as_str(), |(_, hash)| hash);
        let fits = secret.len() <= 64 && verify(secret, hash);
        let user = match found {
            Some((user, _)) if fits => self.user(user)?,
            _ => return Err(denied()),
        };
        if user.disabled {
            return Err(denied());
        }
        self.succeeded(&keys);
        let sql = "UPDATE app_password SET used_ms = ?2 WHERE id = ?1";
        self.db.lock().execute(sql, params![id, now_ms])?;
        Ok(user)
    }
}

fn denied() -> SyncError {
    SyncError::Denied("user name or password is wrong".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::accounts::tests::with_ann;

    #[test]
    fn trap20_app_passwords_are_shown_once_hashed_and_revoked() {
        let (dir, a, ann) = with_ann();
        a.create("bob", "correct horse battery", false, None, 1).unwrap();
        let text = a.make_app_password(ann.id, "laptop", 5).unwrap();
        assert!(text.starts_with("app-1-") && text.len() == 38, "{text}");
        assert!(a.make_app_password(ann.id, " \n", 5).is_err());
        assert_eq!(a.app_passwords(ann.id).unwrap()[0].used_ms, 0);
        assert_eq!(a.check_basic("ann", &text, "1.1.1.1", 10).unwrap(), ann);
        assert_eq!(a.check_basic("ann", "correct horse battery", "1.1.1.1", 10).unwrap(), ann);
        assert_eq!(a.app_passwords(ann.id).unwrap()[0].used_ms, 10);
        let not = |name, password: &str| {
            let e = a.check_basic(name, password, &format!("{name}{password}"), 20);
            assert!(matches!(e, Err(SyncError::Denied(_))), "{name} {password}: {e:?}");
        };
        not("bob", &text);
        not("ann", &text.replace("app-1-", "app-2-"));
        not("ann", "app-1-");
        // It opens no session, and another's is not revoked.
        assert!(a.check("ann", &text, "2.2.2.2", 30).is_err());
        assert!(a.revoke_app_password(ann.id + 1, 1).is_err());
        a.check_basic("ann", &text, "1.1.1.1", 40).unwrap();
        a.revoke_app_password(ann.id, 1).unwrap();
        not("ann", &text);
        let raw = std::fs::read(dir.path().join("a.db-wal")).unwrap();
        assert!(!raw.windows(32).any(|w| w == &text.as_bytes()[6..]));
    }

    #[test]
    fn trap19_what_is_remembered_is_forgotten_with_the_password() {
        let (_dir, a, ann) = with_ann();
        let app = a.make_app_password(ann.id, "x", 1).unwrap();
        for text in [app.as_str(), "correct horse battery"] {
            a.check_basic("ann", text, "1", 10).unwrap();
        }
        a.set_password(&ann, "another password").unwrap();
        for text in [app.as_str(), "correct horse battery"] {
            assert!(a.check_basic("ann", text, text, 20).is_err(), "{text}");
        }
        a.check_basic("ann", "another password", "2", 20).unwrap();
        a.set_user(ann.id, None, true).unwrap();
        assert!(a.check_basic("ann", "another password", "3", 21).is_err());
    }
}
