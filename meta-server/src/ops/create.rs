//! create: makes a regular file and opens it; without `exclusive`, opens one that exists.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | find the name | make, or open what is there | answer |
//! | make: object, dirent, directory, reply in one change | enter the open, answer | nothing happened |
//! | open what is there | as `open` | as `open` |
//!
//! A new file is stuffed and empty: it has no datahandles, and no I/O server is asked. It takes over
//! the directory's `user.pvfs2.*` attributes; a default ACL takes the place of the umask. Durable: everything but the open.
//! Errors: `Exists` (also, without `exclusive`, when the name is no regular file or its object lives
//! on another server: the client then looks it up and opens it), `IsDirectory`, `Access`,
//! `NotFound`, `NameTooLong`, `Invalid`.
use crate::layouts;
use crate::names::Place;
use crate::server::MetaServer;
use crate::store::Change;
use bytes::Bytes;
use pvfs2_proto::attr::XATTR_ACL_DEFAULT;
use pvfs2_proto::attr::mode::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use pvfs2_proto::op::{CreateRequest, CreateResponse, OpResponse, OpenRequest};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, PvfsError, Result};
use pvfs2_server_core::prelude;
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn create(server: &MetaServer, cx: &OpCx, r: CreateRequest) -> Result<Answer> {
    let guard = server.pass(&[(r.dir, Mode::Write)]).await;
    let mut place = server.place(cx, r.dir, &r.name)?;
    if let Some(target) = place.target {
        if r.exclusive {
            place.must_be_free()?;
        }
        if target.kind == S_IFDIR {
            return Err(PvfsError::new(ErrorCode::IsDirectory, "the name is a directory's"));
        }
        if target.kind != S_IFREG || !server.owns(target.handle) {
            place.must_be_free()?;
        }
        drop(guard);
        return open_existing(server, cx, &r, target.handle.0, place).await;
    }
    prelude::may_create(&cx.cred, &place.dir)?;
    let now = server.now_ns();
    let mut attr = new_object(server, cx, &place.dir, (S_IFREG | r.mode & !S_IFMT, r.umask), now)?;
    attr.flags = AttrFlags::STUFFED;
    let mut change = Change::new();
    hand_down(server, &mut change, &place.dir, &mut attr)?;
    place.count(1, 0, now);
    change.new_object(&attr);
    change.put_dirent(place.key, attr.handle(), S_IFREG);
    change.put_attr(&place.dir);
    let handle = attr.handle();
    let response = OpResponse::Create(CreateResponse {
        attr: Some(server.seen(cx, attr)),
        created: true,
        dir_attr: Some(place.dir),
        right: 0,
    });
    let mut answer = server.answer(cx, change, response)?;
    server.remember_young(handle);
    if !r.no_open && (r.read || r.write) && cx.session != 0 {
        server.opens.borrow_mut().open(cx.session, handle, r.write);
        if let OpResponse::Create(made) = &mut answer.op {
            made.right = server.grant(cx.session, handle, r.write && r.want_right);
        }
    }
    Ok(answer)
}

async fn open_existing(
    server: &MetaServer,
    cx: &OpCx,
    r: &CreateRequest,
    handle: u64,
    place: Place,
) -> Result<Answer> {
    let mut right = 0;
    let attr = if r.no_open {
        server.recall(cx, handle.into()).await?;
        Some(server.store.object(handle.into())?)
    } else {
        let open = OpenRequest {
            handle,
            read: r.read,
            write: r.write,
            truncate: r.truncate,
            want_right: r.want_right,
            ..Default::default()
        };
        // The asking client did not know that it has the file open already.
        server.recall_from(handle.into(), if r.truncate { None } else { Some(cx.session) }).await?;
        match super::open::open(server, cx, open).await?.op {
            OpResponse::Open(response) => {
                right = response.right;
                response.attr
            }
            _ => None,
        }
    };
    let dir_attr = Some(place.dir);
    let response = OpResponse::Create(CreateResponse { attr, created: false, dir_attr, right });
    // Not recorded: opening again after a restart does the same.
    Ok(Answer::new(response))
}

/// Attributes of a new object of `mode` in `dir`, with a handle of its own.
pub(crate) fn new_object(
    server: &MetaServer,
    cx: &OpCx,
    dir: &Attr,
    mode: (u32, u32),
    now_ns: i64,
) -> Result<Attr> {
    let attr = fresh(server, cx, dir, mode, now_ns)?;
    Ok(Attr { handle: server.store.new_handle()?.0, ..attr })
}

/// Attributes of a new object of `mode` in `dir`, without a handle. The directory's default ACL
/// becomes its access ACL, as far as the mode goes; where there is none, `umask` applies.
pub(crate) fn fresh(
    server: &MetaServer,
    cx: &OpCx,
    dir: &Attr,
    (mode, umask): (u32, u32),
    now_ns: i64,
) -> Result<Attr> {
    let default_acl =
        if mode & S_IFMT == S_IFLNK { None } else { server.store.default_acl(dir)? };
    let umask = if default_acl.is_some() { 0 } else { umask & 0o777 };
    let (mode, gid) = prelude::inherit(&cx.cred, dir, mode & !umask)?;
    let mut attr = Attr {
        mode,
        uid: cx.cred.uid,
        gid,
        nlink: 1,
        atime_ns: now_ns,
        mtime_ns: now_ns,
        ctime_ns: now_ns,
        crtime_ns: now_ns,
        change: 1,
        quota_tree: dir.quota_tree,
        ..Default::default()
    };
    if let Some(acl) = default_acl {
        acl.hand_down(&mut attr);
    }
    Ok(attr)
}

/// The attributes that a directory hands down to a new object: those of the layout, and to
/// directories its default ACL.
pub(crate) fn inherited(server: &MetaServer, dir: &Attr, to: &Attr) -> Result<Vec<(Bytes, Bytes)>> {
    let mut all = server.store.xattrs(dir)?;
    all.retain(|(name, _)| {
        let to_dirs =
            name == XATTR_ACL_DEFAULT || layouts::INHERITED_BY_DIRS.contains(&name.as_ref());
        layouts::INHERITED.contains(&name.as_ref()) || to.is_dir() && to_dirs
    });
    Ok(all)
}

/// Gives a new object the attributes that its directory hands down.
pub(crate) fn hand_down(
    server: &MetaServer,
    change: &mut Change,
    dir: &Attr,
    attr: &mut Attr,
) -> Result<()> {
    for (name, value) in inherited(server, dir, attr)? {
        change.put(crate::keys::xattr(attr.handle(), &name), value);
        attr.set(AttrFlags::HAS_XATTR, true);
    }
    Ok(())
}
