//! copy_range: bytes of one file into another (copy_file_range), by the servers where they can.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | start, ask_attr, ask_sizes (attributes of the source: its size, its layout) | small, unstuff, plan, read; done at the source's end | `Invalid` |
//! | small (copy_small: both files live with their metafile, on one server) | done | not so any more: unstuff or read |
//! | unstuff (the file copied to gets datafiles, on the source's servers in the source's order) | plan | error |
//! | kill (setattr: clear suid and sgid, where asked and set) | plan | error |
//! | plan (no request) | copy; read, when some server has not both ends | `Invalid`, `FileTooBig` |
//! | copy (quota_reserve where the file is under a quota; one df_copy to each server of the window, all at once) | plan (next window); done | done with less, if a window was through; else the error |
//! | read, write (this client carries a piece) | read; done | as copy |
//!
//! A window is at most `IO_BYTES_MAX` per server, a call at most `COPY_MAX` (or `CARRY_MAX` where this
//! client carries): the rest is the caller's to ask for, as POSIX allows. Holes of the source become
//! holes where servers copy. Durable when done: the bytes survive kill -9 of every server and of this
//! client; size and mtime are remembered in the open table and reported at fsync and release.
//! Errors: those of read and write; `Invalid` for ranges of one file that overlap.
use crate::Client;
use crate::attrs::AttrFlow;
use crate::io_plan::io_server;
use crate::machine::{Cx, Machine, Step};
use crate::open_table::OpenFile;
use crate::sys::write::{Write, ask_for_room, clear_suidgid, must_clear_suidgid};
use crate::sys::{Read, keep, keep_or_drop, object_failed};
use crate::tickets::{need, take};
use pvfs2_bmi::call::{Call, Net};
use pvfs2_proto::limits::{FILE_SIZE_MAX, IO_BYTES_MAX, IO_EXTENTS_MAX};
use pvfs2_proto::op::{CopyExtent, CopySmallRequest, DfCopyRequest, OpMessage, UnstuffRequest};
use pvfs2_proto::{ClusterMap, ErrorCode, FileLayout, Handle, PvfsError, Result, ServerId};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of one call where the servers copy.
pub const COPY_MAX: u64 = 1 << 30;
/// Bytes of one call where this client carries them.
pub const CARRY_MAX: u64 = 16 << 20;
/// Bytes that this client holds at a time.
const PIECE_BYTES: u64 = 1 << 20;

enum State {
    Start,
    Flow(AttrFlow),
    Small,
    Unstuff,
    Kill,
    Plan,
    Copy,
    Read(Box<Read>),
    Write(Box<Write>),
}

/// What one server does in a window.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    server: ServerId,
    datahandle: u64,
    pieces: Vec<CopyExtent>,
    bytes: u64,
}

/// See the head of the file. Results in how many bytes were copied.
pub struct CopyRange {
    from: Arc<OpenFile>,
    from_offset: u64,
    to: Arc<OpenFile>,
    to_offset: u64,
    len: u64,
    kill_suidgid: bool,
    state: State,
    source: Option<Arc<FileLayout>>,
    done: u64,
    /// The window that copy is about: its length, its parts, and which of them were answered.
    window: u64,
    parts: Vec<Part>,
    answered: Vec<bool>,
}

impl CopyRange {
    /// Copies at most `len` bytes at `from.1` of `from.0` to `to.1` of `to.0`.
    pub fn new(
        from: (Arc<OpenFile>, u64),
        to: (Arc<OpenFile>, u64),
        len: u64,
        kill_suidgid: bool,
    ) -> CopyRange {
        CopyRange {
            from: from.0,
            from_offset: from.1,
            to: to.0,
            to_offset: to.1,
            len: len.min(COPY_MAX),
            kill_suidgid,
            state: State::Start,
            source: None,
            done: 0,
            window: 0,
            parts: Vec::new(),
            answered: Vec::new(),
        }
    }

    fn start(&mut self) -> Result<Step<u64>> {
        self.from.check(false)?;
        self.to.check(true)?;
        if self.len == 0 {
            return Ok(Step::Done(0));
        }
        let apart = self.from_offset.abs_diff(self.to_offset) >= self.len;
        if self.from.handle == self.to.handle && !apart {
            return Err(PvfsError::new(ErrorCode::Invalid, "the ranges of one file overlap"));
        }
        if self.to_offset.checked_add(self.len).is_none_or(|end| end > FILE_SIZE_MAX) {
            return Err(PvfsError::new(ErrorCode::FileTooBig, "a file ends at 2^63 - 1 bytes"));
        }
        self.state = State::Flow(AttrFlow::Ask(self.from.handle));
        Ok(Step::Next)
    }

