//! getlk: which lock of another would stand in the way (F_GETLK).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (getlk to the file's server) | done | error |
//!
//! Reads and fills no cache. Errors: `Stale`, `Invalid`.
use crate::machine::{Cx, Machine, Step};
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::{GetlkRequest, LockState};
use pvfs2_proto::{Handle, LockRange, Result};

/// See the head of the file.
pub struct Getlk {
    request: GetlkRequest,
}

impl Getlk {
    /// Asks for `owner`; `kind` READ or WRITE of `lock_kind`.
    pub fn new(handle: Handle, owner: u64, range: LockRange, kind: u32) -> Getlk {
        let (first, last) = (range.first, range.last);
        Getlk { request: GetlkRequest { handle: handle.0, owner, first, last, kind } }
    }
}

impl Machine for Getlk {
    type Out = Option<LockState>;
    const NAME: &'static str = "getlk";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Option<LockState>>> {
        let server = cx.meta_server(Handle(self.request.handle))?;
        Ok(Step::Done(cx.ask(server, self.request.clone()).await?.conflict))
    }
}
