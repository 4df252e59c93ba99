//! write: bytes into a file.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | start | small (stuffed, fits), unstuff (stuffed, would outgrow), kill, plan | `Invalid`; the error of an earlier write that was held back |
//! | small (write_small) | done | no longer stuffed: unstuff |
//! | unstuff (the metadata server gives datahandles and moves the bytes) | plan | error |
//! | kill (setattr: clear suid and sgid, where asked and set) | room | error |
//! | room (quota_reserve, where the file is under a quota and goes beyond what it got) | plan | `Quota` |
//! | plan (no request) | io | `Invalid`, `FileTooBig` |
//! | io (one io_write to each server of the range, all at once) | done; io (next window of a range too long for one frame per server) | the first error; what was written is remembered |
//!
//! Durable when done: the bytes survive kill -9 of every server and of this client. Size and mtime
//! of datafile writes are remembered in the open table and reported at fsync and release. A part
//! that was answered is not sent again when another part stalls, so no server writes twice.
//! Errors: `NoSpace`, `FileTooBig`, `Stale`, `Damaged`, `ReadOnly`, `Quota`.
use crate::io_plan::IoPlan;
use crate::machine::{Cx, Machine, OpState, Step, run};
use crate::open_table::OpenFile;
use crate::sys::{Lent, keep, keep_or_drop, object_failed};
use crate::tickets::{need, take};
use bytes::Bytes;
use pvfs2_bmi::call::{Call, Net};
use pvfs2_proto::Handle;
use pvfs2_proto::attr::mode;
use pvfs2_proto::op::{
    IoWriteRequest, OpMessage, QuotaReserveRequest, SetattrRequest, UnstuffRequest,
    WriteSmallRequest,
};
use pvfs2_proto::{AttrFlags, ErrorCode, PvfsError, Result, SetAttr};
use smallvec::{SmallVec, smallvec};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

enum State {
    Start,
    Small,
    Unstuff,
    Kill,
    Room,
    Plan,
    Io,
}

/// The machine without the memory: shared by [`Write`] and [`write_from`].
struct WriteFlow {
    file: Arc<OpenFile>,
    logical_offset: u64,
    kill_suidgid: bool,
    state: State,
    /// The window that io is about, where it begins in the data, and which parts were answered.
    window: IoPlan,
    base: usize,
    answered: Vec<bool>,
    /// These are bytes that were held back, which wait for none: ranges of the file (offset, length),
    /// of a mebibyte together at most.
    joined: Vec<(u64, usize)>,
}

impl WriteFlow {
    fn new(file: Arc<OpenFile>, logical_offset: u64, kill_suidgid: bool) -> WriteFlow {
        WriteFlow {
            file,
            logical_offset,
            kill_suidgid,
            state: State::Start,
            window: IoPlan::default(),
            base: 0,
            answered: Vec::new(),
            joined: Vec::new(),
        }
    }

    fn touches(&self) -> SmallVec<[Handle; 2]> {
        if self.joined.is_empty() { smallvec![self.file.handle] } else { SmallVec::new() }
    }

    fn range(&self, len: usize) -> Range<u64> {
        self.logical_offset..self.logical_offset.saturating_add(len as u64)
    }

