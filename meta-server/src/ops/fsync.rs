//! fsync: what was answered for an object survives loss of power.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | sync the journal (group commit) | answer | answer: nothing is promised |
//!
//! The client has synced the datafiles before. Of a split directory the parts' servers sync too.
//! Errors: `Stale`, `Unreachable` (a part).
use crate::server::MetaServer;
use pvfs2_proto::op::{Cred, FsyncRequest, FsyncResponse, OpResponse};
use pvfs2_proto::{Handle, Result};
use pvfs2_server_core::peer;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn fsync(server: &MetaServer, cx: &OpCx, r: FsyncRequest) -> Result<Answer> {
    let attr = server.store.object(Handle(r.handle))?;
    sync(server, attr.handle()).await?;
    let parts = attr.dir_map.as_ref().filter(|_| cx.peer_server.is_none()).map(|m| &m.parts);
    let ask = |part: &u64| Ok((server.owner(Handle(*part))?, FsyncRequest { handle: *part }));
    let asks: Vec<_> = parts.into_iter().flatten().map(ask).collect::<Result<_>>()?;
    if !asks.is_empty() {
        peer::ask_all(server.peers(), &Cred::root(), cx.op_id, asks).await?;
    }
    Ok(Answer::new(OpResponse::Fsync(FsyncResponse {})))
}

/// Syncs the journal, and remembers that the object's bytes have been promised.
pub(crate) async fn sync(server: &MetaServer, handle: Handle) -> Result<()> {
    server.young.borrow_mut().remove(&handle);
    server.store.sync_now().await
}
