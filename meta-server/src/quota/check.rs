//! What is checked before an operation runs: room for what it makes or lets grow, and that a name
//! does not leave its directory tree (as with XFS projects: `CrossDevice`, so that mv(1) copies).
//!
//! In one place and not in the operations' files, so that an operation without quotas in sight costs
//! one look at two tables, and no operation has to know of them. Objects that an operation makes are
//! counted for the user who makes them, the group that they will have, and their directory's tree.
use super::{Amount, ids};
use crate::quota::table::Ids;
use crate::server::MetaServer;
use pvfs2_bmi::service::Body;
use pvfs2_proto::attr::mode::S_ISGID;
use pvfs2_proto::op::{Cred, FallocateKind, GetattrRequest, OpRequest};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::peer;
use pvfs2_server_core::service::OpCx;

impl MetaServer {
    /// Refuses what quotas do not allow; see the head of the file.
    ///
    /// # Errors
    /// `Quota`, `CrossDevice`; `Unreachable` when another server has to be asked and does not answer.
    pub(crate) async fn quota_check(&self, cx: &OpCx, op: &OpRequest, body: &Body) -> Result<()> {
        let (is_limited, has_trees) = {
            let table = self.store.quota.borrow();
            (!table.limits().is_empty(), table.has_trees())
        };
        if has_trees {
            match op {
                OpRequest::Rename(r) => self.one_tree(cx, r.dir, r.new_dir).await?,
                OpRequest::Link(r) => self.one_tree(cx, r.handle, r.dir).await?,
                _ => {}
            }
        }
        if !is_limited {
            return Ok(());
        }
        match op {
            OpRequest::Create(r) => self.room_for_name(cx, r.dir, &r.name).await,
            OpRequest::Mkdir(r) => self.room_for_name(cx, r.dir, &r.name).await,
            OpRequest::Mknod(r) => self.room_for_name(cx, r.dir, &r.name).await,
            OpRequest::Symlink(r) => self.room_for_name(cx, r.dir, &r.name).await,
            OpRequest::Crdir(r) if !r.undo => match &r.attr {
                Some(attr) => self.make_room(cx.op_id, &ids_of(attr), ONE_FILE).await,
                None => Ok(()),
            },
            OpRequest::WriteSmall(r) => {
                let end = r.logical_offset.saturating_add(len_of(body));
                self.room_for_end(cx, r.handle, end).await
            }
            OpRequest::CopySmall(r) => {
                let len = r.len.min(self.map.small_file_bytes);
                self.room_for_end(cx, r.handle, r.logical_offset.saturating_add(len)).await
            }
            OpRequest::Append(r) => {
                let size = self.store.attr(Handle(r.handle))?.map_or(0, |a| a.size);
                let reserved = self.store.quota.borrow().reserved_end(Handle(r.handle));
                let end = size.max(r.known_end).max(reserved).saturating_add(len_of(body));
                self.room_for_end(cx, r.handle, end).await
            }
            OpRequest::Setattr(r) => match r.set.as_ref().and_then(|s| s.size) {
                Some(size) => self.room_for_end(cx, r.handle, size).await,
                None => Ok(()),
            },
            OpRequest::Fallocate(r) => {
                let extends =
                    matches!(r.kind(), FallocateKind::Allocate | FallocateKind::ZeroRange);
                let end = r.logical_offset.saturating_add(r.len);
                if extends { self.room_for_end(cx, r.handle, end).await } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// Room for one more object with a name in `dir`; a name that exists makes none.
    async fn room_for_name(&self, cx: &OpCx, dir: u64, name: &[u8]) -> Result<()> {
        let key = self.store.dirent_key(Handle(dir), name);
        let Some(dir) = self.store.attr(Handle(dir))? else { return Ok(()) };
        if self.store.dirent(&key, dir.handle())?.is_some() {
            return Ok(());
        }
        let gid = if dir.mode & S_ISGID != 0 { dir.gid } else { cx.cred.gid };
        self.make_room(cx.op_id, &ids(cx.cred.uid, gid, dir.quota_tree), ONE_FILE).await
    }

    /// Room for a file to grow to `end`.
    async fn room_for_end(&self, cx: &OpCx, handle: u64, end: u64) -> Result<()> {
        let Some(attr) = self.store.attr(Handle(handle))? else { return Ok(()) };
        let base = attr.size.max(self.store.quota.borrow().reserved_end(attr.handle()));
        if end <= base || !attr.is_file() {
            return Ok(());
        }
        self.make_room(cx.op_id, &ids_of(&attr), Amount { bytes: end - base, files: 0 }).await
    }

    async fn one_tree(&self, cx: &OpCx, from: u64, to: u64) -> Result<()> {
        if from == to || self.tree_of(cx, from).await? == self.tree_of(cx, to).await? {
            return Ok(());
        }
        Err(PvfsError::new(
            ErrorCode::CrossDevice,
            "one of the two directories belongs to a tree with a quota, the other does not: copy",
        ))
    }

    async fn tree_of(&self, cx: &OpCx, handle: u64) -> Result<u64> {
        if self.owns(Handle(handle)) {
            // What does not exist is the operation's to tell.
            return Ok(self.store.attr(Handle(handle))?.map_or(0, |a| a.quota_tree));
        }
        let server = self.owner(Handle(handle))?;
        let ask = GetattrRequest { handle };
        let answer = peer::ask(self.peers(), &Cred::root(), cx.op_id, server, ask).await?;
        Ok(answer.attr.map_or(0, |a| a.quota_tree))
    }
}

const ONE_FILE: Amount = Amount { bytes: 0, files: 1 };

/// Whom an object counts for.
pub(crate) fn ids_of(attr: &Attr) -> Ids {
    ids(attr.uid, attr.gid, attr.quota_tree)
}

fn len_of(body: &Body) -> u64 {
    match body {
        Body::Empty => 0,
        Body::Whole(bytes) => bytes.len() as u64,
        Body::Shared(shared) => shared.len() as u64,
        // Clients send small writes and appends in one frame; a flow is longer than that.
        Body::Flow(_) => pvfs2_proto::limits::BODY_MAX as u64,
    }
}
