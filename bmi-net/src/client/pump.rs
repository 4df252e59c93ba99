//! Calls over one connection, without waiting: sends and receives as far as the socket goes.
//!
//! Both carriers drive it, so requests, responses, flows and credits have one implementation on the
//! client's side. Requests leave in order, responses may come in any order. While a request cannot
//! be sent, responses are read all the same: no two peers ever wait for each other's reading.
//! Invariant: after any error the connection is good for nothing but closing.
use super::SessionEvents;
use super::sharing::shared_write;
use crate::call::{Call, CallCx, Reply};
use crate::flow::Credits;
use crate::region::Region;
use crate::wire::{
    BufSink, FrameMeta, FrameReader, HeadParts, Place, RawIo, RxError, SliceSink, append_frame,
    crc_of, encode_request_head, sub_slices, write_parts,
};
use bytes::Bytes;
use prost::Message;
use pvfs2_proto::frame::{
    FLAG_CREDIT, FLAG_FLOW, FLAG_FLOW_END, FLAG_LENT, FrameError, Header, Kind,
};
use pvfs2_proto::limits::{BODY_MAX, FLOW_BUFFER_BYTES, HEAD_MAX};
use pvfs2_proto::op::{Notice, OpRequest, ResponseHead};
use pvfs2_proto::{PvfsError, Result, ServerId};
use smallvec::SmallVec;
use std::io;
use std::sync::Arc;

/// Most bytes of a flow that are gathered where the caller gave no room for them.
pub(super) const GATHER_MAX_BYTES: usize = 256 << 20;
/// How much a read for a head takes while a long body is expected, so that the body goes straight
/// to its place.
const BULK_READ_BYTES: usize = 512;
/// The same while only short responses are expected.
const SMALL_READ_BYTES: usize = 16 << 10;
/// Bodies from here on are lent to the socket, where it takes them: below, a copy is cheaper.
const LEND_MIN_BYTES: usize = 64 << 10;
/// From this room on, a body counts as long.
pub(super) const BULK_BYTES: usize = 16 << 10;

/// The session part of a request's head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamp {
    pub(super) session: u64,
    /// Slot plus 1, or 0.
    pub(super) slot: u32,
    pub(super) seq: u64,
}

/// One call on its way.
struct Leg {
    call: usize,
    stamp: Stamp,
    tag: u64,
    /// The request in place of the call's: it names the body in the shared region.
    shared: Option<OpRequest>,
    /// Bytes of the body that are sent.
    body_len: usize,
    sent: bool,
    flow_at: usize,
    flow_over: bool,
    credits: Credits,
    reply: Option<ResponseHead>,
    flow_in: bool,
    lent: bool,
    is_changed: bool,
    got: usize,
    place: Place,
    buf: Vec<u8>,
    done: bool,
}

impl Leg {
    fn is_flow(&self) -> bool {
        self.body_len > BODY_MAX
    }
    /// Whether its request's frame has no body.
    fn has_no_body_here(&self) -> bool {
        self.is_flow() || self.shared.is_some()
    }
    /// Whether a piece of its flow may be sent: one with credit, or the end of an answered one.
    fn has_piece(&self) -> bool {
        !self.flow_over && (self.done || self.credits.has())
    }
    fn is_over(&self) -> bool {
        self.done && self.sent && self.flow_over
    }
}

/// What is being sent.
#[derive(Clone, Copy)]
enum Sending {
    Nothing,
    /// The request of a leg.
    Request(usize),
    /// A piece of a leg's flow: from, length.
    Piece(usize, usize, usize),
    Credit,
}

/// One connection, and the calls that are on it.
pub(super) struct Pump {
    server: ServerId,
    reader: FrameReader,
    legs: SmallVec<[Leg; 2]>,
    next_tag: u64,
    sending: Sending,
    tx_head: Vec<u8>,
    tx_sent: usize,
    grants: SmallVec<[(u64, u16); 2]>,
    /// The leg whose body is coming, and whether it is the last of it.
    receiving: Option<(usize, bool)>,
    reading: bool,
    broken: bool,
    /// The client's memory that the server has mapped.
    region: Option<Arc<Region>>,
    left_shared: bool,
    /// Bytes moved in either direction: tells that the server is alive.
    pub(super) moved: u64,
}