    fn state(&self) -> &'static str {
        match self.state {
            State::Start => "start",
            State::Small => "small",
            State::Unstuff => "unstuff",
            State::Kill => "kill",
            State::Room => "room",
            State::Plan => "plan",
            State::Io => "io",
        }
    }

    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>, data: &[u8]) -> Result<Step<usize>> {
        let step = match self.state {
            State::Start => self.start(cx, data)?,
            State::Small => self.small(cx, data).await?,
            State::Unstuff => self.unstuff(cx, data.len()).await?,
            State::Kill => self.kill(cx).await?,
            State::Room => {
                let end = self.logical_offset + data.len() as u64;
                ask_for_room(cx, &self.file, end).await?;
                self.state = State::Plan;
                Step::Next
            }
            State::Plan => {
                self.open_window(cx, 0, data.len())?;
                self.state = State::Io;
                Step::Next
            }
            State::Io => self.io(cx, data).await?,
        };
        if let Step::Done(n) = &step {
            cx.client.metrics().written_bytes.fetch_add(*n as u64, Ordering::Relaxed);
        }
        Ok(step)
    }

    fn start<N: Net>(&mut self, cx: &mut Cx<'_, N>, data: &[u8]) -> Result<Step<usize>> {
        self.file.check(true)?;
        if data.is_empty() {
            return Ok(Step::Done(0));
        }
        let end = self.logical_offset.saturating_add(data.len() as u64);
        if end > i64::MAX as u64 {
            return Err(PvfsError::new(ErrorCode::FileTooBig, "a file ends at 2^63 - 1 bytes"));
        }
        self.state = if self.file.state.layout().is_some() {
            self.striped(end)
        } else if end <= cx.client.map().small_file_bytes {
            State::Small
        } else {
            State::Unstuff
        };
        Ok(Step::Next)
    }

    fn striped(&self, end: u64) -> State {
        if must_clear_suidgid(&self.file, self.kill_suidgid) {
            State::Kill
        } else if self.file.state.needs_room(end) {
            State::Room
        } else {
            State::Plan
        }
    }

    async fn small<N: Net>(&mut self, cx: &mut Cx<'_, N>, data: &[u8]) -> Result<Step<usize>> {
        let handle = self.file.handle;
        let request = WriteSmallRequest {
            handle: handle.0,
            logical_offset: self.logical_offset,
            kill_suidgid: self.kill_suidgid,
            keep_times: cx.client.config().kernel_writes_back,
        };
        let server = cx.meta_server(handle)?;
        match cx.ask_body(server, request, &[data]).await {
            Ok((answer, _)) => {
                self.file.state.changed_at_server(self.logical_offset + data.len() as u64);
                keep_or_drop(cx.client, handle, answer.attr);
                Ok(Step::Done(data.len()))
            }
            Err(e) if e.code == ErrorCode::NotStuffed => {
                self.state = State::Unstuff;
                Ok(Step::Next)
            }
            Err(e) => {
                object_failed(cx.client, handle, &e);
                Err(e)
            }
        }
    }

    async fn unstuff<N: Net>(&mut self, cx: &mut Cx<'_, N>, len: usize) -> Result<Step<usize>> {
        let handle = self.file.handle;
        let server = cx.meta_server(handle)?;
        let answer = cx
            .ask(server, UnstuffRequest { handle: handle.0, like: Vec::new() })
            .await
            .inspect_err(|e| object_failed(cx.client, handle, e))?;
        let mut attr = need(answer.attr, "unstuff answered without attributes")?;
        self.file.state.learn(&attr);
        keep(cx.client, &mut attr);
        self.state = self.striped(self.logical_offset + len as u64);
        Ok(Step::Next)
    }

    async fn kill<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<usize>> {
        clear_suidgid(cx, &self.file).await?;
        self.state = State::Room;
        Ok(Step::Next)
    }

    fn open_window<N: Net>(&mut self, cx: &Cx<'_, N>, base: usize, len: usize) -> Result<()> {
        let layout = self.file.state.layout().ok_or_else(|| {
            PvfsError::new(ErrorCode::Protocol, "unstuff answered attributes without a layout")
        })?;
        let (map, offset) = (cx.client.map(), self.logical_offset + base as u64);
        self.window = match &self.joined[..] {
            [] => IoPlan::window(map, &layout, offset, len - base)?,
            runs => IoPlan::list(map, &layout, runs)?,
        };
        self.base = base;
        self.answered = vec![false; self.window.parts.len()];
        Ok(())
    }

    async fn io<N: Net>(&mut self, cx: &mut Cx<'_, N>, data: &[u8]) -> Result<Step<usize>> {
        let plan = &self.window;
        let from = &data[self.base..self.base + plan.len];
        let mut open: Vec<usize> = Vec::with_capacity(plan.parts.len());
        let mut calls: Vec<Call<'_>> = Vec::with_capacity(plan.parts.len());
        for (i, body) in plan.gather(from).into_iter().enumerate() {
            if self.answered[i] {
                continue;
            }
            let part = &plan.parts[i];
            let (datahandle, extents) = (part.datahandle.0, part.extents.clone());
            let request = IoWriteRequest { datahandle, extents, ..Default::default() };
            let mut call = Call::new(part.server, request.into_request());
            call.body = body;
            calls.push(call);
            open.push(i);
        }
        if let Err(e) = cx.exchange(&mut calls).await {
            self.file.state.wrote(0, 0);
            return Err(e);
        }
        let mut failed = None;
        for (i, call) in open.into_iter().zip(calls) {
            let answer = take(call.result).and_then(|r| IoWriteRequest::take_response(r.op));
            match answer {
                Ok(answer) => {
                    self.answered[i] = true;
                    let end = plan.parts[i].end;
                    let keep_times = cx.client.config().kernel_writes_back;
                    let mtime_ns = if keep_times { 0 } else { answer.mtime_ns };
                    self.file.state.wrote(end, mtime_ns);
                    cx.client.acache().wrote(self.file.handle, end, mtime_ns);
                }
                Err(e) => failed = Some(worse(failed, e)),
            }
        }
        if let Some(e) = failed {
            // Some of it may have been written all the same: the bytes are not what they were.
            self.file.state.wrote(0, 0);
            return Err(e);
        }
        let next = self.base + self.window.len;
        if next < data.len() {
            self.open_window(cx, next, data.len())?;
            return Ok(Step::Next);
        }
        Ok(Step::Done(data.len()))
    }
}

