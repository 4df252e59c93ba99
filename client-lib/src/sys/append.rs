//! append: bytes at the end of a file, wherever that is when they arrive.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (append to the file's server, the bytes as its body) | done | error |
//!
//! The metadata server decides the offset and carries the bytes to the datafiles of a striped file,
//! so records of two clients never overlap. One request carries at most one frame's body; more is a
//! short write, as POSIX allows. Durable when done: the bytes survive kill -9 of every server.
//! Errors: `NoSpace`, `FileTooBig`, `Stale`, `ReadOnly`.
use crate::machine::{Cx, Machine, Step};
use crate::open_table::OpenFile;
use crate::sys::{keep_or_drop, object_failed};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::Handle;
use pvfs2_proto::Result;
use pvfs2_proto::limits::BODY_MAX;
use pvfs2_proto::op::AppendRequest;
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// See the head of the file. Results in how many bytes went in, and where the first did.
pub struct Append {
    file: Arc<OpenFile>,
    data: Bytes,
    kill_suidgid: bool,
}

impl Append {
    /// Appends `data` (its first `BODY_MAX` bytes).
    pub fn new(file: Arc<OpenFile>, data: Bytes, kill_suidgid: bool) -> Append {
        Append { file, data: data.slice(..data.len().min(BODY_MAX)), kill_suidgid }
    }
}

impl Machine for Append {
    type Out = (usize, u64);
    const NAME: &'static str = "append";
    fn state(&self) -> &'static str {
        "ask"
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.file.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<(usize, u64)>> {
        self.file.check(true)?;
        if let Some(e) = self.file.take_write_error() {
            return Err(e);
        }
        if self.data.is_empty() {
            return Ok(Step::Done((0, 0)));
        }
        let handle = self.file.handle;
        let server = cx.meta_server(handle)?;
        let request = AppendRequest {
            handle: handle.0,
            known_end: self.file.state.unreported_end(),
            kill_suidgid: self.kill_suidgid,
        };
        let (answer, _) = cx
            .ask_body(server, request, &[&self.data])
            .await
            .inspect_err(|e| object_failed(cx.client, handle, e))?;
        let n = self.data.len();
        self.file.state.changed_at_server(answer.logical_offset + n as u64);
        keep_or_drop(cx.client, handle, answer.attr);
        cx.client.metrics().written_bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(Step::Done((n, answer.logical_offset)))
    }
}
