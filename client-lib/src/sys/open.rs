//! open: opens a regular file, in one request that can bring a small file's bytes along.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | hold (a file that is open here: wait for its reports, bar new ones) | ask | error |
//! | ask (open to the file's server) | done | error |
//!
//! Durable when done: with O_TRUNC the truncation. Errors: `Access`, `Stale`, `IsDirectory`,
//! `ReadOnly`, `InUse`.
use crate::machine::{Cx, Machine, Step};
use crate::open_table::{Hold, OpenFile};
use crate::sys::{hold, keep, object_failed};
use crate::tickets::need;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::OpenRequest;
use pvfs2_proto::{Handle, Result};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

/// See the head of the file.
pub struct Open {
    request: OpenRequest,
    held: Option<Option<Hold>>,
}

impl Open {
    /// Opens `handle` for `(read, write)`, with O_TRUNC where `truncate`.
    pub fn new(handle: Handle, (read, write): (bool, bool), truncate: bool) -> Open {
        let request = OpenRequest { handle: handle.0, read, write, truncate, ..Default::default() };
        Open { request, held: None }
    }

    /// Opened to be executed: checked against x, not r.
    pub fn exec(mut self) -> Open {
        self.request.exec = true;
        self
    }
}

impl Machine for Open {
    type Out = Arc<OpenFile>;
    const NAME: &'static str = "open";
    fn state(&self) -> &'static str {
        if self.held.is_none() { "hold" } else { "ask" }
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![Handle(self.request.handle)]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Arc<OpenFile>>> {
        let (client, handle) = (cx.client, Handle(self.request.handle));
        if self.held.is_none() {
            // A close under way would take this client's knowledge of the size with it, between the
            // server's answer to this open and its arrival here.
            let file = client.opens().get(handle);
            self.held = Some(match file {
                Some(file) => Some(hold(cx, &file).await?),
                None => None,
            });
            return Ok(Step::Next);
        }
        let reads = self.request.read || self.request.exec;
        let keeps_bytes = reads && !self.request.write && client.acache().is_on();
        let want_right = self.request.write && client.joins().is_on();
        let cuts = client.joins().cuts();
        let request = OpenRequest { want_bytes: keeps_bytes, want_right, ..self.request.clone() };
        let server = cx.meta_server(handle)?;
        let asked_ns = cx.now_ns();
        let answer =
            cx.ask(server, request).await.inspect_err(|e| object_failed(client, handle, e))?;
        let mut attr = need(answer.attr, "open answered without attributes")?;
        let until_ns = asked_ns.saturating_add(client.config().acache_ms as i64 * 1_000_000);
        let bytes = answer.bytes.filter(|_| keeps_bytes).map(|b| (b, until_ns));
        let mode = (reads || client.config().kernel_writes_back, self.request.write);
        let file = OpenFile::new(client.opens(), attr.clone(), mode, bytes);
        if want_right {
            client.joins().opened(&file.state, server, answer.right, cuts);
        }
        if self.request.truncate {
            file.state.truncated(0);
        }
        keep(client, &mut attr);
        Ok(Step::Done(file))
    }
}
