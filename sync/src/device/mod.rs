//! The device's side: keeps one folder in step with the server.
//!
//! A pass is: check the root, fetch what changed at the server, scan the whole folder, plan, carry out,
//! plan again until nothing is left. Observations (what the server has, what both agreed on) are kept in
//! a database; planned work never is, so a pass that was cut off anywhere is simply begun anew.
pub mod base;
mod bulk;
pub mod config;
pub mod daemon;
mod delta;
pub mod engine;
pub mod filter;
pub mod http;
pub mod keys;
mod local_ops;
pub mod pace;
pub mod page;
mod remote_ops;
pub mod scan;
pub mod settings;
mod vaults;
mod veil;
pub mod view;

use crate::api::{BatchOp, BatchReply, Changes, NodeInfo, UploadBegin, UploadState};
use crate::delta::{Part, Piece, Range};
use crate::error::Result;
use crate::tree::NodeId;

/// A question about much at once.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Take these small files.
    Put(Vec<(UploadBegin, Vec<u8>)>),
    /// Give the bytes of these nodes at these revisions.
    Get(Vec<(NodeId, i64)>),
    /// Carry these operations on names out, in order, each for itself.
    Run(Vec<BatchOp>),
}

/// The answer to it, one for each part in the same order.
#[derive(Debug)]
pub enum Told {
    /// To `Put` and `Run`.
    Replies(Vec<BatchReply>),
    /// To `Get`.
    Files(Vec<Result<Vec<u8>>>),
}

/// The server, as a device sees it.
pub trait Remote {
    /// What changed since; acknowledges everything before.
    ///
    /// # Errors
    /// [`crate::error::SyncError::Epoch`]: begin anew.
    fn changes(&mut self, epoch: &str, since: i64) -> Result<Changes>;
    /// One operation on names.
    ///
    /// # Errors
    /// As the server says.
    fn run(&mut self, op: &BatchOp) -> Result<NodeInfo>;
    /// What the server answered to the request with this key, if it was done.
    ///
    /// # Errors
    /// As the server says.
    fn outcome(&mut self, key: &str) -> Result<Option<NodeInfo>>;
    /// Begins an upload or finds it.
    ///
    /// # Errors
    /// As the server says.
    fn upload_begin(&mut self, req: &UploadBegin) -> Result<UploadState>;
    /// Sends a piece.
    ///
    /// # Errors
    /// As the server says.
    fn upload_append(&mut self, id: &str, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Sends the next parts of an upload that replaces a content: bytes, or ranges of that content.
    ///
    /// # Errors
    /// As the server says.
    fn upload_parts(&mut self, id: &str, offset: u64, parts: &[(Part, Vec<u8>)]) -> Result<()>;
    /// The pieces of ranges of a content.
    ///
    /// # Errors
    /// As the server says.
    fn signature(
        &mut self,
        node: NodeId,
        rev: i64,
        average: u32,
        ranges: &[Range],
    ) -> Result<Vec<Vec<Piece>>>;
    /// Fetches ranges of a content, one behind the other.
    ///
    /// # Errors
    /// As the server says, and as `sink` says.
    fn ranges(
        &mut self,
        node: NodeId,
        rev: i64,
        ranges: &[Range],
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()>;
    /// Makes the upload the file's content.
    ///
    /// # Errors
    /// As the server says.
    fn upload_commit(&mut self, id: &str) -> Result<NodeInfo>;
    /// Gives an upload up; nothing sent late for it has an effect any more.
    ///
    /// # Errors
    /// As the server says.
    fn upload_drop(&mut self, id: &str) -> Result<()>;
    /// Fetches a file's bytes at one revision from an offset on.
    ///
    /// # Errors
    /// As the server says, and as `sink` says.
    fn content(
        &mut self,
        node: NodeId,
        rev: i64,
        from: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()>;
    /// Asks without waiting for the answer. Several questions may be under way; each is carried out at
    /// any moment until it is collected.
    fn submit(&mut self, ask: Ask);
    /// Waits for the answer to the oldest question; `None`: none is under way.
    fn collect(&mut self) -> Option<Result<Told>>;
}
