//! [`IoServer`]: an I/O server's life, and its face to `server-core`.
//!
//! All event loops share one `Arc<IoServer>`. One of them also runs [`IoServer::background`], which
//! scrubs at a bounded rate (and in simulations does Trove's background work; on a disk Trove has a
//! thread that writes out within a second). [`IoServer::shutdown`] writes out for the last time.
//!
//! Invariant: the server keeps nothing that cannot be lost: everything else is Trove's.
use crate::ops;
use crate::scrub::Scrubber;
use crate::state::IoState;
use pvfs2_bmi::service::Body;
use pvfs2_proto::env::Env;
use pvfs2_proto::op::OpRequest;
use pvfs2_proto::{ClusterMap, Result, ServerId};
use pvfs2_server_core::metrics::{Metrics, names};
use pvfs2_server_core::service::{Answer, OpCx, OpHandler};
use pvfs2_trove::Bstreams;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// What an I/O server is made of.
pub struct IoConfig {
    /// This server.
    pub server_id: ServerId,
    /// The cluster.
    pub map: Arc<ClusterMap>,
    /// The datafiles.
    pub bstreams: Arc<Bstreams>,
    /// Clock and chance.
    pub env: Env,
    /// Counters, shared with the session service.
    pub metrics: Arc<Metrics>,
    /// Time between two rounds of background work.
    pub round_ms: u64,
    /// Bytes that the scrub reads per second; 0: no scrub.
    pub scrub_bytes_per_s: u64,
    /// Do everything in the event loop, also what waits for the disk (simulations: no threads).
    pub inline: bool,
}

impl IoConfig {
    /// The usual values.
    pub fn new(
        server_id: ServerId,
        map: Arc<ClusterMap>,
        bstreams: Arc<Bstreams>,
        env: Env,
        metrics: Arc<Metrics>,
    ) -> IoConfig {
        IoConfig {
            server_id,
            map,
            bstreams,
            env,
            metrics,
            round_ms: 1_000,
            scrub_bytes_per_s: 4 << 20,
            inline: false,
        }
    }
}

/// An I/O server; see the head of this file.
pub struct IoServer {
    state: Arc<IoState>,
}

impl IoServer {
    /// A server over its datafiles, ready for requests.
    ///
    /// # Errors
    /// `Invalid` when the cluster file gives the server no range of datahandles.
    pub fn open(config: IoConfig) -> Result<Arc<IoServer>> {
        Ok(Arc::new(IoServer { state: Arc::new(IoState::new(config)?) }))
    }

    /// What the operations share.
    pub fn state(&self) -> &Arc<IoState> {
        &self.state
    }

    /// Scrubs, once per `round_ms` (see the head of this file), until `shutdown` is true or its
    /// sender is gone. To be run by one event loop.
    ///
    /// # Cancel safety
    /// Safe: whatever is under way in the pool ends there.
    pub async fn background(&self, mut shutdown: watch::Receiver<bool>) {
        let period = Duration::from_millis(self.state.config().round_ms.max(10));
        let mut tick = tokio::time::interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut scrubber = Scrubber::new(self.state.clone());
        let rate = u128::from(self.state.config().scrub_bytes_per_s);
        let budget = (rate * period.as_millis() / 1000).min(u128::from(u32::MAX)) as u64;
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                _ = tick.tick() => {}
            }
            // On a disk Trove writes out by a thread of its own; in a simulation nobody else does.
            if self.state.config().inline
                && let Err(e) = self.state.bstreams().step()
            {
                tracing::error!(
                    server = self.state.alias(),
                    "cannot write datafiles out; check the disk, then restart this server: {e}"
                );
            }
            if budget > 0 {
                scrubber.turn(budget).await;
            }
        }
    }

    /// Writes out for the last time. Call it after the last request has been answered.
    ///
    /// # Errors
    /// `Io` when the disk refuses: the bytes of the last second may be lost with the power.
    pub async fn shutdown(&self) -> Result<()> {
        let state = self.state.clone();
        self.state.blocking(move || state.bstreams().step()).await
    }
}

impl OpHandler for IoServer {
    async fn op(&self, _cx: &OpCx, op: OpRequest, body: Body) -> Result<Answer> {
        ops::dispatch(&self.state, op, body).await
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        match self.state.bstreams().statfs() {
            Ok(s) => vec![
                (names::STORAGE_FREE, s.bytes_free),
                (names::STORAGE_TOTAL, s.bytes_total),
                (names::DATAFILES, s.datafiles),
            ],
            Err(e) => {
                tracing::warn!(server = self.state.alias(), "cannot ask for free space: {e}");
                Vec::new()
            }
        }
    }
}
