//! io_read: bytes of extents of one datafile (list I/O).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (handle ours, extents in order and bounded) | Lent, where the request allows it; Cached | answered: Stale, Invalid |
//! | Lent (long, whole strips, all in memory) | answered: the bytes leave from the page cache, not even looked at | Cached |
//! | Cached (each extent read without blocking, in this event loop) | answered, or Cold at the first miss | answered: Io, Damaged |
//! | Cold (the rest of the list in the blocking pool) | answered | answered: Io, Damaged |
//!
//! Durable: nothing. Rolled back: nothing. A datafile that was never written reads as empty
//! (one that was removed lately is Stale): the body holds of every extent what lies before the datafile's end, and `got` tells how much unless
//! every extent is whole. Reading takes no lock (see `locks.rs`).
//!
//! What is lent is compared by the reader with the stored checksums, and asked for once more, to be
//! read and compared here, where it does not match (`bmi-net/src/lent.rs`).
//!
//! What the request names as probably read soon is begun with once the bytes asked for are there
//! (`ahead.rs`).
//!
//! Memory: pooled buffers, one for a body that fits a frame, else pieces of a flow's size.
use crate::ahead;
use crate::extents;
use crate::state::IoState;
use pvfs2_bmi::buf::PooledBuf;
use pvfs2_bmi::lent::Lent;
use pvfs2_bmi::service::OutBody;
use pvfs2_proto::limits::{BODY_MAX, FLOW_BUFFER_BYTES};
use pvfs2_proto::op::{IoReadRequest, IoReadResponse, OpResponse, PhysicalExtent};
use pvfs2_proto::{Handle, Result};
use pvfs2_server_core::service::Answer;
use std::sync::Arc;

/// Shorter reads are cheaper by a copy (and a client takes them over its shared connection).
const LEND_MIN_BYTES: u64 = 64 << 10;

/// Serves io_read.
pub async fn io_read(state: &Arc<IoState>, req: IoReadRequest) -> Result<Answer> {
    let datahandle = state.own(req.datahandle)?;
    let total = extents::check(&req.extents)?;
    if req.may_lend
        && (LEND_MIN_BYTES..=BODY_MAX as u64).contains(&total)
        && let Some(loan) = state.bstreams().lend(datahandle, &req.extents)?
    {
        let pieces = req.extents.iter().map(|e| (e.physical_offset, e.len as usize));
        let body = OutBody::Lent(Lent::new(loan.file, pieces, loan.crc));
        ahead::begin(state, req.ahead);
        return Ok(Answer::with_body(OpResponse::IoRead(IoReadResponse::default()), body));
    }
    let mut reading = Reading::new(datahandle, req.extents, total);
    let whole = reading.run(state, Mode::Cached)?;
    if !whole {
        let pool = state.clone();
        reading = state.blocking(move || reading.run(&pool, Mode::Cold).map(|_| reading)).await?;
    }
    let (response, body) = reading.finish();
    // What is asked for now comes first.
    ahead::begin(state, req.ahead);
    Ok(Answer::with_body(OpResponse::IoRead(response), body))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Cached,
    Cold,
}

/// A read under way: `got.len()` extents are finished, `in_extent` bytes of the next are read.
struct Reading {
    datahandle: Handle,
    extents: Vec<PhysicalExtent>,
    got: Vec<u64>,
    in_extent: u64,
    /// Bytes that may still come: bounds the next buffer.
    left: u64,
    pieces: Vec<PooledBuf>,
    /// Bytes used in the last piece.
    filled: usize,
    piece_bytes: usize,
}

impl Reading {
    fn new(datahandle: Handle, extents: Vec<PhysicalExtent>, total: u64) -> Reading {
        let piece_bytes = if total <= BODY_MAX as u64 { BODY_MAX } else { FLOW_BUFFER_BYTES };
        let got = Vec::with_capacity(extents.len());
        Reading {
            datahandle,
            extents,
            got,
            in_extent: 0,
            left: total,
            pieces: Vec::new(),
            filled: 0,
            piece_bytes,
        }
    }

    /// Reads on; false when `Cached` met bytes that are not in memory.
    fn run(&mut self, state: &IoState, mode: Mode) -> Result<bool> {
        while let Some(extent) = self.extents.get(self.got.len()).copied() {
            let rest = extent.len - self.in_extent;
            if rest == 0 {
                self.next_extent();
                continue;
            }
            let at = extent.physical_offset + self.in_extent;
            let bstreams = state.bstreams();
            let datahandle = self.datahandle;
            let space = self.space(state, rest);
            let got = match mode {
                Mode::Cold => bstreams.read(datahandle, at, space)?,
                Mode::Cached => match bstreams.read_nowait(datahandle, at, space)? {
                    Some(got) => got,
                    None => return Ok(false),
                },
            };
            let wanted = space.len();
            self.filled += got;
            self.in_extent += got as u64;
            self.left -= got as u64;
            // Without blocking, a short read may only mean that the rest is not in memory: ask on.
            if got == 0 || (got < wanted && mode == Mode::Cold) {
                self.left -= extent.len - self.in_extent;
                self.next_extent();
            }
        }
        Ok(true)
    }

    fn next_extent(&mut self) {
        self.got.push(self.in_extent);
        self.in_extent = 0;
    }

    /// Where the next bytes go: at most `rest`, what is free in the last piece, or a fresh piece.
    fn space(&mut self, state: &IoState, rest: u64) -> &mut [u8] {
        if self.pieces.last().is_none_or(|p| self.filled == p.len()) {
            let len = self.left.min(self.piece_bytes as u64) as usize;
            self.pieces.push(state.take_buf(len));
            self.filled = 0;
        }
        match self.pieces.last_mut() {
            Some(piece) => {
                let end = piece.len().min(self.filled.saturating_add(rest as usize));
                &mut piece[self.filled..end]
            }
            None => &mut [],
        }
    }

    fn finish(mut self) -> (IoReadResponse, OutBody) {
        let whole = self.got.iter().zip(&self.extents).all(|(got, e)| *got == e.len);
        let got = if whole { Vec::new() } else { self.got };
        match self.pieces.last_mut() {
            Some(last) if self.filled > 0 => last.truncate(self.filled),
            _ => drop(self.pieces.pop()),
        }
        let body = match self.pieces.len() {
            0 => OutBody::Empty,
            1 => self.pieces.pop().map_or(OutBody::Empty, OutBody::Pooled),
            _ => OutBody::Pieces(self.pieces),
        };
        (IoReadResponse { got }, body)
    }
}
