//! io_write: the body into extents of one datafile, making it if need be.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (handle ours, extents in order, their sum = the body; of shared memory: as many checksums as strips) | Excluded | answered: Stale, Invalid, FileTooBig |
//! | Excluded (no other writer inside) | Written | - |
//! | Written (all extents that this piece of the body fills, in this event loop) | answered, or the next piece of a flow | undone, answered: NoSpace, Io, Damaged; Stale: removed lately |
//!
//! Durable when the reply leaves: against kill -9 of this server (the bytes are the kernel's);
//! against loss of power after df_sync or the next write-out. A body in one frame is one step: for
//! want of space the datafile gets its former length back (bytes that were overwritten in place
//! stay overwritten, as after a short write on any local file; one that the request made stays, of
//! length 0). A flow is written piece by piece as it comes, each piece such a step. Repeating the
//! request is harmless. A handle that was removed lately refuses (Trove remembers it): a write that
//! was late on the network does not make the datafile anew.
//!
//! A body in memory that the client shares goes from there into the page cache, under the checksums that
//! the client says it has, which are stored and not compared: who reads the strips will. So a client
//! that says wrong ones damages only what it may write.
use crate::extents;
use crate::state::IoState;
use pvfs2_bmi::flow::FlowBody;
use pvfs2_bmi::service::Body;
use pvfs2_proto::crc;
use pvfs2_proto::op::{IoWriteRequest, IoWriteResponse, Op, PhysicalExtent};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use smallvec::SmallVec;
use std::sync::Arc;

/// Serves io_write.
pub async fn io_write(
    state: &Arc<IoState>,
    req: IoWriteRequest,
    body: Body,
) -> Result<IoWriteResponse> {
    let datahandle = state.own(req.datahandle)?;
    let total = extents::check(&req.extents)?;
    let mut place = Place { extents: &req.extents, at: 0, in_extent: 0 };
    let mtime_ns = match body {
        Body::Empty if total == 0 => state.config().env.now_ns(),
        Body::Empty => return Err(mismatch(0, total)),
        Body::Whole(bytes) if bytes.len() as u64 != total => {
            return Err(mismatch(bytes.len() as u64, total));
        }
        Body::Whole(bytes) => write_piece(state, datahandle, &mut place, &[&bytes], bytes.crcs())?,
        Body::Shared(shared) => {
            let strips = req.extents.iter().flat_map(crc::strips_of).count();
            if shared.len() as u64 != total || req.crcs.len() != strips {
                return Err(PvfsError::new(
                    ErrorCode::Invalid,
                    format!(
                        "the request names {} bytes of shared memory with {} checksums, its extents have \
                         {total} bytes in {strips} strips",
                        shared.len(),
                        req.crcs.len()
                    ),
                ));
            }
            write_piece(state, datahandle, &mut place, &shared.slices(), &req.crcs)?
        }
        Body::Flow(flow) => {
            let mtime_ns = write_flow(state, datahandle, &mut place, flow, total).await?;
            // `server-core` counts bodies in one frame.
            state.metrics().add_bytes_in(Op::IoWrite, total);
            mtime_ns
        }
    };
    Ok(IoWriteResponse { mtime_ns })
}

/// How far into the extents the body has come.
struct Place<'a> {
    extents: &'a [PhysicalExtent],
    at: usize,
    in_extent: u64,
}

impl Place<'_> {
    /// Where the next bytes go, and how many at most; goes on by `len` or less.
    fn take(&mut self, len: usize) -> Option<(u64, usize)> {
        loop {
            let extent = self.extents.get(self.at)?;
            let rest = extent.len - self.in_extent;
            if rest == 0 {
                self.at += 1;
                self.in_extent = 0;
                continue;
            }
            let now = rest.min(len as u64);
            let offset = extent.physical_offset + self.in_extent;
            self.in_extent += now;
            return Some((offset, now as usize));
        }
    }
}

async fn write_flow(
    state: &IoState,
    datahandle: Handle,
    place: &mut Place<'_>,
    mut flow: FlowBody,
    total: u64,
) -> Result<i64> {
    let (mut written, mut mtime_ns) = (0u64, 0);
    while let Some(piece) = flow.next().await? {
        if piece.len() as u64 > total - written {
            return Err(mismatch(written + piece.len() as u64, total));
        }
        mtime_ns = mtime_ns.max(write_piece(state, datahandle, place, &[&piece], &[])?);
        written += piece.len() as u64;
    }
    if written != total {
        return Err(mismatch(written, total));
    }
    Ok(mtime_ns)
}

/// Writes `bufs` at `place` as one step. `crcs`: of what falls into each strip, extent after extent;
/// none: not known.
fn write_piece(
    state: &IoState,
    datahandle: Handle,
    place: &mut Place<'_>,
    bufs: &[&[u8]],
    mut crcs: &[u32],
) -> Result<i64> {
    let bstreams = state.bstreams();
    let _writer = state.locks().lock(datahandle);
    let size_before = bstreams.size(datahandle)?;
    let total: usize = bufs.iter().map(|b| b.len()).sum();
    let (mut source, mut written, mut mtime_ns) = (Source { bufs, at: 0 }, 0, 0);
    while written < total {
        let Some((physical_offset, len)) = place.take(total - written) else {
            return Err(mismatch(total as u64, written as u64));
        };
        let extent = PhysicalExtent { physical_offset, len: len as u64 };
        let known = crc::strips_of(&extent).count().min(crcs.len());
        let (now, later) = crcs.split_at(known);
        crcs = later;
        match bstreams.write_summed(datahandle, physical_offset, &source.take(len), now) {
            Ok(time) => mtime_ns = time,
            Err(e) => {
                if let Err(undo) = bstreams.truncate(datahandle, size_before, false) {
                    tracing::warn!(%datahandle, "cannot undo a write that failed ({e}): {undo}");
                }
                return Err(e);
            }
        }
        written += len;
    }
    Ok(mtime_ns)
}

/// Slices, taken one after the other; `at` is a place in the first.
struct Source<'a> {
    bufs: &'a [&'a [u8]],
    at: usize,
}

impl<'a> Source<'a> {
    /// The next `len` bytes, which are there.
    fn take(&mut self, mut len: usize) -> SmallVec<[&'a [u8]; 16]> {
        let mut out = SmallVec::new();
        while let Some((first, rest)) = self.bufs.split_first().filter(|_| len > 0) {
            let now = len.min(first.len() - self.at);
            if now > 0 {
                out.push(&first[self.at..self.at + now]);
            }
            len -= now;
            self.at += now;
            if self.at == first.len() {
                (self.bufs, self.at) = (rest, 0);
            }
        }
        out
    }
}

fn mismatch(body: u64, extents: u64) -> PvfsError {
    PvfsError::new(
        ErrorCode::Invalid,
        format!("the request's body has {body} bytes (so far), its extents {extents}"),
    )
}
