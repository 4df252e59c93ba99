//! symlink: makes a symlink.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | object, target, dirent, directory, reply in one change | answer | nothing happened |
//!
//! Durable: all of it. Errors: `Exists`, `Access`, `NotFound` (the directory, or an empty target),
//! `NameTooLong`, `Invalid`.
use super::create::new_object;
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::attr::mode::S_IFLNK;
use pvfs2_proto::limits::SYMLINK_MAX;
use pvfs2_proto::op::{OpResponse, SymlinkRequest, SymlinkResponse};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use pvfs2_server_core::prelude;
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn symlink(server: &MetaServer, cx: &OpCx, r: SymlinkRequest) -> Result<Answer> {
    if r.target.is_empty() {
        return Err(PvfsError::new(ErrorCode::NotFound, "a symlink points somewhere"));
    }
    if r.target.len() > SYMLINK_MAX {
        return Err(PvfsError::new(
            ErrorCode::NameTooLong,
            format!("a symlink's target has at most {SYMLINK_MAX} bytes"),
        ));
    }
    if r.target.contains(&0) {
        return Err(PvfsError::new(ErrorCode::Invalid, "a symlink's target has no zero byte"));
    }
    let _guard = server.pass(&[(r.dir, Mode::Write)]).await;
    let mut place = server.place(cx, r.dir, &r.name)?;
    place.must_be_free()?;
    prelude::may_create(&cx.cred, &place.dir)?;
    let now = server.now_ns();
    let mut attr = new_object(server, cx, &place.dir, (S_IFLNK | 0o777, 0), now)?;
    attr.size = r.target.len() as u64;
    place.count(1, 0, now);
    let mut change = Change::new();
    change.new_object(&attr);
    change.put(keys::bytes(attr.handle()), r.target);
    change.put_dirent(place.key, attr.handle(), S_IFLNK);
    change.put_attr(&place.dir);
    server.answer(
        cx,
        change,
        OpResponse::Symlink(SymlinkResponse { attr: Some(attr), dir_attr: Some(place.dir) }),
    )
}
