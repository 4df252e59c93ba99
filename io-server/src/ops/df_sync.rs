//! df_sync: makes datafiles durable against loss of power.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (count, handles ours) | Syncing | answered: Stale, Invalid |
//! | Syncing (all datafiles at once, in the blocking pool) | answered | answered: Io, after all have ended |
//!
//! Durable when the reply leaves: every byte that any client had been told was written. A failed
//! sync is answered as `Io` and not retried here (Trove remembers it: later calls fail too).
use crate::extents;
use crate::state::IoState;
use pvfs2_proto::op::{DfSyncRequest, DfSyncResponse};
use pvfs2_proto::{Handle, Result};
use std::sync::Arc;

/// Threads of the pool that one request may keep busy.
const AT_ONCE: usize = 16;

/// Serves df_sync.
pub async fn df_sync(state: &Arc<IoState>, req: DfSyncRequest) -> Result<DfSyncResponse> {
    extents::check_count(&req.datahandles)?;
    let datahandles: Vec<Handle> =
        req.datahandles.iter().map(|raw| state.own(*raw)).collect::<Result<_>>()?;
    let share = datahandles.len().div_ceil(AT_ONCE).max(1);
    let running: Vec<_> = datahandles
        .chunks(share)
        .map(|chunk| {
            let (pool, chunk) = (state.clone(), chunk.to_vec());
            state.begin_blocking(move || sync_each(&pool, &chunk))
        })
        .collect();
    let mut result = Ok(());
    for one in running {
        let ended = one.await;
        result = result.and(ended);
    }
    result.map(|()| DfSyncResponse {})
}

/// Syncs all of them, also after one failed, and returns the first error.
fn sync_each(state: &IoState, datahandles: &[Handle]) -> Result<()> {
    let mut result = Ok(());
    for h in datahandles {
        let ended = state.bstreams().sync(*h);
        result = result.and(ended);
    }
    result
}
