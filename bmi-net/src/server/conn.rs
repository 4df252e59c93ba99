//! One connection of a server: one task that reads, handles and answers.
//!
//! Each request's future is polled once at once; only what waits stays in `pending`. Responses of
//! one wake-up leave in one vectored write. Invariants: at most `in_flight_max` requests are under
//! way; no allocation by a length that was not checked; a peer that breaks the protocol is answered
//! once and cut; when the connection ends, requests that may change something are still carried to
//! their end (their replies are kept by the session), harmless ones are dropped.
use super::hello::{Greeted, Greeting};
use super::writes::{first_cut, shared_body};
use super::{ServerOptions, frame_error};
use crate::auth::Peer;
use crate::buf::PooledBuf;
use crate::flow::{Credits, FlowIn, cut_off};
use crate::out::OutQueue;
use crate::region::Mapping;
use crate::service::{Body, Conn, Incoming, OutBody, Outgoing, Service};
use crate::stream::{HelloIo, PollIo, Stream};
use crate::wire::{BufSink, EncodeInto, FrameMeta, FrameReader, RxError};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use prost::Message;
use pvfs2_proto::frame::{FLAG_CREDIT, FLAG_FLOW, FLAG_FLOW_END, Header, Kind};
use pvfs2_proto::limits::{BODY_MAX, FLOW_BUFFER_BYTES, HEAD_MAX};
use pvfs2_proto::op::{Notice, Op, OpRequest, OpResponse, Repeat, RequestHead, ResponseHead};
use pvfs2_proto::{ErrorCode, PvfsError};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Longest head before hello.
const HELLO_HEAD_MAX: usize = 16 << 10;
/// Unsent bytes above which no more requests are read.
const OUT_MAX_BYTES: usize = 4 << 20;
/// Unsent bytes above which flows wait.
const OUT_FLOW_BYTES: usize = 1 << 20;
/// Notices that wait for a peer; one that lets more pile up is cut.
const NOTICES_MAX: usize = 1024;
/// Requests handled before responses are sent.
const BATCH: usize = 64;
/// How long a cut peer may take to read why.
const LINGER_MS: u64 = 200;

/// Why the connection ends.
enum End {
    /// The peer closed, or the socket failed.
    Gone,
    /// We were told to stop, and all is answered.
    Drained,
    /// The peer broke the protocol or was refused; it has been told.
    Refused,
}

enum Stage {
    Hello(Greeting),
    Open,
    /// Flush, then end.
    Closing,
}

/// What the frame is whose body is coming.
#[expect(clippy::large_enum_variant, reason = "one per connection; a box would cost per request")]
enum Rx {
    Head,
    Request { header: Header, head: RequestHead, buf: PooledBuf, at: usize },
    Piece { header: Header, buf: PooledBuf, at: usize },
}

/// A request under way.
struct Done {
    tag: u64,
    outgoing: Outgoing,
}
type Pending = Pin<Box<dyn Future<Output = Option<Done>>>>;

