//! The key file: the folder's key, sealed once by a passphrase and once by a recovery key. It lies in the
//! folder at the server under a plain name, as JSON; devices keep a copy.
//!
//! A passphrase is changed by sealing the same key anew: nothing else is encrypted again. The number
//! of times it was sealed (`generation`) is authenticated together with all that the passphrase's slot
//! says, and a device remembers the highest it saw: a key file from before, which an old passphrase
//! opens, is noticed. The recovery slot stays as it is when the passphrase changes.
//!
//! | field | what |
//! |---|---|
//! | `pvfs2-vault` | 1: the version of all formats in the folder |
//! | `id` | the key's number |
//! | `generation` | 1, then one more with each change |
//! | `kdf`, `memory_kib`, `passes`, `lanes`, `salt` | argon2id and its parameters |
//! | `sealed` | nonce and the folder's key under the passphrase's |
//! | `recovery` | the same under the recovery key |
use super::{FolderKey, KeyId};
use crate::error::{Result, SyncError};
use crate::rng::{hex, secret, unhex};
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use serde::{Deserialize, Serialize};

/// A key file has no more bytes than this.
pub const BYTES_MAX: usize = 16 << 10;
/// Fewest characters of a passphrase.
pub const PASSPHRASE_MIN: usize = 10;
/// What a key file may ask of the device that opens it.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 8;
/// What ours ask for.
const OURS: (u32, u32, u32) = (64 << 10, 3, 1);

/// What opens a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The passphrase.
    Passphrase,
    /// The recovery key.
    Recovery,
}

/// The file, as it was read; not yet known to be right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    #[serde(rename = "pvfs2-vault")]
    version: u32,
    id: String,
    /// How often the passphrase was set.
    pub generation: u64,
    kdf: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    sealed: String,
    recovery: String,
}

fn bad(why: impl std::fmt::Display) -> SyncError {
    SyncError::Damaged(format!("the key file: {why}"))
}

/// A key under another: nonce, then the sealed bytes.
fn wrap(under: &[u8; 32], key: &FolderKey, aad: &[u8]) -> Result<String> {
    let nonce: [u8; 24] = secret().map_err(|e| SyncError::io("random bytes", e))?;
    let cipher = XChaCha20Poly1305::new(under.into());
    let payload = Payload { msg: key.bytes(), aad };
    let sealed = cipher.encrypt(&nonce.into(), payload).map_err(bad)?;
    Ok(hex(&nonce) + &hex(&sealed))
}

fn unwrap(under: &[u8; 32], sealed: &str, aad: &[u8]) -> Result<Option<FolderKey>> {
    let all: [u8; 72] = unhex(sealed).ok_or_else(|| bad("a slot of another length"))?;
    let (nonce, text) = all.split_first_chunk::<24>().ok_or_else(|| bad("a slot is cut off"))?;
    let cipher = XChaCha20Poly1305::new(under.into());
    let opened = cipher.decrypt(&(*nonce).into(), Payload { msg: text, aad });
    let key = opened.ok().and_then(|k| <[u8; 32]>::try_from(k).ok());
    Ok(key.map(FolderKey::from_bytes))
}

/// The recovery key as it is written down: groups of four of its hexadecimal digits.
fn grouped(key: &[u8; 32]) -> String {
    let digits = hex(key);
    let groups: Vec<&str> = (0..16).filter_map(|n| digits.get(n * 4..n * 4 + 4)).collect();
    groups.join("-")
}

impl KeyFile {
    /// Makes a key file for a key. The recovery key is returned as text, to be shown once.
    ///
    /// # Errors
    /// [`SyncError::Invalid`] for a passphrase that is too short.
    pub fn make(key: &FolderKey, passphrase: &str) -> Result<(Self, String)> {
        let random = |e| SyncError::io("random bytes", e);
        let written: [u8; 32] = secret().map_err(random)?;
        let mut file = Self {
            version: 1,
            id: hex(&key.id()),
            generation: 0,
            kdf: "argon2id".into(),
            memory_kib: OURS.0,
            passes: OURS.1,
            lanes: OURS.2,
            salt: String::new(),
            sealed: String::new(),
            recovery: String::new(),
        };
        file.recovery = wrap(&recovery_key(&written), key, file.recovery_aad().as_bytes())?;
        file.set_passphrase(key, passphrase)?;
        Ok((file, grouped(&written)))
    }

    /// Seals the key under another passphrase.
    ///
    /// # Errors
    /// [`SyncError::Invalid`] for one that is too short, or if the key is another.
    pub fn set_passphrase(&mut self, key: &FolderKey, passphrase: &str) -> Result<()> {
        if passphrase.chars().count() < PASSPHRASE_MIN {
            return Err(SyncError::Invalid(format!(
                "a passphrase has at least {PASSPHRASE_MIN} characters; better several words"
            )));
        }
        if self.id()? != key.id() {
            return Err(bad("it belongs to another key"));
        }
        let salt: [u8; 16] = secret().map_err(|e| SyncError::io("random bytes", e))?;
        (self.memory_kib, self.passes, self.lanes) = OURS;
        self.salt = hex(&salt);
        self.generation = self.generation.saturating_add(1);
        self.sealed = wrap(&self.stretch(passphrase)?, key, self.aad().as_bytes())?;
        Ok(())
    }

