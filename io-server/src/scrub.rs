//! The scrub's turns: passes over all datafiles at a bounded rate, so that damage is found before
//! somebody reads it.
//!
//! Owned by [`crate::IoServer::background`] alone. Invariant: between two passes, and before the
//! first, [`PAUSE_NS`] go by: a server that starts has better things to do with its disk.
use crate::state::IoState;
use pvfs2_trove::scrub::{Scrub, ScrubStep};
use std::sync::Arc;

/// Pause between two passes, and before the first: an hour.
pub const PAUSE_NS: i64 = 3_600_000_000_000;

/// Where the scrub is.
pub struct Scrubber {
    state: Arc<IoState>,
    /// The pass under way.
    pass: Option<Scrub>,
    /// When the next one begins.
    next_ns: i64,
}

impl Scrubber {
    /// A scrub whose first pass begins after [`PAUSE_NS`].
    pub fn new(state: Arc<IoState>) -> Scrubber {
        let next_ns = state.config().env.now_ns().saturating_add(PAUSE_NS);
        Scrubber { state, pass: None, next_ns }
    }

    /// Reads about `budget_bytes` of the pass under way, or begins one if it is time. Damage goes to
    /// the log, and to the caller.
    ///
    /// # Cancel safety
    /// A dropped turn ends its pass; the next one begins anew.
    pub async fn turn(&mut self, budget_bytes: u64) -> ScrubStep {
        let now_ns = self.state.config().env.now_ns();
        let mut pass = match self.pass.take() {
            Some(pass) => pass,
            None if now_ns < self.next_ns => return ScrubStep::default(),
            None => Scrub::new(self.state.bstreams().clone()),
        };
        self.next_ns = now_ns.saturating_add(PAUSE_NS);
        let work = move || {
            let step = pass.step(budget_bytes);
            Ok((pass, step))
        };
        let server = self.state.alias();
        let step = match self.state.blocking(work).await {
            Ok((pass, step)) => {
                if !step.as_ref().is_ok_and(|s| s.done) {
                    self.pass = Some(pass);
                }
                step
            }
            Err(e) => Err(e),
        };
        match step {
            Ok(step) => {
                for damage in &step.damaged {
                    tracing::error!(server, "scrub: {}", damage.detail);
                }
                step
            }
            Err(e) => {
                tracing::error!(server, "scrub cannot read: {e}");
                ScrubStep::default()
            }
        }
    }
}
