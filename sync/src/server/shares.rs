//! Share links: a file or a folder that whoever has the link may see and download, without an account.
//! The link's token is random and kept hashed, so it is shown once; a password (argon2id) and an end may
//! be set. A share is a node: it follows the node when it moves, ends with it, and reaches what lies
//! beneath it and nothing else (trap 18).
use super::accounts::{Accounts, UserId, hash_password, verify};
use crate::error::{Result, SyncError};
use crate::rng::{hex, secret};
use crate::tree::NodeId;
use rusqlite::{OptionalExtension, Row, params};

/// A user has at most so many.
const EACH_MAX: i64 = 1_000;
/// Shortest password of a share.
const PASSWORD_CHARS_MIN: usize = 6;

/// A share.
#[derive(Clone, Debug)]
pub struct Share {
    /// Its number.
    pub id: i64,
    /// Whose.
    pub user: UserId,
    /// What is shared.
    pub node: NodeId,
    /// The password's hash, if it has one.
    pub password: Option<String>,
    /// Milliseconds since 1970 of its end, if it has one.
    pub ends_ms: Option<i64>,
    /// How often it was opened.
    pub opened: i64,
}

const SHARE: &str = "id, user, node, password, ends_ms, opened";

fn share_of(r: &Row) -> rusqlite::Result<Share> {
    Ok(Share {
        id: r.get(0)?,
        user: r.get(1)?,
        node: r.get(2)?,
        password: r.get(3)?,
        ends_ms: r.get(4)?,
        opened: r.get(5)?,
    })
}

fn token_hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

