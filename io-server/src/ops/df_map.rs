//! df_map: where a datafile has data (SEEK_DATA, SEEK_HOLE, sparse copies).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (handle ours) | Mapped | answered: Stale |
//! | Mapped (extents from the offset on, at most `max`) | answered | answered: Io |
//!
//! Durable: nothing. A datafile that does not exist has no data and size 0.
use crate::state::IoState;
use pvfs2_proto::Result;
use pvfs2_proto::limits::IO_EXTENTS_MAX;
use pvfs2_proto::op::{DfMapRequest, DfMapResponse};

/// Serves df_map.
pub fn df_map(state: &IoState, req: &DfMapRequest) -> Result<DfMapResponse> {
    let datahandle = state.own(req.datahandle)?;
    let max = (req.max as usize).clamp(1, IO_EXTENTS_MAX);
    let (data, size, more) = state.bstreams().map(datahandle, req.physical_offset, max)?;
    Ok(DfMapResponse { data, size, more })
}
