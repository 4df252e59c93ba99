//! io_statfs: this server's share of statfs.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Asked (the local file system, in the blocking pool: it may be slow) | answered | answered: Io |
//!
//! Durable: nothing.
use crate::server::IoServer;
use pvfs2_proto::Result;
use pvfs2_proto::op::IoStatfsResponse;
use std::sync::Arc;

/// Serves io_statfs.
pub async fn io_statfs(server: &Arc<IoServer>) -> Result<IoStatfsResponse> {
    let pool_server = server.clone();
    server
        .blocking(move || {
            let (bytes_free, bytes_total, datafiles) = pool_server.bstreams().statfs()?;
            Ok(IoStatfsResponse { bytes_free, bytes_total, datafiles })
        })
        .await
}
