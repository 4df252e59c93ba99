//! Two-step sign-in: a code of six digits that changes every 30 s (RFC 6238, SHA-1, as every app knows
//! it), asked for after the password, on the pages and by the API. WebDAV then takes app passwords only.
//!
//! | state | how it comes | what signs in |
//! |---|---|---|
//! | off | at first; turned off with the password, or by an administrator | the password |
//! | begun | a secret was made and shown | the password: a secret that no app has must lock nobody out |
//! | on | a code of that secret was given | the password and a code, or a recovery code |
//!
//! A code counts once: the step it belongs to is kept, and older ones are refused. Ten recovery codes are
//! shown when it is turned on, kept hashed, and count once each. Guessing is limited as for passwords.
use super::accounts::{Accounts, User, UserId};
use crate::api::CODE_NEEDED;
use crate::error::{Result, SyncError};
use crate::rng::{hex, secret};
use parking_lot::Mutex;
use rusqlite::{OptionalExtension, params};
use std::collections::HashMap;
use totp_rs::{Algorithm, Secret, TOTP};

/// Digits of a code.
const DIGITS: usize = 6;
/// A code is good for so long, and for the step before and after it.
const STEP_S: u64 = 30;
/// Recovery codes.
const RECOVERY: usize = 10;
/// A password that was right waits so long for its code.
const WAIT_MS: i64 = 300_000;
const WAITING_MAX: usize = 10_000;

/// Passwords that were right and wait for a code, by the hash of what the page holds.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<HashMap<[u8; 32], (UserId, i64)>>);

