//! Both servers in one process: which of the two answers what.
//!
//! Place in the walks: between [`crate::service`] and the operations, on a server with both roles.
use crate::service::{Answer, FIRST_PEER_OP, Notifier, OpCx, OpHandler};
use pvfs2_bmi::service::Body;
use pvfs2_proto::Result;
use pvfs2_proto::op::{LockState, OpRequest, OpResponse, OpenState};
use std::sync::Arc;

/// Both roles in one process: operations 50 to 69 go to the I/O server, all others to the metadata
/// server.
pub struct CombinedHandler<M, I> {
    /// The metadata server.
    pub meta: Arc<M>,
    /// The I/O server.
    pub io: Arc<I>,
}

impl<M: OpHandler, I: OpHandler> OpHandler for CombinedHandler<M, I> {
    async fn op(&self, cx: &OpCx, op: OpRequest, body: Body) -> Result<Answer> {
        if (50..FIRST_PEER_OP).contains(&(op.op() as u16)) {
            self.io.op(cx, op, body).await
        } else {
            self.meta.op(cx, op, body).await
        }
    }
    fn attach(&self, notifier: Notifier) {
        self.meta.attach(notifier);
    }
    fn session_ended(&self, session: u64) {
        self.meta.session_ended(session);
        self.io.session_ended(session);
    }
    fn reclaim(&self, session: u64, opens: &[OpenState]) -> Vec<u64> {
        self.meta.reclaim(session, opens)
    }
    fn reclaim_locks(&self, session: u64, locks: &[LockState], allowed: bool) -> Vec<LockState> {
        self.meta.reclaim_locks(session, locks, allowed)
    }
    fn answered_before(&self, session: u64, op: &OpRequest, response: &OpResponse) {
        self.meta.answered_before(session, op, response);
    }
    fn grace_ended(&self) {
        self.meta.grace_ended();
    }
    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.meta.gauges();
        all.extend(self.io.gauges());
        all
    }
}
