//! read: bytes of a file.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | start (bytes that came with the open) | done; small; plan | - |
//! | small (read_small) | done | no longer stuffed: plan, or layout when none came along |
//! | layout, layout_sizes (getattr) | plan | error |
//! | plan (no request) | io | `Invalid` |
//! | io (one io_read to each server of the range, all at once) | done; io (parts that were lent and overwritten on the way: once more, not lent); io (next window of a range too long for one frame per server); size when the range ends in bytes that no datafile has | error |
//! | size, size_sizes (getattr, df_stat) | done; reread | error |
//! | reread (io_read of what was missing) | done | error |
//!
//! Changes nothing. Bytes that no datafile has are zeros up to the file's size. The size is asked
//! for only where the range's end is missing and no cached size says how far the file goes; a size
//! learned after the bytes were read may count bytes written in between, so those are read again.
//! Errors: `Damaged` (names file and server), `Stale`, `Access`, `Invalid`.
use crate::attrs::AttrFlow;
use crate::io_plan::IoPlan;
use crate::machine::{Cx, Machine, OpState, Step, run};
use crate::open_table::OpenFile;
use crate::sys::{Lent, keep_or_drop, object_failed};
use crate::tickets::take;
use pvfs2_bmi::call::{Call, Net};
use pvfs2_proto::Handle;
use pvfs2_proto::op::{IoReadRequest, OpMessage, ReadSmallRequest};
use pvfs2_proto::{Attr, ErrorCode, FileLayout, PvfsError, Result};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
use std::sync::atomic::Ordering;

enum State {
    Start,
    Small,
    Layout(AttrFlow),
    Plan,
    Io,
    Size(AttrFlow),
    Reread,
}

/// The machine without the memory: shared by [`Read`] and [`read_into`].
struct ReadFlow {
    file: Arc<OpenFile>,
    logical_offset: u64,
    state: State,
    layout: Option<Arc<FileLayout>>,
    /// The window that io or reread is about, and where it begins in the buffer.
    window: IoPlan,
    base: usize,
    /// Parts of the window that were lent and overwritten on the way: to be read once more.
    again: SmallVec<[usize; 4]>,
    /// One past the last byte of the buffer that a datafile had.
    seen_end: usize,
    /// The file's size as it was known before the first byte was read.
    known_size: Option<u64>,
    /// Bytes of the buffer up to the file's size, once that was asked for.
    limit: usize,
}

impl ReadFlow {
    fn new(file: Arc<OpenFile>, logical_offset: u64) -> ReadFlow {
        ReadFlow {
            file,
            logical_offset,
            state: State::Start,
            layout: None,
            window: IoPlan::default(),
            base: 0,
            again: SmallVec::new(),
            seen_end: 0,
            known_size: None,
            limit: 0,
        }
    }

