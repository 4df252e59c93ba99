//! give_back: gives back the right to hold back what is written of a file.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (give_back) | done | error: the server asks for it again |
//!
//! Whoever sends it has written out before, or only asks whether the right is still held. With no
//! right it sees to it that there is a connection on which the server can ask. Results in whether the
//! right was held. Reads, fills and drops no cache.
use crate::machine::{Cx, Machine, Step};
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::GiveBackRequest;
use pvfs2_proto::{Handle, Result, ServerId};

/// See the head of the file.
pub struct GiveBackRight {
    to: Option<ServerId>,
    handle: Handle,
    right: u64,
    keep: bool,
}

impl GiveBackRight {
    /// Gives a right back.
    pub fn new(handle: Handle, right: u64) -> GiveBackRight {
        GiveBackRight { to: None, handle, right, keep: false }
    }

    /// Asks whether it is held.
    pub fn ask(handle: Handle, right: u64) -> GiveBackRight {
        GiveBackRight { keep: true, ..GiveBackRight::new(handle, right) }
    }

    /// Gives nothing back.
    pub fn none(server: ServerId) -> GiveBackRight {
        GiveBackRight { to: Some(server), handle: Handle::NULL, right: 0, keep: false }
    }
}

impl Machine for GiveBackRight {
    type Out = bool;
    const NAME: &'static str = "give_back";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<bool>> {
        let server = match self.to {
            Some(server) => server,
            None => cx.meta_server(self.handle)?,
        };
        let request = GiveBackRequest { handle: self.handle.0, right: self.right, keep: self.keep };
        Ok(Step::Done(cx.ask(server, request).await?.held))
    }
}
