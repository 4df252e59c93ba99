//! df_truncate: sets a datafile's length.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (handle ours, size possible) | Excluded | answered: Stale, FileTooBig |
//! | Excluded (no writer inside) | Cut | - |
//! | Cut (shortened; lengthened only with `extend`) | answered | answered: Io, NoSpace; Stale: removed lately |
//!
//! Durable when the reply leaves: against kill -9 (the length is the kernel's); against loss of
//! power after df_sync or the next write-out. A datafile that does not exist stays so, unless
//! `extend` makes it. A cut that frees much goes to the blocking pool.
use crate::state::IoState;
use pvfs2_proto::limits::FILE_SIZE_MAX;
use pvfs2_proto::op::{DfTruncateRequest, DfTruncateResponse};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use std::sync::Arc;

/// Cuts that free up to this many bytes are done in the event loop.
const INLINE_BYTES_MAX: u64 = 1 << 20;

/// Serves df_truncate.
pub async fn df_truncate(
    state: &Arc<IoState>,
    req: DfTruncateRequest,
) -> Result<DfTruncateResponse> {
    let datahandle = state.own(req.datahandle)?;
    if req.size > FILE_SIZE_MAX {
        return Err(PvfsError::new(
            ErrorCode::FileTooBig,
            format!("datafile {datahandle} cannot be {} bytes long", req.size),
        ));
    }
    let freed = state.bstreams().stat(datahandle)?.size.saturating_sub(req.size);
    let cut = move |state: &IoState| {
        let _writer = state.locks().lock(datahandle);
        state.bstreams().truncate(datahandle, req.size, req.extend)
    };
    if freed <= INLINE_BYTES_MAX {
        cut(state)?;
    } else {
        let pool = state.clone();
        state.blocking(move || cut(&pool)).await?;
    }
    Ok(DfTruncateResponse {})
}
