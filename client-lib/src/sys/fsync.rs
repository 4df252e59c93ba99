//! fsync: makes a file or a directory durable against loss of power.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | data (df_sync to all I/O servers of a striped file, at once) | report | the error; nothing is retried in silence |
//! | report (take end and mtime; wait while size or times are being changed) | meta | error |
//! | meta (report with sync, or fsync when nothing is to be reported) | done | error; the report waits for the next |
//!
//! The datafiles first, then the metafile: loss of power in between leaves bytes without their
//! size, never a size without its bytes. Durable when done: all that was answered for the object
//! before, whoever wrote it. Errors: `Io` (a disk failed: the server refuses from then on), `Stale`.
use crate::io_plan::io_server;
use crate::machine::{Cx, Machine, Step};
use crate::open_table::{OpenFile, Report};
use crate::sys::{begin_report, keep_or_drop, object_failed};
use crate::tickets::take;
use pvfs2_bmi::call::{Call, Net};
use pvfs2_proto::op::{DfSyncRequest, FsyncRequest, OpMessage, ReportRequest};
use pvfs2_proto::{Handle, Result, ServerId};
use smallvec::{SmallVec, smallvec};
use std::collections::BTreeMap;
use std::sync::Arc;

enum State {
    Data,
    Report,
    Meta(Option<Report>),
}

/// See the head of the file.
pub struct Fsync {
    handle: Handle,
    file: Option<Arc<OpenFile>>,
    state: State,
}

impl Fsync {
    /// A file.
    pub fn file(file: Arc<OpenFile>) -> Fsync {
        Fsync { handle: file.handle, file: Some(file), state: State::Data }
    }
    /// A directory, or another object without datafiles.
    pub fn object(handle: Handle) -> Fsync {
        Fsync { handle, file: None, state: State::Meta(None) }
    }

    async fn data<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        if let Some(e) = self.file.as_ref().and_then(|f| f.take_error()) {
            return Err(e);
        }
        let layout = self.file.as_ref().and_then(|f| f.state.layout());
        let mut wanted: BTreeMap<ServerId, Vec<u64>> = BTreeMap::new();
        for &h in layout.iter().flat_map(|l| &l.datahandles) {
            wanted.entry(io_server(cx.client.map(), Handle(h))?).or_default().push(h);
        }
        let mut calls: Vec<Call<'_>> = wanted
            .into_iter()
            .map(|(server, datahandles)| {
                Call::new(server, DfSyncRequest { datahandles }.into_request())
            })
            .collect();
        if !calls.is_empty() {
            cx.exchange(&mut calls).await?;
            for call in calls {
                DfSyncRequest::take_response(take(call.result)?.op)?;
            }
        }
        self.state = State::Report;
        Ok(Step::Next)
    }

    async fn meta<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        let server = cx.meta_server(self.handle)?;
        let State::Meta(report) = &mut self.state else { return Ok(Step::Next) };
        let result = match report {
            Some(r) => {
                let request = ReportRequest { item: Some(r.item(true, 0)), sync: true };
                cx.ask(server, request).await.map(|answer| Some(answer.attr))
            }
            None => cx.ask(server, FsyncRequest { handle: self.handle.0 }).await.map(|_| None),
        };
        let attr = result.inspect_err(|e| object_failed(cx.client, self.handle, e))?;
        if let Some(report) = report.take() {
            report.answered();
        }
        if let Some(attr) = attr {
            keep_or_drop(cx.client, self.handle, attr);
        }
        Ok(Step::Done(()))
    }
}

impl Machine for Fsync {
    type Out = ();
    const NAME: &'static str = "fsync";
    fn state(&self) -> &'static str {
        match self.state {
            State::Data => "data",
            State::Report => "report",
            State::Meta(_) => "meta",
        }
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        match &self.state {
            State::Data => self.data(cx).await,
            State::Report => {
                let state = self.file.as_ref().map(|f| f.state.clone());
                self.state = State::Meta(match state.filter(|s| s.pending().wrote) {
                    Some(state) => Some(begin_report(&state).await?),
                    None => None,
                });
                Ok(Step::Next)
            }
            State::Meta(_) => self.meta(cx).await,
        }
    }
}
