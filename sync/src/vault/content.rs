//! Contents as the server gets them. The pieces are STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015)
//! over XChaCha20-Poly1305: each piece knows its number and whether it is the last, so none can be
//! dropped, doubled or moved; the key is one content's own, so none comes from another file.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `pvfs2v1\0` |
//! | 8..24 | first half of the key's number |
//! | 24..56 | N: keyed BLAKE3 of (BLAKE3 of the plain bytes, their number) |
//! | 56.. | pieces of 65,536 plain bytes and 16 more each; the last one shorter; one empty piece for nothing |
//!
//! The key of a content is keyed BLAKE3 of N; the nonce of a piece is 19 zeros, its number (32 bits, big
//! endian), and 1 for the last one, else 0; the first 56 bytes are authenticated with each. The nonce may
//! be made of the content since its key is: the same key and nonce only ever meet the same bytes. When
//! all pieces are open, N is computed again.
use super::{TAG, Vault};
use crate::error::{Result, SyncError};
use crate::files::{Area, At, Files, PIECE_BYTES};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

/// Begins every sealed content.
pub const MAGIC: &[u8; 8] = b"pvfs2v1\0";
/// Bytes before the first piece.
pub const HEAD: usize = 56;
/// Plain bytes of a piece.
pub const PIECE: usize = 64 << 10;
const SEALED: usize = PIECE + TAG;

/// How many bytes a content has when it is sealed.
#[must_use]
pub fn sealed_size(plain: u64) -> u64 {
    let pieces = plain.div_ceil(PIECE as u64).max(1);
    HEAD as u64 + plain + pieces * TAG as u64
}

/// How many it has when it is open; `None`: no sealed content has so many.
#[must_use]
pub fn plain_size(sealed: u64) -> Option<u64> {
    let body = sealed.checked_sub(HEAD as u64)?;
    let plain = body.checked_sub(body.div_ceil(SEALED as u64).max(1) * TAG as u64)?;
    (sealed_size(plain) == sealed).then_some(plain)
}

/// Seals or opens the pieces of one content.
pub struct Sealer {
    head: [u8; HEAD],
    cipher: XChaCha20Poly1305,
    size: u64,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} bytes)", self.size)
    }
}

fn damaged(why: &str) -> SyncError {
    SyncError::Damaged(format!("encrypted content: {why}"))
}

impl Vault {
    fn binding(&self, hash: &[u8; 32], size: u64) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.content_nonces);
        hasher.update(hash).update(&size.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Seals a content of which hash and size are known.
    #[must_use]
    pub fn sealer(&self, hash: &[u8; 32], size: u64) -> Sealer {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(MAGIC);
        head[8..24].copy_from_slice(&self.id[..16]);
        head[24..].copy_from_slice(&self.binding(hash, size));
        self.with_head(head, size)
    }

    fn with_head(&self, head: [u8; HEAD], size: u64) -> Sealer {
        let key = blake3::keyed_hash(&self.contents, &head[24..]);
        let cipher = XChaCha20Poly1305::new(key.as_bytes().into());
        Sealer { head, cipher, size }
    }

    /// For a sealed content of this size that begins with `head`.
    ///
    /// # Errors
    /// [`SyncError::Damaged`] if it is none, or none of this folder's key.
    pub fn opener(&self, head: &[u8], sealed: u64) -> Result<Sealer> {
        let size = plain_size(sealed).ok_or_else(|| damaged("cut off"))?;
        let head: [u8; HEAD] = head.try_into().map_err(|_| damaged("cut off"))?;
        if head[..8] != *MAGIC {
            return Err(damaged("it is not one"));
        }
        if head[8..24] != self.id[..16] {
            return Err(damaged("it was made with another key"));
        }
        Ok(self.with_head(head, size))
    }

    /// A small content, sealed.
    ///
    /// # Errors
    /// As the cipher says.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let sealer = self.sealer(blake3::hash(plain).as_bytes(), plain.len() as u64);
        let mut out = sealer.head.to_vec();
        for n in 0..sealer.pieces() {
            let from = usize::try_from(n).unwrap_or(usize::MAX).saturating_mul(PIECE);
            let to = plain.len().min(from.saturating_add(PIECE));
            out.extend_from_slice(&sealer.seal(n, plain.get(from..to).unwrap_or_default())?);
        }
        Ok(out)
    }

    /// A small content, opened.
    ///
    /// # Errors
    /// [`SyncError::Damaged`].
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        let (head, body) = sealed.split_at_checked(HEAD).ok_or_else(|| damaged("cut off"))?;
        let opener = self.opener(head, sealed.len() as u64)?;
        let mut out = Vec::with_capacity(body.len());
        let mut n = 0;
        for piece in body.chunks(SEALED) {
            out.extend_from_slice(&opener.open(n, piece)?);
            n += 1;
        }
        self.whole(&opener, n, blake3::hash(&out).as_bytes(), out.len() as u64)?;
        Ok(out)
    }

    /// Opens a content from one file into another; the hash of the plain bytes.
    ///
    /// # Errors
    /// [`SyncError::Damaged`]; I/O. What was written then is no content.
    pub fn open_file(&self, files: &dyn Files, from: At, to: At) -> Result<([u8; 32], u64)> {
        let sealed = files.stat(from)?.map_or(0, |s| s.size);
        let opener = self.opener(&files.read(from, 0, HEAD)?, sealed)?;
        let mut hasher = blake3::Hasher::new();
        let (mut pos, mut at, mut n) = (HEAD as u64, 0_u64, 0);
        let mut open = Vec::with_capacity(PIECE_BYTES);
        while pos < sealed {
            let group = files.read(from, pos, SEALED * (PIECE_BYTES / PIECE))?;
            if group.is_empty() {
                return Err(damaged("cut off"));
            }
            open.clear();
            for piece in group.chunks(SEALED) {
                open.extend_from_slice(&opener.open(n, piece)?);
                n += 1;
            }
            hasher.update(&open);
            files.write(to, at, &open)?;
            pos += group.len() as u64;
            at += open.len() as u64;
        }
        let hash = *hasher.finalize().as_bytes();
        self.whole(&opener, n, &hash, at)?;
        Ok((hash, at))
    }

    fn whole(&self, opener: &Sealer, pieces: u64, hash: &[u8; 32], size: u64) -> Result<()> {
        let ours = pieces == opener.pieces() && self.binding(hash, size) == opener.head[24..];
        if ours { Ok(()) } else { Err(damaged("it is not whole")) }
    }
}

