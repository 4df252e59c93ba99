//! report: a writer tells size and times without closing (flush, fsync).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | size and times in one change, if they differ | sync if asked | nothing happened |
//! | sync | answer | answer: nothing is promised |
//!
//! Durable: what was told; with `sync` against loss of power. Errors: `Stale`, `Invalid`.
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::op::{OpResponse, ReleaseItem, ReportRequest, ReportResponse};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn report(server: &MetaServer, cx: &OpCx, r: ReportRequest) -> Result<Answer> {
    let Some(item) = r.item else {
        return Err(PvfsError::new(ErrorCode::Invalid, "a report tells something"));
    };
    let handle = Handle(item.handle);
    let guard = server.pass(&[(item.handle, Mode::Write)]).await;
    let mut attr = server.store.object(handle)?;
    if apply(server, cx, &mut attr, &item) {
        let mut change = Change::new();
        change.put_attr(&attr);
        server.store.commit(change)?;
    }
    drop(guard);
    if r.sync {
        super::fsync::sync(server, handle).await?;
    }
    let attr = Some(server.seen(cx, attr));
    Ok(Answer::new(OpResponse::Report(ReportResponse { attr })))
}

/// Takes over what a writer (or reader) tells. `false`: nothing of it is news.
pub(crate) fn apply(server: &MetaServer, cx: &OpCx, attr: &mut Attr, item: &ReleaseItem) -> bool {
    let before = (attr.size, attr.mtime_ns, attr.ctime_ns, attr.atime_ns);
    if item.wrote && attr.layout.is_some() {
        let handle = attr.handle();
        let told = server.opens.borrow().has_writers(handle);
        // Where another has changed the size since, only the datafiles know whether this end is
        // still there; without the open (a close told late) likewise.
        if told && !server.opens.borrow().is_disturbed(handle) {
            attr.size = attr.size.max(item.end);
        }
        if item.mtime_ns > attr.mtime_set_ns && item.mtime_ns > attr.mtime_ns {
            attr.mtime_ns = item.mtime_ns;
            attr.ctime_ns = attr.ctime_ns.max(item.mtime_ns);
        }
    }
    attr.atime_ns = attr.atime_ns.max(item.atime_ns);
    let wrote = item.wrote && attr.is_file();
    if wrote {
        attr.data_changed(cx.session);
    }
    let changed = wrote || before != (attr.size, attr.mtime_ns, attr.ctime_ns, attr.atime_ns);
    attr.change += u64::from(changed);
    changed
}