impl Pump {
    pub(super) fn new(server: ServerId) -> Pump {
        Pump {
            server,
            reader: FrameReader::new(HEAD_MAX),
            legs: SmallVec::new(),
            next_tag: 1,
            sending: Sending::Nothing,
            tx_head: Vec::new(),
            tx_sent: 0,
            grants: SmallVec::new(),
            receiving: None,
            reading: false,
            broken: false,
            region: None,
            left_shared: false,
            moved: 0,
        }
    }

    /// From now on bodies in `region` are named, not sent: the server has mapped it.
    pub(super) fn share(&mut self, region: Arc<Region>) {
        self.region = Some(region);
    }

    /// Puts a call (by its place among the exchange's calls) on this connection. Gives the bytes of its
    /// body that the server finds in shared memory.
    pub(super) fn add(&mut self, index: usize, call: &Call<'_>, stamp: Stamp) -> usize {
        let total: usize = call.body.iter().map(|b| b.len()).sum();
        let shared = self.region.as_ref().and_then(|region| shared_write(region, call));
        let body_len = if shared.is_some() { 0 } else { total };
        let room: usize = call.into.iter().map(|b| b.len()).sum();
        if self.legs.is_empty() {
            self.reader.read_max = SMALL_READ_BYTES;
        }
        if room > BULK_BYTES {
            self.reader.read_max = BULK_READ_BYTES;
        }
        self.legs.push(Leg {
            call: index,
            stamp,
            tag: self.next_tag,
            shared,
            body_len,
            sent: false,
            flow_at: 0,
            flow_over: body_len <= BODY_MAX,
            credits: Credits::new(),
            reply: None,
            flow_in: false,
            lent: false,
            is_changed: false,
            got: 0,
            place: Place::default(),
            buf: Vec::new(),
            done: false,
        });
        self.next_tag += 1;
        total - body_len
    }

    /// Whether a call was given up whose body the server may still read in the shared region.
    pub(super) fn has_left_shared(&self) -> bool {
        self.left_shared
    }

    /// Whether it waits for the socket to take more.
    pub(super) fn wants_write(&self) -> bool {
        !matches!(self.sending, Sending::Nothing)
    }

    /// Whether any call is still on its way.
    pub(super) fn is_busy(&self) -> bool {
        !self.legs.is_empty()
    }

    /// The reader, with what it has read already.
    pub(super) fn into_reader(self) -> FrameReader {
        self.reader
    }

    /// Which server it talks to.
    pub(super) fn server(&self) -> ServerId {
        self.server
    }