impl Sealer {
    fn pieces(&self) -> u64 {
        self.size.div_ceil(PIECE as u64).max(1)
    }

    fn nonce(&self, n: u64) -> Result<XNonce> {
        let number = u32::try_from(n).map_err(|_| damaged("larger than 256 TiB"))?;
        let mut nonce = [0; 24];
        nonce[19..23].copy_from_slice(&number.to_be_bytes());
        nonce[23] = u8::from(n + 1 == self.pieces());
        Ok(nonce.into())
    }

    fn seal(&self, n: u64, plain: &[u8]) -> Result<Vec<u8>> {
        let payload = Payload { msg: plain, aad: &self.head };
        self.cipher.encrypt(&self.nonce(n)?, payload).map_err(|_| damaged("too long"))
    }

    fn open(&self, n: u64, sealed: &[u8]) -> Result<Vec<u8>> {
        let payload = Payload { msg: sealed, aad: &self.head };
        let open = self.cipher.decrypt(&self.nonce(n)?, payload);
        open.map_err(|_| damaged("changed, cut off or put together from several"))
    }

    /// How many bytes the sealed content has.
    #[must_use]
    pub fn sealed_size(&self) -> u64 {
        sealed_size(self.size)
    }

    /// The bytes of the sealed content from `pos` on, about `len`, made of the plain file `at`.
    ///
    /// # Errors
    /// I/O; [`SyncError::Stale`] if the file became shorter.
    pub fn read(&self, files: &dyn Files, at: At, pos: u64, len: usize) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(len + SEALED);
        let head = HEAD as u64;
        if pos < head {
            let from = usize::try_from(pos).unwrap_or(HEAD);
            out.extend_from_slice(self.head.get(from..).unwrap_or_default());
        }
        let within = pos.saturating_sub(head);
        let (mut n, skip) = (within / SEALED as u64, within % SEALED as u64);
        let mut skip = usize::try_from(skip).unwrap_or(0);
        while out.len() < len && n < self.pieces() {
            let from = n * PIECE as u64;
            let want = usize::try_from(self.size - from).unwrap_or(PIECE).min(PIECE);
            let plain = files.read(at, from, want)?;
            if plain.len() != want {
                return Err(SyncError::Stale(format!("{} became shorter", at.1)));
            }
            let sealed = self.seal(n, &plain)?;
            out.extend_from_slice(sealed.get(skip..).unwrap_or_default());
            (n, skip) = (n + 1, 0);
        }
        out.truncate(len);
        Ok(out)
    }

    /// The hash of the sealed content of a file in the folder; `plain`: what it must hold.
    ///
    /// # Errors
    /// As [`Sealer::read`]; [`SyncError::Stale`] if it holds something else by now.
    pub fn hash(&self, files: &dyn Files, path: &str, plain: &[u8; 32]) -> Result<[u8; 32]> {
        let (mut hasher, mut seen) = (blake3::Hasher::new(), blake3::Hasher::new());
        hasher.update(&self.head);
        let mut n = 0;
        while n < self.pieces() {
            let from = n * PIECE as u64;
            let want = usize::try_from(self.size - from).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let bytes = files.read(At(Area::Tree, path), from, want)?;
            if bytes.len() != want {
                return Err(SyncError::Stale(format!("{path} became shorter")));
            }
            seen.update(&bytes);
            let mut pieces = bytes.chunks(PIECE);
            loop {
                // Nothing is one empty piece.
                let piece = pieces.next().unwrap_or_default();
                hasher.update(&self.seal(n, piece)?);
                n += 1;
                if pieces.len() == 0 {
                    break;
                }
            }
        }
        if seen.finalize() != *plain {
            return Err(SyncError::Stale(format!("{path} changed while it was read")));
        }
        Ok(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests;
