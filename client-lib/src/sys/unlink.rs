//! unlink: removes a name of an object that is no directory.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (unlink to the server of the directory) | done | error |
//!
//! Durable when done: the name is gone for good; the object too with its last name, unless somebody
//! has it open; its datafiles are removed later by the server. Errors: `NotFound`, `IsDirectory`,
//! `Access`, `NotPermitted` (sticky directory), `ReadOnly`.
use super::{keep_or_drop, name_failed, unnamed};
use crate::machine::{Cx, Machine, Step};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::UnlinkRequest;
use pvfs2_proto::{Handle, Result};

/// See the head of the file.
pub struct Unlink {
    dir: Handle,
    name: Bytes,
}

impl Unlink {
    /// Removes `name` from `dir`; results in the object that lost it.
    pub fn new(dir: Handle, name: Bytes) -> Unlink {
        Unlink { dir, name }
    }
}

impl Machine for Unlink {
    type Out = Handle;
    const NAME: &'static str = "unlink";
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
            .ask(server, UnlinkRequest { dir: at.0, name: self.name.clone() })
            .await
            .inspect_err(|e| name_failed(cx.client, self.dir, &self.name, e))?;
        unnamed(cx.client, self.dir, &self.name, answer.dir_attr);
        keep_or_drop(cx.client, Handle(answer.handle), answer.attr.filter(|a| a.nlink > 0));
        Ok(Step::Done(Handle(answer.handle)))
    }
}
