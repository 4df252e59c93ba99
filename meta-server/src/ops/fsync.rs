//! fsync: what was answered for an object survives loss of power.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | sync the journal (group commit) | answer | answer: nothing is promised |
//!
//! The client has synced the datafiles before. Errors: `Stale`.
use crate::server::MetaServer;
use pvfs2_proto::op::{FsyncRequest, FsyncResponse, OpResponse};
use pvfs2_proto::{Handle, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn fsync(server: &MetaServer, _cx: &OpCx, r: FsyncRequest) -> Result<Answer> {
    let attr = server.store.object(Handle(r.handle))?;
    sync(server, attr.handle()).await?;
    Ok(Answer::new(OpResponse::Fsync(FsyncResponse {})))
}

/// Syncs the journal, and remembers that the object's bytes have been promised.
pub(crate) async fn sync(server: &MetaServer, handle: Handle) -> Result<()> {
    server.young.borrow_mut().remove(&handle);
    server.store.sync_now().await
}
