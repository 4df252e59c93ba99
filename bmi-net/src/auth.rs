//! The cluster's key: who must prove it, and the proofs (HMAC-SHA-256, both directions).
//!
//! Closed by default: off loopback a server talks only to peers that prove the key, and a client
//! that has a key talks only to servers that prove it. Loopback and unix sockets of the same user
//! (or root) need none. Invariant: the words "client" and "server" inside the proofs keep a peer
//! from answering a challenge by reflecting it.
use hmac::{Hmac, Mac};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use sha2::Sha256;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

/// Bytes of a key, a nonce and a challenge.
pub const KEY_LEN: usize = 32;

/// The secret that all servers and clients of a cluster share.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; KEY_LEN]);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

impl ClusterKey {
    /// A key from its bytes.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> ClusterKey {
        ClusterKey(bytes)
    }
    /// A new key from the operating system's secure random numbers.
    pub fn generate() -> ClusterKey {
        ClusterKey(secret_bytes())
    }
    /// The key as 64 hex digits, the form of a key file.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
    /// Parses 64 hex digits.
    ///
    /// # Errors
    /// `Invalid` when it is no key.
    pub fn from_hex(text: &str) -> Result<ClusterKey> {
        let bad = || PvfsError::new(ErrorCode::Invalid, "a cluster key is 64 hex digits");
        let text = text.trim().as_bytes();
        if text.len() != 2 * KEY_LEN {
            return Err(bad());
        }
        let mut key = [0u8; KEY_LEN];
        for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
            let digits = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
        }
        Ok(ClusterKey(key))
    }
    /// Reads a key file: 64 hex digits, or the 32 bytes themselves.
    ///
    /// # Errors
    /// `Invalid` when the file cannot be read or holds no key.
    pub fn from_file(path: &Path) -> Result<ClusterKey> {
        let at = |e: String| {
            PvfsError::new(ErrorCode::Invalid, format!("key file {}: {e}", path.display()))
        };
        let bytes = std::fs::read(path).map_err(|e| at(e.to_string()))?;
        if let Ok(raw) = <[u8; KEY_LEN]>::try_from(bytes.as_slice()) {
            return Ok(ClusterKey(raw));
        }
        ClusterKey::from_hex(&String::from_utf8_lossy(&bytes))
            .map_err(|e| at(e.detail.into_owned()))
    }

    fn mac(&self, who: &[u8], fs_id: u64, first: &[u8], second: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(who);
        mac.update(&fs_id.to_le_bytes());
        mac.update(first);
        mac.update(second);
        Some(mac)
    }
    /// What a client answers to a server's challenge.
    pub fn client_proof(&self, fs_id: u64, nonce: &[u8], challenge: &[u8]) -> Vec<u8> {
        self.mac(b"pvfs2 client", fs_id, nonce, challenge)
            .map_or_else(Vec::new, |m| m.finalize().into_bytes().to_vec())
    }
    /// What a server sends along with its challenge.
    pub fn server_proof(&self, fs_id: u64, challenge: &[u8], nonce: &[u8]) -> Vec<u8> {
        self.mac(b"pvfs2 server", fs_id, challenge, nonce)
            .map_or_else(Vec::new, |m| m.finalize().into_bytes().to_vec())
    }
    /// Whether `proof` is the client's, in constant time.
    pub fn is_client_proof(
        &self,
        fs_id: u64,
        nonce: &[u8],
        challenge: &[u8],
        proof: &[u8],
    ) -> bool {
        self.mac(b"pvfs2 client", fs_id, nonce, challenge)
            .is_some_and(|m| m.verify_slice(proof).is_ok())
    }
    /// Whether `proof` is the server's, in constant time.
    pub fn is_server_proof(
        &self,
        fs_id: u64,
        challenge: &[u8],
        nonce: &[u8],
        proof: &[u8],
    ) -> bool {
        self.mac(b"pvfs2 server", fs_id, challenge, nonce)
            .is_some_and(|m| m.verify_slice(proof).is_ok())
    }
}