/// Drops a harmless request whose caller waits no more.
#[derive(Default)]
struct Cancel {
    is_set: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Cancel {
    fn set(&self) {
        self.is_set.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

struct OutFlow {
    tag: u64,
    op: u16,
    pieces: VecDeque<Bytes>,
    credits: Credits,
}

struct ConnTask<S: Service> {
    stream: Stream,
    peer: Peer,
    reader: FrameReader,
    rx: Rx,
    out: OutQueue,
    service: Arc<S>,
    conn: Arc<Conn>,
    opts: Arc<ServerOptions>,
    stage: Stage,
    /// What came with the hello, until it is mapped; then the client's memory.
    passed: Option<OwnedFd>,
    region: Option<Arc<Mapping>>,
    pending: FuturesUnordered<Pending>,
    cancels: HashMap<u64, (Rc<Cancel>, Repeat)>,
    flows_in: HashMap<u64, FlowIn>,
    flows_out: Vec<OutFlow>,
    notices: mpsc::Receiver<Notice>,
    wants_notices: bool,
    draining: bool,
    greeted: bool,
    /// Changes whenever bytes move.
    progress: u64,
}

/// Serves one connection to its end.
pub(super) async fn run<S: Service>(
    stream: Stream,
    service: Arc<S>,
    opts: Arc<ServerOptions>,
    mut shutdown: watch::Receiver<bool>,
) {
    let Ok(peer) = stream.peer() else { return };
    let (notify, notices) = mpsc::channel(NOTICES_MAX);
    let conn = Arc::new(Conn {
        id: Stream::next_id(),
        peer: stream.peer_name(),
        is_local: peer.is_local(),
        peer_uid: peer.uid(),
        session: AtomicU64::new(0),
        notifier: Arc::new(move |notice| {
            // A full queue: the peer does not read, and its task will see that and cut it.
            let _ = notify.try_send(notice);
        }),
    });
    let mut task = ConnTask {
        stream,
        peer,
        reader: FrameReader::new(HELLO_HEAD_MAX),
        rx: Rx::Head,
        out: OutQueue::default(),
        service,
        conn,
        opts,
        stage: Stage::Hello(Greeting::default()),
        passed: None,
        region: None,
        pending: FuturesUnordered::new(),
        cancels: HashMap::new(),
        flows_in: HashMap::new(),
        flows_out: Vec::new(),
        notices,
        wants_notices: false,
        draining: false,
        greeted: false,
        progress: 0,
    };
    let end = task.drive(&mut shutdown).await;
    task.finish(end).await;
}

impl<S: Service> ConnTask<S> {
    async fn drive(&mut self, shutdown: &mut watch::Receiver<bool>) -> End {
        let step = Duration::from_millis(self.opts.progress_ms);
        let drain = Duration::from_millis(self.opts.drain_ms);
        let mut seen = self.progress;
        let timer = tokio::time::sleep(step);
        tokio::pin!(timer);
        loop {
            tokio::select! {
                biased;
                end = std::future::poll_fn(|cx| self.poll(cx)) => return end,
                _ = shutdown.wait_for(|stop| *stop), if !self.draining => {
                    self.draining = true;
                    if self.wants_notices {
                        let notice = Notice { draining: true, ..Default::default() };
                        self.push_notice(&notice);
                    }
                    timer.as_mut().reset(Instant::now() + drain);
                }
                () = timer.as_mut() => {
                    if self.draining {
                        return End::Drained;
                    }
                    if self.owes_progress() && seen == self.progress {
                        tracing::info!(peer = self.conn.peer, "a peer stopped in the middle; cut");
                        return End::Gone;
                    }
                    seen = self.progress;
                    timer.as_mut().reset(Instant::now() + step);
                }
            }
        }
    }

    /// Whether the peer has something to do that it may not put off.
    fn owes_progress(&self) -> bool {
        let inside = !matches!(self.rx, Rx::Head) || self.reader.is_inside_frame();
        let reading = self.may_read() && inside;
        self.out.bytes() > 0 || !matches!(self.stage, Stage::Open) || reading
    }

    fn may_read(&self) -> bool {
        let open = !self.draining && !matches!(self.stage, Stage::Closing);
        // Pieces of flows come on the same stream: they must not wait for requests to end.
        let room = self.pending.len() < self.opts.in_flight_max || !self.flows_in.is_empty();
        open && room && self.out.bytes() < OUT_MAX_BYTES
    }

    /// Reads, handles and writes until nothing goes on.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let mut again = false;
            let mut batch = 0;
            // False: nobody will wake us for what is still unread.
            let mut is_read_dry = false;
            while self.may_read() {
                match self.read_one(cx) {
                    Ok(()) => batch += 1,
                    Err(RxError::WouldBlock) => {
                        is_read_dry = true;
                        break;
                    }
                    Err(RxError::Closed | RxError::Io(_)) => return Poll::Ready(End::Gone),
                    Err(RxError::Frame(e)) => self.refuse(&frame_error(e)),
                    Err(e @ RxError::Protocol(_)) => {
                        self.refuse(&PvfsError::new(ErrorCode::Protocol, e.to_string()));
                    }
                }
                if batch == BATCH {
                    break;
                }
            }
            while let Poll::Ready(Some(done)) = self.pending.poll_next_unpin(cx) {
                if let Some(done) = done {
                    self.answer(done);
                }
            }
            while let Poll::Ready(Some(notice)) = self.notices.poll_recv(cx) {
                if self.wants_notices {
                    self.push_notice(&notice);
                }
            }
            if self.out.bytes() > OUT_MAX_BYTES && self.notices.len() == NOTICES_MAX {
                return Poll::Ready(End::Gone);
            }
            self.grant_credits(cx);
            again |= self.continue_flows();
            if self.out.bytes() > 0 {
                let before = self.out.bytes();
                let mut io = PollIo { stream: &mut self.stream, cx };
                match self.out.flush(&mut io) {
                    // Room again: perhaps a flow was waiting for it.
                    Ok(()) => again |= before >= OUT_FLOW_BYTES,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Poll::Ready(End::Gone),
                }
                if self.out.bytes() < before {
                    self.progress += 1;
                }
            }
            if self.out.bytes() == 0 {
                let idle = self.pending.is_empty() && self.flows_out.is_empty();
                match self.stage {
                    Stage::Closing => return Poll::Ready(End::Refused),
                    _ if self.draining && idle => return Poll::Ready(End::Drained),
                    _ => {}
                }
            }
            if !again && (is_read_dry || !self.may_read()) {
                return Poll::Pending;
            }
        }
    }

    /// Reads one frame to its end and acts on it.
    fn read_one(&mut self, cx: &mut Context<'_>) -> Result<(), RxError> {
        let (stream, passed) = (&mut self.stream, &mut self.passed);
        if matches!(self.rx, Rx::Head) {
            let header = match self.stage {
                Stage::Hello(_) => self.reader.poll_head(&mut HelloIo { stream, cx, passed })?,
                _ => self.reader.poll_head(&mut PollIo { stream, cx })?,
            };
            self.progress += 1;
            self.rx = self.begin(header)?;
            self.reader.begin_body();
            if let Rx::Request { head, .. } = &self.rx
                && let Some(first) = first_cut(head)
            {
                self.reader.cut_body(first);
            }
        }
        let mut io = PollIo { stream: &mut self.stream, cx };
        match &mut self.rx {
            Rx::Request { buf, at, .. } | Rx::Piece { buf, at, .. } => {
                let before = *at;
                let whole = self.reader.poll_body(&mut io, &mut BufSink { buf, at });
                self.progress += u64::from(*at > before);
                whole?;
            }
            Rx::Head => {
                // A frame without body has been acted upon by `begin`.
                return self.reader.poll_body(&mut io, &mut BufSink { buf: &mut [], at: &mut 0 });
            }
        }
        match std::mem::replace(&mut self.rx, Rx::Head) {
            Rx::Request { header, head, mut buf, .. } => {
                buf.set_crcs(self.reader.take_crcs());
                self.request(cx, &header, head, buf)
            }
            Rx::Piece { header, buf, .. } => self.piece(&header, buf),
            Rx::Head => Ok(()),
        }
    }

    /// Looks at a head, and says what its body is.
    fn begin(&mut self, header: Header) -> Result<Rx, RxError> {
        let len = header.body_len as usize;
        match header.kind {
            Kind::Request => {
                let head = RequestHead::decode(self.reader.head())
                    .map_err(|_| RxError::Protocol("a request's head that cannot be decoded"))?;
                if !matches!(self.stage, Stage::Open) && len > 0 {
                    return Err(RxError::Protocol("a body before hello"));
                }
                Ok(Rx::Request { header, head, buf: self.opts.pools.take(len), at: 0 })
            }
            Kind::Flow if header.flags & FLAG_CREDIT != 0 && len == 0 => {
                if let Some(flow) = self.flows_out.iter_mut().find(|f| f.tag == header.tag) {
                    flow.credits.grant(header.op).map_err(RxError::Protocol)?;
                }
                Ok(Rx::Head)
            }
            Kind::Flow if len <= FLOW_BUFFER_BYTES && self.flows_in.contains_key(&header.tag) => {
                Ok(Rx::Piece { header, buf: self.opts.pools.take(len), at: 0 })
            }
            Kind::Cancel if len == 0 => {
                if let Some((cancel, Repeat::Harmless)) = self.cancels.get(&header.tag) {
                    cancel.set();
                }
                Ok(Rx::Head)
            }
            Kind::Flow => Err(RxError::Protocol("a piece of no flow")),
            _ => Err(RxError::Protocol("a frame that only servers send")),
        }
    }

    fn piece(&mut self, header: &Header, buf: PooledBuf) -> Result<(), RxError> {
        let end = header.flags & FLAG_FLOW_END != 0;
        if let Some(flow) = self.flows_in.get(&header.tag) {
            flow.push(buf, end).map_err(RxError::Protocol)?;
        }
        if end {
            self.flows_in.remove(&header.tag);
        }
        Ok(())
    }

    fn request(
        &mut self,
        cx: &mut Context<'_>,
        header: &Header,
        head: RequestHead,
        buf: PooledBuf,
    ) -> Result<(), RxError> {
        let tag = header.tag;
        let Some(op) = &head.op else {
            // An operation of a later version: refused alone, the connection goes on.
            if !matches!(self.stage, Stage::Open) {
                return Err(RxError::Protocol("the first request is not hello"));
            }
            let error =
                PvfsError::new(ErrorCode::NotSupported, "this server has no such operation");
            self.answer(Done { tag, outgoing: Outgoing::head(ResponseHead::error(error)) });
            return Ok(());
        };
        match (&self.stage, op) {
            (Stage::Hello(_), OpRequest::Hello(hello)) => {
                let hello = hello.clone();
                self.hello(tag, &hello);
                return Ok(());
            }
            (Stage::Hello(_), _) => {
                return Err(RxError::Protocol("the first request is not hello"));
            }
            (_, OpRequest::Hello(_)) => return Err(RxError::Protocol("a second hello")),
            _ => {}
        }
        if self.cancels.contains_key(&tag) || self.flows_in.contains_key(&tag) {
            return Err(RxError::Protocol("a tag that is in use"));
        }
        let repeat = op.op().repeat();
        let body = if let Some(shared) = shared_body(op, self.region.as_ref()) {
            match shared {
                Ok(body) if buf.is_empty() && header.flags & FLAG_FLOW == 0 => body,
                Ok(_) => return Err(RxError::Protocol("a body in the frame and in shared memory")),
                Err(error) => {
                    tracing::warn!(peer = self.conn.peer, %error, "shared memory is not there");
                    self.answer(Done { tag, outgoing: Outgoing::head(ResponseHead::error(error)) });
                    return Ok(());
                }
            }
        } else if header.flags & FLAG_FLOW != 0 {
            let (flow, body) = FlowIn::new();
            self.flows_in.insert(tag, flow);
            Body::Flow(body)
        } else if buf.is_empty() {
            Body::Empty
        } else {
            Body::Whole(buf)
        };
        let service = self.service.clone();
        let incoming = Incoming { conn: self.conn.clone(), head, body };
        let mut future = Box::pin(async move { service.handle(incoming).await });
        match future.as_mut().poll(cx) {
            Poll::Ready(outgoing) => self.answer(Done { tag, outgoing }),
            Poll::Pending => {
                let cancel = Rc::new(Cancel::default());
                self.cancels.insert(tag, (cancel.clone(), repeat));
                self.pending.push(Box::pin(std::future::poll_fn(move |cx| {
                    if cancel.is_set.get() {
                        return Poll::Ready(None);
                    }
                    cancel.waker.set(Some(cx.waker().clone()));
                    future.as_mut().poll(cx).map(|outgoing| Some(Done { tag, outgoing }))
                })));
            }
        }
        Ok(())
    }

    fn hello(&mut self, tag: u64, hello: &pvfs2_proto::op::HelloRequest) {
        let Stage::Hello(greeting) = &mut self.stage else { return };
        match greeting.step(&*self.service, &self.conn, self.peer, &self.opts, hello) {
            Ok(Greeted::Challenge(response)) => self.respond(tag, &OpResponse::Hello(response)),
            Ok(Greeted::Open(mut response)) => {
                self.stage = Stage::Open;
                self.region = super::writes::mapped(&self.conn, hello, self.passed.take());
                response.takes_region = self.region.is_some();
                self.greeted = true;
                self.wants_notices = !hello.no_notices;
                self.reader.head_max = HEAD_MAX;
                self.respond(tag, &OpResponse::Hello(response));
            }
            Err(error) => {
                tracing::debug!(peer = self.conn.peer, %error, "hello refused");
                let meta = FrameMeta::new(Kind::Response, Op::Hello as u16, 0, tag);
                self.out.push_message(meta, &ResponseHead::error(error));
                self.stage = Stage::Closing;
            }
        }
    }

    fn respond(&mut self, tag: u64, response: &OpResponse) {
        let meta = FrameMeta::new(Kind::Response, response.op() as u16, 0, tag);
        self.out.push_message(meta, &ResponseHead::ok(response.clone()));
    }

    fn push_notice(&mut self, notice: &Notice) {
        self.out.push_message(FrameMeta::new(Kind::Notice, 0, 0, 0), notice);
    }

    /// Answers a peer that broke the protocol, once.
    fn refuse(&mut self, error: &PvfsError) {
        tracing::warn!(peer = self.conn.peer, %error, "a peer broke the protocol; cut");
        let meta = FrameMeta::new(Kind::Response, 0, 0, 0);
        self.out.push_message(meta, &ResponseHead::error(error.clone()));
        self.stage = Stage::Closing;
    }

    fn answer(&mut self, done: Done) {
        let Done { tag, outgoing } = done;
        self.cancels.remove(&tag);
        let op = outgoing.head.op.as_ref().map_or(0, |op| op.op() as u16);
        let mut meta = FrameMeta::new(Kind::Response, op, 0, tag);
        let body: Vec<Bytes> = match outgoing.body {
            OutBody::Silent => return,
            OutBody::Lent(lent) => {
                self.out.push_lent(meta, |out| outgoing.head.encode_raw_into(out), lent);
                return;
            }
            OutBody::Empty => Vec::new(),
            OutBody::Bytes(bytes) => vec![bytes],
            OutBody::Pooled(buf) => vec![Bytes::from_owner(buf)],
            OutBody::Pieces(bufs) => bufs.into_iter().map(Bytes::from_owner).collect(),
        };
        let len: usize = body.iter().map(Bytes::len).sum();
        if len <= BODY_MAX {
            self.out.push(meta, |out| outgoing.head.encode_raw_into(out), &body);
            return;
        }
        meta.flags = FLAG_FLOW;
        self.out.push_message(meta, &outgoing.head);
        let mut pieces = VecDeque::new();
        for mut bytes in body {
            while !bytes.is_empty() {
                pieces.push_back(bytes.split_to(bytes.len().min(FLOW_BUFFER_BYTES)));
            }
        }
        self.flows_out.push(OutFlow { tag, op, pieces, credits: Credits::new() });
    }

    /// Sends what flows may send; whether anything was queued.
    fn continue_flows(&mut self) -> bool {
        let mut any = false;
        let out = &mut self.out;
        self.flows_out.retain_mut(|flow| {
            while flow.credits.has() && out.bytes() < OUT_FLOW_BYTES {
                let Some(piece) = flow.pieces.pop_front() else { return false };
                flow.credits.spend();
                let last = flow.pieces.is_empty();
                let flags = if last { FLAG_FLOW_END } else { 0 };
                out.push(FrameMeta::new(Kind::Flow, flow.op, flags, flow.tag), |_| {}, &[piece]);
                any = true;
                if last {
                    return false;
                }
            }
            true
        });
        any
    }

    fn grant_credits(&mut self, cx: &Context<'_>) {
        for (tag, flow) in &self.flows_in {
            let (owed, _) = flow.take_owed(cx.waker());
            if owed > 0 {
                let meta = FrameMeta::new(Kind::Flow, owed, FLAG_CREDIT, *tag);
                self.out.push(meta, |_| {}, &[]);
            }
        }
    }

    async fn finish(mut self, end: End) {
        for flow in self.flows_in.values() {
            flow.fail(cut_off());
        }
        if let End::Refused = end {
            self.linger().await;
        }
        let ConnTask { stream, pending, cancels, conn, service, greeted, .. } = self;
        drop(stream);
        for (cancel, repeat) in cancels.values() {
            if *repeat == Repeat::Harmless {
                cancel.set();
            }
        }
        if !pending.is_empty() {
            // What may change something goes on: its steps on other servers must not stop halfway.
            tokio::task::spawn_local(pending.for_each(|_| async {}));
        }
        if greeted {
            service.closed(&conn);
        }
    }

    /// Lets a refused peer read why: closing with unread bytes would throw our answer away.
    async fn linger(&mut self) {
        self.stream.shutdown_write();
        let mut scratch = vec![0u8; 16 << 10];
        let drain = std::future::poll_fn(|cx| {
            loop {
                let mut io = PollIo { stream: &mut self.stream, cx };
                let mut bufs = [io::IoSliceMut::new(&mut scratch)];
                match crate::wire::RawIo::readv(&mut io, &mut bufs) {
                    Ok(n) if n > 0 => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                    _ => return Poll::Ready(()),
                }
            }
        });
        // After the time is up the peer is cut whether it has read or not.
        let _ = tokio::time::timeout(Duration::from_millis(LINGER_MS), drain).await;
    }
}
