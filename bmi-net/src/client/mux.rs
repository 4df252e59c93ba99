//! A connection that many small requests share: one task reads and writes, callers wait for their
//! tag's response.
//!
//! A server that is silent while somebody waits is asked with a ping; if it stays silent the
//! connection is given up. Invariants: every waiting caller gets an answer or `Unreachable`; the
//! response to a cancelled request is thrown away.
use super::SessionEvents;
use super::blocking::to_error;
use super::pump::{GATHER_MAX_BYTES, Stamp};
use crate::call::{Call, CallCx};
use crate::out::OutQueue;
use crate::stream::{PollIo, Stream};
use crate::wire::{BufSink, FrameMeta, FrameReader, HeadParts, RxError, encode_request_head};
use bytes::Bytes;
use prost::Message;
use pvfs2_proto::frame::{FLAG_CREDIT, FLAG_FLOW, FLAG_FLOW_END, Header, Kind};
use pvfs2_proto::op::{Cred, Notice, OpMessage, PingRequest, ResponseHead};
use pvfs2_proto::{ErrorCode, PvfsError, Result, ServerId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// What a caller gets.
pub(super) type Answer = Result<(ResponseHead, Bytes)>;

/// The callers' side of the connection.
pub(super) struct Mux {
    state: Rc<RefCell<State>>,
    task: AbortHandle,
}

struct State {
    out: OutQueue,
    waiting: HashMap<u64, Waiting>,
    next_tag: u64,
    waker: Option<Waker>,
    closed: Option<PvfsError>,
}

struct Waiting {
    answer: oneshot::Sender<Answer>,
    head: Option<ResponseHead>,
    body: Vec<u8>,
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
    fn close(&mut self, error: PvfsError) {
        for (_, waiting) in self.waiting.drain() {
            // A caller that went away needs no answer.
            let _ = waiting.answer.send(Err(error.clone()));
        }
        self.closed = Some(error);
    }
    fn send(
        &mut self,
        cx: &CallCx,
        call: &Call<'_>,
        stamp: Stamp,
    ) -> (u64, oneshot::Receiver<Answer>) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let parts = HeadParts {
            session: stamp.session,
            slot: stamp.slot,
            seq: stamp.seq,
            op_id: cx.op_id,
            cred: &cx.cred,
            op: &call.op,
        };
        let meta = FrameMeta::new(Kind::Request, call.op.op() as u16, 0, tag);
        let body = match call.body.len() {
            0 => Bytes::new(),
            // Small: a copy is cheaper than keeping the caller's slices alive.
            _ => Bytes::from(call.body.concat()),
        };
        self.out.push(meta, |out| encode_request_head(out, &parts), &[body]);
        let (answer, receiver) = oneshot::channel();
        self.waiting.insert(tag, Waiting { answer, head: None, body: Vec::new() });
        self.wake();
        (tag, receiver)
    }
}

impl Mux {
    /// Starts the task of a greeted connection on this `LocalSet`.
    pub(super) fn start(
        server: ServerId,
        (stream, reader): (Stream, FrameReader),
        events: Arc<dyn SessionEvents>,
        silence_ms: u32,
    ) -> Mux {
        let state = Rc::new(RefCell::new(State {
            out: OutQueue::default(),
            waiting: HashMap::new(),
            next_tag: 1,
            waker: None,
            closed: None,
        }));
        let task = Task {
            state: state.clone(),
            stream,
            reader,
            server,
            events,
            rx: Rx::Head,
            scratch: Vec::new(),
            at: 0,
            frames: 0,
        };
        let silence = Duration::from_millis(u64::from(silence_ms.max(1)));
        let task = tokio::task::spawn_local(task.run(silence)).abort_handle();
        Mux { state, task }
    }

    /// Whether it may carry calls.
    pub(super) fn is_open(&self) -> bool {
        self.state.borrow().closed.is_none()
    }

    /// Gives the connection up.
    pub(super) fn close(&self, why: &'static str) {
        let mut state = self.state.borrow_mut();
        if state.closed.is_none() {
            state.close(PvfsError::new(ErrorCode::Unreachable, why));
        }
        self.task.abort();
    }

    /// Sends a call and waits for its answer.
    ///
    /// # Cancel safety
    /// Dropped: the server is told that nobody waits any more; a harmless request may be dropped
    /// there, others take effect all the same.
    pub(super) async fn call(&self, cx: &CallCx, call: &Call<'_>, stamp: Stamp) -> Answer {
        let (tag, receiver) = {
            let mut state = self.state.borrow_mut();
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            state.send(cx, call, stamp)
        };
        let guard = CancelGuard { state: &self.state, tag };
        let answer = receiver.await;
        std::mem::forget(guard);
        answer.unwrap_or_else(|_| Err(ErrorCode::Unreachable.into()))
    }
}

impl Drop for Mux {
    fn drop(&mut self) {
        self.close("the client has closed the connection");
    }
}

struct CancelGuard<'a> {
    state: &'a RefCell<State>,
    tag: u64,
}
impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        if state.waiting.remove(&self.tag).is_some() && state.closed.is_none() {
            state.out.push(FrameMeta::new(Kind::Cancel, 0, 0, self.tag), |_| {}, &[]);
            state.wake();
        }
    }
}

