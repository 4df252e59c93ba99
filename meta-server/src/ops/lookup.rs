//! lookup: names to handles, one or a whole path.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | walk one component | next, or answer | answer with the chain so far |
//!
//! Changes nothing; may give the right to know every name (see `name_rights.rs`). Errors: `NotFound`
//! (the first directory is gone), `NotDirectory` (it is none), `Access`, `NameTooLong`, `Stale` (the
//! first directory lives elsewhere), `Moved` (the name lies on another part of it). A component that
//! does not exist is no error: it ends the chain with handle 0. An error beyond the first component
//! ends the chain before it, and comes again when the client asks from there.
use crate::keys::name_hash;
use crate::server::MetaServer;
use pvfs2_proto::limits::NAME_MAX;
use pvfs2_proto::op::{LookupRequest, LookupResponse, LookupStep, OpResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::prelude::{self, READ};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn lookup(server: &MetaServer, cx: &OpCx, r: LookupRequest) -> Result<Answer> {
    server.must_own(Handle(r.dir))?;
    let mut dir = server.store.directory(Handle(r.dir))?;
    let mut steps = Vec::with_capacity(r.path.len());
    let mut last: Option<Attr> = None;
    for (i, name) in r.path.iter().enumerate() {
        // A rename between servers hides the directory until it is decided.
        let guard = server.pass(&[(dir.handle, Mode::Read)]).await;
        let fresh = match &guard {
            // While it waited, names may have moved to another part.
            Some(_) => server.store.directory(dir.handle()).map(|fresh| dir = fresh),
            None => Ok(()),
        };
        let mut found = fresh.and_then(|()| one(server, cx, &dir, name));
        while let Ok(step) = &found
            && server.others_may_hold(cx.session, Handle(step.handle))?
        {
            server.recall(cx, Handle(step.handle)).await?;
            // The names may have changed meanwhile.
            dir = server.store.directory(dir.handle())?;
            found = one(server, cx, &dir, name);
        }
        if let Ok(step) = &found {
            server.recall(cx, Handle(step.handle)).await?;
        }
        let step = match found {
            Ok(step) => step,
            Err(e) if i == 0 => return Err(e),
            Err(_) => break,
        };
        last = step.attr.clone();
        steps.push(step);
        match &last {
            Some(attr) if attr.is_dir() => dir = attr.clone(),
            _ => break,
        }
    }
    let whole = steps.len() == r.path.len();
    let bytes = match last {
        Some(attr)
            if r.want_bytes
                && whole
                && attr.has(AttrFlags::STUFFED)
                && prelude::access(&cx.cred, &attr, READ).is_ok() =>
        {
            Some(server.store.stuffed_bytes(&attr)?)
        }
        _ => None,
    };
    let absent = matches!(steps.as_slice(), [step] if step.handle == 0);
    let wanted = r.want_right && absent && dir.handle == r.dir && dir.size == 0;
    let right = if wanted { server.grant_names(cx, dir.handle())? } else { 0 };
    Ok(Answer::new(OpResponse::Lookup(LookupResponse { steps, bytes, right })))
}

fn one(server: &MetaServer, cx: &OpCx, dir: &Attr, name: &[u8]) -> Result<LookupStep> {
    prelude::may_search(&cx.cred, dir)?;
    if name.len() > NAME_MAX {
        return Err(PvfsError::new(
            ErrorCode::NameTooLong,
            format!("a name has at most {NAME_MAX} bytes"),
        ));
    }
    crate::split::must_hold(dir, |map| name_hash(map.seed, name))?;
    let key = server.store.dirent_key(dir.handle(), name);
    let Some(target) = server.store.dirent(&key, dir.handle())? else {
        return Ok(LookupStep { handle: 0, attr: None });
    };
    let attr = if server.owns(target.handle) {
        // A dirent never names what is not there; should it, that is damage and said so.
        let attr = server.store.attr(target.handle)?;
        Some(attr.ok_or_else(|| crate::store::damaged(target.handle))?)
    } else {
        None
    };
    Ok(LookupStep { handle: target.handle.0, attr: attr.map(|a| server.seen(cx, a)) })
}
