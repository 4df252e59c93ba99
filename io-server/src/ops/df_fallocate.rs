//! df_fallocate: reserves space for extents of a datafile, or punches holes into them.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (handle ours, extents in order) | Excluded | answered: Stale, Invalid, FileTooBig |
//! | Excluded (no writer inside) | Done | - |
//! | Done (extent after extent, in the blocking pool) | answered | answered: Io, NoSpace, NotSupported; Stale: removed lately |
//!
//! Durable when the reply leaves: against kill -9; against loss of power after df_sync or the next
//! write-out. Not rolled back: extents reserved before one failed stay reserved, which nobody can
//! see but in `df`; repeating a punch or a reservation is harmless. The datafile's length stays.
use crate::extents;
use crate::state::IoState;
use pvfs2_proto::Result;
use pvfs2_proto::op::{DfFallocateRequest, DfFallocateResponse};
use std::sync::Arc;

/// Serves df_fallocate.
pub async fn df_fallocate(
    state: &Arc<IoState>,
    req: DfFallocateRequest,
) -> Result<DfFallocateResponse> {
    let datahandle = state.own(req.datahandle)?;
    extents::check_places(&req.extents)?;
    let pool = state.clone();
    state
        .blocking(move || {
            let _writer = pool.locks().lock(datahandle);
            let bstreams = pool.bstreams();
            for e in req.extents.iter().filter(|e| e.len > 0) {
                if req.punch {
                    bstreams.punch(datahandle, e.physical_offset, e.len)?;
                } else {
                    bstreams.allocate(datahandle, e.physical_offset, e.len)?;
                }
            }
            Ok(DfFallocateResponse {})
        })
        .await
}
