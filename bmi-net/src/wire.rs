//! Frame I/O without waiting: parses frames off a byte stream and gathers frames into one.
//!
//! Everything here works on [`RawIo`], which never blocks: blocking sockets come as non-blocking
//! reads, async sockets and `mem` as polls. Bodies are neither copied out of nor into a buffer of
//! ours, except the few bytes that arrive together with a head. Invariants: no length off the wire
//! is trusted before `Header::decode` checked it; a head or body is handed on only after its CRC-32
//! was checked.
use crate::buf::Crcs;
use prost::Message;
use pvfs2_proto::frame::{FLAG_NO_BODY_CRC, FrameError, HEADER_LEN, Header, Kind};
use pvfs2_proto::op::{Cred, OpRequest, ResponseHead};
use pvfs2_proto::{ErrorCode, crc};
use smallvec::SmallVec;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;

/// Most slices of one system call; more simply takes another call.
pub(crate) const IOV_MAX: usize = 128;
/// First size of the buffer that heads are parsed from.
const READ_BUF_BYTES: usize = 16 << 10;

/// A byte stream that never blocks: `WouldBlock` says that somebody will be told when to go on.
pub(crate) trait RawIo {
    /// Reads into the slices, in order; 0 is the end of the stream.
    fn readv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize>;
    /// Writes from the slices, in order.
    fn writev(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Whether [`RawIo::lend`] spares a copy here.
    fn lends(&self) -> bool {
        false
    }
    /// As [`RawIo::writev`], of memory that stays as it is until the peer has answered: it may be
    /// lent instead of copied. After `WouldBlock` the same bytes are to come next.
    fn lend(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.writev(bufs)
    }
    /// Writes up to `len` bytes that stand in `file` from `offset` on, without a copy where the
    /// system can. 0: the file ends there. An error that is not the stream's: see
    /// [`crate::lent::is_of_stream`].
    fn send_file(&mut self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        send_by_copy(self, file, offset, len)
    }
}

/// As [`RawIo::send_file`], by a buffer.
pub(crate) fn send_by_copy(
    io: &mut (impl RawIo + ?Sized),
    file: &File,
    offset: u64,
    len: usize,
) -> io::Result<usize> {
    let mut buf = vec![0; len];
    let n = file.read_at(&mut buf, offset)?;
    if n == 0 { Ok(0) } else { io.writev(&[IoSlice::new(&buf[..n])]) }
}

/// Why no (further) frame comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RxError {
    /// Not yet.
    #[error("nothing there yet")]
    WouldBlock,
    /// The peer has closed.
    #[error("the peer closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(io::Error),
    /// The bytes are no good frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame is none that may come here.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
}

impl RxError {
    /// What a server means that answers no request of ours (tag 0) and cuts us.
    pub(crate) fn refusal(head: &[u8]) -> RxError {
        let head = ResponseHead::decode(head).unwrap_or_default();
        tracing::warn!(status = head.status, detail = head.detail, "the server refuses us");
        match head.as_error().map(|e| e.code) {
            // Damaged on the way: sending again cures it.
            Some(ErrorCode::Damaged) => RxError::Frame(FrameError::HeadCrc),
            _ => RxError::Protocol("the server says that we broke the protocol"),
        }
    }
}

impl From<io::Error> for RxError {
    fn from(e: io::Error) -> RxError {
        match e.kind() {
            io::ErrorKind::WouldBlock => RxError::WouldBlock,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => RxError::Closed,
            _ => RxError::Io(e),
        }
    }
}

/// Where a body goes.
pub(crate) trait Sink {
    /// Room for at most `max` more bytes.
    fn room<'s>(&'s mut self, max: usize, out: &mut SmallVec<[IoSliceMut<'s>; 16]>);
    /// `n` bytes have been filled.
    fn advance(&mut self, n: usize);
}

/// A place in a list of slices.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    index: usize,
    at: usize,
}

/// A sink over the caller's slices, from a place on.
pub(crate) struct SliceSink<'a, 'b> {
    pieces: &'a mut [&'b mut [u8]],
    place: &'a mut Place,
}

impl<'a, 'b> SliceSink<'a, 'b> {
    pub(crate) fn new(pieces: &'a mut [&'b mut [u8]], place: &'a mut Place) -> Self {
        SliceSink { pieces, place }
    }
}