/// Datafiles know no modes: where suid or sgid may be set, the metadata server clears them, once per
/// open, and again when somebody has set them since.
pub(crate) fn must_clear_suidgid(file: &OpenFile, asked: bool) -> bool {
    if !asked {
        return false;
    }
    let attr = &file.attr;
    let may_matter =
        attr.mode & (mode::S_ISUID | mode::S_ISGID) != 0 || attr.has(AttrFlags::HAS_XATTR);
    may_matter && !file.suid_checked.load(Ordering::Relaxed) || file.state.has_suidgid()
}

/// Has the metadata server clear them.
///
/// # Errors
/// The server's.
pub(crate) async fn clear_suidgid<N: Net>(cx: &mut Cx<'_, N>, file: &OpenFile) -> Result<()> {
    let server = cx.meta_server(file.handle)?;
    let set = SetAttr { kill_suidgid: true, by_open_file: true, ..Default::default() };
    let answer = cx.ask(server, SetattrRequest { handle: file.handle.0, set: Some(set) }).await?;
    keep_or_drop(cx.client, file.handle, answer.attr);
    file.suid_checked.store(true, Ordering::Relaxed);
    Ok(())
}

/// Has the metadata server make room for bytes up to `end`, where the file is under a quota and has
/// not got it yet.
///
/// # Errors
/// `Quota`; the server's.
pub(crate) async fn ask_for_room<N: Net>(
    cx: &mut Cx<'_, N>,
    file: &OpenFile,
    end: u64,
) -> Result<()> {
    if !file.state.needs_room(end) {
        return Ok(());
    }
    let server = cx.meta_server(file.handle)?;
    let answer = cx.ask(server, QuotaReserveRequest { handle: file.handle.0, end }).await?;
    file.state.got_room(answer.end);
    Ok(())
}

/// Which of two errors ends the step: a final one before one that could be repeated.
pub(crate) fn worse(first: Option<PvfsError>, second: PvfsError) -> PvfsError {
    match first {
        Some(first) if !may_pass(&first) || may_pass(&second) => first,
        _ => second,
    }
}

fn may_pass(e: &PvfsError) -> bool {
    matches!(e.code, ErrorCode::Stalled | ErrorCode::Busy | ErrorCode::BadSession)
}

/// Writes memory of its own; see the head of the file.
pub struct Write {
    flow: WriteFlow,
    data: Bytes,
}

impl Write {
    /// Writes `data` at `logical_offset`. `kill_suidgid`: clear suid and sgid (the writer has no
    /// CAP_FSETID and the kernel did not do it).
    pub fn new(file: Arc<OpenFile>, logical_offset: u64, data: Bytes, kill_suidgid: bool) -> Write {
        Write { flow: WriteFlow::new(file, logical_offset, kill_suidgid), data }
    }

    /// Writes what was held back: `runs` of the file, whose bytes stand behind each other in `data`.
    pub(crate) fn joined(file: Arc<OpenFile>, runs: Vec<(u64, usize)>, data: Bytes) -> Write {
        let first = runs.first().map_or(0, |(at, _)| *at);
        let mut flow = WriteFlow::new(file, first, false);
        flow.joined = runs;
        Write { flow, data }
    }
}

impl Machine for Write {
    type Out = usize;
    const NAME: &'static str = "write";
    fn state(&self) -> &'static str {
        self.flow.state()
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        self.flow.touches()
    }
    fn touches_only(&self) -> Option<Range<u64>> {
        Some(self.flow.range(self.data.len()))
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<usize>> {
        self.flow.step(cx, &self.data).await
    }
}

struct WriteFrom<'b> {
    flow: WriteFlow,
    data: &'b [u8],
}

impl Machine for WriteFrom<'_> {
    type Out = usize;
    const NAME: &'static str = "write";
    fn state(&self) -> &'static str {
        self.flow.state()
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        self.flow.touches()
    }
    fn touches_only(&self) -> Option<Range<u64>> {
        Some(self.flow.range(self.data.len()))
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<usize>> {
        self.flow.step(cx, self.data).await
    }
}

/// Writes `data`, lent by the caller and sent from where it stands, at `logical_offset`.
///
/// # Errors
/// The operation's; never `Stalled`, which comes as [`Lent::Stalled`] with a machine that owns a
/// copy and goes on where this one stopped, with the same tickets.
pub async fn write_from<N: Net>(
    client: &crate::Client,
    net: &N,
    op: &mut OpState,
    file: &Arc<OpenFile>,
    logical_offset: u64,
    data: &[u8],
    kill_suidgid: bool,
) -> Result<Lent<usize, Write>> {
    let flow = WriteFlow::new(file.clone(), logical_offset, kill_suidgid);
    let mut machine = WriteFrom { flow, data };
    match run(&mut machine, op, client, net).await {
        Err(e) if e.code == ErrorCode::Stalled => {
            Ok(Lent::Stalled(Write { flow: machine.flow, data: Bytes::copy_from_slice(data) }))
        }
        other => other.map(Lent::Done),
    }
}
