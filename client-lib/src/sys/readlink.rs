//! readlink: what a symlink points to.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (readlink to the symlink's server) | done | error |
//!
//! Changes nothing. Errors: `Invalid` (no symlink), `Stale`.
use super::object_failed;
use crate::machine::{Cx, Machine, Step};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::ReadlinkRequest;
use pvfs2_proto::{Handle, Result};

/// See the head of the file.
pub struct Readlink {
    handle: Handle,
}

impl Readlink {
    /// Reads the symlink `handle`.
    pub fn new(handle: Handle) -> Readlink {
        Readlink { handle }
    }
}

impl Machine for Readlink {
    type Out = Bytes;
    const NAME: &'static str = "readlink";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Bytes>> {
        let server = cx.meta_server(self.handle)?;
        let answer = cx
            .ask(server, ReadlinkRequest { handle: self.handle.0 })
            .await
            .inspect_err(|e| object_failed(cx.client, self.handle, e))?;
        Ok(Step::Done(answer.target))
    }
}
