//! Frames that wait to be sent over one stream.
//!
//! Place in the walks: the way out of every connection that has several requests at once: a server's,
//! and the shared one of `AsyncNet`. Invariant: what was counted in `bytes` leaves in full or the
//! stream fails, so frames never lose their places.
use crate::lent::{Lent, Sent};
use crate::wire::{EncodeInto, FrameMeta, IOV_MAX, RawIo, append_frame, crc_of};
use bytes::Bytes;
use prost::Message;
use pvfs2_proto::frame::FLAG_LENT;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::io::{self, IoSlice};

enum Chunk {
    /// Headers, heads and copied small bodies.
    Heads(Vec<u8>),
    /// A body, sent from where it lies.
    Body(Bytes),
    /// A body that is sent straight from a file; what is left of it.
    Lent(Lent),
}

impl Chunk {
    /// Bytes in memory; none of a lent one.
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Heads(v) => v,
            Chunk::Body(b) => b,
            Chunk::Lent(_) => &[],
        }
    }
}

/// Bodies up to this many bytes are copied behind their head: cheaper than a slice of their own.
const COPY_MAX: usize = 1024;

/// Frames waiting to be sent, many in one vectored write.
#[derive(Default)]
pub(crate) struct OutQueue {
    chunks: VecDeque<Chunk>,
    sent_of_first: usize,
    bytes: usize,
    spare: Vec<u8>,
}

impl OutQueue {
    /// Bytes not yet sent.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a frame; `meta`'s body length and CRC-32 are computed here.
    pub(crate) fn push(
        &mut self,
        mut meta: FrameMeta,
        head: impl FnOnce(&mut Vec<u8>),
        body: &[Bytes],
    ) {
        meta.body_len = body.iter().map(Bytes::len).sum();
        if meta.body_len > 0 {
            meta.body_crc = crc_of(body.iter().map(|b| &b[..]));
        }
        self.push_head(&meta, head, if meta.body_len <= COPY_MAX { body } else { &[] });
        if meta.body_len > COPY_MAX {
            self.bytes += meta.body_len;
            self.chunks.extend(body.iter().filter(|b| !b.is_empty()).cloned().map(Chunk::Body));
        }
    }

    fn push_head(&mut self, meta: &FrameMeta, head: impl FnOnce(&mut Vec<u8>), behind: &[Bytes]) {
        if !matches!(self.chunks.back(), Some(Chunk::Heads(_))) {
            self.chunks.push_back(Chunk::Heads(std::mem::take(&mut self.spare)));
        }
        if let Some(Chunk::Heads(buf)) = self.chunks.back_mut() {
            let before = buf.len();
            append_frame(buf, meta, head);
            behind.iter().for_each(|b| buf.extend_from_slice(b));
            self.bytes += buf.len() - before;
        }
    }

    /// Appends a frame whose body is sent straight from a file.
    pub(crate) fn push_lent(
        &mut self,
        mut meta: FrameMeta,
        head: impl FnOnce(&mut Vec<u8>),
        lent: Lent,
    ) {
        meta.flags |= FLAG_LENT;
        meta.body_len = lent.len();
        meta.body_crc = lent.crc();
        self.push_head(&meta, head, &[]);
        self.bytes += lent.len();
        self.chunks.push_back(Chunk::Lent(lent));
    }

    /// Appends a frame whose head is a message.
    pub(crate) fn push_message(&mut self, meta: FrameMeta, head: &impl Message) {
        self.push(meta, |out| head.encode_raw_into(out), &[]);
    }

    /// Sends until nothing is left, or `WouldBlock`.
    pub(crate) fn flush(&mut self, io: &mut impl RawIo) -> io::Result<()> {
        while self.bytes > 0 {
            if let Some(Chunk::Lent(lent)) = self.chunks.front_mut() {
                match lent.send(io)? {
                    Sent::Bytes(n) => self.bytes -= n,
                    Sent::Rest(bytes) => self.chunks[0] = Chunk::Body(bytes),
                }
                if matches!(self.chunks.front(), Some(Chunk::Lent(lent)) if lent.is_empty()) {
                    self.chunks.pop_front();
                }
                continue;
            }
            let n = {
                let mut iov = SmallVec::<[IoSlice<'_>; 32]>::new();
                let mut skip = self.sent_of_first;
                let in_memory = |c: &&Chunk| !matches!(c, Chunk::Lent(_));
                for chunk in self.chunks.iter().take_while(in_memory).take(IOV_MAX) {
                    iov.push(IoSlice::new(&chunk.bytes()[skip..]));
                    skip = 0;
                }
                io.writev(&iov)?
            };
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.consume(n);
        }
        Ok(())
    }

    fn consume(&mut self, mut n: usize) {
        self.bytes -= n;
        while let Some(first) = self.chunks.front() {
            let rest = first.bytes().len() - self.sent_of_first;
            if n < rest || matches!(first, Chunk::Lent(_)) {
                self.sent_of_first += n;
                return;
            }
            n -= rest;
            self.sent_of_first = 0;
            if let Some(Chunk::Heads(mut v)) = self.chunks.pop_front()
                && v.capacity() <= 64 << 10
            {
                v.clear();
                self.spare = v;
            }
        }
    }
}