impl Sink for SliceSink<'_, '_> {
    fn room<'s>(&'s mut self, max: usize, out: &mut SmallVec<[IoSliceMut<'s>; 16]>) {
        let mut left = max;
        let mut at = self.place.at;
        for piece in self.pieces.iter_mut().skip(self.place.index) {
            if left == 0 || out.len() == IOV_MAX {
                break;
            }
            let rest = &mut piece[at..];
            let take = rest.len().min(left);
            if take > 0 {
                out.push(IoSliceMut::new(&mut rest[..take]));
            }
            left -= take;
            at = 0;
        }
    }
    fn advance(&mut self, mut n: usize) {
        while let Some(piece) = self.pieces.get(self.place.index) {
            let rest = piece.len() - self.place.at;
            if n < rest {
                self.place.at += n;
                return;
            }
            n -= rest;
            *self.place = Place { index: self.place.index + 1, at: 0 };
        }
    }
}

/// A sink over one buffer, from `at` on.
pub(crate) struct BufSink<'a> {
    pub(crate) buf: &'a mut [u8],
    pub(crate) at: &'a mut usize,
}

impl Sink for BufSink<'_> {
    fn room<'s>(&'s mut self, max: usize, out: &mut SmallVec<[IoSliceMut<'s>; 16]>) {
        let rest = &mut self.buf[*self.at..];
        let take = rest.len().min(max);
        if take > 0 {
            out.push(IoSliceMut::new(&mut rest[..take]));
        }
    }
    fn advance(&mut self, n: usize) {
        *self.at += n;
    }
}

/// Parses frames. For each: [`FrameReader::poll_head`], then [`FrameReader::begin_body`], then
/// [`FrameReader::poll_body`] (also for an empty body).
pub(crate) struct FrameReader {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    header: Option<Header>,
    body_left: usize,
    crc: crc32fast::Hasher,
    cuts: Option<Cuts>,
    /// Heads longer than this are refused: small until the peer has said hello.
    pub(crate) head_max: usize,
    /// How much a read for a head takes at most. Small where a body is expected that shall go
    /// straight to its place.
    pub(crate) read_max: usize,
}

impl FrameReader {
    pub(crate) fn new(head_max: usize) -> FrameReader {
        FrameReader {
            buf: vec![0; READ_BUF_BYTES],
            start: 0,
            end: 0,
            header: None,
            body_left: 0,
            crc: crc32fast::Hasher::new(),
            cuts: None,
            head_max,
            read_max: READ_BUF_BYTES,
        }
    }

    /// Whether a frame has begun and not ended.
    pub(crate) fn is_inside_frame(&self) -> bool {
        self.header.is_some() || self.end > self.start
    }

    /// The next frame's header, once its head is there and good; its bytes are [`Self::head`].
    pub(crate) fn poll_head(&mut self, io: &mut impl RawIo) -> Result<Header, RxError> {
        loop {
            let there = &self.buf[self.start..self.end];
            if let Some((first, rest)) = there.split_first_chunk::<HEADER_LEN>() {
                let header = match self.header {
                    Some(h) => h,
                    None => Header::decode(first)?,
                };
                let head_len = header.head_len as usize;
                if head_len > self.head_max {
                    return Err(FrameError::HeadTooLong(header.head_len).into());
                }
                self.header = Some(header);
                if let Some(head) = rest.get(..head_len) {
                    header.check_head(head)?;
                    return Ok(header);
                }
                self.make_room(HEADER_LEN + head_len);
            }
            self.fill(io)?;
        }
    }

