//! The operations of an I/O server, one file each, and the one place that picks among them.
mod df_copy;
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

use crate::state::IoState;
use pvfs2_bmi::service::Body;
use pvfs2_proto::op::{
    DfCopyRequest, DfFallocateRequest, DfListRequest, DfMapRequest, DfRemoveRequest, DfStatRequest,
    DfSyncRequest, DfTruncateRequest, IoStatfsRequest, IoWriteRequest, OpMessage, OpRequest,
};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use pvfs2_server_core::service::Answer;
use std::sync::Arc;

/// Runs one operation.
///
/// # Errors
/// As the operation's file says; `NotSupported` for an operation of other servers.
///
/// # Cancel safety
/// A dropped io_write that comes as a flow has written the pieces that had arrived; the others
/// either ran or did not. Work that went to the pool goes on there.
pub async fn dispatch(state: &Arc<IoState>, op: OpRequest, body: Body) -> Result<Answer> {
    use OpRequest as R;
    match op {
        R::IoRead(r) => io_read::io_read(state, r).await,
        R::IoWrite(r) => plain::<IoWriteRequest>(io_write::io_write(state, r, body).await),
        R::DfStat(r) => plain::<DfStatRequest>(df_stat::df_stat(state, &r)),
        R::DfTruncate(r) => plain::<DfTruncateRequest>(df_truncate::df_truncate(state, r).await),
        R::DfFallocate(r) => {
            plain::<DfFallocateRequest>(df_fallocate::df_fallocate(state, r).await)
        }
        R::DfCopy(r) => plain::<DfCopyRequest>(df_copy::df_copy(state, r).await),
        R::DfMap(r) => plain::<DfMapRequest>(df_map::df_map(state, &r)),
        R::DfSync(r) => plain::<DfSyncRequest>(df_sync::df_sync(state, r).await),
        R::DfRemove(r) => plain::<DfRemoveRequest>(df_remove::df_remove(state, r).await),
        R::DfList(r) => plain::<DfListRequest>(df_list::df_list(state, r).await),
        R::IoStatfs(_) => plain::<IoStatfsRequest>(io_statfs::io_statfs(state).await),
        other => Err(PvfsError::new(
            ErrorCode::NotSupported,
            format!(
                "I/O server '{}' does not take {}: that is a metadata server's operation",
                state.alias(),
                other.op().name()
            ),
        )),
    }
}

/// An answer without body.
fn plain<M: OpMessage>(result: Result<M::Response>) -> Result<Answer> {
    result.map(|response| Answer::new(M::wrap_response(response)))
}
