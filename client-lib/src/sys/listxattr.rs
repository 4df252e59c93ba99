//! listxattr: names of the extended attributes.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (listxattr to the object's server) | done | error |
//!
//! Changes nothing. Always asks: the `user.pvfs2.*` names do not show in `HAS_XATTR`. Errors: `Stale`.
use super::object_failed;
use crate::machine::{Cx, Machine, Step};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::ListxattrRequest;
use pvfs2_proto::{Handle, Result};

/// See the head of the file.
pub struct Listxattr {
    handle: Handle,
}

impl Listxattr {
    /// Names of the extended attributes of `handle`, with their namespaces.
    pub fn new(handle: Handle) -> Listxattr {
        Listxattr { handle }
    }
}

impl Machine for Listxattr {
    type Out = Vec<Bytes>;
    const NAME: &'static str = "listxattr";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Vec<Bytes>>> {
        let server = cx.meta_server(self.handle)?;
        let answer = cx
            .ask(server, ListxattrRequest { handle: self.handle.0 })
            .await
            .inspect_err(|e| object_failed(cx.client, self.handle, e))?;
        Ok(Step::Done(answer.names))
    }
}