    fn make_room(&mut self, frame_len: usize) {
        if self.start + frame_len > self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if frame_len > self.buf.len() {
                self.buf.resize(frame_len, 0);
            }
        }
    }

    fn fill(&mut self, io: &mut impl RawIo) -> Result<(), RxError> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buf.len() > 16 * READ_BUF_BYTES {
                // One long head shall not keep its memory for the connection's life.
                self.buf = vec![0; READ_BUF_BYTES];
            }
        }
        self.make_room(HEADER_LEN);
        let want = match self.header {
            Some(h) => (HEADER_LEN + h.head_len as usize).max(self.read_max),
            None => self.read_max,
        };
        let to = self.buf.len().min(self.end + want);
        let n = io.readv(&mut [IoSliceMut::new(&mut self.buf[self.end..to])])?;
        if n == 0 {
            return Err(RxError::Closed);
        }
        self.end += n;
        Ok(())
    }

    /// The head's bytes, after [`Self::poll_head`] and before [`Self::begin_body`].
    pub(crate) fn head(&self) -> &[u8] {
        let len = self.header.map_or(0, |h| h.head_len as usize);
        &self.buf[self.start + HEADER_LEN..self.start + HEADER_LEN + len]
    }

    /// Bytes of the body that have not come yet.
    pub(crate) fn body_left(&self) -> usize {
        self.body_left
    }

    /// Leaves the head behind.
    pub(crate) fn begin_body(&mut self) {
        if let Some(h) = self.header {
            self.start += HEADER_LEN + h.head_len as usize;
            self.body_left = h.body_len as usize;
            self.crc = crc32fast::Hasher::new();
            self.cuts = None;
        }
    }

    /// The body that begins is also summed piece by piece: the first has `first` bytes, all others a
    /// strip, the last what is left. One look at the bytes serves for both.
    pub(crate) fn cut_body(&mut self, first: usize) {
        self.cuts = Some(Cuts { left: first, len: 0, joined: 0, crcs: Crcs::new() });
    }

    /// The pieces' checksums, once the body is whole.
    pub(crate) fn take_crcs(&mut self) -> Crcs {
        self.cuts.take().map_or_else(Crcs::new, |cuts| cuts.crcs)
    }

    /// Brings the body into `sink`; `Ok` when it is whole and its CRC-32 is right.
    pub(crate) fn poll_body(
        &mut self,
        io: &mut impl RawIo,
        sink: &mut impl Sink,
    ) -> Result<(), RxError> {
        let Some(header) = self.header else { return Ok(()) };
        let with_crc = header.flags & FLAG_NO_BODY_CRC == 0;
        while self.body_left > 0 {
            let mut room = SmallVec::<[IoSliceMut<'_>; 16]>::new();
            sink.room(self.body_left, &mut room);
            let Some(first) = room.first_mut() else {
                return Err(RxError::Protocol("a body longer than was asked for"));
            };
            let n = if self.end > self.start {
                let n = first.len().min(self.end - self.start);
                first[..n].copy_from_slice(&self.buf[self.start..self.start + n]);
                self.start += n;
                n
            } else {
                match io.readv(&mut room)? {
                    0 => return Err(RxError::Closed),
                    n => n,
                }
            };
            if with_crc {
                let mut left = n;
                for piece in &room {
                    let take = piece.len().min(left);
                    match &mut self.cuts {
                        Some(cuts) => cuts.update(&mut self.crc, &piece[..take]),
                        None => self.crc.update(&piece[..take]),
                    }
                    left -= take;
                }
            }
            drop(room);
            sink.advance(n);
            self.body_left -= n;
        }
        self.header = None;
        let crc = match &mut self.cuts {
            Some(cuts) => cuts.finish(&mut self.crc),
            None => std::mem::take(&mut self.crc).finalize(),
        };
        Ok(header.check_body_crc(crc)?)
    }
}

/// A body's checksum by pieces.
struct Cuts {
    /// Bytes to the end of the piece, and those that it has.
    left: usize,
    len: usize,
    joined: u32,
    crcs: Crcs,
}

impl Cuts {
    fn update(&mut self, crc: &mut crc32fast::Hasher, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.left));
            crc.update(now);
            self.left -= now.len();
            self.len += now.len();
            bytes = later;
            if self.left == 0 {
                self.end(crc);
            }
        }
    }
    fn end(&mut self, crc: &mut crc32fast::Hasher) {
        let one = std::mem::take(crc).finalize();
        self.joined = crc::join(self.joined, one, self.len);
        self.crcs.push(one);
        (self.left, self.len) = (crc::STRIP_BYTES as usize, 0);
    }
    /// The checksum of it all.
    fn finish(&mut self, crc: &mut crc32fast::Hasher) -> u32 {
        if self.len > 0 {
            self.end(crc);
        }
        self.joined
    }
}

/// Appends a frame's header and head to `out`; `head` writes the head.
pub(crate) fn append_frame(out: &mut Vec<u8>, frame: &FrameMeta, head: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.resize(at + HEADER_LEN, 0);
    head(out);
    let f = frame;
    let head = &out[at + HEADER_LEN..];
    let header = Header::new(f.kind, f.op, f.flags, f.tag, head, f.body_len as u32, f.body_crc);
    out[at..at + HEADER_LEN].copy_from_slice(&header.encode());
}

/// What a header says besides its head.
pub(crate) struct FrameMeta {
    pub(crate) kind: Kind,
    pub(crate) op: u16,
    pub(crate) flags: u16,
    pub(crate) tag: u64,
    pub(crate) body_len: usize,
    pub(crate) body_crc: u32,
}

impl FrameMeta {
    /// A frame without body.
    pub(crate) fn new(kind: Kind, op: u16, flags: u16, tag: u64) -> FrameMeta {
        FrameMeta { kind, op, flags, tag, body_len: 0, body_crc: 0 }
    }
}

/// CRC-32 over slices.
pub(crate) fn crc_of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for piece in pieces {
        crc.update(piece);
    }
    crc.finalize()
}

/// The `len` bytes from `from` on of a list of slices, as slices.
pub(crate) fn sub_slices<'a>(
    pieces: &[&'a [u8]],
    mut from: usize,
    mut len: usize,
) -> SmallVec<[&'a [u8]; 16]> {
    let mut out = SmallVec::new();
    for piece in pieces {
        if from >= piece.len() {
            from -= piece.len();
            continue;
        }
        let take = (piece.len() - from).min(len);
        if take > 0 {
            out.push(&piece[from..from + take]);
        }
        len -= take;
        from = 0;
        if len == 0 {
            break;
        }
    }
    out
}

