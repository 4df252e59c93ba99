//! What travels over `/api/v1`, as server and devices both use it: JSON bodies.
use crate::delta::Range;
use crate::error::{Result, SyncError};
use crate::rng::{hex, unhex};
use crate::secret::Secret;
use crate::tree::{Content, Entry, Key, Kind, NodeId};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The row of the table that the service keeps for each file: name, size, place, last change, deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its number.
    pub id: NodeId,
    /// The directory it lies in.
    pub parent: NodeId,
    /// Its name there.
    pub name: String,
    /// File or directory.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Time of the last change, as the device that made it said.
    pub mtime_ns: i64,
    /// Whether it may be executed.
    pub exec: bool,
    /// BLAKE3 in hexadecimal; empty for directories.
    pub hash: String,
    /// Revision: grows with every change of any of the user's nodes.
    pub rev: i64,
    /// Deleted: the mark stays until every device has heard of it.
    pub deleted: bool,
}

impl NodeInfo {
    /// As an entry of the remote tree.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry {
            parent: Key::Node(self.parent),
            name: self.name.clone(),
            kind: self.kind,
            content: Content { hash: unhex(&self.hash).unwrap_or_default(), exec: self.exec },
            rev: self.rev,
        }
    }

    /// The hash as it is sent.
    #[must_use]
    pub fn hash_text(kind: Kind, hash: &[u8; 32]) -> String {
        if kind == Kind::Dir { String::new() } else { hex(hash) }
    }
}

/// Answer to `changes?since=`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Changes {
    /// Names the server's history; another one means: begin anew, delete nothing.
    pub epoch: String,
    /// Ask from here next time.
    pub next: i64,
    /// There is more right now.
    pub more: bool,
    /// What changed, each node once, oldest change first.
    pub nodes: Vec<NodeInfo>,
}

/// Make a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mkdir {
    /// Where.
    pub parent: NodeId,
    /// Its name.
    pub name: String,
    /// The same request sent again carries the same key and is done once.
    #[serde(default)]
    pub key: String,
}

/// Move or rename.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Move {
    /// What.
    pub node: NodeId,
    /// The revision that was seen.
    pub rev: i64,
    /// Where to.
    pub parent: NodeId,
    /// Under which name.
    pub name: String,
    /// As in [`Mkdir`].
    #[serde(default)]
    pub key: String,
}

/// Let two nodes swap places.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    /// One node and the revision that was seen.
    pub a: (NodeId, i64),
    /// The other.
    pub b: (NodeId, i64),
    /// As in [`Mkdir`].
    #[serde(default)]
    pub key: String,
}

/// Delete; a directory must be empty unless `tree` says otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delete {
    /// What.
    pub node: NodeId,
    /// The revision that was seen.
    pub rev: i64,
    /// Everything below it too.
    #[serde(default)]
    pub tree: bool,
    /// As in [`Mkdir`].
    #[serde(default)]
    pub key: String,
}

/// Begin an upload. The room is reserved here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UploadBegin {
    /// Chosen by the device, 16 to 64 letters and digits; beginning again with the same is harmless.
    pub id: String,
    /// Where a new file goes.
    pub parent: NodeId,
    /// Its name.
    pub name: String,
    /// Replaces this node at this revision (`If-Match`), wherever it lies.
    #[serde(default)]
    pub replace: Option<(NodeId, i64)>,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 in hexadecimal, if known; checked at commit.
    #[serde(default)]
    pub hash: String,
    /// Time of the last change.
    pub mtime_ns: i64,
    /// Whether it may be executed.
    #[serde(default)]
    pub exec: bool,
}

/// How far an upload is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UploadState {
    /// Bytes that are there; go on from here.
    pub offset: u64,
}

/// One of several operations in one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum BatchOp {
    /// Make a directory.
    Mkdir(Mkdir),
    /// Move.
    Move(Move),
    /// Swap.
    Exchange(Exchange),
    /// Delete.
    Delete(Delete),
}

/// What became of one of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchReply {
    /// As HTTP says it.
    pub status: u16,
    /// The node after the operation.
    #[serde(default)]
    pub node: Option<NodeInfo>,
    /// Why not.
    #[serde(default)]
    pub error: String,
}

