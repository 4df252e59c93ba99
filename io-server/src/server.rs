//! [`IoServer`]: an I/O server's life, and its face to `server-core`.
//!
//! All event loops share one `Arc<IoServer>`. One of them also runs [`IoServer::background`]: once a
//! second it writes out what was written (so that loss of power costs at most the last second) and
//! forgets old tombstones; between, it scrubs at a bounded rate. [`IoServer::shutdown`] writes out
//! for the last time.
//!
//! Invariant: the server keeps nothing that cannot be lost: datafiles are Trove's, tombstones and
//! buffers are conveniences.
use crate::ops;
use crate::state::IoState;
use parking_lot::Mutex;
use pvfs2_bmi::service::Body;
use pvfs2_proto::env::Env;
use pvfs2_proto::op::OpRequest;
use pvfs2_proto::{ClusterMap, Result, ServerId};
use pvfs2_server_core::metrics::{Metrics, names};
use pvfs2_server_core::service::{Answer, OpCx, OpHandler};
use pvfs2_trove::Bstreams;
use pvfs2_trove::scrub::Scrub;
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
    /// How long writes to a removed datahandle are refused.
    pub handle_recycle_ms: u64,
    /// Time between two write-outs.
    pub write_out_ms: u64,
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
            handle_recycle_ms: 360_000,
            write_out_ms: 1_000,
            scrub_bytes_per_s: 4 << 20,
            inline: false,
        }
    }
}

/// An I/O server; see the head of this file.
pub struct IoServer {
    state: Arc<IoState>,
    scrub: Mutex<ScrubTurn>,
}

/// Pause between two passes of the scrub, and before the first.
const SCRUB_PAUSE: Duration = Duration::from_secs(3600);

/// Where the scrub is.
enum ScrubTurn {
    /// The next pass begins at this time.
    At(i64),
    /// In the middle of a pass.
    Pass(Scrub),
    /// A step is under way.
    Busy,
}

impl IoServer {
    /// A server over its datafiles, ready for requests.
    ///
    /// # Errors
    /// `Invalid` when the cluster file gives the server no range of datahandles.
    pub fn open(config: IoConfig) -> Result<Arc<IoServer>> {
        let first = config.env.now_ns().saturating_add(SCRUB_PAUSE.as_nanos() as i64);
        let scrub = Mutex::new(ScrubTurn::At(first));
        Ok(Arc::new(IoServer { state: Arc::new(IoState::new(config)?), scrub }))
    }

    /// What the operations share.
    pub fn state(&self) -> &Arc<IoState> {
        &self.state
    }

    /// Writes out once per `write_out_ms`, forgets old tombstones, scrubs; until `shutdown` is true
    /// (or its sender is gone). To be run by one event loop.
    ///
    /// # Cancel safety
    /// Safe: whatever is under way in the pool ends there.
    pub async fn background(&self, mut shutdown: watch::Receiver<bool>) {
        let period = Duration::from_millis(self.state.config().write_out_ms.max(10));
        let mut tick = tokio::time::interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                _ = tick.tick() => self.tick(period).await,
            }
        }
    }

    async fn tick(&self, period: Duration) {
        self.state.tombstones().purge(self.state.config().env.now_ns());
        // On disk Trove writes out by a thread of its own; in memory nobody else does.
        if self.state.config().inline {
            self.write_out().await;
        }
        let rate = u128::from(self.state.config().scrub_bytes_per_s);
        let budget = (rate * period.as_millis() / 1000).min(u128::from(u32::MAX)) as u64;
        if budget > 0 {
            self.scrub(budget).await;
        }
    }

    async fn write_out(&self) {
        let state = self.state.clone();
        if let Err(e) = self.state.blocking(move || state.bstreams().step()).await {
            tracing::error!(
                server = self.state.alias(),
                "cannot write datafiles out; check the disk, then restart this server: {e}"
            );
        }
    }

    /// Reads `budget_bytes` of the running pass over all datafiles; a new pass begins
    /// [`SCRUB_PAUSE`] after the last one ended.
    async fn scrub(&self, budget_bytes: u64) {
        let now_ns = self.state.config().env.now_ns();
        let mut pass = match std::mem::replace(&mut *self.scrub.lock(), ScrubTurn::Busy) {
            ScrubTurn::At(ns) if now_ns < ns => {
                *self.scrub.lock() = ScrubTurn::At(ns);
                return;
            }
            ScrubTurn::At(_) => Scrub::new(self.state.config().bstreams.clone()),
            ScrubTurn::Pass(pass) => pass,
            ScrubTurn::Busy => return,
        };
        let stepped = self.state.blocking(move || {
            let step = pass.step(budget_bytes);
            Ok((pass, step))
        });
        let later = ScrubTurn::At(now_ns.saturating_add(SCRUB_PAUSE.as_nanos() as i64));
        *self.scrub.lock() = match stepped.await {
            Ok((pass, Ok(step))) => {
                for damage in &step.damaged {
                    tracing::error!(server = self.state.alias(), "scrub: {}", damage.detail);
                }
                if step.done { later } else { ScrubTurn::Pass(pass) }
            }
            Ok((pass, Err(e))) => {
                tracing::error!(server = self.state.alias(), "scrub cannot read: {e}");
                ScrubTurn::Pass(pass)
            }
            Err(e) => {
                tracing::error!(server = self.state.alias(), "scrub has stopped for now: {e}");
                later
            }
        };
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
            Ok((free, total, datafiles)) => vec![
                (names::STORAGE_FREE, free),
                (names::STORAGE_TOTAL, total),
                (names::DATAFILES, datafiles),
            ],
            Err(e) => {
                tracing::warn!(server = self.state.alias(), "cannot ask for free space: {e}");
                Vec::new()
            }
        }
    }
}