    fn state(&self) -> &'static str {
        match &self.state {
            State::Start => "start",
            State::Small => "small",
            State::Layout(AttrFlow::Ask(_)) => "layout",
            State::Layout(AttrFlow::Sizes(_)) => "layout_sizes",
            State::Plan => "plan",
            State::Io => "io",
            State::Size(AttrFlow::Ask(_)) => "size",
            State::Size(AttrFlow::Sizes(_)) => "size_sizes",
            State::Reread => "reread",
        }
    }

    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>, buf: &mut [u8]) -> Result<Step<usize>> {
        let step = match &mut self.state {
            State::Start => self.start(cx, buf)?,
            State::Small => self.small(cx, buf).await?,
            State::Layout(flow) => {
                if let Some(attr) = flow.step(cx).await? {
                    self.layout_came(&attr)?;
                }
                Step::Next
            }
            State::Plan => {
                self.known_size = self.size_at_hand(cx);
                self.open_window(cx, 0, buf.len())?;
                self.state = State::Io;
                Step::Next
            }
            State::Io => self.io(cx, buf).await?,
            State::Size(flow) => match flow.step(cx).await? {
                Some(attr) => self.size_came(cx, attr.size, buf)?,
                None => Step::Next,
            },
            State::Reread => self.reread(cx, buf).await?,
        };
        if let Step::Done(n) = &step {
            cx.client.metrics().read_bytes.fetch_add(*n as u64, Ordering::Relaxed);
            if cx.client.config().atime {
                self.file.read_at_ns.store(cx.now_ns(), Ordering::Relaxed);
            }
        }
        Ok(step)
    }

    fn start<N: Net>(&mut self, cx: &mut Cx<'_, N>, buf: &mut [u8]) -> Result<Step<usize>> {
        self.file.check(false)?;
        if buf.is_empty() {
            return Ok(Step::Done(0));
        }
        self.layout = self.file.state.layout();
        if self.layout.is_some() {
            self.state = State::Plan;
        } else if let Some(bytes) = self.file.bytes_at_hand(cx.now_ns()) {
            let from = self.logical_offset.min(bytes.len() as u64) as usize;
            let n = buf.len().min(bytes.len() - from);
            buf[..n].copy_from_slice(&bytes[from..from + n]);
            return Ok(Step::Done(n));
        } else {
            self.state = State::Small;
        }
        Ok(Step::Next)
    }

    async fn small<N: Net>(&mut self, cx: &mut Cx<'_, N>, buf: &mut [u8]) -> Result<Step<usize>> {
        let handle = self.file.handle;
        let request = ReadSmallRequest {
            handle: handle.0,
            logical_offset: self.logical_offset,
            len: buf.len() as u64,
        };
        let len = buf.len();
        let mut calls = [Call::new(cx.meta_server(handle)?, request.into_request())];
        calls[0].into.push(buf);
        cx.exchange(&mut calls).await?;
        let [call] = calls;
        let along = ReadSmallRequest::take_response(call.error_op).ok().and_then(|r| r.attr);
        match take(call.result) {
            Ok(reply) => {
                let answer = ReadSmallRequest::take_response(reply.op)?;
                if answer.attr.is_some() {
                    keep_or_drop(cx.client, handle, answer.attr);
                }
                Ok(Step::Done(reply.body_len.min(len)))
            }
            Err(e) if e.code == ErrorCode::NotStuffed => {
                cx.client.acache().drop_handle(handle);
                match along.filter(|a| a.handle == handle.0 && a.layout.is_some()) {
                    Some(attr) => self.layout_came(&attr)?,
                    None => self.state = State::Layout(AttrFlow::Ask(handle)),
                }
                Ok(Step::Next)
            }
            Err(e) => {
                object_failed(cx.client, handle, &e);
                Err(e)
            }
        }
    }

    fn layout_came(&mut self, attr: &Attr) -> Result<()> {
        self.file.state.learn(attr);
        self.layout = self.file.state.layout();
        if self.layout.is_none() {
            return Err(PvfsError::new(
                ErrorCode::Protocol,
                format!("{} is not stuffed and has no layout", self.file.handle),
            ));
        }
        self.state = State::Plan;
        Ok(())
    }

    fn size_at_hand<N: Net>(&self, cx: &Cx<'_, N>) -> Option<u64> {
        let size = cx.client.acache().size(self.file.handle, cx.now_ns())?;
        Some(size.max(self.file.state.own().end))
    }

    fn open_window<N: Net>(&mut self, cx: &Cx<'_, N>, base: usize, end: usize) -> Result<()> {
        let layout = self.layout.as_ref().ok_or(ErrorCode::NotStuffed)?;
        let offset = self.logical_offset + base as u64;
        self.window = IoPlan::window(cx.client.map(), layout, offset, end - base)?;
        self.base = base;
        Ok(())
    }

    /// Reads the window, or what of it is to be read once more; bytes that no datafile has become
    /// zeros. Whole only when nothing is left in `again`.
    async fn fetch<N: Net>(&mut self, cx: &mut Cx<'_, N>, buf: &mut [u8]) -> Result<()> {
        let (plan, base) = (&self.window, self.base);
        let target = &mut buf[base..base + plan.len];
        let again = std::mem::take(&mut self.again);
        let may_lend = again.is_empty();
        let asked: SmallVec<[usize; 8]> =
            (0..plan.parts.len()).filter(|i| may_lend || again.contains(i)).collect();
        // The beginning of a file: what will probably be read after it travels along.
        let mut ahead = Vec::new();
        if self.logical_offset == 0 && base == 0 && may_lend {
            let servers = plan.parts.iter().map(|p| p.server);
            ahead = cx.client.fileahead().reads(cx.client.map(), self.file.handle, servers);
        }
        let mut calls: Vec<Call<'_>> = plan
            .scatter(target)
            .into_iter()
            .enumerate()
            .filter(|(i, _)| asked.contains(i))
            .map(|(i, into)| {
                let part = &plan.parts[i];
                let request = IoReadRequest {
                    datahandle: part.datahandle.0,
                    extents: part.extents.clone(),
                    may_lend,
                    ahead: ahead.get_mut(i).map(std::mem::take).unwrap_or_default(),
                };
                let mut call = Call::new(part.server, request.into_request());
                call.into = into;
                call
            })
            .collect();
        let exchanged = cx.exchange(&mut calls).await;
        let results: Vec<_> = calls.into_iter().map(|c| c.result).collect();
        exchanged?;
        for (i, result) in asked.into_iter().zip(results) {
            let reply = take(result)?;
            IoReadRequest::take_response(reply.op)?;
            if reply.is_changed {
                self.again.push(i);
                continue;
            }
            let got = reply.body_len.min(plan.parts[i].bytes);
            if got < plan.parts[i].bytes {
                plan.zero_rest(i, got, &mut buf[base..base + plan.len]);
            }
            if let Some(end) = plan.end_of(i, got) {
                self.seen_end = self.seen_end.max(base + end);
            }
        }
        Ok(())
    }

    async fn io<N: Net>(&mut self, cx: &mut Cx<'_, N>, buf: &mut [u8]) -> Result<Step<usize>> {
        self.fetch(cx, buf).await?;
        if !self.again.is_empty() {
            return Ok(Step::Next);
        }
        let next = self.base + self.window.len;
        if next < buf.len() {
            self.open_window(cx, next, buf.len())?;
            return Ok(Step::Next);
        }
        if self.seen_end == buf.len() {
            return Ok(Step::Done(buf.len()));
        }
        if let Some(size) = self.known_size {
            return Ok(Step::Done(self.within(size, buf.len()).max(self.seen_end)));
        }
        self.state = State::Size(AttrFlow::Ask(self.file.handle));
        Ok(Step::Next)
    }

    /// Bytes of the buffer that lie within a file of `size` bytes.
    fn within(&self, size: u64, len: usize) -> usize {
        size.saturating_sub(self.logical_offset).min(len as u64) as usize
    }

    fn size_came<N: Net>(
        &mut self,
        cx: &mut Cx<'_, N>,
        size: u64,
        buf: &mut [u8],
    ) -> Result<Step<usize>> {
        self.limit = self.within(size, buf.len());
        if self.limit <= self.seen_end {
            return Ok(Step::Done(self.seen_end));
        }
        self.open_window(cx, self.seen_end, self.limit)?;
        self.state = State::Reread;
        Ok(Step::Next)
    }

    async fn reread<N: Net>(&mut self, cx: &mut Cx<'_, N>, buf: &mut [u8]) -> Result<Step<usize>> {
        self.fetch(cx, buf).await?;
        if !self.again.is_empty() {
            return Ok(Step::Next);
        }
        let next = self.base + self.window.len;
        if next < self.limit {
            self.open_window(cx, next, self.limit)?;
            return Ok(Step::Next);
        }
        Ok(Step::Done(self.limit))
    }
}

