//! Accounts: users, passwords, sessions. Passwords are kept as argon2id; session tokens are random,
//! opaque, and kept hashed, so that a stolen database signs nobody in (traps 19, 20).
use super::app_passwords::Remembered;
use super::db::Db;
use super::limits::Limits;
use super::totp::Waiting;
use crate::error::{Result, SyncError};
use crate::rng::{hex, secret};
use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::path::Path;

/// Shortest password.
pub const PASSWORD_CHARS_MIN: usize = 10;
/// Longest password: hashing is bounded.
pub const PASSWORD_BYTES_MAX: usize = 512;
/// A browser's session ends so long after its last use.
pub const WEB_SESSION_MS: i64 = 12 * 3_600_000;

/// A user's number.
pub type UserId = i64;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The number.
    pub id: UserId,
    /// The name, also the name of the folder.
    pub name: String,
    /// Whether the management pages are open to this user.
    pub admin: bool,
    /// Bytes that may be kept; `None`: no limit.
    pub quota: Option<u64>,
    /// Signed out and kept out.
    pub disabled: bool,
}

/// A session as it is listed.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Names the session without being its secret.
    pub id: String,
    /// What the device calls itself; empty for a browser.
    pub device: String,
    /// Milliseconds since 1970 of its last use.
    pub seen_ms: i64,
}

/// Who is asking.
#[derive(Clone, Debug)]
pub struct Session {
    /// The user.
    pub user: User,
    /// The session's id.
    pub id: String,
    /// What the device calls itself; empty for a browser.
    pub device: String,
}

