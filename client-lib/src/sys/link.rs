//! link: makes another name for an object that is no directory.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (link to the server of the new name's directory) | done | error |
//!
//! Durable when done: name and link count survive kill -9 of every server. Errors: `Exists`,
//! `NotFound`, `NotPermitted` (a directory), `TooManyLinks`, `Access`, `Stale`, `NoSpace`, `ReadOnly`.
use super::{name_failed, named, object_failed};
use crate::machine::{Cx, Machine, Step};
use crate::tickets::need;
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::LinkRequest;
use pvfs2_proto::{Attr, Handle, Result};

/// See the head of the file.
pub struct Link {
    handle: Handle,
    dir: Handle,
    name: Bytes,
}

impl Link {
    /// Names `handle` as `name` in `dir`; results in its attributes afterwards.
    pub fn new(handle: Handle, dir: Handle, name: Bytes) -> Link {
        Link { handle, dir, name }
    }
}

impl Machine for Link {
    type Out = Attr;
    const NAME: &'static str = "link";
    fn state(&self) -> &'static str {
        "ask"
    }
    fn adds(&self) -> Option<(Handle, &[u8])> {
        Some((self.dir, &self.name))
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        let at = cx.part_of(self.dir, &self.name);
        let server = cx.meta_server(at)?;
        let request = LinkRequest { handle: self.handle.0, dir: at.0, name: self.name.clone() };
        let answer = cx.ask(server, request).await.inspect_err(|e| {
            name_failed(cx.client, self.dir, &self.name, e);
            object_failed(cx.client, self.handle, e);
        })?;
        let mut attr = need(answer.attr, "link answered without attributes")?;
        named(cx.client, self.dir, &self.name, &mut attr, answer.dir_attr);
        Ok(Step::Done(attr))
    }
}
