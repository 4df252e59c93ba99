//! quota_reserve: room for a writer of datafiles of a file under a quota.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check; room here, or asked of the first metadata server | note, answer | answer |
//!
//! The room is memory: it counts as used until the file has grown into it, was truncated, or its
//! last writer has closed it. Asked again, it answers the same. Errors: `Quota`, `Stale`, `Access`,
//! `IsDirectory`, `Invalid`.
use super::unstuff::may_write;
use crate::quota::{Amount, Charge, ids};
use crate::server::MetaServer;
use pvfs2_proto::op::{OpResponse, QuotaReserveRequest, QuotaReserveResponse};
use pvfs2_proto::{Handle, Result};
use pvfs2_server_core::service::{Answer, OpCx};

/// Most that a writer gets beyond what it asks for.
const RESERVE_STEP: u64 = 16 << 20;

pub(crate) async fn quota_reserve(
    server: &MetaServer,
    cx: &OpCx,
    r: QuotaReserveRequest,
) -> Result<Answer> {
    let handle = Handle(r.handle);
    let attr = server.store.object(handle)?;
    may_write(server, cx, &attr)?;
    let answer = |end| Ok(Answer::new(OpResponse::QuotaReserve(QuotaReserveResponse { end })));
    let base = attr.size.max(server.store.quota.borrow().reserved_end(handle));
    if !server.store.quota.borrow().is_limited(&attr) {
        return answer(u64::MAX);
    }
    if r.end <= base {
        return answer(base);
    }
    let whose = ids(attr.uid, attr.gid, attr.quota_tree);
    let more = Amount { bytes: r.end - base, files: 0 };
    server.make_room(cx.op_id, &whose, more).await?;
    // Others may have come meanwhile.
    let attr = server.store.object(handle)?;
    let first = server.is_first();
    let mut table = server.store.quota.borrow_mut();
    let left = whose.iter().filter_map(|id| table.room(*id, first)).map(|room| room.bytes).min();
    let left = left.unwrap_or(u64::MAX).saturating_sub(more.bytes);
    let end = r.end.max(table.reserved_end(handle)).saturating_add((left / 4).min(RESERVE_STEP));
    if server.opens.borrow().has_writers(handle) {
        table.reserve(handle, Charge::of(&attr), end);
    }
    answer(end)
}