/// The accounts' database.
pub struct Accounts {
    pub(super) db: Db,
    limits: Limits,
    /// Names and passwords of WebDAV that were right.
    pub(super) remembered: Remembered,
    /// One hash at a time and one waiting: bounded memory and time.
    hashing: [Mutex<()>; 2],
    pub(super) dummy: String,
    /// Passwords that were right and wait for a code.
    pub(super) waiting: Waiting,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS user (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, password TEXT NOT NULL,
    admin INTEGER NOT NULL, quota INTEGER, disabled INTEGER NOT NULL DEFAULT 0,
    created_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS session (
    hash BLOB PRIMARY KEY, user INTEGER NOT NULL, device TEXT NOT NULL, seen_ms INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS app_password (
    id INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL, name TEXT NOT NULL,
    hash TEXT NOT NULL, created_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS share (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL UNIQUE, user INTEGER NOT NULL,
    node INTEGER NOT NULL, password TEXT, ends_ms INTEGER, created_ms INTEGER NOT NULL,
    opened INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS totp (
    user INTEGER PRIMARY KEY, secret BLOB NOT NULL, step INTEGER NOT NULL, is_on INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS recovery (user INTEGER NOT NULL, hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS setting (k TEXT PRIMARY KEY, v INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (
    at_ms INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL);
";

/// Whether a user may be called so; the name is also a folder's.
///
/// # Errors
/// [`SyncError::Invalid`] that tells what a name may be.
pub fn check_name(name: &str) -> Result<()> {
    let fine = (2..=32).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if fine {
        return Ok(());
    }
    Err(SyncError::Invalid(
        "a user name has 2 to 32 of a-z, 0-9, dot, dash and underscore, and begins with a letter or \
         digit"
            .into(),
    ))
}

fn check_password(password: &str, name: &str) -> Result<()> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(SyncError::Invalid(format!(
            "a password has at most {PASSWORD_BYTES_MAX} bytes"
        )));
    }
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return Err(SyncError::Invalid(format!(
            "a password has at least {PASSWORD_CHARS_MIN} characters"
        )));
    }
    if password.to_lowercase().contains(&name.to_lowercase()) {
        return Err(SyncError::Invalid("the password contains the user name".into()));
    }
    Ok(())
}

pub(super) fn user_of(r: &Row) -> rusqlite::Result<User> {
    Ok(User {
        id: r.get(0)?,
        name: r.get(1)?,
        admin: r.get(2)?,
        quota: r.get::<_, Option<i64>>(3)?.and_then(|q| u64::try_from(q).ok()),
        disabled: r.get(4)?,
    })
}

pub(super) const USER: &str = "id, name, admin, quota, disabled";

pub(super) fn hash_password(password: &str) -> Result<String> {
    let salt = secret::<16>().map_err(|e| SyncError::io("random bytes", e))?;
    let fail = |e: argon2::password_hash::Error| SyncError::Invalid(format!("password: {e}"));
    let salt = SaltString::encode_b64(&salt).map_err(fail)?;
    // argon2id, 19 MiB, two passes: the crate's default, as OWASP recommends.
    Ok(Argon2::default().hash_password(password.as_bytes(), &salt).map_err(fail)?.to_string())
}

pub(super) fn verify(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|h| Argon2::default().verify_password(password.as_bytes(), &h).is_ok())
}

fn token_hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

impl Accounts {
    /// Opens the database at `path`, with its tables made.
    ///
    /// # Errors
    /// Database; another server that has it open.
    pub fn open(path: &Path) -> Result<Self> {
        let db = Connection::open(path)?;
        db.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL;")?;
        db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        db.execute_batch(TABLES)?;
        Self::over(Db::file(db))
    }

    /// Opens accounts that lie in another database, with its tables made.
    ///
    /// # Errors
    /// The database's, another server that has it, an address that is none.
    pub fn open_outside(url: &str) -> Result<Self> {
        let db = Connection::open_in_memory()?;
        db.execute_batch(TABLES)?;
        Self::over(Db::outside(db, url)?)
    }

    fn over(db: Db) -> Result<Self> {
        Ok(Self {
            db,
            limits: Limits::default(),
            remembered: Remembered::new()?,
            hashing: Default::default(),
            dummy: hash_password("nobody has this password")?,
            waiting: Waiting::default(),
        })
    }

    /// Lets users who are made from now on have numbers above `taken`: a store with that number is there,
    /// and must never become somebody else's.
    ///
    /// # Errors
    /// Database.
    pub fn number_above(&self, taken: UserId) -> Result<()> {
        let mut db = self.db.lock();
        let tx = db.transaction()?;
        let sql = "UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'user'";
        if tx.execute(sql, [taken])? == 0 {
            tx.execute("INSERT INTO sqlite_sequence VALUES ('user', ?1)", [taken])?;
        }
        Ok(tx.commit()?)
    }

    pub(super) fn bounded<T>(&self, name: &str, f: impl FnOnce() -> T) -> T {
        let slot = usize::from(blake3::hash(name.as_bytes()).as_bytes()[0]) % self.hashing.len();
        let _one_at_a_time = self.hashing.get(slot).map(|m| m.lock());
        f()
    }

    /// Makes a user.
    ///
    /// # Errors
    /// [`SyncError::Taken`], [`SyncError::Invalid`].
    pub fn create(
        &self,
        name: &str,
        password: &str,
        admin: bool,
        quota: Option<u64>,
        now_ms: i64,
    ) -> Result<User> {
        check_name(name)?;
        check_password(password, name)?;
        let hash = self.bounded(name, || hash_password(password))?;
        let mut db = self.db.lock();
        let quota = quota.map(|q| i64::try_from(q).unwrap_or(i64::MAX));
        let sql = format!(
            "INSERT INTO user (name, password, admin, quota, created_ms) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT DO NOTHING RETURNING {USER}"
        );
        // A statement with RETURNING commits when it is dropped, and nobody hears of its failure.
        let tx = db.transaction()?;
        let made =
            tx.query_row(&sql, params![name, hash, admin, quota, now_ms], user_of).optional()?;
        tx.commit()?;
        made.ok_or_else(|| SyncError::Taken(format!("user {name}")))
    }

    /// Counts an attempt from an address at something that must not be tried without end.
    ///
    /// # Errors
    /// [`SyncError::Busy`].
    pub fn attempt(&self, names: &[&str], now_ms: i64) -> Result<()> {
        self.limits.attempt(names, now_ms)
    }

    /// An attempt succeeded.
    pub(super) fn succeeded(&self, names: &[&str]) {
        self.limits.succeeded(names);
    }

    /// Checks a password.
    ///
    /// # Errors
    /// [`SyncError::Denied`], the same whether the user exists or not; [`SyncError::Busy`].
    pub fn check(&self, name: &str, password: &str, from: &str, now_ms: i64) -> Result<User> {
        let keys = [format!("user {name}"), format!("address {from}")];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.limits.attempt(&keys, now_ms)?;
        let denied = || SyncError::Denied("user name or password is wrong".into());
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(denied());
        }
        let found = {
            let sql = format!("SELECT {USER}, password FROM user WHERE name = ?1");
            let db = self.db.lock();
            db.query_row(&sql, [name], |r| Ok((user_of(r)?, r.get::<_, String>(5)?))).optional()?
        };
        let hash = found.as_ref().map_or(&self.dummy, |(_, hash)| hash);
        let fits = self.bounded(name, || verify(password, hash));
        match found {
            Some((user, _)) if fits && !user.disabled => {
                self.limits.succeeded(&keys);
                Ok(user)
            }
            _ => Err(denied()),
        }
    }

    /// Begins a session; the token is known to its bearer only.
    ///
    /// # Errors
    /// Database.
    pub fn begin_session(
        &self,
        user: UserId,
        device: &str,
        now_ms: i64,
    ) -> Result<(String, String)> {
        let token = hex(&secret::<32>().map_err(|e| SyncError::io("random bytes", e))?);
        let hash = token_hash(&token);
        let device: String = device.chars().filter(|c| !c.is_control()).take(64).collect();
        self.db.lock().execute(
            "INSERT INTO session VALUES (?1, ?2, ?3, ?4)",
            params![hash, user, device, now_ms],
        )?;
        Ok((token, hex(&hash)))
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`SyncError::Denied`].
    pub fn session(&self, token: &str, now_ms: i64) -> Result<Session> {
        let hash = token_hash(token);
        let db = self.db.lock();
        let sql = "SELECT user.id, user.name, admin, quota, disabled, device, seen_ms \
                   FROM session JOIN user ON user.id = session.user WHERE hash = ?1";
        let found = db
            .prepare_cached(sql)?
            .query_row([hash], |r| Ok((user_of(r)?, r.get::<_, String>(5)?, r.get::<_, i64>(6)?)))
            .optional()?;
        let Some((user, device, seen)) = found else {
            return Err(SyncError::Denied("not signed in".into()));
        };
        if user.disabled || (device.is_empty() && now_ms - seen > WEB_SESSION_MS) {
            db.execute("DELETE FROM session WHERE hash = ?1", [hash])?;
            return Err(SyncError::Denied("the session has ended".into()));
        }
        if now_ms - seen > 60_000 {
            db.execute("UPDATE session SET seen_ms = ?2 WHERE hash = ?1", params![hash, now_ms])?;
        }
        Ok(Session { user, id: hex(&hash), device })
    }

    /// Ends one session of a user.
    ///
    /// # Errors
    /// Database.
    pub fn end_session(&self, user: UserId, id: &str) -> Result<()> {
        if let Some(hash) = crate::rng::unhex::<32>(id) {
            self.db.lock().execute(
                "DELETE FROM session WHERE hash = ?1 AND user = ?2",
                params![hash, user],
            )?;
        }
        Ok(())
    }

    /// A user's sessions.
    ///
    /// # Errors
    /// Database.
    pub fn sessions(&self, user: UserId) -> Result<Vec<SessionInfo>> {
        let db = self.db.lock();
        let mut q = db.prepare_cached(
            "SELECT hash, device, seen_ms FROM session WHERE user = ?1 ORDER BY seen_ms DESC",
        )?;
        let rows = q.query_map([user], |r| {
            let id = hex(&r.get::<_, [u8; 32]>(0)?);
            Ok(SessionInfo { id, device: r.get(1)?, seen_ms: r.get(2)? })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Sets a new password; ends all sessions of the user and revokes the app passwords.
    ///
    /// # Errors
    /// [`SyncError::Invalid`].
    pub fn set_password(&self, user: &User, password: &str) -> Result<()> {
        check_password(password, &user.name)?;
        let hash = self.bounded(&user.name, || hash_password(password))?;
        let mut db = self.db.lock();
        let tx = db.transaction()?;
        tx.execute("UPDATE user SET password = ?2 WHERE id = ?1", params![user.id, hash])?;
        tx.execute("DELETE FROM session WHERE user = ?1", [user.id])?;
        tx.execute("DELETE FROM app_password WHERE user = ?1", [user.id])?;
        tx.commit()?;
        self.remembered.forget();
        self.forget_waiting(user.id);
        Ok(())
    }

    /// All users, by name.
    ///
    /// # Errors
    /// Database.
    pub fn users(&self) -> Result<Vec<User>> {
        let db = self.db.lock();
        let mut q = db.prepare_cached(&format!("SELECT {USER} FROM user ORDER BY name"))?;
        Ok(q.query_map([], user_of)?.collect::<rusqlite::Result<_>>()?)
    }

    /// A user by number.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn user(&self, id: UserId) -> Result<User> {
        let sql = format!("SELECT {USER} FROM user WHERE id = ?1");
        let found = self.db.lock().query_row(&sql, [id], user_of).optional()?;
        found.ok_or_else(|| SyncError::NotFound(format!("user {id}")))
    }

    /// Sets a user's quota and whether the user is kept out, which also ends the sessions.
    ///
    /// # Errors
    /// Database.
    pub fn set_user(&self, id: UserId, quota: Option<u64>, disabled: bool) -> Result<()> {
        let quota = quota.map(|q| i64::try_from(q).unwrap_or(i64::MAX));
        let mut db = self.db.lock();
        let tx = db.transaction()?;
        tx.execute(
            "UPDATE user SET quota = ?2, disabled = ?3 WHERE id = ?1",
            params![id, quota, disabled],
        )?;
        if disabled {
            tx.execute("DELETE FROM session WHERE user = ?1", [id])?;
        }
        tx.commit()?;
        self.remembered.forget();
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A database, and a user "ann" in it.
    pub fn with_ann() -> (tempfile::TempDir, Accounts, User) {
        let dir = tempfile::tempdir().unwrap();
        let a = Accounts::open(&dir.path().join("a.db")).unwrap();
        let ann = a.create("ann", "correct horse battery", false, None, 1).unwrap();
        (dir, a, ann)
    }

    #[test]
    fn trap20_passwords_are_hashed_and_told_apart_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let a = Accounts::open(&dir.path().join("a.db")).unwrap();
        let ann = a.create("ann", "correct horse battery", false, Some(5), 1).unwrap();
        assert!(matches!(
            a.create("ann", "another password", false, None, 1),
            Err(SyncError::Taken(_))
        ));
        for bad in ["Ann", "a", "../x", ".ann", "a/b", "ann "] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(a.create("bob", "short", false, None, 1).is_err());
        assert!(a.create("robert", "xxRobertxx1", false, None, 1).is_err());
        assert_eq!(a.check("ann", "correct horse battery", "1.2.3.4", 5).unwrap(), ann);
        let wrong = a.check("ann", "x", "1.2.3.4", 5).unwrap_err().to_string();
        assert_eq!(wrong, a.check("nobody", "x", "1.2.3.5", 5).unwrap_err().to_string());
        let raw = std::fs::read(dir.path().join("a.db-wal")).unwrap();
        let has = |text: &[u8]| raw.windows(text.len()).any(|w| w == text);
        assert!(has(b"$argon2id$v=19$m=19456") && !has(b"correct horse"));
    }

    #[test]
    fn trap19_sessions_are_kept_hashed_and_end() {
        let (dir, a, ann) = with_ann();
        let (web, id) = a.begin_session(ann.id, "", 0).unwrap();
        let (dev, _) = a.begin_session(ann.id, "laptop", 0).unwrap();
        let raw = std::fs::read(dir.path().join("a.db-wal")).unwrap();
        assert!(
            !raw.windows(16).any(|w| w == &web.as_bytes()[..16]),
            "the token is in the database"
        );
        assert_eq!(a.session(&web, 5).unwrap().user, ann);
        assert!(a.session(&web, WEB_SESSION_MS + 1).is_err(), "idle for too long");
        assert_eq!(a.session(&dev, WEB_SESSION_MS + 1).unwrap().device, "laptop");
        a.end_session(ann.id, &id).unwrap();
        a.set_password(&ann, "another password").unwrap();
        assert!(a.session(&dev, 5).is_err(), "a new password ends all sessions");
        assert!(a.check("ann", "correct horse battery", "x", 5).is_err());
        a.set_user(ann.id, None, true).unwrap();
        assert!(a.check("ann", "another password", "y", 9_000_000).is_err(), "kept out");
    }
}
