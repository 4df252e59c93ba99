//! statfs: a metadata server's share: objects, and the space of its own disk.
//!
//! Changes nothing.
use crate::server::MetaServer;
use pvfs2_proto::Result;
use pvfs2_proto::op::{OpResponse, StatfsResponse};
use pvfs2_server_core::service::Answer;

pub(crate) fn statfs(server: &MetaServer) -> Result<Answer> {
    let (bytes_free, bytes_total) = match &server.bstreams {
        Some(bstreams) => {
            let s = bstreams.statfs()?;
            (s.bytes_free, s.bytes_total)
        }
        None => (0, 0),
    };
    Ok(Answer::new(OpResponse::Statfs(StatfsResponse {
        handles_used: server.store.objects(),
        handles_free: server.store.handles_free(),
        bytes_free,
        bytes_total,
    })))
}