/// Who is at the other end, as the socket tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// In this process.
    Mem,
    /// A unix socket; the peer's user id where the system tells it.
    Unix(Option<u32>),
    /// A TCP connection from (or to) this address.
    Tcp(IpAddr),
}

impl Peer {
    /// Unix socket, loopback, or in this process.
    pub fn is_local(self) -> bool {
        match self {
            Peer::Mem | Peer::Unix(_) => true,
            Peer::Tcp(ip) => ip.to_canonical().is_loopback(),
        }
    }
    /// The peer's user id, where the socket tells.
    pub fn uid(self) -> Option<u32> {
        match self {
            Peer::Unix(uid) => uid,
            Peer::Mem | Peer::Tcp(_) => None,
        }
    }
}

/// Whether this peer must prove the cluster's key to a process that runs as `own_uid`.
pub fn key_needed(peer: Peer, own_uid: u32) -> bool {
    match peer {
        Peer::Unix(Some(uid)) => uid != own_uid && uid != 0,
        Peer::Unix(None) => true,
        Peer::Mem | Peer::Tcp(_) => !peer.is_local(),
    }
}

/// Random bytes fit for secrets. Only for keys, nonces and challenges: everything that a simulation
/// must repeat draws from `Env`.
pub(crate) fn secret_bytes() -> [u8; KEY_LEN] {
    let mut bytes = [0u8; KEY_LEN];
    // SAFETY: the pointer and the length describe `bytes`; 32 bytes are never cut short by signals.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != bytes.len() as isize {
        // A system without random numbers must not hand out a guessable key.
        std::process::abort();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy() {
        let tcp = |ip: &str| Peer::Tcp(ip.parse().unwrap());
        for (peer, needed) in [
            (Peer::Mem, false),
            (Peer::Unix(Some(1000)), false),
            (Peer::Unix(Some(0)), false),
            (Peer::Unix(Some(1001)), true),
            (Peer::Unix(None), true),
            (tcp("127.0.0.1"), false),
            (tcp("127.8.8.8"), false),
            (tcp("::1"), false),
            (tcp("::ffff:127.0.0.1"), false),
            (tcp("10.0.0.1"), true),
            (tcp("::ffff:10.0.0.1"), true),
            (tcp("fe80::1"), true),
        ] {
            assert_eq!(key_needed(peer, 1000), needed, "{peer:?}");
        }
    }

    #[test]
    fn proofs_hold_only_for_their_key_side_and_challenge() {
        let key = ClusterKey::from_bytes([7; 32]);
        let proof = key.client_proof(5, b"nonce", b"challenge");
        assert!(key.is_client_proof(5, b"nonce", b"challenge", &proof));
        assert!(!key.is_client_proof(6, b"nonce", b"challenge", &proof));
        assert!(!key.is_client_proof(5, b"nonce", b"challengf", &proof));
        assert!(!key.is_server_proof(5, b"nonce", b"challenge", &proof));
        assert!(!ClusterKey::generate().is_client_proof(5, b"nonce", b"challenge", &proof));
        assert!(!key.is_client_proof(5, b"nonce", b"challenge", b""));
    }

    #[test]
    fn key_files() {
        let dir = tempfile::tempdir().unwrap();
        let key = ClusterKey::generate();
        let path = dir.path().join("key");
        std::fs::write(&path, format!("{}\n", key.to_hex())).unwrap();
        assert!(ClusterKey::from_file(&path).unwrap() == key);
        std::fs::write(&path, key.0).unwrap();
        assert!(ClusterKey::from_file(&path).unwrap() == key);
        std::fs::write(&path, "short").unwrap();
        assert_eq!(ClusterKey::from_file(&path).unwrap_err().code, ErrorCode::Invalid);
    }
}
