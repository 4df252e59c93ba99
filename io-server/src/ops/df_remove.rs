//! df_remove: removes datafiles.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (count, handles ours) | Marked | answered: Stale, Invalid |
//! | Marked (each handle has a tombstone: later writes are Stale) | Removed | - |
//! | Removed (in the blocking pool, one after the other) | answered | answered: Io; asking again goes on |
//!
//! Durable when the reply leaves: against kill -9. Loss of power may bring a datafile back; the
//! metadata server's reaper has then not forgotten it, or fsck finds it without metafile. The
//! tombstone is set before the datafile goes, also where there is none yet: a write that was late
//! on the network must not make it anew.
use crate::extents;
use crate::state::IoState;
use pvfs2_proto::op::{DfRemoveRequest, DfRemoveResponse};
use pvfs2_proto::{Handle, Result};
use std::sync::Arc;

/// Serves df_remove.
pub async fn df_remove(state: &Arc<IoState>, req: DfRemoveRequest) -> Result<DfRemoveResponse> {
    extents::check_count(&req.datahandles)?;
    let datahandles: Vec<Handle> =
        req.datahandles.iter().map(|raw| state.own(*raw)).collect::<Result<_>>()?;
    let pool = state.clone();
    state
        .blocking(move || {
            let mut removed = 0;
            for h in datahandles {
                let _writer = pool.locks().lock(h);
                pool.bury(h);
                removed += u32::from(pool.bstreams().remove(h)?);
            }
            Ok(DfRemoveResponse { removed })
        })
        .await
}