enum Rx {
    Head,
    /// A body for this tag; whether it is the last of it.
    Body(u64, bool),
    /// A body that nobody wants.
    Discard,
}

struct Task {
    state: Rc<RefCell<State>>,
    stream: Stream,
    reader: FrameReader,
    server: ServerId,
    events: Arc<dyn SessionEvents>,
    rx: Rx,
    scratch: Vec<u8>,
    at: usize,
    frames: u64,
}

impl Task {
    async fn run(mut self, silence: Duration) {
        self.serve(silence).await;
        self.events.cut(self.server);
    }

    async fn serve(&mut self, silence: Duration) {
        let mut seen = 0;
        let mut asked = false;
        loop {
            let tick =
                tokio::time::timeout(silence, std::future::poll_fn(|cx| self.poll(cx))).await;
            let mut state = self.state.borrow_mut();
            match tick {
                Ok(error) => return state.close(to_error(&error)),
                Err(_) if state.waiting.is_empty() || self.frames != seen => asked = false,
                Err(_) if asked => {
                    let why = "the server is silent and does not answer a ping";
                    return state.close(PvfsError::new(ErrorCode::Unreachable, why));
                }
                Err(_) => {
                    let cx = CallCx { op_id: 0, cred: Cred::root(), caller_tid: 0 };
                    let ping = Call::new(self.server, PingRequest {}.into_request());
                    // Its answer only has to come, not to be read.
                    let _ = state.send(&cx, &ping, Stamp::default());
                    asked = true;
                }
            }
            seen = self.frames;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RxError> {
        loop {
            match self.read_one(cx) {
                Ok(()) => self.frames += 1,
                Err(RxError::WouldBlock) => break,
                Err(error) => return Poll::Ready(error),
            }
        }
        let mut state = self.state.borrow_mut();
        state.waker = Some(cx.waker().clone());
        match state.out.flush(&mut PollIo { stream: &mut self.stream, cx }) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Poll::Ready(e.into()),
            _ => Poll::Pending,
        }
    }

    fn read_one(&mut self, cx: &mut Context<'_>) -> std::result::Result<(), RxError> {
        let mut io = PollIo { stream: &mut self.stream, cx };
        if matches!(self.rx, Rx::Head) {
            let header = self.reader.poll_head(&mut io)?;
            self.rx = self.begin(&header)?;
            self.reader.begin_body();
            self.scratch.clear();
            self.scratch.resize(header.body_len as usize, 0);
            self.at = 0;
        }
        let mut io = PollIo { stream: &mut self.stream, cx };
        let sink = &mut BufSink { buf: &mut self.scratch, at: &mut self.at };
        let result = self.reader.poll_body(&mut io, sink);
        if !matches!(result, Err(RxError::WouldBlock)) {
            let rx = std::mem::replace(&mut self.rx, Rx::Head);
            result?;
            return self.arrived(rx);
        }
        result
    }

    fn begin(&mut self, header: &Header) -> std::result::Result<Rx, RxError> {
        let mut state = self.state.borrow_mut();
        let waiting = state.waiting.get_mut(&header.tag);
        match header.kind {
            Kind::Response if header.tag == 0 => Err(RxError::refusal(self.reader.head())),
            Kind::Response => {
                let Some(waiting) = waiting else { return Ok(Rx::Discard) };
                let head = ResponseHead::decode(self.reader.head())
                    .map_err(|_| RxError::Protocol("a response's head that cannot be decoded"))?;
                waiting.head = Some(head);
                Ok(Rx::Body(header.tag, header.flags & FLAG_FLOW == 0))
            }
            Kind::Flow if header.flags & FLAG_CREDIT != 0 => Ok(Rx::Discard),
            Kind::Flow => Ok(Rx::Body(header.tag, header.flags & FLAG_FLOW_END != 0)),
            Kind::Notice => {
                if let Ok(notice) = Notice::decode(self.reader.head()) {
                    drop(state);
                    self.events.notice(self.server, notice);
                }
                Ok(Rx::Discard)
            }
            _ => Err(RxError::Protocol("a frame that only clients send")),
        }
    }

    fn arrived(&mut self, rx: Rx) -> std::result::Result<(), RxError> {
        let Rx::Body(tag, last) = rx else { return Ok(()) };
        let mut state = self.state.borrow_mut();
        if !last && !self.scratch.is_empty() {
            // Of a cancelled request too: its flow has to end before the server forgets it.
            state.out.push(FrameMeta::new(Kind::Flow, 1, FLAG_CREDIT, tag), |_| {}, &[]);
        }
        let Some(waiting) = state.waiting.get_mut(&tag) else { return Ok(()) };
        if waiting.body.is_empty() {
            waiting.body = std::mem::take(&mut self.scratch);
        } else {
            waiting.body.extend_from_slice(&self.scratch);
        }
        if waiting.body.len() > GATHER_MAX_BYTES {
            return Err(RxError::Protocol("a flow longer than can be gathered"));
        }
        if last && let Some(waiting) = state.waiting.remove(&tag) {
            let head = waiting.head.unwrap_or_default();
            // The caller may have gone just now.
            let _ = waiting.answer.send(Ok((head, Bytes::from(waiting.body))));
        }
        Ok(())
    }
}
