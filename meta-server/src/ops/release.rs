//! release: closes files; each close tells what its writer wrote.
//!
//! | state, per close | on success | on failure |
//! |---|---|---|
//! | apply what it tells (as `report`) | leave the open | answer; the rest stays open |
//! | last writer: the size is exact now, or the datafiles will tell | next | |
//! | last open of an orphan: remove it | next | logged |
//!
//! Durable: sizes and times. A file that is gone is closed in silence. Told twice, the second does
//! nothing (the reply is remembered; after a restart nothing is open).
use super::report::apply;
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::op::{OpResponse, ReleaseItem, ReleaseRequest, ReleaseResponse};
use pvfs2_proto::{AttrFlags, Handle, Result};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn release(server: &MetaServer, cx: &OpCx, r: ReleaseRequest) -> Result<Answer> {
    for item in &r.items {
        let _guard = server.pass(&[(item.handle, Mode::Write)]).await;
        one(server, cx, item)?;
    }
    Ok(Answer::new(OpResponse::Release(ReleaseResponse {})))
}

fn one(server: &MetaServer, cx: &OpCx, item: &ReleaseItem) -> Result<()> {
    let handle = Handle(item.handle);
    let Some(mut attr) = server.store.attr(handle)? else {
        server.opens.borrow_mut().close(cx.session, handle, item.write);
        return Ok(());
    };
    let mut changed = apply(server, cx, &mut attr, item);
    let closed = server.opens.borrow_mut().close(cx.session, handle, item.write);
    if !server.opens.borrow().has(cx.session, handle, true) {
        server.rights.borrow_mut().give_back(cx.session, handle, None);
    }
    // A close of what is not known to be open comes after a restart: who knows what it wrote?
    let knows = closed.is_some_and(|c| !c.disturbed) && !server.in_grace.get();
    let closed = closed.unwrap_or_default();
    if item.write && !server.opens.borrow().has_writers(handle) {
        server.store.quota.borrow_mut().release(handle);
    }
    let settles = item.write
        && attr.has(AttrFlags::SIZE_DYNAMIC)
        && !server.opens.borrow().has_writers(handle);
    let exact = settles && knows;
    if exact {
        attr.set(AttrFlags::SIZE_DYNAMIC, false);
        attr.set(AttrFlags::MAY_JOIN, false);
        changed = true;
    }
    if changed {
        let mut change = Change::new();
        change.put_attr(&attr);
        server.store.commit(change)?;
    }
    if settles && !exact {
        server.settle_later(handle);
    }
    if closed.last {
        server.closed_last(handle);
    }
    Ok(())
}
