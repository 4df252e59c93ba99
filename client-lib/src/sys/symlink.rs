//! symlink: makes a symlink.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (symlink to the server of the directory) | done | error |
//!
//! Durable when done: object and name survive kill -9 of every server.
//! Errors: `Exists`, `NotFound`, `NotDirectory`, `Access`, `NameTooLong`, `NoSpace`, `ReadOnly`.
use super::{name_failed, named};
use crate::machine::{Cx, Machine, Step};
use crate::tickets::need;
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::SymlinkRequest;
use pvfs2_proto::{Attr, Handle, Result};

/// See the head of the file.
pub struct Symlink {
    dir: Handle,
    name: Bytes,
    target: Bytes,
}

impl Symlink {
    /// Makes `name` in `dir` (target: what it points to).
    pub fn new(dir: Handle, name: Bytes, target: Bytes) -> Symlink {
        Symlink { dir, name, target }
    }
}

impl Machine for Symlink {
    type Out = Attr;
    const NAME: &'static str = "symlink";
    fn state(&self) -> &'static str {
        "ask"
    }
    fn adds(&self) -> Option<(Handle, &[u8])> {
        Some((self.dir, &self.name))
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        let at = cx.part_of(self.dir, &self.name);
        let server = cx.meta_server(at)?;
        let request =
            SymlinkRequest { dir: at.0, name: self.name.clone(), target: self.target.clone() };
        let answer = cx
            .ask(server, request)
            .await
            .inspect_err(|e| name_failed(cx.client, self.dir, &self.name, e))?;
        let mut attr = need(answer.attr, "symlink answered without attributes")?;
        named(cx.client, self.dir, &self.name, &mut attr, answer.dir_attr);
        Ok(Step::Done(attr))
    }
}
