//! setattr: mode, owner, times, size.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | hold (size or times of a file that is open here: wait for its reports, bar new ones) | ask | error |
//! | ask (setattr) | done; ask_sizes when the size is dynamic and others write too | error |
//! | ask_sizes (df_stat to all I/O servers at once) | done | error |
//!
//! Durable when done: the change survives kill -9 of every server; a truncation has reached the
//! datafiles. Errors: `Access`, `NotPermitted`, `Stale`, `Invalid`, `FileTooBig`, `IsDirectory`,
//! `ReadOnly`, `NoSpace`.
use super::{hold, keep, object_failed};
use crate::attrs::AttrFlow;
use crate::machine::{Cx, Machine, Step};
use crate::open_table::Hold;
use crate::tickets::need;
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::SetattrRequest;
use pvfs2_proto::{Attr, Handle, Result, SetAttr};
use smallvec::{SmallVec, smallvec};

enum State {
    Hold,
    /// The hold is kept for what its drop does.
    Ask(#[allow(dead_code)] Option<Hold>),
    Flow(AttrFlow),
}

/// See the head of the file. Results in the attributes afterwards.
pub struct Setattr {
    handle: Handle,
    set: SetAttr,
    state: State,
}

impl Setattr {
    /// Changes attributes of `handle`.
    pub fn new(handle: Handle, set: SetAttr) -> Setattr {
        Setattr { handle, set, state: State::Hold }
    }

    async fn ask<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        let server = cx.meta_server(self.handle)?;
        let request = SetattrRequest { handle: self.handle.0, set: Some(self.set.clone()) };
        let answer = cx
            .ask(server, request)
            .await
            .inspect_err(|e| object_failed(cx.client, self.handle, e))?;
        if let Some(file) = cx.client.opens().get(self.handle) {
            if let Some(size) = self.set.size {
                file.truncated(size);
            }
            if self.set.mtime.is_some() {
                file.mtime_was_set();
            }
        }
        let mut attr = need(answer.attr, "setattr answered without attributes")?;
        if keep(cx.client, &mut attr) {
            return Ok(Step::Done(attr));
        }
        self.state = State::Flow(AttrFlow::Sizes(Box::new(attr)));
        Ok(Step::Next)
    }
}

impl Machine for Setattr {
    type Out = Attr;
    const NAME: &'static str = "setattr";
    fn state(&self) -> &'static str {
        match &self.state {
            State::Hold => "hold",
            State::Ask(_) => "ask",
            State::Flow(flow) => flow.state(),
        }
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        match &mut self.state {
            State::Hold => {
                let matters = self.set.size.is_some() || self.set.mtime.is_some();
                let file = cx.client.opens().get(self.handle).filter(|_| matters);
                self.state = State::Ask(match file {
                    Some(file) => Some(hold(cx, &file).await?),
                    None => None,
                });
                Ok(Step::Next)
            }
            State::Ask(_) => self.ask(cx).await,
            State::Flow(flow) => Ok(flow.step(cx).await?.map_or(Step::Next, Step::Done)),
        }
    }
}
