//! Folders that are encrypted end to end: the server holds sealed names and sealed contents, and a key
//! file that only a passphrase (or the recovery key) opens. Pure: bytes in, bytes out.
//!
//! One random key per folder; from it, by BLAKE3's key derivation, one key for each use. All of it is
//! deterministic: the same name in the same directory and the same content in the same folder are
//! sealed to the same bytes. So the server's table (names are unique, contents are compared by hash)
//! and a planner that decides by hash work as for plain folders, an upload that was cut off goes on, and
//! a device that holds the plain bytes knows without fetching whether the server has the same. The price
//! is that the server sees which contents of one folder are equal.
//!
//! | what | how |
//! |---|---|
//! | name | base64url of a tag (12 bytes, keyed BLAKE3 of directory and folded name), then of a synthetic nonce (16 bytes, the same of the name itself) with XChaCha20-Poly1305 of the name; `.pv1` |
//! | content | see [`content`] |
//! | key | see [`key_file`] |
//!
//! The tag alone is the sealed name's fold key ([`names::fold`]): so the server refuses two names in one
//! directory that some device could not tell apart, as it does for plain ones, without reading them.
//!
//! A name is bound to the number of its directory at the server (0 for the folder itself), so an entry
//! that was moved behind our back does not open. `docs/SECURITY.md` says what this protects against.
pub mod content;
pub mod key_file;
#[cfg(test)]
mod vector_tests;

use crate::error::{Result, SyncError};
use crate::names;
use crate::tree::NodeId;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

/// What makes a folder an encrypted one: this file in it, see [`key_file`]. It is not synchronised as
/// other files are; every device has a copy of the server's.
pub const KEY_FILE: &str = ".pvfs2-vault";
/// Ends every sealed name.
const SUFFIX: &str = ".pv1";
/// Bytes of what tells names apart that fold to one.
const NAME_TAG: usize = 12;
/// Letters of it.
const TAG_LETTERS: usize = NAME_TAG / 3 * 4;
/// Bytes of the synthetic nonce of a name.
const NAME_NONCE: usize = 16;
/// Bytes that Poly1305 adds.
const TAG: usize = 16;
/// Longest name in an encrypted folder, in bytes: sealed it has 255 at most.
pub const NAME_BYTES_MAX: usize =
    (names::NAME_BYTES_MAX - SUFFIX.len() - TAG_LETTERS) * 3 / 4 - NAME_NONCE - TAG;
/// Fewest letters that a sealed name has before its end.
const LETTERS_MIN: usize = TAG_LETTERS + (NAME_NONCE + TAG + 1) * 4 / 3;

/// Tells one folder's key from any other without telling the key.
pub type KeyId = [u8; 32];

/// A folder's key. `{:?}` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct FolderKey([u8; 32]);

impl std::fmt::Debug for FolderKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FolderKey(secret)")
    }
}

impl FolderKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn random() -> Result<Self> {
        crate::rng::secret().map(Self).map_err(|e| SyncError::io("random bytes", e))
    }

    /// Of bytes that were kept.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To be kept.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its number; another key has another.
    #[must_use]
    pub fn id(&self) -> KeyId {
        blake3::derive_key("pvfs2-sync 2026 vault v1: key id", &self.0)
    }
}

/// An encrypted folder that is open: what seals and opens.
pub struct Vault {
    id: KeyId,
    names: XChaCha20Poly1305,
    name_nonces: [u8; 32],
    name_tags: [u8; 32],
    contents: [u8; 32],
    content_nonces: [u8; 32],
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("id", &crate::rng::hex(&self.id)).finish_non_exhaustive()
    }
}

