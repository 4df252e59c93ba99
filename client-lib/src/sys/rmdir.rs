//! rmdir: removes an empty directory.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (rmdir to the server of the parent) | done | error |
//!
//! Durable when done: name and directory are gone for good. Errors: `NotFound`, `NotEmpty`,
//! `NotDirectory`, `Access`, `NotPermitted` (sticky directory), `InUse`, `ReadOnly`.
use super::{name_failed, unnamed};
use crate::machine::{Cx, Machine, Step};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::RmdirRequest;
use pvfs2_proto::{Handle, Result};

/// See the head of the file.
pub struct Rmdir {
    dir: Handle,
    name: Bytes,
}

impl Rmdir {
    /// Removes the directory `name` from `dir`; results in its handle.
    pub fn new(dir: Handle, name: Bytes) -> Rmdir {
        Rmdir { dir, name }
    }
}

impl Machine for Rmdir {
    type Out = Handle;
    const NAME: &'static str = "rmdir";
    fn state(&self) -> &'static str {
        "ask"
    }
    fn removes(&self) -> Option<(Handle, &[u8])> {
        Some((self.dir, &self.name))
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Handle>> {
        let at = cx.part_of(self.dir, &self.name);
        let server = cx.meta_server(at)?;
        let answer = cx
            .ask(server, RmdirRequest { dir: at.0, name: self.name.clone() })
            .await
            .inspect_err(|e| name_failed(cx.client, self.dir, &self.name, e))?;
        unnamed(cx.client, self.dir, &self.name, answer.dir_attr);
        cx.client.acache().drop_handle(Handle(answer.handle));
        Ok(Step::Done(Handle(answer.handle)))
    }
}
