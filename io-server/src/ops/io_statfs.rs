//! io_statfs: this server's share of statfs.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Asked (the local file system, in the blocking pool: it may be slow) | answered | answered: Io |
//!
//! Durable: nothing.
use crate::state::IoState;
use pvfs2_proto::Result;
use pvfs2_proto::op::IoStatfsResponse;
use std::sync::Arc;

/// Serves io_statfs.
pub async fn io_statfs(state: &Arc<IoState>) -> Result<IoStatfsResponse> {
    let pool = state.clone();
    state
        .blocking(move || {
            let s = pool.bstreams().statfs()?;
            Ok(IoStatfsResponse {
                bytes_free: s.bytes_free,
                bytes_total: s.bytes_total,
                datafiles: s.datafiles,
                disk: s.disk,
            })
        })
        .await
}