    fn source_came(&mut self, client: &Client, size: u64) -> Step<u64> {
        self.len = self.len.min(size.saturating_sub(self.from_offset));
        if self.len == 0 {
            return Step::Done(0);
        }
        self.source = self.from.state.layout();
        let small = self.to_offset + self.len <= client.map().small_file_bytes;
        self.state = match (&self.source, self.to.state.layout()) {
            (None, None) if small => State::Small,
            (Some(_), None) if !small => State::Unstuff,
            (Some(_), Some(_)) => self.striped(),
            _ => self.carry(),
        };
        Step::Next
    }

    fn striped(&self) -> State {
        if must_clear_suidgid(&self.to, self.kill_suidgid) { State::Kill } else { State::Plan }
    }

    /// This client carries the next piece.
    fn carry(&mut self) -> State {
        self.len = self.len.min(CARRY_MAX);
        let n = PIECE_BYTES.min(self.len - self.done) as usize;
        let offset = self.from_offset + self.done;
        State::Read(Box::new(Read::new(self.from.clone(), offset, n)))
    }

    async fn small<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<u64>> {
        let handle = self.to.handle;
        let request = CopySmallRequest {
            source: self.from.handle.0,
            source_offset: self.from_offset,
            handle: handle.0,
            logical_offset: self.to_offset,
            len: self.len,
            kill_suidgid: self.kill_suidgid,
        };
        let server = cx.meta_server(handle)?;
        match cx.ask(server, request).await {
            Ok(answer) => {
                self.to.state.changed_at_server(self.to_offset + answer.copied);
                keep_or_drop(cx.client, handle, answer.attr);
                Ok(Step::Done(answer.copied))
            }
            Err(e) if e.code == ErrorCode::NotStuffed => {
                self.state = self.carry();
                Ok(Step::Next)
            }
            Err(e) => {
                object_failed(cx.client, handle, &e);
                Err(e)
            }
        }
    }

    async fn unstuff<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<u64>> {
        let handle = self.to.handle;
        let like = self.source.iter().flat_map(|l| l.datahandles.iter().copied()).collect();
        let server = cx.meta_server(handle)?;
        let answer = cx
            .ask(server, UnstuffRequest { handle: handle.0, like })
            .await
            .inspect_err(|e| object_failed(cx.client, handle, e))?;
        let mut attr = need(answer.attr, "unstuff answered without attributes")?;
        self.to.state.learn(&attr);
        keep(cx.client, &mut attr);
        self.state = self.striped();
        Ok(Step::Next)
    }

    fn plan<N: Net>(&mut self, cx: &Cx<'_, N>) -> Result<Step<u64>> {
        let to = self.to.state.layout();
        let (Some(from), Some(to)) = (&self.source, to) else {
            self.state = self.carry();
            return Ok(Step::Next);
        };
        let (at, left) = (self.done, self.len - self.done);
        let places = (self.from_offset + at, self.to_offset + at);
        match window(cx.client.map(), from, &to, places, left)? {
            Some((parts, len)) => {
                self.answered = vec![false; parts.len()];
                (self.parts, self.window) = (parts, len);
                self.state = State::Copy;
            }
            None => self.state = self.carry(),
        }
        Ok(Step::Next)
    }

    async fn copy<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<u64>> {
        let mut open = Vec::with_capacity(self.parts.len());
        let mut calls = Vec::with_capacity(self.parts.len());
        for (i, part) in self.parts.iter().enumerate().filter(|(i, _)| !self.answered[*i]) {
            let (datahandle, pieces) = (part.datahandle, part.pieces.clone());
            calls.push(Call::new(part.server, DfCopyRequest { datahandle, pieces }.into_request()));
            open.push(i);
        }
        // Whatever comes of it, the bytes may not be what they were.
        self.to.state.wrote(0, 0);
        cx.exchange(&mut calls).await?;
        let end = self.to_offset + self.done + self.window;
        let (mut mtime_ns, mut failed) = (0, None);
        for (i, call) in open.into_iter().zip(calls) {
            match take(call.result).and_then(|r| DfCopyRequest::take_response(r.op)) {
                Ok(answer) => {
                    self.answered[i] = true;
                    mtime_ns = mtime_ns.max(answer.mtime_ns);
                }
                Err(e) => failed = Some(crate::sys::write::worse(failed, e)),
            }
        }
        if mtime_ns > 0 {
            // Also where a part failed: its datafiles may have grown, and somebody must say so.
            let told = if failed.is_none() { end } else { 0 };
            self.to.state.wrote(told, mtime_ns);
            cx.client.acache().wrote(self.to.handle, told, mtime_ns);
        }
        if let Some(e) = failed {
            return self.failed(cx, e);
        }
        self.done += self.window;
        let written = &cx.client.metrics().written_bytes;
        written.fetch_add(self.window, Ordering::Relaxed);
        if self.done == self.len {
            return Ok(Step::Done(self.done));
        }
        self.state = State::Plan;
        Ok(Step::Next)
    }

