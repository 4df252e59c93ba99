//! The device's side: keeps one folder in step with the server.
//!
//! A pass is: check the root, fetch what changed at the server, scan the whole folder, plan, carry out,
//! plan again until nothing is left. Observations (what the server has, what both agreed on) are kept in
//! a database; planned work never is, so a pass that was cut off anywhere is simply begun anew.
pub mod base;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod http;
mod local_ops;
mod remote_ops;
pub mod scan;

use crate::api::{BatchOp, Changes, NodeInfo, UploadBegin, UploadState};
use crate::error::Result;
use crate::tree::NodeId;

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
}
