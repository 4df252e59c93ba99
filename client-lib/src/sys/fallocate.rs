//! fallocate: reserves space, punches holes, zeroes ranges.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (fallocate to the file's server, which drives the I/O servers) | done | error |
//!
//! Durable when done: survives kill -9 of every server. Errors: `NotSupported`, `NoSpace`,
//! `FileTooBig`, `Invalid`, `Stale`, `ReadOnly`.
use crate::machine::{Cx, Machine, Step};
use crate::open_table::OpenFile;
use crate::sys::{keep_or_drop, object_failed};
use pvfs2_bmi::call::Net;
use pvfs2_proto::Handle;
use pvfs2_proto::Result;
use pvfs2_proto::op::{FallocateKind, FallocateRequest};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// See the head of the file.
pub struct Fallocate {
    file: Arc<OpenFile>,
    kind: FallocateKind,
    logical_offset: u64,
    len: u64,
    kill_suidgid: bool,
}

impl Fallocate {
    /// Does `kind` to `len` bytes from `logical_offset`.
    pub fn new(
        file: Arc<OpenFile>,
        kind: FallocateKind,
        logical_offset: u64,
        len: u64,
        kill_suidgid: bool,
    ) -> Fallocate {
        Fallocate { file, kind, logical_offset, len, kill_suidgid }
    }
}

impl Machine for Fallocate {
    type Out = ();
    const NAME: &'static str = "fallocate";
    fn state(&self) -> &'static str {
        "ask"
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.file.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        self.file.check(true)?;
        let handle = self.file.handle;
        let server = cx.meta_server(handle)?;
        let request = FallocateRequest {
            handle: handle.0,
            kind: self.kind as i32,
            logical_offset: self.logical_offset,
            len: self.len,
            known_end: self.file.state.unreported_end(),
            kill_suidgid: self.kill_suidgid,
        };
        let answer =
            cx.ask(server, request).await.inspect_err(|e| object_failed(cx.client, handle, e))?;
        let extends = matches!(self.kind, FallocateKind::Allocate | FallocateKind::ZeroRange);
        let end = if extends { self.logical_offset.saturating_add(self.len) } else { 0 };
        self.file.state.changed_at_server(end);
        keep_or_drop(cx.client, handle, answer.attr);
        Ok(Step::Done(()))
    }
}