    /// What was copied before counts, unless the step is to be repeated.
    fn failed<N: Net>(&self, cx: &Cx<'_, N>, e: PvfsError) -> Result<Step<u64>> {
        if self.done == 0 || cx.op.will_retry(cx.client, &e) {
            return Err(e);
        }
        tracing::debug!(op_id = cx.op.id(), done = self.done, "a copy ends early: {e}");
        Ok(Step::Done(self.done))
    }

    async fn read<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<u64>> {
        let State::Read(read) = &mut self.state else { return Ok(Step::Next) };
        match read.step(cx).await {
            Ok(Step::Next) => Ok(Step::Next),
            Ok(Step::Done(bytes)) if bytes.is_empty() => Ok(Step::Done(self.done)),
            Ok(Step::Done(bytes)) => {
                let (file, offset) = (self.to.clone(), self.to_offset + self.done);
                let write = Write::new(file, offset, bytes.into(), self.kill_suidgid);
                self.state = State::Write(Box::new(write));
                Ok(Step::Next)
            }
            Err(e) => self.failed(cx, e),
        }
    }

    async fn write<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<u64>> {
        let State::Write(write) = &mut self.state else { return Ok(Step::Next) };
        match write.step(cx).await {
            Ok(Step::Next) => Ok(Step::Next),
            Ok(Step::Done(n)) => {
                self.done += n as u64;
                if self.done >= self.len {
                    return Ok(Step::Done(self.done));
                }
                self.state = self.carry();
                Ok(Step::Next)
            }
            Err(e) => self.failed(cx, e),
        }
    }
}

impl Machine for CopyRange {
    type Out = u64;
    const NAME: &'static str = "copy_range";
    fn state(&self) -> &'static str {
        match &self.state {
            State::Start => "start",
            State::Flow(flow) => flow.state(),
            State::Small => "small",
            State::Unstuff => "unstuff",
            State::Kill => "kill",
            State::Plan => "plan",
            State::Copy => "copy",
            State::Read(_) => "read",
            State::Write(_) => "write",
        }
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.from.handle, self.to.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<u64>> {
        match &mut self.state {
            State::Start => self.start(),
            State::Flow(flow) => match flow.step(cx).await? {
                Some(attr) => {
                    self.from.state.learn(&attr);
                    Ok(self.source_came(cx.client, attr.size))
                }
                None => Ok(Step::Next),
            },
            State::Small => self.small(cx).await,
            State::Unstuff => self.unstuff(cx).await,
            State::Kill => {
                clear_suidgid(cx, &self.to).await?;
                self.state = State::Plan;
                Ok(Step::Next)
            }
            State::Plan => self.plan(cx),
            State::Copy => {
                let end = self.to_offset + self.done + self.window;
                match ask_for_room(cx, &self.to, end).await {
                    Ok(()) => self.copy(cx).await,
                    Err(e) => self.failed(cx, e),
                }
            }
            State::Read(_) => self.read(cx).await,
            State::Write(_) => self.write(cx).await,
        }
    }
}

