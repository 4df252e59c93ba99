//! df_stat: sizes and times of datafiles, all in one request.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (count, handles ours) | Gathered | answered: Stale, Invalid |
//! | Gathered (each datafile's length, mtime, blocks) | answered | answered: Io |
//!
//! Durable: nothing. A datafile that does not exist has size 0 and time 0.
use crate::extents;
use crate::state::IoState;
use pvfs2_proto::Result;
use pvfs2_proto::op::{DfStatRequest, DfStatResponse};

/// Serves df_stat.
pub fn df_stat(state: &IoState, req: &DfStatRequest) -> Result<DfStatResponse> {
    extents::check_count(&req.datahandles)?;
    let stats = req
        .datahandles
        .iter()
        .map(|raw| state.bstreams().stat(state.own(*raw)?))
        .collect::<Result<_>>()?;
    Ok(DfStatResponse { stats })
}
