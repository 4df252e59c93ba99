//! unlink: removes the name of an object that is no directory.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check; object here: dirent, directory, object, reply in one change | answer | nothing happened |
//! | object on another server: dirent, directory, reply and intent in one change, synced | count | nothing happened |
//! | count (`link_count` -1 there) | answer | answer all the same; goes on in the background |
//!
//! The last name: an object that somebody may have open becomes an orphan; else it goes, and its
//! datahandles are queued for the reaper, in the same change. Durable: all of it. Errors:
//! `NotFound`, `Access`, `NotPermitted` (sticky), `IsDirectory`, `NameTooLong`.
use crate::intents;
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::attr::mode::{S_IFDIR, S_ISVTX};
use pvfs2_proto::op::{
    Cred, GetattrRequest, LinkCountRequest, OpMessage, OpResponse, UnlinkRequest, UnlinkResponse,
};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};
use pvfs2_server_core::{peer, prelude};

pub(crate) async fn unlink(server: &MetaServer, cx: &OpCx, r: UnlinkRequest) -> Result<Answer> {
    let names = [(r.dir, r.name.as_ref())];
    let mut guard = server.pass_names(&names, &[]).await;
    let mut place = server.place(cx, r.dir, &r.name)?;
    let mut target = place.existing()?;
    if !server.owns(target.handle) {
        // Other servers will be asked: hold what must not change meanwhile.
        drop(guard.take());
        guard = Some(server.lock_names(&names, &[]).await);
        place = server.place(cx, r.dir, &r.name)?;
        target = place.existing()?;
    }
    let own = own_attr(server, target.handle)?;
    let victim_uid = match &own {
        Some(attr) => attr.uid,
        None => owner_uid(server, cx, &place.dir, target.handle).await?,
    };
    prelude::may_delete(&cx.cred, &place.dir, victim_uid)?;
    if target.kind == S_IFDIR {
        return Err(PvfsError::new(ErrorCode::IsDirectory, "the name is a directory's: use rmdir"));
    }
    let now = server.now_ns();
    let mut change = Change::new();
    change.delete(&place.key);
    place.count(-1, 0, now);
    change.put_attr(&place.dir);
    let handle = target.handle.0;
    if let Some(attr) = own {
        let attr = drop_name(server, &mut change, attr, now)?;
        return server.answer(cx, change, response(handle, attr, place.dir));
    }
    let intent = server.store.new_intent()?;
    let count = LinkCountRequest { intent, handle, delta: -1, undo: false };
    let steps = vec![intents::step(server.owner(target.handle)?, count.into_request())];
    server.commit_intent(&mut change, intent, steps.clone(), &[]);
    let dir = place.dir.handle();
    let answer = server.answer(cx, change, response(handle, None, place.dir))?;
    server.store.sync_now().await?;
    if let Some(guard) = &mut guard {
        guard.keep(&[dir]);
    }
    // The name is gone whatever becomes of the count.
    let _later = server.run_intent(intent, steps, guard, Change::new()).await;
    Ok(answer)
}

fn response(handle: u64, attr: Option<Attr>, dir: Attr) -> OpResponse {
    OpResponse::Unlink(UnlinkResponse { handle, attr, dir_attr: Some(dir) })
}

/// Attributes of an object that a name points at; `None`: it lives on another server.
pub(crate) fn own_attr(server: &MetaServer, handle: Handle) -> Result<Option<Attr>> {
    if !server.owns(handle) {
        return Ok(None);
    }
    server.store.attr(handle)?.ok_or_else(|| crate::store::damaged(handle)).map(Some)
}

/// The owner of an object whose name shall go, where it matters (sticky directories).
pub(crate) async fn owner_uid(
    server: &MetaServer,
    cx: &OpCx,
    dir: &Attr,
    handle: Handle,
) -> Result<u32> {
    if let Some(attr) = own_attr(server, handle)? {
        return Ok(attr.uid);
    }
    if dir.mode & S_ISVTX == 0 || prelude::owns(&cx.cred, dir) {
        return Ok(cx.cred.uid);
    }
    let ask = GetattrRequest { handle: handle.0 };
    let to = server.owner(handle)?;
    let reply = peer::ask(server.peers(), &Cred::root(), cx.op_id, to, ask).await?;
    Ok(reply.attr.map_or(u32::MAX, |a| a.uid))
}

/// A name of an object that is no directory now names another object. As [`drop_name`], but after its
/// last name the object lingers.
pub(crate) fn replace_name(
    server: &MetaServer,
    change: &mut Change,
    mut attr: Attr,
    now_ns: i64,
) -> Result<Option<Attr>> {
    if attr.nlink != 1 {
        return drop_name(server, change, attr, now_ns);
    }
    count_down(&mut attr, now_ns);
    server.linger(change, &attr);
    Ok(Some(attr))
}

fn count_down(attr: &mut Attr, now_ns: i64) {
    attr.nlink = attr.nlink.saturating_sub(1);
    attr.ctime_ns = now_ns;
    attr.change += 1;
}

/// Takes one name from an object that is no directory; its attributes afterwards, unless it went.
pub(crate) fn drop_name(
    server: &MetaServer,
    change: &mut Change,
    mut attr: Attr,
    now_ns: i64,
) -> Result<Option<Attr>> {
    count_down(&mut attr, now_ns);
    let handle = attr.handle();
    if attr.nlink == 0 && !(attr.is_file() && server.may_be_open(handle)) {
        server.store.remove_object(change, &attr)?;
        server.young.borrow_mut().remove(&handle);
        attr.set(AttrFlags::SIZE_DYNAMIC, false);
        return Ok(Some(attr));
    }
    if attr.nlink == 0 {
        change.put(keys::orphan(handle), Vec::new());
    }
    change.put_attr(&attr);
    Ok(Some(attr))
}
