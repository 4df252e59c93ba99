//! df_list: the datafiles in order of their handles (fsck, tests).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Listed (in the blocking pool) | answered | answered: Io |
//!
//! Durable: nothing. Datafiles made or removed meanwhile may or may not be in the list.
use crate::state::IoState;
use pvfs2_proto::limits::DATAHANDLES_MAX;
use pvfs2_proto::op::{DfListRequest, DfListResponse};
use pvfs2_proto::{Handle, Result};
use std::sync::Arc;

/// Serves df_list.
pub async fn df_list(state: &Arc<IoState>, req: DfListRequest) -> Result<DfListResponse> {
    let max = (req.max as usize).clamp(1, DATAHANDLES_MAX);
    let pool = state.clone();
    state
        .blocking(move || {
            let (list, end) = pool.bstreams().list(Handle(req.after), max)?;
            Ok(DfListResponse { datahandles: list.into_iter().map(|h| h.0).collect(), end })
        })
        .await
}
