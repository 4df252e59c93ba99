//! fsck_scan: a page of this server's records, for `pvfs2 fsck`.
//!
//! Changes nothing and waits for nobody: what is found is what the keyval holds, also of operations
//! that are under way. Only root and the user whose server this is may ask. Errors: `NotPermitted`,
//! `Damaged`.
use crate::intents::IntentRecord;
use crate::keys;
use crate::peer_steps::{StepRecord, StepState};
use crate::server::MetaServer;
use bytes::Bytes;
use prost::Message;
use pvfs2_proto::op::{
    FsckKind, FsckName, FsckObject, FsckPending, FsckPendingKind, FsckScanRequest,
    FsckScanResponse, OpRequest, OpResponse, RequestHead,
};
use pvfs2_proto::{Attr, ErrorCode, FileLayout, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};

/// Records of a page; the largest (a file over many servers) take some 10 KiB.
const PAGE: usize = 512;

pub(crate) fn fsck_scan(server: &MetaServer, cx: &OpCx, r: FsckScanRequest) -> Result<Answer> {
    if !cx.cred.is_root() && cx.cred.uid != rustix::process::getuid().as_raw() {
        return Err(PvfsError::new(
            ErrorCode::NotPermitted,
            "only root, and the user who runs the server, may check its records",
        ));
    }
    let mut response =
        FsckScanResponse { next_handle: server.store.next_handle(), ..Default::default() };
    let prefixes: &[[u8; 1]] = match r.kind() {
        FsckKind::Objects => &[keys::attrs()],
        FsckKind::Names => &[keys::all_dirents()],
        FsckKind::Pending => &[keys::intents(), keys::steps(), keys::reaps(), keys::all_moving()],
    };
    let at = prefixes.iter().position(|p| r.after.starts_with(p)).unwrap_or(0);
    let after = Some(r.after.as_ref()).filter(|after| after.len() > 1);
    let page = server.store.page(&prefixes[at], after, PAGE)?;
    if page.len() == PAGE {
        response.next = page.last().map(|(key, _)| key.clone()).unwrap_or_default();
    } else if let Some(next) = prefixes.get(at + 1) {
        response.next = Bytes::copy_from_slice(next);
    }
    for (key, value) in page {
        match r.kind() {
            FsckKind::Objects => response.objects.push(object(server, value)?),
            FsckKind::Names => response.names.push(name(&key, &value)?),
            FsckKind::Pending => response.pending.push(pending(server, &key, value)?),
        }
    }
    Ok(Answer::new(OpResponse::FsckScan(response)))
}

fn bad(what: &str, key: &[u8]) -> PvfsError {
    PvfsError::new(
        ErrorCode::Damaged,
        format!("the record of {what} with the key {key:02x?} does not parse"),
    )
}

fn object(server: &MetaServer, value: Bytes) -> Result<FsckObject> {
    let mut attr = Attr::decode(value.as_ref()).map_err(|_| bad("an object", b""))?;
    attr.acl = Default::default();
    let handle = attr.handle();
    let parent = match attr.is_dir() {
        true => server.store.get(keys::parent(handle))?.as_deref().and_then(keys::u64_of),
        false => None,
    };
    let orphan = attr.nlink == 0 && server.store.get(keys::orphan(handle))?.is_some();
    let kept = || server.may_be_open(handle) || server.lingering.has(handle);
    let open = attr.nlink == 0 && kept();
    Ok(FsckObject { attr: Some(attr), parent: parent.unwrap_or(0), orphan, open })
}

fn name(key: &Bytes, value: &[u8]) -> Result<FsckName> {
    let parts = keys::handle_of(key).zip(keys::dirent_parts(key));
    let (Some((dir, (_, name))), Some(target)) = (parts, keys::DirentValue::decode(value)) else {
        return Err(bad("a name", key));
    };
    Ok(FsckName { dir: dir.0, name, handle: target.handle.0, kind: target.kind })
}

fn pending(server: &MetaServer, key: &Bytes, value: Bytes) -> Result<FsckPending> {
    let id = keys::intent_of(key).ok_or_else(|| bad("an intent", key))?;
    let mut p = FsckPending { id, ..Default::default() };
    let first = key.first().copied().unwrap_or(0);
    if [first] == keys::intents() {
        let record = IntentRecord::decode(value.as_ref()).map_err(|_| bad("an intent", key))?;
        p.set_kind(FsckPendingKind::Intent);
        p.begun_ns = record.begun_ns;
        p.handles = record.locked;
        for step in record.undo.iter().chain(&record.finish) {
            let op = RequestHead::decode(step.request.as_ref()).ok().and_then(|head| head.op);
            match op {
                Some(OpRequest::LinkCount(r)) => p.handles.push(r.handle),
                Some(OpRequest::RmdirPeer(r)) => p.handles.push(r.handle),
                Some(OpRequest::RenamePeer(r)) => p.handles.extend([r.dir, r.exchange_handle]),
                _ => {}
            }
        }
    } else if [first] == keys::steps() {
        let record = StepRecord::decode(value.as_ref()).map_err(|_| bad("a step", key))?;
        p.set_kind(FsckPendingKind::Step);
        p.begun_ns = record.at_ns;
        p.handles = vec![record.handle, record.dir];
        if record.state() == StepState::Undone {
            p.handles.clear();
        }
    } else if [first] == keys::reaps() {
        p.set_kind(FsckPendingKind::Reap);
        p.datahandles = keys::reap_datahandles(&value).into_iter().map(|h| h.0).collect();
    } else {
        let layout = FileLayout::decode(value).map_err(|_| bad("a move", key))?;
        p.set_kind(FsckPendingKind::Moving);
        p.datahandles = layout.datahandles;
    }
    p.handles.retain(|h| *h != 0);
    if p.begun_ns > 0 {
        p.age_ns = (server.now_ns() - p.begun_ns).max(0);
    }
    Ok(p)
}
