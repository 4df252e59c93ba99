//! io_write: the body into extents of one datafile, making it if need be.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Checked (handle ours, extents in order, their sum = the body) | Excluded | answered: Stale, Invalid, FileTooBig |
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
use crate::extents;
use crate::state::IoState;
use pvfs2_bmi::buf::PooledBuf;
use pvfs2_bmi::flow::FlowBody;
use pvfs2_bmi::service::Body;
use pvfs2_proto::op::{IoWriteRequest, IoWriteResponse, Op, PhysicalExtent};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
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
        Body::Whole(bytes) => write_piece(state, datahandle, &mut place, &bytes)?,
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
        mtime_ns = mtime_ns.max(write_piece(state, datahandle, place, &piece)?);
        written += piece.len() as u64;
    }
    if written != total {
        return Err(mismatch(written, total));
    }
    Ok(mtime_ns)
}

/// Writes `bytes` at `place` as one step.
fn write_piece(
    state: &IoState,
    datahandle: Handle,
    place: &mut Place<'_>,
    bytes: &PooledBuf,
) -> Result<i64> {
    let bstreams = state.bstreams();
    let _writer = state.locks().lock(datahandle);
    let before = bstreams.stat(datahandle)?;
    let (mut rest, mut mtime_ns) = (&bytes[..], 0);
    while !rest.is_empty() {
        let Some((offset, len)) = place.take(rest.len()) else {
            return Err(mismatch(bytes.len() as u64, (bytes.len() - rest.len()) as u64));
        };
        let (now, later) = rest.split_at(len);
        // They came with the frame, compared and cut for one extent.
        let crcs = if now.len() == bytes.len() { bytes.crcs() } else { &[] };
        match bstreams.write_summed(datahandle, offset, &[now], crcs) {
            Ok(time) => mtime_ns = time,
            Err(e) => {
                if let Err(undo) = bstreams.truncate(datahandle, before.size, false) {
                    tracing::warn!(%datahandle, "cannot undo a write that failed ({e}): {undo}");
                }
                return Err(e);
            }
        }
        rest = later;
    }
    Ok(mtime_ns)
}

fn mismatch(body: u64, extents: u64) -> PvfsError {
    PvfsError::new(
        ErrorCode::Invalid,
        format!("the request's body has {body} bytes (so far), its extents {extents}"),
    )
}