/// Asks for the pieces of ranges of a content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignatureAsk {
    /// The revision that was seen.
    pub rev: i64,
    /// How long a piece is on average, in bytes.
    pub average: u32,
    /// Where each range begins and how long it is.
    pub ranges: Vec<Range>,
}

/// Asks for ranges of a content, one behind the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RangesAsk {
    /// The revision that was seen.
    pub rev: i64,
    /// Where each begins and how long it is.
    pub ranges: Vec<Range>,
}

/// Before the bytes of each file in the answer to `contents`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContentHead {
    /// As HTTP says it; no bytes follow unless it is 200.
    pub status: u16,
    /// How many bytes follow.
    pub size: u64,
    /// Why not.
    #[serde(default)]
    pub error: String,
}

/// So many files fit in one request.
pub const FILES_MAX: usize = 1_000;
/// A request or answer with many files has at most so many bytes; one file more than this is no small one.
pub const FILES_BYTES_MAX: usize = 16 << 20;
/// Longest head of a file in it.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Puts one file of many to others: the length of its head (32 bits, little endian), the head as JSON,
/// the bytes.
///
/// # Errors
/// [`SyncError::Invalid`] for a head that is no JSON.
pub fn pack(into: &mut Vec<u8>, head: &impl Serialize, bytes: &[u8]) -> Result<()> {
    let text = serde_json::to_vec(head).map_err(|e| SyncError::Invalid(e.to_string()))?;
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    into.extend_from_slice(&len.to_le_bytes());
    into.extend_from_slice(&text);
    into.extend_from_slice(bytes);
    Ok(())
}

/// Takes the next file of many off the front; `size` tells from its head how many bytes are its own.
/// `None`: there are no more.
///
/// # Errors
/// [`SyncError::Invalid`] for what is cut off or no head.
pub fn unpack<H: DeserializeOwned>(
    from: &mut Bytes,
    size: impl Fn(&H) -> u64,
) -> Result<Option<(H, Bytes)>> {
    let cut = || SyncError::Invalid("many files: cut off".into());
    if from.is_empty() {
        return Ok(None);
    }
    let len = from.split_to_checked(4).ok_or_else(cut)?;
    let len = <[u8; 4]>::try_from(&len[..]).map(u32::from_le_bytes).map_err(|_| cut())? as usize;
    if len > HEAD_BYTES_MAX {
        return Err(SyncError::Invalid("many files: a head that is too long".into()));
    }
    let head = from.split_to_checked(len).ok_or_else(cut)?;
    let head: H = serde_json::from_slice(&head)
        .map_err(|e| SyncError::Invalid(format!("many files: {e}")))?;
    let bytes = usize::try_from(size(&head)).ok().and_then(|n| from.split_to_checked(n));
    Ok(Some((head, bytes.ok_or_else(cut)?)))
}

trait Front {
    fn split_to_checked(&mut self, n: usize) -> Option<Bytes>;
}

impl Front for Bytes {
    fn split_to_checked(&mut self, n: usize) -> Option<Bytes> {
        (n <= self.len()).then(|| self.split_to(n))
    }
}

/// Sign in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// What the device calls itself; empty for a browser.
    #[serde(default)]
    pub device: String,
}

/// What the server says when a password was right and a code is missing.
pub const CODE_NEEDED: &str = "a code of your app, or a recovery code, is needed";

/// Sign in, with the second step of an account that has two.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginWithCode {
    /// Name, password, device.
    #[serde(flatten)]
    pub login: Login,
    /// A code of the user's app, or a recovery code; empty: none.
    #[serde(default)]
    pub code: Secret,
}

/// Signed in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoggedIn {
    /// Goes into `Authorization: Bearer`.
    pub token: Secret,
    /// The device's number in the user's list.
    pub device: String,
}

/// An old content of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The revision that had it.
    pub rev: i64,
    /// Bytes.
    pub size: u64,
    /// Time of the last change then.
    pub mtime_ns: i64,
    /// BLAKE3 in hexadecimal.
    pub hash: String,
    /// Milliseconds since 1970 when it was replaced.
    pub at_ms: i64,
}

/// Put back an old version, or what lies in the trash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restore {
    /// The file.
    pub node: NodeId,
    /// Which version; `None`: out of the trash.
    #[serde(default)]
    pub version: Option<i64>,
}
