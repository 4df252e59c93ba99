//! df_copy: extents of datafiles of this server into one of its datafiles; no byte travels.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (handles ours, pieces in order) | Excluded | answered: Stale, Invalid, FileTooBig |
//! | Excluded (no other writer of the datafile copied to) | Copied | - |
//! | Copied (piece after piece, in the blocking pool; holes stay holes) | answered | answered: NoSpace, Io, Damaged; Stale: removed lately |
//!
//! Durable when the reply leaves: against kill -9; against loss of power after df_sync or the next
//! write-out. Every byte is compared with its checksum on the way and gets one where it goes. Not
//! rolled back: what was copied before an error stays, as after a short write; a repeat copies
//! again, which gives the same as long as nobody writes to the sources. The datafile reaches to the
//! end of the last piece, even where that is a hole, so that the file's size follows from it.
use crate::state::IoState;
use pvfs2_proto::limits::{FILE_SIZE_MAX, IO_BYTES_MAX, IO_EXTENTS_MAX};
use pvfs2_proto::op::{CopyExtent, DfCopyRequest, DfCopyResponse};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use pvfs2_trove::Bstreams;
use std::sync::Arc;

/// Bytes that are in memory at a time.
const BUFFER_BYTES: u64 = 1 << 20;
/// Copies begin anew at multiples of this, so that checksummed strips are written whole.
const STRIP_BYTES: u64 = pvfs2_trove::bstreams::STRIP_BYTES;
/// Stretches with data asked for at a time.
const EXTENTS: usize = 256;

/// Serves df_copy.
pub async fn df_copy(state: &Arc<IoState>, req: DfCopyRequest) -> Result<DfCopyResponse> {
    let to = state.own(req.datahandle)?;
    check(state, &req.pieces)?;
    let pool = state.clone();
    state
        .blocking(move || {
            let _writer = pool.locks().lock(to);
            let bstreams = pool.bstreams();
            let mut buffer = Vec::new();
            for piece in &req.pieces {
                copy(bstreams, to, piece, &mut buffer)?;
            }
            Ok(DfCopyResponse { mtime_ns: pool.config().env.now_ns() })
        })
        .await
}

fn check(state: &IoState, pieces: &[CopyExtent]) -> Result<()> {
    let invalid = |why: String| Err(PvfsError::new(ErrorCode::Invalid, why));
    if pieces.is_empty() || pieces.len() > IO_EXTENTS_MAX {
        return invalid(format!("a copy has 1 to {IO_EXTENTS_MAX} pieces: split it"));
    }
    let (mut at, mut total) = (0u64, 0u64);
    for p in pieces {
        state.own(p.source)?;
        let ends = [p.source_offset, p.physical_offset].map(|from| from.checked_add(p.len));
        let [Some(source_end), Some(end)] = ends else {
            return Err(PvfsError::new(ErrorCode::FileTooBig, "a piece ends beyond 2^64"));
        };
        if source_end.max(end) > FILE_SIZE_MAX {
            return Err(PvfsError::new(
                ErrorCode::FileTooBig,
                format!("a piece ends at {end}, beyond the largest datafile"),
            ));
        }
        if p.physical_offset < at {
            return invalid(format!(
                "the piece at {} begins before the last ends",
                p.physical_offset
            ));
        }
        (at, total) = (end, total.saturating_add(p.len));
    }
    if total > IO_BYTES_MAX {
        return invalid(format!(
            "a copy moves at most {IO_BYTES_MAX} bytes, not {total}: split it"
        ));
    }
    Ok(())
}

fn copy(b: &Bstreams, to: Handle, piece: &CopyExtent, buffer: &mut Vec<u8>) -> Result<()> {
    let from = Handle(piece.source);
    let (mut at, end) = (piece.source_offset, piece.source_offset + piece.len);
    let place = |source_offset: u64| piece.physical_offset + (source_offset - piece.source_offset);
    while at < end {
        let (data, _, more) = b.map(from, at, EXTENTS)?;
        for e in data {
            let start = e.physical_offset.max(at);
            let stop = e.physical_offset.saturating_add(e.len).min(end);
            if start >= stop {
                continue;
            }
            hole(b, to, place(at), place(start))?;
            bytes(b, (from, start), (to, place(start)), stop - start, buffer)?;
            at = stop;
        }
        if !more || at >= end {
            break;
        }
    }
    hole(b, to, place(at), place(end))?;
    if b.stat(to)?.size < place(end) {
        b.truncate(to, place(end), true)?;
    }
    Ok(())
}

/// What lies in the datafile where the source has nothing becomes a hole.
fn hole(b: &Bstreams, to: Handle, start: u64, stop: u64) -> Result<()> {
    let stop = stop.min(b.stat(to)?.size);
    if start >= stop {
        return Ok(());
    }
    match b.punch(to, start, stop - start) {
        Err(e) if e.code == ErrorCode::NotSupported => {
            let zeros = vec![0; BUFFER_BYTES.min(stop - start) as usize];
            let mut at = start;
            while at < stop {
                let n = (stop - at).min(zeros.len() as u64);
                b.write(to, at, &[&zeros[..n as usize]])?;
                at += n;
            }
            Ok(())
        }
        other => other,
    }
}

fn bytes(
    b: &Bstreams,
    (from, from_offset): (Handle, u64),
    (to, to_offset): (Handle, u64),
    len: u64,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let mut done = 0;
    while done < len {
        let at = to_offset + done;
        let n = (len - done).min(BUFFER_BYTES - at % STRIP_BYTES) as usize;
        if buffer.len() < n {
            buffer.resize(n, 0);
        }
        let got = b.read(from, from_offset + done, &mut buffer[..n])?;
        // The source was cut meanwhile: what is gone reads as zeros.
        buffer[got..n].fill(0);
        b.write(to, at, &[&buffer[..n]])?;
        done += n as u64;
    }
    Ok(())
}
