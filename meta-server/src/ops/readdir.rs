//! readdir: lists a directory from a cursor, with attributes if asked.
//!
//! Of a split directory it lists the share around the cursor that is held here; the home sends the
//! map along, by which the client goes on elsewhere. Changes nothing. Cursors: see `keys.rs`. Errors:
//! `NotFound`, `NotDirectory`, `Access`, `Stale`, `Moved` (another part goes on after the cursor).
use crate::server::MetaServer;
use pvfs2_proto::dirmap::{HASH_END, position};
use pvfs2_proto::limits::READDIR_MAX;
use pvfs2_proto::op::{OpResponse, ReaddirRequest, ReaddirResponse};
use pvfs2_proto::{AttrFlags, Handle, Result};
use pvfs2_server_core::prelude::{self, READ};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

/// Objects with a longer ACL are listed without attributes.
const ACL_SHORT_BYTES: usize = 256;

pub(crate) async fn readdir(server: &MetaServer, cx: &OpCx, r: ReaddirRequest) -> Result<Answer> {
    let dir = Handle(r.dir);
    server.must_own(dir)?;
    // Other servers ask for the parent alone (`max` 0) while renaming: they must not wait.
    let _guard = if r.max > 0 { server.pass(&[(r.dir, Mode::Read)]).await } else { None };
    let attr = server.store.directory(dir)?;
    if cx.peer_server.is_none() {
        prelude::access(&cx.cred, &attr, READ)?;
    }
    let max = r.max.min(READDIR_MAX) as usize;
    let home = attr.dir_map.as_deref().filter(|_| !attr.has(AttrFlags::DIR_PART));
    let mut high = HASH_END;
    if let Some(map) = home.filter(|_| max > 0) {
        let from = position(r.cursor);
        crate::split::must_hold(&attr, |_| from)?;
        high = map.share_end(from);
    }
    let (mut entries, end) =
        if max == 0 { (Vec::new(), false) } else { server.store.list(dir, r.cursor, high, max)? };
    if r.plus {
        if !r.no_recall {
            let listed: Vec<Handle> = entries.iter().map(|e| Handle(e.handle)).collect();
            server.recall_all(cx, &listed).await?;
        }
        for entry in entries.iter_mut().filter(|e| server.owns(Handle(e.handle))) {
            if r.no_recall && server.others_may_hold(cx.session, Handle(entry.handle))? {
                continue;
            }
            let attr = server.store.attr(Handle(entry.handle))?;
            // A page of long ACLs would not fit a frame: those are asked for one by one.
            let short = attr.filter(|a| a.acl.len() <= ACL_SHORT_BYTES);
            entry.attr = short.map(|a| server.seen(cx, a));
        }
    }
    let parent = server.store.parent(dir)?.0;
    Ok(Answer::new(OpResponse::Readdir(ReaddirResponse {
        entries,
        end,
        parent,
        map: home.cloned(),
    })))
}
