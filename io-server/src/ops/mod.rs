//! The operations of an I/O server, one file each, and the one place that picks among them.
mod df_fallocate;
mod df_list;
mod df_map;
mod df_remove;
mod df_stat;
mod df_sync;
mod df_truncate;
mod io_read;
mod io_statfs;
mod io_write;

use crate::server::IoServer;
use pvfs2_bmi::service::{Body, OutBody};
use pvfs2_proto::op::{OpMessage, OpRequest, OpResponse};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use std::sync::Arc;

/// What an operation answers: its part of the response's head, and the body.
pub type Answer = Result<(OpResponse, OutBody)>;

/// Whether an I/O server takes `op` (sessions and pings are `server-core`'s).
pub fn takes(op: &OpRequest) -> bool {
    use OpRequest as R;
    matches!(
        op,
        R::IoRead(_)
            | R::IoWrite(_)
            | R::DfStat(_)
            | R::DfTruncate(_)
            | R::DfFallocate(_)
            | R::DfMap(_)
            | R::DfSync(_)
            | R::DfRemove(_)
            | R::DfList(_)
            | R::IoStatfs(_)
    )
}

/// Runs one operation.
///
/// # Errors
/// As the operation's file says; `NotSupported` for an operation of other servers.
///
/// # Cancel safety
/// A dropped io_write that comes as a flow has written the pieces that had arrived; the others
/// either ran or did not. Work that went to the pool goes on there.
pub async fn dispatch(server: &Arc<IoServer>, op: OpRequest, body: Body) -> Answer {
    use OpRequest as R;
    match op {
        R::IoRead(r) => io_read::io_read(server, r).await,
        R::IoWrite(r) => plain::<pvfs2_proto::op::IoWriteRequest>(
            io_write::io_write(server, r, body).await,
        ),
        R::DfStat(r) => plain::<pvfs2_proto::op::DfStatRequest>(df_stat::df_stat(server, &r)),
        R::DfTruncate(r) => plain::<pvfs2_proto::op::DfTruncateRequest>(
            df_truncate::df_truncate(server, r).await,
        ),
        R::DfFallocate(r) => plain::<pvfs2_proto::op::DfFallocateRequest>(
            df_fallocate::df_fallocate(server, r).await,
        ),
        R::DfMap(r) => plain::<pvfs2_proto::op::DfMapRequest>(df_map::df_map(server, &r)),
        R::DfSync(r) => plain::<pvfs2_proto::op::DfSyncRequest>(df_sync::df_sync(server, r).await),
        R::DfRemove(r) => {
            plain::<pvfs2_proto::op::DfRemoveRequest>(df_remove::df_remove(server, r).await)
        }
        R::DfList(r) => plain::<pvfs2_proto::op::DfListRequest>(df_list::df_list(server, r).await),
        R::IoStatfs(_) => {
            plain::<pvfs2_proto::op::IoStatfsRequest>(io_statfs::io_statfs(server).await)
        }
        other => Err(PvfsError::new(
            ErrorCode::NotSupported,
            format!(
                "I/O server '{}' does not take {}: that is a metadata server's operation",
                server.alias(),
                other.op().name()
            ),
        )),
    }
}

/// An answer without body.
fn plain<M: OpMessage>(result: Result<M::Response>) -> Answer {
    result.map(|response| (M::wrap_response(response), OutBody::Empty))
}
