//! setxattr: sets an extended attribute.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (setxattr to the object's server) | done | error |
//!
//! Durable when done: survives kill -9 of every server. Errors: `Exists` (create), `NoAttribute`
//! (replace), `Access`, `NotPermitted`, `NotSupported`, `Range`, `TooBig`, `NoSpace`, `ReadOnly`, `Stale`.
use super::{keep_or_drop, object_failed};
use crate::machine::{Cx, Machine, Step};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::SetxattrRequest;
use pvfs2_proto::{Handle, Result};

/// See the head of the file.
pub struct Setxattr {
    handle: Handle,
    name: Bytes,
    value: Bytes,
    create: bool,
    replace: bool,
}

impl Setxattr {
    /// Sets `name` (with its namespace) of `handle`; `create`: it must not exist, `replace`: it must.
    pub fn new(handle: Handle, name: Bytes, value: Bytes, create: bool, replace: bool) -> Setxattr {
        Setxattr { handle, name, value, create, replace }
    }
}

impl Machine for Setxattr {
    type Out = ();
    const NAME: &'static str = "setxattr";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        let server = cx.meta_server(self.handle)?;
        let request = SetxattrRequest {
            handle: self.handle.0,
            name: self.name.clone(),
            value: self.value.clone(),
            create: self.create,
            replace: self.replace,
        };
        let answer = cx
            .ask(server, request)
            .await
            .inspect_err(|e| object_failed(cx.client, self.handle, e))?;
        keep_or_drop(cx.client, self.handle, answer.attr);
        Ok(Step::Done(()))
    }
}
