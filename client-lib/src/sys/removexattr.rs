//! removexattr: removes an extended attribute.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (removexattr to the object's server) | done | error |
//!
//! Durable when done: survives kill -9 of every server. Errors: `NoAttribute`, `Access`,
//! `NotPermitted`, `NotSupported`, `ReadOnly`, `Stale`.
use super::{keep_or_drop, object_failed};
use crate::machine::{Cx, Machine, Step};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::RemovexattrRequest;
use pvfs2_proto::{Handle, Result};

/// See the head of the file.
pub struct Removexattr {
    handle: Handle,
    name: Bytes,
}

impl Removexattr {
    /// Removes `name` (with its namespace) of `handle`.
    pub fn new(handle: Handle, name: Bytes) -> Removexattr {
        Removexattr { handle, name }
    }
}

impl Machine for Removexattr {
    type Out = ();
    const NAME: &'static str = "removexattr";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        let server = cx.meta_server(self.handle)?;
        let answer = cx
            .ask(server, RemovexattrRequest { handle: self.handle.0, name: self.name.clone() })
            .await
            .inspect_err(|e| object_failed(cx.client, self.handle, e))?;
        keep_or_drop(cx.client, self.handle, answer.attr);
        Ok(Step::Done(()))
    }
}
