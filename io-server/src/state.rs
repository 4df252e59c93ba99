//! What the operations share: the bstreams, the range of datahandles, buffers, locks, and the way to
//! the blocking pool.
//!
//! Shared by all event loops (`Send + Sync`). Invariants: a handle outside this server's range never
//! reaches Trove; nothing here waits, except in the closures given to [`IoState::begin_blocking`].
use crate::ahead::AheadJobs;
use crate::locks::DatafileLocks;
use crate::server::IoConfig;
use pvfs2_bmi::buf::{PooledBuf, Pools};
use pvfs2_proto::{ErrorCode, Handle, HandleRange, PvfsError, Result};
use pvfs2_server_core::metrics::Metrics;
use pvfs2_trove::Bstreams;
use std::future::Future;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What the operations share; see the head of this file.
pub struct IoState {
    config: IoConfig,
    range: HandleRange,
    locks: DatafileLocks,
    pools: Pools,
    ahead_jobs: AheadJobs,
}

impl IoState {
    /// State for the server that `config` names.
    ///
    /// # Errors
    /// `Invalid` when the cluster file gives that server no range of datahandles.
    pub(crate) fn new(config: IoConfig) -> Result<IoState> {
        let entry = config.map.server(config.server_id);
        let range = entry.and_then(|e| e.io_range).ok_or_else(|| {
            PvfsError::new(
                ErrorCode::Invalid,
                format!(
                    "server '{}' has no range of datahandles in the cluster file: give it the \
                     role 'io'",
                    config.map.alias(config.server_id)
                ),
            )
        })?;
        let (locks, ahead_jobs) = (DatafileLocks::default(), AheadJobs::default());
        Ok(IoState { range, locks, pools: Pools::new(), ahead_jobs, config })
    }

    /// How the server was set up.
    pub fn config(&self) -> &IoConfig {
        &self.config
    }
    /// The datafiles.
    pub fn bstreams(&self) -> &Arc<Bstreams> {
        &self.config.bstreams
    }
    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.config.metrics
    }
    /// Exclusion of writers.
    pub fn locks(&self) -> &DatafileLocks {
        &self.locks
    }
    /// What is read ahead of requests.
    pub(crate) fn ahead_jobs(&self) -> &AheadJobs {
        &self.ahead_jobs
    }
    /// The server's alias, for messages.
    pub fn alias(&self) -> &str {
        self.config.map.alias(self.config.server_id)
    }

    /// A warm buffer of `len` bytes with arbitrary contents.
    pub fn take_buf(&self, len: usize) -> PooledBuf {
        self.pools.take(len)
    }

    /// The handle, if it is one of this server's.
    ///
    /// # Errors
    /// `Stale` otherwise.
    pub fn own(&self, raw: u64) -> Result<Handle> {
        let handle = Handle(raw);
        if self.range.contains(handle) {
            return Ok(handle);
        }
        Err(PvfsError::new(
            ErrorCode::Stale,
            format!(
                "datahandle {handle} is none of I/O server '{}', which has {:016x} to {:016x}: \
                 compare the client's map with the cluster file",
                self.alias(),
                self.range.first,
                self.range.last
            ),
        ))
    }

    /// Runs what may wait for the disk in the blocking pool (in a simulation: at once) and waits.
    ///
    /// # Errors
    /// Those of `work`; `Io` when the pool has ended or `work` panicked.
    ///
    /// # Cancel safety
    /// The work goes on when the future is dropped.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.begin_blocking(work).await
    }

    /// As [`IoState::blocking`], but the work has begun when this returns.
    pub fn begin_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + 'static {
        let running = if self.config.inline {
            Running::Ended(work())
        } else {
            Running::Pool(tokio::task::spawn_blocking(work))
        };
        async move {
            match running {
                Running::Ended(result) => result,
                Running::Pool(handle) => handle.await.unwrap_or_else(|e| {
                    Err(PvfsError::new(
                        ErrorCode::Io,
                        format!("the I/O server's blocking pool lost the request: {e}"),
                    ))
                }),
            }
        }
    }
}

enum Running<T> {
    Ended(Result<T>),
    Pool(JoinHandle<Result<T>>),
}
