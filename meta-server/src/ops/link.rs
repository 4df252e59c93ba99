//! link: makes another name for an object that is no directory.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check; object here: dirent, directory, object, reply in one change | answer | nothing happened |
//! | object on another server: intent, synced | count | nothing happened |
//! | count (`link_count` +1 there) | commit | undo, answer |
//! | commit: dirent, directory, reply in one change, intent out | answer | undo, answer |
//!
//! Durable: all of it. Errors: `Exists`, `Stale`, `NotFound` (no name any more), `NotPermitted` (a
//! directory), `TooManyLinks`, `Access`, `NameTooLong`, `Invalid`, `Unreachable`.
use super::link_count::may_link;
use crate::names::Place;
use crate::server::MetaServer;
use crate::store::Change;
use crate::{intents, keys};
use pvfs2_proto::op::{Cred, LinkCountRequest, LinkRequest, LinkResponse, OpMessage, OpResponse};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};
use pvfs2_server_core::{peer, prelude};

pub(crate) async fn link(server: &MetaServer, cx: &OpCx, r: LinkRequest) -> Result<Answer> {
    let handle = Handle(r.handle);
    if !server.owns(handle) {
        return server.until_free(async || far(server, cx, &r).await).await;
    }
    let _guard = server.pass_names(&[(r.dir, &r.name)], &[r.handle]).await;
    let mut place = free_place(server, cx, &r)?;
    let mut attr = server.store.object(handle)?;
    may_link(&attr)?;
    let now = server.now_ns();
    attr.nlink += 1;
    attr.ctime_ns = now;
    attr.change += 1;
    let mut change = Change::new();
    change.put_attr(&attr);
    add_name(&mut change, &mut place, &attr, now);
    server.answer(cx, change, response(server.seen(cx, attr), place.dir))
}

fn response(attr: Attr, dir: Attr) -> OpResponse {
    OpResponse::Link(LinkResponse { attr: Some(attr), dir_attr: Some(dir) })
}

fn free_place(server: &MetaServer, cx: &OpCx, r: &LinkRequest) -> Result<Place> {
    let place = server.place(cx, r.dir, &r.name)?;
    place.must_be_free()?;
    prelude::may_create(&cx.cred, &place.dir)?;
    Ok(place)
}

fn add_name(change: &mut Change, place: &mut Place, attr: &Attr, now_ns: i64) {
    place.count(1, 0, now_ns);
    change.put_dirent(place.key.clone(), attr.handle(), attr.kind());
    change.put_attr(&place.dir);
}

async fn far(server: &MetaServer, cx: &OpCx, r: &LinkRequest) -> Result<Answer> {
    let to = server.owner(Handle(r.handle))?;
    let guard = server.lock_names(&[(r.dir, &r.name)], &[]).await;
    let mut place = free_place(server, cx, r)?;
    let intent = server.store.new_intent()?;
    let count = |undo| LinkCountRequest { intent, handle: r.handle, delta: 1, undo };
    let undo = vec![intents::step(to, count(true).into_request())];
    server.begin_intent(intent, undo.clone(), &[Handle(r.dir)]).await?;
    let counted = peer::ask(server.peers(), &Cred::root(), cx.op_id, to, count(false)).await;
    let counted = counted.and_then(|reply| {
        reply
            .attr
            .ok_or_else(|| PvfsError::new(ErrorCode::Protocol, "link_count brought no attributes"))
    });
    let committed = counted.and_then(|attr| {
        let mut change = Change::new();
        change.delete(keys::intent(intent));
        add_name(&mut change, &mut place, &attr, server.now_ns());
        server.answer(cx, change, response(attr, place.dir))
    });
    if committed.is_err() {
        let _later = server.run_intent(intent, undo, Some(guard), Change::new()).await;
    }
    committed
}
