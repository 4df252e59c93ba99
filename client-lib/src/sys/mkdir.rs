//! mkdir: makes a directory.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (mkdir to the server of the directory) | done | error |
//!
//! Durable when done: object and name survive kill -9 of every server.
//! Errors: `Exists`, `NotFound`, `NotDirectory`, `Access`, `NameTooLong`, `TooManyLinks`, `NoSpace`, `ReadOnly`.
use super::{name_failed, named};
use crate::machine::{Cx, Machine, Step};
use crate::tickets::need;
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::MkdirRequest;
use pvfs2_proto::{Attr, Handle, Result};

/// See the head of the file.
pub struct Mkdir {
    dir: Handle,
    name: Bytes,
    mode: u32,
    umask: u32,
}

impl Mkdir {
    /// Makes `name` in `dir` (mode: permission bits).
    pub fn new(dir: Handle, name: Bytes, mode: u32) -> Mkdir {
        Mkdir { dir, name, mode, umask: 0 }
    }

    /// With the umask of whoever asks; the mode is then from before it.
    pub fn umask(mut self, umask: u32) -> Mkdir {
        self.umask = umask;
        self
    }
}

impl Machine for Mkdir {
    type Out = Attr;
    const NAME: &'static str = "mkdir";
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
            MkdirRequest { dir: at.0, name: self.name.clone(), mode: self.mode, umask: self.umask };
        let answer = cx
            .ask(server, request)
            .await
            .inspect_err(|e| name_failed(cx.client, self.dir, &self.name, e))?;
        let mut attr = need(answer.attr, "mkdir answered without attributes")?;
        named(cx.client, self.dir, &self.name, &mut attr, answer.dir_attr);
        Ok(Step::Done(attr))
    }
}
