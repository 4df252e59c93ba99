//! df_remove: removes datafiles.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (count, handles ours) | Removed | answered: Stale, Invalid |
//! | Removed (in the blocking pool, one after the other, each marked as removed first) | answered | answered: Io; asking again goes on |
//!
//! Durable when the reply leaves: against kill -9. Loss of power may bring a datafile back; the
//! metadata server's reaper has then not forgotten it, or fsck finds it without metafile. The mark
//! (Trove's) makes everything asked of the handle `Stale` for `handle_recycle_secs`, also where there
//! was no datafile yet: a write that was late on the network must not make it anew.
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
                removed += u32::from(pool.bstreams().remove(h)?);
            }
            Ok(DfRemoveResponse { removed })
        })
        .await
}