impl Accounts {
    /// Shares a node; the token for the link is told once, here. An empty password: none.
    ///
    /// # Errors
    /// [`SyncError::Invalid`]; database.
    pub fn share(
        &self,
        user: UserId,
        node: NodeId,
        password: &str,
        ends_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<String> {
        let hash = match password {
            "" => None,
            p if p.chars().count() < PASSWORD_CHARS_MIN || p.len() > 512 => {
                let why = format!("a link's password has at least {PASSWORD_CHARS_MIN} characters");
                return Err(SyncError::Invalid(why));
            }
            p => Some(hash_password(p)?),
        };
        let token = hex(&secret::<16>().map_err(|e| SyncError::io("random bytes", e))?);
        let made = self.db.lock().execute(
            "INSERT INTO share (hash, user, node, password, ends_ms, created_ms) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE (SELECT count(*) FROM share WHERE user = ?2) < ?7",
            params![token_hash(&token), user, node, hash, ends_ms, now_ms, EACH_MAX],
        )?;
        match made {
            1 => Ok(token),
            _ => Err(SyncError::Invalid(format!("there are {EACH_MAX} links already: end some"))),
        }
    }

    /// The share of a token.
    ///
    /// # Errors
    /// [`SyncError::NotFound`], also for one that has ended or whose user is kept out.
    pub fn shared(&self, token: &str, now_ms: i64) -> Result<Share> {
        let db = self.db.lock();
        let sql = format!(
            "SELECT {SHARE} FROM share WHERE hash = ?1 AND (ends_ms IS NULL OR ends_ms > ?2) \
             AND user IN (SELECT user.id FROM user WHERE disabled = 0)"
        );
        let found = db.query_row(&sql, params![token_hash(token), now_ms], share_of).optional()?;
        found.ok_or_else(|| SyncError::NotFound("this link: it is wrong or has ended".into()))
    }

    /// Checks a share's password.
    ///
    /// # Errors
    /// [`SyncError::Denied`], [`SyncError::Busy`].
    pub fn open_share(&self, share: &Share, password: &str, from: &str, now_ms: i64) -> Result<()> {
        let keys = [format!("share {}", share.id), format!("address {from}")];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.attempt(&keys, now_ms)?;
        let hash = share.password.as_deref().unwrap_or(&self.dummy);
        let fits = self.bounded(&keys.concat(), || password.len() <= 512 && verify(password, hash));
        if !fits {
            return Err(SyncError::Denied("the password is wrong".into()));
        }
        self.succeeded(&keys);
        Ok(())
    }

    /// Counts that a share was opened.
    ///
    /// # Errors
    /// Database.
    pub fn count_share(&self, id: i64) -> Result<()> {
        self.db.lock().execute("UPDATE share SET opened = opened + 1 WHERE id = ?1", [id])?;
        Ok(())
    }

    /// A user's shares, newest first; those that have ended are dropped.
    ///
    /// # Errors
    /// Database.
    pub fn shares(&self, user: UserId, now_ms: i64) -> Result<Vec<Share>> {
        let db = self.db.lock();
        db.execute("DELETE FROM share WHERE user = ?1 AND ends_ms <= ?2", [user, now_ms])?;
        let sql = format!("SELECT {SHARE} FROM share WHERE user = ?1 ORDER BY id DESC");
        let mut q = db.prepare_cached(&sql)?;
        Ok(q.query_map([user], share_of)?.collect::<rusqlite::Result<_>>()?)
    }

    /// Ends the shares that were made after `at_ms`, and those of nodes that are not in `live`, which
    /// is sorted: the user's store was taken back to what it was then.
    ///
    /// # Errors
    /// Database.
    pub fn end_shares_after(&self, user: UserId, at_ms: i64, live: &[NodeId]) -> Result<()> {
        let all = self.shares(user, 0)?;
        let db = self.db.lock();
        db.execute("DELETE FROM share WHERE user = ?1 AND created_ms > ?2", [user, at_ms])?;
        for gone in all.iter().filter(|s| live.binary_search(&s.node).is_err()) {
            db.execute("DELETE FROM share WHERE id = ?1", [gone.id])?;
        }
        Ok(())
    }

    /// Ends a share.
    ///
    /// # Errors
    /// [`SyncError::NotFound`]; database.
    pub fn end_share(&self, user: UserId, id: i64) -> Result<()> {
        let sql = "DELETE FROM share WHERE id = ?1 AND user = ?2";
        match self.db.lock().execute(sql, params![id, user])? {
            1 => Ok(()),
            _ => Err(SyncError::NotFound(format!("link {id}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::accounts::tests::with_ann;

    #[test]
    fn trap20_links_end_and_their_passwords_are_not_guessed() {
        let (dir, a, ann) = with_ann();
        assert!(a.share(ann.id, 5, "short", None, 1).is_err());
        let token = a.share(ann.id, 5, "open sesame", Some(100), 1).unwrap();
        let share = a.shared(&token, 99).unwrap();
        assert_eq!((share.user, share.node), (ann.id, 5));
        assert!(a.shared(&token, 100).is_err() && a.shared("guess", 1).is_err());
        a.open_share(&share, "open sesame", "1.1.1.1", 2).unwrap();
        let guess = |n: i64| a.open_share(&share, "guess", &format!("2.2.2.{n}"), 3);
        assert!((0..5).all(|n| matches!(guess(n), Err(SyncError::Denied(_)))));
        assert!(matches!(guess(6), Err(SyncError::Busy(_))), "per link, from wherever");
        assert!(a.end_share(ann.id + 1, share.id).is_err());
        a.set_user(ann.id, None, true).unwrap();
        assert!(a.shared(&token, 50).is_err(), "its user is kept out");
        a.set_user(ann.id, None, false).unwrap();
        assert_eq!(a.shares(ann.id, 50).unwrap().len(), 1);
        a.end_share(ann.id, share.id).unwrap();
        assert!(a.shared(&token, 50).is_err());
        let open = a.share(ann.id, 5, "", None, 1).unwrap();
        assert!(a.shared(&open, i64::MAX).unwrap().password.is_none());
        a.share(ann.id, 5, "", Some(10), 1).unwrap();
        assert_eq!(a.shares(ann.id, 10).unwrap().len(), 1, "what has ended is gone");
        let raw = std::fs::read(dir.path().join("a.db-wal")).unwrap();
        assert!(!raw.windows(32).any(|w| w == open.as_bytes()), "the token is kept hashed");
    }
}