/// Writes `parts` from byte `*sent` on until all is sent, or `WouldBlock`. `lend`: what follows the
/// first part stays as it is until the peer has answered.
pub(crate) fn write_parts(
    io: &mut impl RawIo,
    parts: &[&[u8]],
    sent: &mut usize,
    lend: bool,
) -> io::Result<()> {
    let total: usize = parts.iter().map(|p| p.len()).sum();
    let first = parts.first().map_or(0, |p| p.len());
    while *sent < total {
        let lend = lend && io.lends();
        // What is lent leaves apart from the head, whose memory is soon used again.
        let (parts, in_head) = match lend && *sent < first {
            true => (&parts[..1], true),
            false => (parts, false),
        };
        let mut iov = SmallVec::<[IoSlice<'_>; 32]>::new();
        let mut skip = *sent;
        for part in parts {
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            iov.push(IoSlice::new(&part[skip..]));
            skip = 0;
            if iov.len() == IOV_MAX {
                break;
            }
        }
        let wrote = if lend && !in_head { io.lend(&iov)? } else { io.writev(&iov)? };
        match wrote {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => *sent += n,
        }
    }
    Ok(())
}

/// Encodes a `RequestHead` without taking the operation out of its call.
pub(crate) fn encode_request_head(out: &mut Vec<u8>, h: &HeadParts<'_>) {
    use prost::encoding::{message, uint32, uint64};
    if h.session != 0 {
        uint64::encode(1, &h.session, out);
    }
    if h.slot != 0 {
        uint32::encode(2, &h.slot, out);
    }
    if h.seq != 0 {
        uint64::encode(3, &h.seq, out);
    }
    if h.op_id != 0 {
        uint64::encode(4, &h.op_id, out);
    }
    message::encode(5, h.cred, out);
    h.op.encode(out);
}

/// The fields of a `RequestHead`, borrowed.
pub(crate) struct HeadParts<'a> {
    pub(crate) session: u64,
    pub(crate) slot: u32,
    pub(crate) seq: u64,
    pub(crate) op_id: u64,
    pub(crate) cred: &'a Cred,
    pub(crate) op: &'a OpRequest,
}

/// `Message::encode` cannot fail into a growing vector; this says so in one place.
pub(crate) trait EncodeInto: Message {
    fn encode_raw_into(&self, out: &mut Vec<u8>);
}
impl<M: Message> EncodeInto for M {
    fn encode_raw_into(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        self.encode_raw(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what it has in small, odd steps.
    struct Drip(Vec<u8>, usize);
    impl RawIo for Drip {
        fn readv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            let rest = &self.0[self.1..];
            let n = rest.len().min(bufs[0].len()).min(9_973);
            bufs[0][..n].copy_from_slice(&rest[..n]);
            self.1 += n;
            Ok(n)
        }
        fn writev(&mut self, _: &[IoSlice<'_>]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    #[test]
    fn a_body_is_summed_by_pieces_and_as_a_whole_at_once() {
        let strip = crc::STRIP_BYTES as usize;
        for (first, len) in
            [(strip, 3 * strip), (1, 70_000), (500, 400), (strip, 0), (7, 2 * strip)]
        {
            let body: Vec<u8> = (0..len).map(|i| (i * i % 253) as u8).collect();
            let mut meta = FrameMeta::new(Kind::Request, 51, 0, 3);
            (meta.body_len, meta.body_crc) = (len, crc_of([&body[..]]));
            let mut bytes = Vec::new();
            append_frame(&mut bytes, &meta, |out| out.extend_from_slice(b"head"));
            bytes.extend_from_slice(&body);
            for damaged in [false, true].into_iter().filter(|d| !d || len > 0) {
                let mut io = Drip(bytes.clone(), 0);
                if damaged {
                    *io.0.last_mut().unwrap() ^= 4;
                }
                let mut reader = FrameReader::new(1 << 10);
                reader.poll_head(&mut io).unwrap();
                reader.begin_body();
                reader.cut_body(first);
                let mut buf = vec![0; len];
                let got = reader.poll_body(&mut io, &mut BufSink { buf: &mut buf, at: &mut 0 });
                assert_eq!(got.is_err(), damaged);
                let pieces = [&body[..first.min(len)], &body[first.min(len)..]];
                let want: Crcs = pieces[0]
                    .chunks(strip)
                    .chain(pieces[1].chunks(strip))
                    .map(crc32fast::hash)
                    .collect();
                assert!(damaged || reader.take_crcs() == want, "{first}, {len}");
            }
        }
    }
}