    /// Reads one, and checks that it asks for nothing unheard of.
    ///
    /// # Errors
    /// [`SyncError::Damaged`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > BYTES_MAX {
            return Err(bad("too long"));
        }
        let file: Self = serde_json::from_slice(bytes).map_err(bad)?;
        if file.version != 1 || file.kdf != "argon2id" {
            return Err(bad(format!(
                "version {} with {:?}: use a newer program",
                file.version, file.kdf
            )));
        }
        if file.memory_kib > MEMORY_KIB_MAX || file.passes > PASSES_MAX || file.lanes > LANES_MAX {
            return Err(bad("it asks for too much memory or time"));
        }
        file.id()?;
        Ok(file)
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The number of the key in it.
    ///
    /// # Errors
    /// [`SyncError::Damaged`].
    pub fn id(&self) -> Result<KeyId> {
        unhex(&self.id).ok_or_else(|| bad("its id is none"))
    }

    /// The key.
    ///
    /// # Errors
    /// [`SyncError::Denied`] if the secret is not the right one (or the file was changed: nobody can
    /// tell these apart); [`SyncError::Damaged`].
    pub fn open(&self, by: By, text: &str) -> Result<FolderKey> {
        let key = match by {
            By::Passphrase => unwrap(&self.stretch(text)?, &self.sealed, self.aad().as_bytes())?,
            By::Recovery => {
                let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
                let short = unhex::<32>(&digits.to_lowercase()).ok_or_else(|| {
                    SyncError::Denied("a recovery key has 16 groups of four digits".into())
                })?;
                unwrap(&recovery_key(&short), &self.recovery, self.recovery_aad().as_bytes())?
            }
        };
        let what = match by {
            By::Passphrase => "passphrase",
            By::Recovery => "recovery key",
        };
        match key {
            Some(key) if self.id()? == key.id() => Ok(key),
            Some(_) => Err(bad("it belongs to another key")),
            None => Err(SyncError::Denied(format!(
                "the {what} does not open this folder; nothing was changed: try again, or with the other of \
                 passphrase and recovery key (--recovery)"
            ))),
        }
    }

    fn stretch(&self, passphrase: &str) -> Result<[u8; 32]> {
        let params =
            Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(bad)?;
        let salt: [u8; 16] = unhex(&self.salt).ok_or_else(|| bad("its salt is none"))?;
        let mut out = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), &salt, &mut out)
            .map_err(bad)?;
        Ok(out)
    }

    fn aad(&self) -> String {
        format!(
            "pvfs2-vault 1 {} {} {} {} {} {} {}",
            self.id, self.generation, self.kdf, self.memory_kib, self.passes, self.lanes, self.salt
        )
    }

    fn recovery_aad(&self) -> String {
        format!("pvfs2-vault 1 recovery {}", self.id)
    }
}

fn recovery_key(written: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("pvfs2-sync 2026 vault v1: recovery", written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_opens_and_can_be_changed() {
        let key = FolderKey::random().unwrap();
        let (first, written) = KeyFile::make(&key, "correct horse battery").unwrap();
        let read = KeyFile::parse(first.text().as_bytes()).unwrap();
        assert_eq!((&read, read.generation, read.id().unwrap()), (&first, 1, key.id()));
        assert_eq!(read.open(By::Passphrase, "correct horse battery").unwrap(), key);
        assert!(matches!(read.open(By::Passphrase, "wrong"), Err(SyncError::Denied(_))));
        assert_eq!(read.open(By::Recovery, &written.to_uppercase()).unwrap(), key);
        assert!(matches!(read.open(By::Recovery, "1234"), Err(SyncError::Denied(_))));
        let zeros = "0000-".repeat(16);
        assert!(matches!(read.open(By::Recovery, &zeros), Err(SyncError::Denied(_))));
        let mut second = read;
        second.set_passphrase(&key, "another passphrase").unwrap();
        assert_eq!(second.generation, 2);
        assert_eq!(second.open(By::Passphrase, "another passphrase").unwrap(), key);
        assert!(second.open(By::Passphrase, "correct horse battery").is_err());
        assert_eq!(second.open(By::Recovery, &written).unwrap(), key, "it stays");
        assert!(second.set_passphrase(&key, "short").is_err());
        assert!(second.set_passphrase(&FolderKey::random().unwrap(), "long enough").is_err());
        assert!(!second.text().contains(&hex(key.bytes())));
    }

    #[test]
    fn what_a_key_file_says_cannot_be_changed_unnoticed() {
        let key = FolderKey::random().unwrap();
        let (file, _) = KeyFile::make(&key, "correct horse battery").unwrap();
        let opens = |f: &KeyFile| f.open(By::Passphrase, "correct horse battery").is_ok();
        assert!(opens(&file));
        for f in [
            KeyFile { generation: 2, ..file.clone() },
            KeyFile { memory_kib: 8, ..file.clone() },
            KeyFile { passes: 1, ..file.clone() },
            KeyFile { id: hex(&[7; 32]), ..file.clone() },
            KeyFile { salt: hex(&[7; 16]), ..file.clone() },
            KeyFile { sealed: file.recovery.clone(), ..file.clone() },
        ] {
            assert!(!opens(&f));
        }
        for f in [
            KeyFile { memory_kib: MEMORY_KIB_MAX + 1, ..file.clone() },
            KeyFile { passes: 1_000, ..file.clone() },
            KeyFile { version: 2, ..file.clone() },
            KeyFile { kdf: "none".into(), ..file.clone() },
            KeyFile { id: "x".into(), ..file.clone() },
        ] {
            assert!(KeyFile::parse(f.text().as_bytes()).is_err());
        }
        assert!(KeyFile::parse(b"{}").is_err() && KeyFile::parse(&[b' '; BYTES_MAX + 1]).is_err());
    }
}