/// The longest beginning of the range that one df_copy per datafile can do, and those; `None`: some
/// byte of it has to go from one server to another.
fn window(
    map: &ClusterMap,
    from: &FileLayout,
    to: &FileLayout,
    (from_offset, to_offset): (u64, u64),
    len: u64,
) -> Result<Option<(Vec<Part>, u64)>> {
    let (n_from, n_to) = (from.datahandles.len() as u32, to.datahandles.len() as u32);
    from.dist.check(n_from)?;
    to.dist.check(n_to)?;
    let of = |layout: &FileLayout, datafile: u32| {
        let found = layout.datahandles.get(datafile as usize).copied();
        found.ok_or_else(|| {
            PvfsError::new(ErrorCode::Invalid, "a distribution names a datafile it has not")
        })
    };
    let mut parts: Vec<Part> = Vec::with_capacity(n_to as usize);
    let mut at = 0;
    while at < len {
        let source = from.dist.locate(n_from, from_offset + at);
        let place = to.dist.locate(n_to, to_offset + at);
        let (source_handle, datahandle) = (of(from, source.datafile)?, of(to, place.datafile)?);
        let server = io_server(map, Handle(datahandle))?;
        if io_server(map, Handle(source_handle))? != server {
            return Ok(None);
        }
        let i = match parts.iter().position(|p| p.datahandle == datahandle) {
            Some(i) => i,
            None => {
                parts.push(Part { server, datahandle, pieces: Vec::new(), bytes: 0 });
                parts.len() - 1
            }
        };
        let part = &mut parts[i];
        let room = IO_BYTES_MAX - part.bytes;
        let bytes = source.contiguous_bytes.min(place.contiguous_bytes).min(len - at).min(room);
        if bytes == 0 || part.pieces.len() >= IO_EXTENTS_MAX {
            break;
        }
        part.bytes += bytes;
        match part.pieces.last_mut() {
            Some(p)
                if p.source == source_handle
                    && p.source_offset + p.len == source.physical_offset
                    && p.physical_offset + p.len == place.physical_offset =>
            {
                p.len += bytes;
            }
            _ => part.pieces.push(CopyExtent {
                source: source_handle,
                source_offset: source.physical_offset,
                physical_offset: place.physical_offset,
                len: bytes,
            }),
        }
        at += bytes;
    }
    parts.retain(|p| p.bytes > 0);
    Ok(Some((parts, at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvfs2_proto::{Dist, HandleRange, ServerEntry};

    fn map(servers: u64) -> ClusterMap {
        let entry = |i: u64| ServerEntry {
            alias: format!("io{i}"),
            io_range: Some(HandleRange { first: i << 20, last: (i << 20) + 999 }),
            ..Default::default()
        };
        ClusterMap { servers: (1..=servers).map(entry).collect(), ..Default::default() }
    }

    fn layout(servers: &[u64], file: u64) -> FileLayout {
        let datahandles = servers.iter().map(|s| (s << 20) + file).collect();
        FileLayout { dist: Dist::simple_stripe(100), datahandles }
    }

    #[test]
    fn files_laid_out_alike_are_copied_in_one_piece_per_server() {
        let (from, to) = (layout(&[2, 1, 3], 5), layout(&[2, 1, 3], 6));
        let (parts, len) = window(&map(3), &from, &to, (0, 0), 1_050).unwrap().unwrap();
        assert_eq!(len, 1_050);
        let seen: Vec<_> = parts.iter().map(|p| (p.server, p.pieces.len(), p.bytes)).collect();
        assert_eq!(seen, [(1, 1, 400), (0, 1, 350), (2, 1, 300)]);
        let first = parts[0].pieces[0];
        assert_eq!(
            (first.source, first.source_offset, first.physical_offset),
            ((2 << 20) + 5, 0, 0)
        );
        // By a whole stripe apart the servers still agree; by less they do not.
        let moved = window(&map(3), &from, &to, (300, 0), 600).unwrap().unwrap();
        assert_eq!(moved.0[0].pieces[0].source_offset, 100);
        assert!(window(&map(3), &from, &to, (50, 0), 600).unwrap().is_none());
        assert!(window(&map(3), &from, &layout(&[1, 2, 3], 6), (0, 0), 600).unwrap().is_none());
    }

    #[test]
    fn a_window_is_bounded_and_covers_every_byte() {
        let (from, to) = (layout(&[1, 2], 5), layout(&[1, 2], 6));
        let len = 5 * IO_BYTES_MAX;
        let mut at = 0;
        let mut windows = 0;
        while at < len {
            let (parts, n) = window(&map(2), &from, &to, (at, at), len - at).unwrap().unwrap();
            assert!(n > 0 && parts.iter().all(|p| p.bytes <= IO_BYTES_MAX));
            assert_eq!(parts.iter().map(|p| p.bytes).sum::<u64>(), n);
            at += n;
            windows += 1;
        }
        assert_eq!((at, windows), (len, 3));
    }
}