/// A secret as a person or an app takes it over.
#[derive(Clone)]
pub struct Shown {
    /// Base 32, to type.
    pub text: String,
    /// `otpauth://`, as in the picture.
    pub uri: String,
    /// A QR code, SVG.
    pub picture: String,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

fn hash(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// A recovery code without what people add to it.
fn plain(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

fn invalid(e: impl std::fmt::Display) -> SyncError {
    SyncError::Invalid(format!("two-step sign-in: {e}"))
}

fn totp(key: Vec<u8>) -> Result<TOTP> {
    TOTP::new(Algorithm::SHA1, DIGITS, 1, STEP_S, key).map_err(invalid)
}

fn wrong() -> SyncError {
    SyncError::Denied("the code is wrong, or was used already".into())
}

impl Accounts {
    /// Whether a user's sign-in has two steps.
    ///
    /// # Errors
    /// Database.
    pub fn has_totp(&self, user: UserId) -> Result<bool> {
        let db = self.db.lock();
        let mut q = db.prepare_cached("SELECT 1 FROM totp WHERE user = ?1 AND is_on = 1")?;
        Ok(q.exists([user])?)
    }

    /// Makes a secret, in place of one that was begun.
    ///
    /// # Errors
    /// [`SyncError::Taken`] if it is on; database.
    pub fn begin_totp(&self, user: &User) -> Result<Shown> {
        if self.has_totp(user.id)? {
            return Err(SyncError::Taken("two-step sign-in is on: turn it off first".into()));
        }
        let key = secret::<20>().map_err(|e| SyncError::io("random bytes", e))?;
        let sql = "INSERT OR REPLACE INTO totp VALUES (?1, ?2, 0, 0)";
        self.db.lock().execute(sql, params![user.id, key])?;
        self.show_totp(user)
    }

    /// A secret that was begun and is not on, once more.
    ///
    /// # Errors
    /// [`SyncError::NotFound`]; database.
    pub fn show_totp(&self, user: &User) -> Result<Shown> {
        let sql = "SELECT secret FROM totp WHERE user = ?1 AND is_on = 0";
        let key: Option<Vec<u8>> =
            self.db.lock().query_row(sql, [user.id], |r| r.get(0)).optional()?;
        let key = key.ok_or_else(|| SyncError::NotFound("a key that was begun".into()))?;
        let text = Secret::Raw(key).to_encoded().to_string();
        let uri =
            format!("otpauth://totp/pvfs2%20sync:{}?secret={text}&issuer=pvfs2%20sync", user.name);
        let code = qrcode::QrCode::new(uri.as_bytes()).map_err(invalid)?;
        let picture = code.render::<qrcode::render::svg::Color>().min_dimensions(200, 200).build();
        // The page has its own beginning.
        let picture = picture.find("<svg").map_or("", |at| &picture[at..]).to_owned();
        Ok(Shown { text, uri, picture })
    }

    /// Turns it on with a code of the secret that was begun; the recovery codes are told once, here.
    ///
    /// # Errors
    /// [`SyncError::Denied`], [`SyncError::Busy`]; nothing begun.
    pub fn turn_totp_on(&self, user: &User, code: &str, now_ms: i64) -> Result<Vec<String>> {
        if self.has_totp(user.id)? {
            return Err(SyncError::Taken("two-step sign-in is on".into()));
        }
        let key = format!("code {}", user.name);
        self.attempt(&[&key], now_ms)?;
        self.take_code(user.id, code, now_ms)?;
        self.succeeded(&[&key]);
        self.db.lock().execute("UPDATE totp SET is_on = 1 WHERE user = ?1", [user.id])?;
        self.remembered.forget();
        self.new_recovery(user.id)
    }

    /// New recovery codes in place of the old ones; told once, here.
    ///
    /// # Errors
    /// Database.
    pub fn new_recovery(&self, user: UserId) -> Result<Vec<String>> {
        let mut codes = Vec::new();
        for _ in 0..RECOVERY {
            let text = hex(&secret::<8>().map_err(|e| SyncError::io("random bytes", e))?);
            codes.push(format!("{}-{}", &text[..8], &text[8..]));
        }
        let mut db = self.db.lock();
        let tx = db.transaction()?;
        tx.execute("DELETE FROM recovery WHERE user = ?1", [user])?;
        for code in &codes {
            tx.execute("INSERT INTO recovery VALUES (?1, ?2)", params![user, hash(&plain(code))])?;
        }
        tx.commit()?;
        Ok(codes)
    }

    /// How many recovery codes are left.
    ///
    /// # Errors
    /// Database.
    pub fn recovery_left(&self, user: UserId) -> Result<i64> {
        let sql = "SELECT count(*) FROM recovery WHERE user = ?1";
        Ok(self.db.lock().query_row(sql, [user], |r| r.get(0))?)
    }

    /// Turns it off, and forgets secret and recovery codes.
    ///
    /// # Errors
    /// Database.
    pub fn turn_totp_off(&self, user: UserId) -> Result<()> {
        let mut db = self.db.lock();
        let tx = db.transaction()?;
        tx.execute("DELETE FROM totp WHERE user = ?1", [user])?;
        tx.execute("DELETE FROM recovery WHERE user = ?1", [user])?;
        Ok(tx.commit()?)
    }

    /// Takes a code, once.
    fn take_code(&self, user: UserId, code: &str, now_ms: i64) -> Result<()> {
        let db = self.db.lock();
        let sql = "SELECT secret, step FROM totp WHERE user = ?1";
        let found =
            db.query_row(sql, [user], |r| Ok((r.get::<_, Vec<u8>>(0)?, r.get::<_, i64>(1)?)));
        let Some((key, last)) = found.optional()? else {
            return Err(SyncError::Invalid("two-step sign-in was not begun".into()));
        };
        let totp = totp(key)?;
        let code: String = code.chars().filter(char::is_ascii_digit).collect();
        let now = u64::try_from(now_ms.max(0)).unwrap_or(0) / 1_000 / STEP_S;
        for step in now.saturating_sub(1)..=now + 1 {
            // Compared as hashes, which takes the same time wherever they differ.
            let same = hash(&totp.generate(step * STEP_S)) == hash(&code);
            let step = i64::try_from(step).unwrap_or(i64::MAX);
            if same && step > last {
                // Whoever comes at the same time with the same code finds the step taken.
                let sql = "UPDATE totp SET step = ?2 WHERE user = ?1 AND step < ?2";
                return match db.execute(sql, [user, step])? {
                    1 => Ok(()),
                    _ => Err(wrong()),
                };
            }
        }
        Err(wrong())
    }

    /// The second step of somebody whose password was right: nothing if there is none, else a code or
    /// a recovery code.
    ///
    /// # Errors
    /// [`SyncError::Denied`], [`SyncError::Busy`].
    pub fn second_step(&self, user: &User, code: &str, from: &str, now_ms: i64) -> Result<()> {
        if !self.has_totp(user.id)? {
            return Ok(());
        }
        if code.trim().is_empty() {
            return Err(SyncError::Denied(CODE_NEEDED.into()));
        }
        let keys = [format!("code {}", user.name), format!("address {from}")];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.attempt(&keys, now_ms)?;
        let text = plain(code);
        let taken = if text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit()) {
            self.take_code(user.id, &text, now_ms)
        } else {
            let sql = "DELETE FROM recovery WHERE user = ?1 AND hash = ?2";
            match self.db.lock().execute(sql, params![user.id, hash(&text)])? {
                0 => Err(wrong()),
                _ => Ok(()),
            }
        };
        taken.map(|()| self.succeeded(&keys))
    }

    /// A password that was right waits for its code: what the page holds meanwhile.
    ///
    /// # Errors
    /// No random bytes.
    pub fn wait_for_code(&self, user: UserId, now_ms: i64) -> Result<String> {
        let token = hex(&secret::<32>().map_err(|e| SyncError::io("random bytes", e))?);
        let mut all = self.waiting.0.lock();
        all.retain(|_, (_, until)| *until > now_ms);
        if all.len() >= WAITING_MAX {
            return Err(SyncError::Busy(30));
        }
        all.insert(hash(&token), (user, now_ms + WAIT_MS));
        Ok(token)
    }

    /// Whose password waits so.
    ///
    /// # Errors
    /// [`SyncError::Denied`] after five minutes, and once it was used.
    pub fn waiting(&self, token: &str, now_ms: i64) -> Result<User> {
        let found = self.waiting.0.lock().get(&hash(token)).copied();
        match found {
            Some((user, until)) if until > now_ms => {
                let user = self.user(user)?;
                if user.disabled { Err(wrong()) } else { Ok(user) }
            }
            _ => Err(SyncError::Denied("that took too long: sign in again".into())),
        }
    }

    /// The code came.
    pub fn waited(&self, token: &str) {
        self.waiting.0.lock().remove(&hash(token));
    }

    /// Nobody's password waits any more: it was changed.
    pub(super) fn forget_waiting(&self, user: UserId) {
        self.waiting.0.lock().retain(|_, (who, _)| *who != user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::accounts::tests::with_ann;

    fn code(text: &str, at_ms: i64) -> String {
        let key = Secret::Encoded(text.to_owned()).to_bytes().unwrap();
        totp(key).unwrap().generate(at_ms as u64 / 1_000)
    }

    #[test]
    fn the_codes_are_those_of_rfc_6238() {
        // Appendix B, SHA-1, the last six of eight digits.
        let totp = totp(b"12345678901234567890".to_vec()).unwrap();
        for (at, want) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert_eq!(totp.generate(at), want);
        }
    }

    #[test]
    fn trap20_a_code_counts_once_and_guessing_becomes_slow() {
        let (dir, a, ann) = with_ann();
        let now = 1_700_000_000_000;
        let step = |user, code: &str, ms| a.second_step(user, code, "1.1.1.1", ms);
        step(&ann, "", now).unwrap();
        let shown = a.begin_totp(&ann).unwrap();
        assert!(shown.picture.starts_with("<svg") && shown.uri.contains(&shown.text));
        step(&ann, "", now).unwrap();
        assert!(a.turn_totp_on(&ann, "000000", now).is_err(), "not with any code");
        let first = code(&shown.text, now);
        let recovery = a.turn_totp_on(&ann, &first, now).unwrap();
        assert!(a.begin_totp(&ann).is_err() && recovery.len() == RECOVERY);
        assert!(step(&ann, "", now).is_err());
        assert!(step(&ann, &first, now).is_err(), "used already");
        let next = code(&shown.text, now + 30_000);
        step(&ann, &format!("{} {}", &next[..3], &next[3..]), now + 1).unwrap();
        assert!(step(&ann, &code(&shown.text, now), now + 30_000).is_err(), "an older one");
        step(&ann, &recovery[0].to_uppercase(), now + 30_000).unwrap();
        assert!(step(&ann, &recovery[0], now + 30_000).is_err(), "once");
        assert_eq!(a.recovery_left(ann.id).unwrap(), 9);
        let tries: Vec<_> = (0..9).map(|_| step(&ann, "123456", now + 60_000)).collect();
        assert!(matches!(tries.last(), Some(Err(SyncError::Busy(_)))));
        let raw = std::fs::read(dir.path().join("a.db-wal")).unwrap();
        let text = plain(&recovery[1]);
        assert!(!raw.windows(16).any(|w| w == text.as_bytes()), "kept hashed");
        a.turn_totp_off(ann.id).unwrap();
        step(&ann, "", now).unwrap();
        assert_eq!(a.recovery_left(ann.id).unwrap(), 0);
    }

    #[test]
    fn trap19_a_password_waits_five_minutes_for_its_code() {
        let (_dir, a, ann) = with_ann();
        let token = a.wait_for_code(ann.id, 0).unwrap();
        assert_eq!(a.waiting(&token, 1).unwrap(), ann);
        assert!(a.waiting(&token, WAIT_MS).is_err() && a.waiting("guess", 1).is_err());
        a.set_password(&ann, "another password").unwrap();
        assert!(a.waiting(&token, 1).is_err(), "the password is another");
    }

    #[test]
    fn trap20_webdav_takes_no_password_of_an_account_with_two_steps() {
        let (_dir, a, ann) = with_ann();
        let app = a.make_app_password(ann.id, "x", 1).unwrap();
        let dav = |text: &str| a.check_basic("ann", text, text, 1_700_000_000_000);
        dav("correct horse battery").unwrap();
        let shown = a.begin_totp(&ann).unwrap();
        a.turn_totp_on(&ann, &code(&shown.text, 60_000), 60_000).unwrap();
        assert!(matches!(dav("correct horse battery"), Err(SyncError::Denied(_))));
        dav(&app).unwrap();
    }
}
