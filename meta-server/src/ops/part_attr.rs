//! part_attr: what a directory's part must know for checks (between metadata servers).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | mode, owner, group, ACL, quota tree, what is handed down: in one change, synced | answer | repeated by the home |
//!
//! Attributes that are no news (by the home's `change`) do nothing, so it may be repeated and come
//! late. Times and counts are the part's own. Errors: `Stale`, `Protocol`.
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::op::{OpResponse, PartAttrRequest, PartAttrResponse};
use pvfs2_proto::{AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::Answer;

pub(crate) async fn part_attr(server: &MetaServer, r: PartAttrRequest) -> Result<Answer> {
    let part = Handle(r.part);
    server.must_own(part)?;
    let _guard = server.pass(&[(r.part, Mode::Write)]).await;
    let mut attr = server.store.object(part)?;
    let (Some(home), Some(map)) = (r.attr, attr.dir_map.as_mut()) else {
        return Err(PvfsError::new(ErrorCode::Protocol, "part_attr without attributes or part"));
    };
    if home.change > map.version {
        map.version = home.change;
        let mut change = Change::new();
        for (name, _) in server.store.xattrs(&attr)? {
            if !r.xattrs.chunks_exact(2).any(|pair| pair[0] == name) {
                change.delete(keys::xattr(part, &name));
            }
        }
        for pair in r.xattrs.chunks_exact(2) {
            change.put(keys::xattr(part, &pair[0]), pair[1].clone());
        }
        attr.set(AttrFlags::HAS_XATTR, !r.xattrs.is_empty());
        (attr.mode, attr.uid, attr.gid, attr.acl) = (home.mode, home.uid, home.gid, home.acl);
        attr.quota_tree = home.quota_tree;
        attr.change += 1;
        change.put_attr(&attr);
        server.commit_step(change).await?;
    }
    Ok(Answer::new(OpResponse::PartAttr(PartAttrResponse {})))
}
