//! mknod: makes a special file, or a regular one without opening it.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (mknod to the server of the directory) | done | error |
//!
//! Durable when done: object and name survive kill -9 of every server.
//! Errors: `Exists`, `NotFound`, `NotDirectory`, `Access`, `NotPermitted` (a device, not by root), `NameTooLong`, `NoSpace`, `ReadOnly`.
use super::{name_failed, named};
use crate::machine::{Cx, Machine, Step};
use crate::tickets::need;
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::MknodRequest;
use pvfs2_proto::{Attr, Handle, Result};

/// See the head of the file.
pub struct Mknod {
    dir: Handle,
    name: Bytes,
    mode: u32,
    umask: u32,
    rdev: u32,
}

impl Mknod {
    /// Makes `name` in `dir` (mode: type and permission bits).
    pub fn new(dir: Handle, name: Bytes, mode: u32, rdev: u32) -> Mknod {
        Mknod { dir, name, mode, umask: 0, rdev }
    }

    /// With the umask of whoever asks; the mode is then from before it.
    pub fn umask(mut self, umask: u32) -> Mknod {
        self.umask = umask;
        self
    }
}

impl Machine for Mknod {
    type Out = Attr;
    const NAME: &'static str = "mknod";
    fn state(&self) -> &'static str {
        "ask"
    }
    fn adds(&self) -> Option<(Handle, &[u8])> {
        Some((self.dir, &self.name))
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        let at = cx.part_of(self.dir, &self.name);
        let server = cx.meta_server(at)?;
        let request = MknodRequest {
            dir: at.0,
            name: self.name.clone(),
            mode: self.mode,
            rdev: self.rdev,
            umask: self.umask,
        };
        let answer = cx
            .ask(server, request)
            .await
            .inspect_err(|e| name_failed(cx.client, self.dir, &self.name, e))?;
        let mut attr = need(answer.attr, "mknod answered without attributes")?;
        named(cx.client, self.dir, &self.name, &mut attr, answer.dir_attr);
        Ok(Step::Done(attr))
    }
}