/// Whether a name looks like one that [`Vault::seal_name`] made; what the server can tell.
#[must_use]
pub fn is_sealed(name: &str) -> bool {
    name.strip_suffix(SUFFIX).is_some_and(|letters| {
        letters.len() >= LETTERS_MIN
            && letters.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

/// The part of a sealed name by which it is told from others in its directory.
#[must_use]
pub fn fold_tag(name: &str) -> Option<&str> {
    if is_sealed(name) { name.get(..TAG_LETTERS) } else { None }
}

/// Whether a name is that of the key file, or some device could not tell it from it.
#[must_use]
pub fn is_key_file(name: &str) -> bool {
    names::fold(name) == KEY_FILE
}

impl Vault {
    /// Opens a folder with its key.
    #[must_use]
    pub fn new(key: &FolderKey) -> Self {
        let sub = |purpose: &str| blake3::derive_key(purpose, &key.0);
        Self {
            id: key.id(),
            names: XChaCha20Poly1305::new(&sub("pvfs2-sync 2026 vault v1: names").into()),
            name_nonces: sub("pvfs2-sync 2026 vault v1: nonces of names"),
            name_tags: sub("pvfs2-sync 2026 vault v1: folds of names"),
            contents: sub("pvfs2-sync 2026 vault v1: contents"),
            content_nonces: sub("pvfs2-sync 2026 vault v1: nonces of contents"),
        }
    }

    /// The number of its key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    fn name_nonce(&self, dir: NodeId, name: &str) -> [u8; NAME_NONCE] {
        short(&self.name_nonces, dir, name)
    }

    fn name_tag(&self, dir: NodeId, name: &str) -> String {
        let tag: [u8; NAME_TAG] = short(&self.name_tags, dir, &names::fold(name));
        URL_SAFE_NO_PAD.encode(tag)
    }

    /// A name as the server gets it. `dir`: the number of the directory there, 0 for the folder itself.
    ///
    /// # Errors
    /// [`SyncError::Invalid`] for a name that is too long.
    pub fn seal_name(&self, dir: NodeId, name: &str) -> Result<String> {
        if name.len() > NAME_BYTES_MAX {
            return Err(SyncError::Invalid(too_long(name)));
        }
        let nonce = self.name_nonce(dir, name);
        let payload = Payload { msg: name.as_bytes(), aad: &dir.to_le_bytes() };
        let sealed = self
            .names
            .encrypt(&wide(nonce), payload)
            .map_err(|_| SyncError::Invalid(format!("name {name:?} cannot be encrypted")))?;
        let mut all = nonce.to_vec();
        all.extend_from_slice(&sealed);
        Ok(self.name_tag(dir, name) + &URL_SAFE_NO_PAD.encode(all) + SUFFIX)
    }

    /// The name that was sealed, if it was sealed with this key for this directory and may stand in a
    /// folder.
    ///
    /// # Errors
    /// [`SyncError::Damaged`].
    pub fn open_name(&self, dir: NodeId, sealed: &str) -> Result<String> {
        let bad = |why: &str| SyncError::Damaged(format!("encrypted name {sealed:?}: {why}"));
        let not_ours = || bad("it does not open with this folder's key in this directory");
        let letters = sealed.strip_suffix(SUFFIX).ok_or_else(not_ours)?;
        let (tag, letters) = letters.split_at_checked(TAG_LETTERS).ok_or_else(not_ours)?;
        let all = URL_SAFE_NO_PAD.decode(letters).map_err(|_| not_ours())?;
        let (nonce, text) = all.split_first_chunk::<NAME_NONCE>().ok_or_else(not_ours)?;
        let payload = Payload { msg: text, aad: &dir.to_le_bytes() };
        let name = self.names.decrypt(&wide(*nonce), payload).map_err(|_| not_ours())?;
        let name = String::from_utf8(name).map_err(|_| not_ours())?;
        // The same name has one sealed form only.
        if self.name_nonce(dir, &name) != *nonce || self.name_tag(dir, &name) != tag {
            return Err(not_ours());
        }
        // Whoever has the key may still not write outside of the folder.
        names::check(&name).map_err(|why| bad(&why))?;
        if is_key_file(&name) {
            return Err(bad("it is the key file's"));
        }
        Ok(name)
    }
}

/// What is said of a name that does not fit.
#[must_use]
pub fn too_long(name: &str) -> String {
    format!(
        "name {name:?} is not taken: longer than {NAME_BYTES_MAX} bytes, the most in an encrypted folder"
    )
}

/// The first bytes of a keyed hash of a directory and a name.
fn short<const N: usize>(key: &[u8; 32], dir: NodeId, name: &str) -> [u8; N] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&dir.to_le_bytes()).update(name.as_bytes());
    let mut out = [0; N];
    hasher.finalize_xof().fill(&mut out);
    out
}

fn wide(nonce: [u8; NAME_NONCE]) -> XNonce {
    let mut wide = [0; 24];
    wide[..NAME_NONCE].copy_from_slice(&nonce);
    wide.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn vault(n: u8) -> Vault {
        Vault::new(&FolderKey::from_bytes([n; 32]))
    }

    #[test]
    fn names_are_sealed_to_their_directory_and_key() {
        let v = vault(1);
        for name in ["a", "Résumé.TXT", &"x".repeat(NAME_BYTES_MAX), "日本語.txt"] {
            let sealed = v.seal_name(7, name).unwrap();
            assert!(is_sealed(&sealed) && names::check(&sealed).is_ok(), "{sealed}");
            assert_eq!(sealed, v.seal_name(7, name).unwrap(), "the same each time");
            assert_eq!(v.open_name(7, &sealed).unwrap(), name);
            assert!(v.open_name(8, &sealed).is_err(), "another directory");
            assert!(vault(2).open_name(7, &sealed).is_err(), "another key");
            assert_ne!(
                sealed,
                v.seal_name(8, name).unwrap(),
                "equal names elsewhere look otherwise"
            );
            for at in 0..sealed.len() {
                let mut other = sealed.clone().into_bytes();
                other[at] = if other[at] == b'A' { b'B' } else { b'A' };
                let other = String::from_utf8(other).unwrap();
                assert!(v.open_name(7, &other).is_err(), "letter {at} changed");
            }
        }
        assert!(v.seal_name(7, &"x".repeat(NAME_BYTES_MAX + 1)).is_err());
        for plain in ["a.txt", "x.pv1", KEY_FILE, ""] {
            assert!(!is_sealed(plain) && v.open_name(7, plain).is_err(), "{plain}");
        }
    }

    #[test]
    fn trap15_sealed_names_fold_to_one_where_their_names_do() {
        let v = vault(1);
        let fold = |dir, name: &str| names::fold(&v.seal_name(dir, name).unwrap());
        assert_eq!(fold(7, "Résumé.TXT"), fold(7, "re\u{301}sume\u{301}.txt"));
        assert_ne!(fold(7, "a"), fold(7, "b"));
        assert_ne!(fold(7, "a"), fold(8, "a"));
        assert_ne!(v.seal_name(7, "a").unwrap(), v.seal_name(7, "A").unwrap());
    }

    #[test]
    fn whoever_has_the_key_cannot_write_outside() {
        let v = vault(1);
        for evil in ["..", "a/b", ".pvfs2-vault", ".PVFS2-Vault", ".pvfs2-sync", "a\\b", ""] {
            let sealed = v.seal_name(7, evil).unwrap();
            assert!(v.open_name(7, &sealed).is_err(), "{evil}");
        }
    }

    #[test]
    fn no_debug_output_shows_a_key() {
        let key = FolderKey::from_bytes([0xab; 32]);
        let shown = format!("{key:?} {:?}", Vault::new(&key));
        assert!(!shown.contains("abab") && !shown.contains("171, 171"), "{shown}");
    }
}
