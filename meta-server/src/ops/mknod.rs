//! mknod: makes a special file, or a regular one without opening it.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | object, dirent, directory, reply in one change | answer | nothing happened |
//!
//! Durable: all of it. Errors: `Exists`, `Access`, `NotPermitted` (devices are root's), `NotFound`,
//! `NameTooLong`, `Invalid`.
use super::create::{hand_down, new_object};
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::attr::mode::{S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK};
use pvfs2_proto::op::{MknodRequest, MknodResponse, OpResponse};
use pvfs2_proto::{AttrFlags, ErrorCode, PvfsError, Result};
use pvfs2_server_core::prelude;
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn mknod(server: &MetaServer, cx: &OpCx, r: MknodRequest) -> Result<Answer> {
    let kind = match r.mode & S_IFMT {
        0 => S_IFREG,
        kind => kind,
    };
    if !matches!(kind, S_IFREG | S_IFBLK | S_IFCHR | S_IFIFO | S_IFSOCK) {
        return Err(PvfsError::new(ErrorCode::Invalid, "mknod makes no objects of this type"));
    }
    let _guard = server.pass(&[(r.dir, Mode::Write)]).await;
    let mut place = server.place(cx, r.dir, &r.name)?;
    place.must_be_free()?;
    prelude::may_create(&cx.cred, &place.dir)?;
    if matches!(kind, S_IFBLK | S_IFCHR) && !cx.cred.is_root() {
        return Err(PvfsError::new(ErrorCode::NotPermitted, "only root may make device files"));
    }
    let now = server.now_ns();
    let mut attr = new_object(server, cx, &place.dir, (kind | r.mode & !S_IFMT, r.umask), now)?;
    let mut change = Change::new();
    if kind == S_IFREG {
        attr.flags = AttrFlags::STUFFED;
        hand_down(server, &mut change, &place.dir, &mut attr)?;
        server.remember_young(attr.handle());
    } else if matches!(kind, S_IFBLK | S_IFCHR) {
        attr.rdev = r.rdev;
    }
    place.count(1, 0, now);
    change.new_object(&attr);
    change.put_dirent(place.key, attr.handle(), kind);
    change.put_attr(&place.dir);
    server.answer(
        cx,
        change,
        OpResponse::Mknod(MknodResponse { attr: Some(attr), dir_attr: Some(place.dir) }),
    )
}