/// Reads into memory of its own; see the head of the file.
pub struct Read {
    flow: ReadFlow,
    buf: Vec<u8>,
}

impl Read {
    /// Reads up to `len` bytes at `logical_offset`; fewer come only at the file's end.
    pub fn new(file: Arc<OpenFile>, logical_offset: u64, len: usize) -> Read {
        Read { flow: ReadFlow::new(file, logical_offset), buf: vec![0; len] }
    }
}

impl Machine for Read {
    type Out = Vec<u8>;
    const NAME: &'static str = "read";
    fn state(&self) -> &'static str {
        self.flow.state()
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.flow.file.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Vec<u8>>> {
        Ok(match self.flow.step(cx, &mut self.buf).await? {
            Step::Next => Step::Next,
            Step::Done(n) => {
                self.buf.truncate(n);
                Step::Done(std::mem::take(&mut self.buf))
            }
        })
    }
}

struct ReadInto<'b> {
    flow: ReadFlow,
    buf: &'b mut [u8],
}

impl Machine for ReadInto<'_> {
    type Out = usize;
    const NAME: &'static str = "read";
    fn state(&self) -> &'static str {
        self.flow.state()
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.flow.file.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<usize>> {
        self.flow.step(cx, self.buf).await
    }
}

/// Reads at `logical_offset` straight into `buf`, no copy between the socket and it. `Done(n)`: the
/// first n bytes are the file's (fewer than asked only at its end); the rest of `buf` is garbage.
///
/// # Errors
/// The operation's; never `Stalled`, which comes as [`Lent::Stalled`] with a machine that begins
/// again with memory of its own.
pub async fn read_into<N: Net>(
    client: &crate::Client,
    net: &N,
    op: &mut OpState,
    file: &Arc<OpenFile>,
    logical_offset: u64,
    buf: &mut [u8],
) -> Result<Lent<usize, Read>> {
    let len = buf.len();
    let mut machine = ReadInto { flow: ReadFlow::new(file.clone(), logical_offset), buf };
    match run(&mut machine, op, client, net).await {
        Err(e) if e.code == ErrorCode::Stalled => {
            Ok(Lent::Stalled(Read::new(file.clone(), logical_offset, len)))
        }
        other => other.map(Lent::Done),
    }
}
