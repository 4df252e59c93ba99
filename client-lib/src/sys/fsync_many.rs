//! fsync_many: as fsync of each of many files and directories, at the price of few.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | layouts (getattr of those that no cache knows, at once) | report | error |
//! | report (of each that has end and mtime to tell, one after the other; first those under way end) | data | error; the report waits for the next |
//! | data (df_sync to all I/O servers, at once) | meta | the error; nothing is retried in silence |
//! | meta (fsync of each, all at once: the server's journal takes them together) | done | error |
//!
//! Durable when done: of each all that was answered for it before through this client. Ends are reported
//! before the bytes are synced, so loss of power in between may leave a size without its bytes, as it may
//! without fsync. After an error nothing is promised of any. Errors: `Io`, `Stale` (one of them is gone).
use crate::attrs::cached;
use crate::io_plan::io_server;
use crate::machine::{Cx, Machine, Step};
use crate::sys::{begin_report, hold, keep_or_drop};
use crate::tickets::{need, take};
use pvfs2_bmi::call::{Call, Net};
use pvfs2_proto::op::{DfSyncRequest, FsyncRequest, GetattrRequest, OpMessage, ReportRequest};
use pvfs2_proto::{Attr, AttrFlags, Handle, Result, ServerId};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// So many requests for one server are under way at once.
const AT_ONCE: usize = 64;
/// So many datafiles are synced by one request.
const DATAFILES: usize = 512;

enum State {
    Layouts,
    Report(usize),
    Data,
    Meta(usize),
}

/// See the head of the file.
pub struct FsyncMany {
    handles: Vec<Handle>,
    datafiles: BTreeMap<ServerId, Vec<u64>>,
    state: State,
}

impl FsyncMany {
    /// Files and directories, by their handles.
    pub fn new(handles: Vec<Handle>) -> FsyncMany {
        FsyncMany { handles, datafiles: BTreeMap::new(), state: State::Layouts }
    }

    async fn layouts<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        self.datafiles.clear();
        let (mut known, mut unknown): (Vec<u64>, Vec<Handle>) = Default::default();
        for &handle in &self.handles {
            let open = cx.client.opens().get(handle).and_then(|file| file.layout());
            match (open, cached(cx.client, handle)) {
                (Some(layout), _) => known.extend(&layout.datahandles),
                (None, Some(attr)) => known.extend(datahandles(&attr)),
                (None, None) => unknown.push(handle),
            }
        }
        for some in unknown.chunks(AT_ONCE) {
            let ask = |&handle: &Handle| {
                let request = GetattrRequest { handle: handle.0 };
                Ok(Call::new(cx.meta_server(handle)?, request.into_request()))
            };
            let mut calls = some.iter().map(ask).collect::<Result<Vec<_>>>()?;
            cx.exchange(&mut calls).await?;
            for call in calls {
                let answer = GetattrRequest::take_response(take(call.result)?.op)?;
                let attr = need(answer.attr, "getattr answered without attributes")?;
                known.extend(datahandles(&attr));
            }
        }
        for datahandle in known {
            let server = io_server(cx.client.map(), Handle(datahandle))?;
            self.datafiles.entry(server).or_default().push(datahandle);
        }
        self.state = State::Report(0);
        Ok(Step::Next)
    }

    async fn report<N: Net>(&mut self, cx: &mut Cx<'_, N>, at: usize) -> Result<Step<()>> {
        let Some(&handle) = self.handles.get(at) else {
            self.state = State::Data;
            return Ok(Step::Next);
        };
        if let Some(file) = cx.client.opens().get(handle) {
            drop(hold(cx, &file).await?);
            if file.pending().wrote {
                let report = begin_report(&file).await?;
                let item = Some(report.item(true, 0));
                let server = cx.meta_server(handle)?;
                let answer = cx.ask(server, ReportRequest { item, sync: false }).await?;
                report.answered();
                keep_or_drop(cx.client, handle, answer.attr);
            }
        }
        self.state = State::Report(at + 1);
        Ok(Step::Next)
    }

    async fn data<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        let some = |(&server, all): (&ServerId, &Vec<u64>)| {
            let call = move |some: &[u64]| {
                let datahandles = some.to_vec();
                Call::new(server, DfSyncRequest { datahandles }.into_request())
            };
            all.chunks(DATAFILES).map(call).collect::<Vec<_>>()
        };
        let mut calls: Vec<Call<'_>> = self.datafiles.iter().flat_map(some).collect();
        if !calls.is_empty() {
            cx.exchange(&mut calls).await?;
        }
        for call in calls {
            DfSyncRequest::take_response(take(call.result)?.op)?;
        }
        self.state = State::Meta(0);
        Ok(Step::Next)
    }

    async fn meta<N: Net>(&mut self, cx: &mut Cx<'_, N>, at: usize) -> Result<Step<()>> {
        let rest = self.handles.get(at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(Step::Done(()));
        }
        let some = &rest[..rest.len().min(AT_ONCE)];
        let ask = |&handle: &Handle| {
            let request = FsyncRequest { handle: handle.0 };
            Ok(Call::new(cx.meta_server(handle)?, request.into_request()))
        };
        let mut calls = some.iter().map(ask).collect::<Result<Vec<_>>>()?;
        let next = at + some.len();
        cx.exchange(&mut calls).await?;
        for call in calls {
            FsyncRequest::take_response(take(call.result)?.op)?;
        }
        self.state = State::Meta(next);
        Ok(Step::Next)
    }
}

/// The datafiles of a file that is striped.
fn datahandles(attr: &Attr) -> &[u64] {
    match &attr.layout {
        Some(layout) if !attr.has(AttrFlags::STUFFED) => &layout.datahandles,
        _ => &[],
    }
}

impl Machine for FsyncMany {
    type Out = ();
    const NAME: &'static str = "fsync_many";
    fn state(&self) -> &'static str {
        match self.state {
            State::Layouts => "layouts",
            State::Report(_) => "report",
            State::Data => "data",
            State::Meta(_) => "meta",
        }
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        SmallVec::from_slice(&self.handles)
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        match self.state {
            State::Layouts => self.layouts(cx).await,
            State::Report(at) => self.report(cx, at).await,
            State::Data => self.data(cx).await,
            State::Meta(at) => self.meta(cx, at).await,
        }
    }
}