    /// Whether it may not be used again.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Ends every call that has no result with `error`; the connection may not be used again.
    pub(super) fn fail(&mut self, calls: &mut [Call<'_>], error: &PvfsError) {
        self.broken = true;
        self.left_shared |= self.legs.iter().any(|leg| leg.shared.is_some() && !leg.done);
        for leg in self.legs.drain(..) {
            let result = &mut calls[leg.call].result;
            if result.is_none() {
                *result = Some(Err(error.clone()));
            }
        }
    }

    /// Sends as far as possible, and does not look for answers yet.
    pub(super) fn begin(
        &mut self,
        io: &mut impl RawIo,
        cx: &CallCx,
        calls: &[Call<'_>],
    ) -> std::result::Result<(), RxError> {
        match self.send(io, cx, calls) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Goes on as far as possible; `Ok(true)` when every call has its result.
    pub(super) fn go(
        &mut self,
        io: &mut impl RawIo,
        cx: &CallCx,
        calls: &mut [Call<'_>],
        events: &dyn SessionEvents,
    ) -> std::result::Result<bool, RxError> {
        loop {
            let is_full = match self.send(io, cx, calls) {
                Ok(()) => false,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => true,
                Err(e) => return Err(e.into()),
            };
            match self.receive(io, calls, events, is_full) {
                Ok(()) | Err(RxError::WouldBlock) => {}
                Err(e) => return Err(e),
            }
            if is_full {
                return Ok(false);
            }
            if !self.has_to_send() {
                let over = self.legs.iter().all(Leg::is_over);
                if over {
                    self.legs.clear();
                }
                return Ok(over);
            }
        }
    }

    /// Whether there is a frame to send: what was received may have made one possible.
    fn has_to_send(&self) -> bool {
        !self.grants.is_empty() || self.legs.iter().any(|l| !l.sent || l.has_piece())
    }

    /// Sends until nothing is left that may be sent; `WouldBlock` when the socket is full.
    fn send(&mut self, io: &mut impl RawIo, cx: &CallCx, calls: &[Call<'_>]) -> io::Result<()> {
        loop {
            if let Sending::Nothing = self.sending {
                self.sending = self.choose(cx, calls);
                self.tx_sent = 0;
            }
            let before = self.tx_sent;
            let mut parts = SmallVec::<[&[u8]; 16]>::new();
            parts.push(&self.tx_head);
            match self.sending {
                Sending::Nothing => return Ok(()),
                Sending::Credit => {}
                Sending::Request(leg) if self.legs[leg].has_no_body_here() => {}
                Sending::Request(leg) => parts.extend_from_slice(&calls[self.legs[leg].call].body),
                Sending::Piece(leg, from, len) => {
                    parts.extend(sub_slices(&calls[self.legs[leg].call].body, from, len));
                }
            }
            let lend = match self.sending {
                // A whole request is read before it is answered, a flow may be answered before.
                Sending::Request(leg) => {
                    !self.legs[leg].is_flow() && self.legs[leg].body_len >= LEND_MIN_BYTES
                }
                _ => false,
            };
            let result = write_parts(io, &parts, &mut self.tx_sent, lend);
            self.moved += (self.tx_sent - before) as u64;
            result?;
            if let Sending::Request(leg) = self.sending {
                self.legs[leg].sent = true;
            }
            self.sending = Sending::Nothing;
        }
    }

    /// The next frame to send, its head encoded: credits first, then requests, then pieces.
    fn choose(&mut self, cx: &CallCx, calls: &[Call<'_>]) -> Sending {
        self.tx_head.clear();
        if let Some((tag, n)) = self.grants.pop() {
            let meta = FrameMeta::new(Kind::Flow, n, FLAG_CREDIT, tag);
            append_frame(&mut self.tx_head, &meta, |_| {});
            return Sending::Credit;
        }
        if let Some(index) = self.legs.iter().position(|l| !l.sent) {
            let leg = &self.legs[index];
            let call = &calls[leg.call];
            let mut meta = FrameMeta::new(Kind::Request, call.op.op() as u16, 0, leg.tag);
            if leg.is_flow() {
                meta.flags = FLAG_FLOW;
            } else if leg.body_len > 0 {
                meta.body_len = leg.body_len;
                meta.body_crc = crc_of(call.body.iter().copied());
            }
            let parts = HeadParts {
                session: leg.stamp.session,
                slot: leg.stamp.slot,
                seq: leg.stamp.seq,
                op_id: cx.op_id,
                cred: &cx.cred,
                op: leg.shared.as_ref().unwrap_or(&call.op),
            };
            append_frame(&mut self.tx_head, &meta, |out| encode_request_head(out, &parts));
            return Sending::Request(index);
        }
        let next = self.legs.iter().position(Leg::has_piece);
        let Some(index) = next else { return Sending::Nothing };
        let leg = &mut self.legs[index];
        let from = leg.flow_at;
        // Answered already: what is left of the flow interests nobody.
        let len = if leg.done { 0 } else { (leg.body_len - from).min(FLOW_BUFFER_BYTES) };
        if !leg.done {
            leg.credits.spend();
        }
        leg.flow_at += len;
        leg.flow_over = leg.done || leg.flow_at == leg.body_len;
        let flags = if leg.flow_over { FLAG_FLOW_END } else { 0 };
        let call = &calls[leg.call];
        let mut meta = FrameMeta::new(Kind::Flow, call.op.op() as u16, flags, leg.tag);
        meta.body_len = len;
        meta.body_crc = match len {
            0 => 0,
            _ => crc_of(sub_slices(&call.body, from, len)),
        };
        append_frame(&mut self.tx_head, &meta, |_| {});
        Sending::Piece(index, from, len)
    }

    /// Receives until `WouldBlock`, or all is there, or there are credits to grant (unless nothing
    /// can be sent now).
    fn receive(
        &mut self,
        io: &mut impl RawIo,
        calls: &mut [Call<'_>],
        events: &dyn SessionEvents,
        is_full: bool,
    ) -> std::result::Result<(), RxError> {
        while self.legs.iter().any(|l| !l.done) && (is_full || self.grants.is_empty()) {
            if !self.reading {
                let header = self.reader.poll_head(io)?;
                self.begin_reply(&header, calls, events)?;
                self.reader.begin_body();
                self.reading = true;
                self.moved += 1;
            }
            match (self.body(io, calls), self.receiving) {
                // Whoever lends cannot keep others from writing: the stream is as good as before.
                (Err(RxError::Frame(FrameError::BodyCrc)), Some((i, _))) if self.legs[i].lent => {
                    self.legs[i].is_changed = true;
                }
                (result, _) => result?,
            }
            self.reading = false;
            if let Some((index, last)) = self.receiving.take() {
                let leg = &mut self.legs[index];
                if last {
                    leg.done = true;
                    finish(leg, calls);
                } else {
                    self.grants.push((leg.tag, 1));
                }
            }
        }
        Ok(())
    }

    fn begin_reply(
        &mut self,
        header: &Header,
        calls: &[Call<'_>],
        events: &dyn SessionEvents,
    ) -> std::result::Result<(), RxError> {
        let len = header.body_len as usize;
        let index = self.legs.iter().position(|l| l.tag == header.tag && !l.done);
        let leg = index.and_then(|i| self.legs.get_mut(i));
        match (header.kind, leg) {
            (Kind::Response, Some(leg)) if leg.reply.is_none() && leg.sent => {
                let head = ResponseHead::decode(self.reader.head())
                    .map_err(|_| RxError::Protocol("a response's head that cannot be decoded"))?;
                leg.reply = Some(head);
                leg.flow_in = header.flags & FLAG_FLOW != 0;
                leg.lent = header.flags & FLAG_LENT != 0;
                if leg.flow_in && len == 0 {
                    return Ok(());
                }
                self.receiving = index.map(|i| (i, true));
            }
            (Kind::Response, None) if header.tag == 0 => {
                return Err(RxError::refusal(self.reader.head()));
            }
            (Kind::Flow, Some(leg)) if header.flags & FLAG_CREDIT != 0 && len == 0 => {
                leg.credits.grant(header.op).map_err(RxError::Protocol)?;
            }
            // A credit for a flow that we have ended.
            (Kind::Flow, None) if header.flags & FLAG_CREDIT != 0 && len == 0 => {}
            (Kind::Flow, Some(leg)) if leg.flow_in && len <= FLOW_BUFFER_BYTES => {
                self.receiving = index.map(|i| (i, header.flags & FLAG_FLOW_END != 0));
            }
            (Kind::Notice, _) if len == 0 => {
                if let Ok(notice) = Notice::decode(self.reader.head()) {
                    events.notice(self.server, notice);
                }
            }
            _ => return Err(RxError::Protocol("a frame that nobody asked for")),
        }
        if let Some((index, _)) = self.receiving {
            let leg = &mut self.legs[index];
            if calls[leg.call].into.is_empty() {
                if leg.got + len > GATHER_MAX_BYTES {
                    return Err(RxError::Protocol("a flow longer than can be gathered"));
                }
                leg.buf.resize(leg.got + len, 0);
            }
        }
        Ok(())
    }

    fn body(
        &mut self,
        io: &mut impl RawIo,
        calls: &mut [Call<'_>],
    ) -> std::result::Result<(), RxError> {
        let Some((index, _)) = self.receiving else {
            return self.reader.poll_body(io, &mut BufSink { buf: &mut [], at: &mut 0 });
        };
        let leg = &mut self.legs[index];
        let call = &mut calls[leg.call];
        if call.into.is_empty() {
            let before = leg.got;
            let sink = &mut BufSink { buf: &mut leg.buf, at: &mut leg.got };
            let result = self.reader.poll_body(io, sink);
            self.moved += (leg.got - before) as u64;
            return result;
        }
        let before = self.reader.body_left();
        let sink = &mut SliceSink::new(&mut call.into, &mut leg.place);
        let result = self.reader.poll_body(io, sink);
        let got = before - self.reader.body_left();
        leg.got += got;
        self.moved += got as u64;
        result
    }
}

fn finish(leg: &mut Leg, calls: &mut [Call<'_>]) {
    let head = leg.reply.take().unwrap_or_default();
    let call = &mut calls[leg.call];
    call.result = Some(match head.as_error() {
        Some(error) => {
            call.error_op = head.op;
            Err(error)
        }
        None => {
            let body = Bytes::from(std::mem::take(&mut leg.buf));
            Ok(Reply { op: head.op, body, body_len: leg.got, is_changed: leg.is_changed })
        }
    });
}

/// A call of the carrier's own (hello, reclaim), and its response.
pub(super) fn take_reply<M: pvfs2_proto::op::OpMessage>(
    result: Option<Result<Reply>>,
) -> Result<M::Response> {
    match result {
        Some(Ok(reply)) => M::take_response(reply.op),
        Some(Err(error)) => Err(error),
        None => Err(PvfsError::from(pvfs2_proto::ErrorCode::Unreachable)),
    }
}
