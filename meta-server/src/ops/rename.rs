//! rename: gives an object another name, replacing what has it, or exchanges two.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | everything here: check; dirents, directories, objects, reply in one change | answer | nothing happened |
//! | a directory or an object on another server, or the tree lock is needed | `rename_far` | |
//!
//! The checks come in Linux's order (`do_renameat2`, `vfs_rename`). Two names of one object: nothing
//! happens. What was replaced stays a moment (`linger`). Durable: all of it. Errors: `NotFound`, `Exists` (no_replace), `NotDirectory`,
//! `IsDirectory`, `NotEmpty`, `Invalid` (into itself), `Access`, `NotPermitted` (sticky),
//! `NameTooLong`.
use super::rmdir::as_step;
use super::rmdir_peer::must_be_empty;
use super::unlink::replace_name;
use crate::intents::{self, StepCall};
use crate::keys::DirentValue;
use crate::names::{Place, touch_dir};
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::attr::mode::S_IFDIR;
use pvfs2_proto::op::{
    LinkCountRequest, OpMessage, OpResponse, RenameRequest, RenameResponse, RmdirPeerRequest,
    RmdirStep,
};
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::prelude::{self, WRITE};
use pvfs2_server_core::service::{Answer, OpCx};

/// Directories above each other at most; more is a loop.
pub(crate) const DEPTH_MAX: usize = 65_536;

/// Both ends of a rename.
pub(crate) struct Ends {
    /// The old name; none when its directory is on another server.
    pub old: Option<Place>,
    /// The new name.
    pub new: Place,
    /// What the old name points at.
    pub moved: DirentValue,
    /// The directory of the old name, of which its place may be a part.
    pub old_home: u64,
}

pub(crate) async fn rename(server: &MetaServer, cx: &OpCx, r: RenameRequest) -> Result<Answer> {
    if r.no_replace && r.exchange {
        return Err(PvfsError::new(
            ErrorCode::Invalid,
            "NOREPLACE and EXCHANGE exclude each other",
        ));
    }
    if !server.owns(Handle(r.dir)) {
        return super::rename_far::rename_far(server, cx, r).await;
    }
    let names = [(r.dir, r.name.as_ref()), (r.new_dir, r.new_name.as_ref())];
    let guard = server.pass_names(&names, &[]).await;
    let old = server.place(cx, r.dir, &r.name)?;
    let moved = old.existing()?;
    let new = server.place(cx, r.new_dir, &r.new_name)?;
    let old_home = old.dir.home();
    let ends = Ends { old: Some(old), new, moved, old_home };
    let asks = ends.asks_for_something(&r)?;
    let mut far_object =
        [Some(ends.moved), ends.new.target].iter().flatten().any(|t| !server.owns(t.handle));
    if let Some(dir) = ends.replaced_dir(&r).filter(|_| !far_object) {
        far_object = !server.far_objects(dir.handle)?.is_empty();
    }
    let here = !far_object && (!ends.moves_a_directory(&r) || server.tree_is_free());
    let below = if here { is_below_here(server, &r, &ends)? } else { None };
    let Some(below) = below else {
        drop(guard);
        return super::rename_far::rename_far(server, cx, r).await;
    };
    refuse_loop(below)?;
    if !asks {
        return Ok(Answer::new(ends.response()));
    }
    let moved = object(server, ends.moved.handle)?;
    let other = ends.new.target.map(|t| object(server, t.handle)).transpose()?;
    ends.may(cx, &r, &moved, other.as_ref())?;
    if let Some(other) = other.as_ref().filter(|o| o.is_dir() && !r.exchange) {
        must_be_empty(other)?;
    }
    let mut change = Change::new();
    let (steps, response) = ends.carry_out(server, &mut change, 0, &r)?;
    debug_assert!(steps.is_empty());
    server.answer(cx, change, response)
}

fn object(server: &MetaServer, handle: Handle) -> Result<Attr> {
    server.store.attr(handle)?.ok_or_else(|| crate::store::damaged(handle))
}

/// # Errors
/// `Invalid` when a directory would come to lie below itself.
pub(crate) fn refuse_loop(below: bool) -> Result<()> {
    if below {
        return Err(PvfsError::new(
            ErrorCode::Invalid,
            "a directory cannot be moved into itself or below",
        ));
    }
    Ok(())
}

/// Whether an end lies below what comes there; `None`: an ancestor is on another server.
fn is_below_here(server: &MetaServer, r: &RenameRequest, ends: &Ends) -> Result<Option<bool>> {
    if ends.same_parent() {
        return Ok(Some(false));
    }
    let mut pairs = vec![(r.new_dir, ends.moved)];
    pairs.extend(ends.new.target.filter(|_| r.exchange).map(|t| (r.dir, t)));
    for (dir, object) in pairs.into_iter().filter(|p| p.1.kind == S_IFDIR) {
        let mut at = Handle(dir);
        for _ in 0..DEPTH_MAX {
            if at == object.handle {
                return Ok(Some(true));
            }
            if at == Handle::ROOT {
                break;
            }
            if !server.owns(at) {
                return Ok(None);
            }
            at = server.store.parent(at)?;
        }
    }
    Ok(Some(false))
}

impl Ends {
    /// The reply where nothing is to be done.
    pub(crate) fn response(&self) -> OpResponse {
        // The object itself, where both names are its own: the client must know that both stay.
        let other = self.new.target;
        OpResponse::Rename(RenameResponse {
            handle: self.moved.handle.0,
            other: other.map_or(0, |t| t.handle.0),
            ..Default::default()
        })
    }

    /// Whether a directory would change its parent (`tree_lock`).
    pub(crate) fn moves_a_directory(&self, r: &RenameRequest) -> bool {
        let came = self.new.target.filter(|_| r.exchange);
        !self.same_parent()
            && (self.moved.kind == S_IFDIR || came.is_some_and(|t| t.kind == S_IFDIR))
    }

    /// Whether both names are of one directory, or of parts of one.
    pub(crate) fn same_parent(&self) -> bool {
        self.old_home == self.new.dir.home()
    }

    /// The directory that the object comes to replace.
    pub(crate) fn replaced_dir(&self, r: &RenameRequest) -> Option<DirentValue> {
        self.new.target.filter(|t| !r.exchange && t.kind == S_IFDIR)
    }

    /// Flags against what is there. `false`: both names are one object's, nothing is to be done.
    pub(crate) fn asks_for_something(&self, r: &RenameRequest) -> Result<bool> {
        if r.no_replace {
            self.new.must_be_free()?;
        }
        if r.exchange {
            self.new.existing()?;
        }
        Ok(self.new.target.is_none_or(|t| t.handle != self.moved.handle))
    }

    /// Permissions and kinds.
    pub(crate) fn may(
        &self,
        cx: &OpCx,
        r: &RenameRequest,
        moved: &Attr,
        other: Option<&Attr>,
    ) -> Result<()> {
        if let Some(old) = &self.old {
            prelude::may_delete(&cx.cred, &old.dir, moved.uid)?;
        }
        match other {
            None => prelude::may_create(&cx.cred, &self.new.dir)?,
            Some(other) => {
                prelude::may_delete(&cx.cred, &self.new.dir, other.uid)?;
                if !r.exchange {
                    same_kind(moved, other)?;
                }
            }
        }
        if !self.same_parent() {
            // Its ".." changes.
            let dirs = [Some(moved), other.filter(|_| r.exchange)];
            for dir in dirs.into_iter().flatten().filter(|a| a.is_dir()) {
                prelude::access(&cx.cred, dir, WRITE)?;
            }
        }
        Ok(())
    }

    /// Adds what happens on this server to the change; returns what is left for others, and the
    /// reply.
    pub(crate) fn carry_out(
        mut self,
        server: &MetaServer,
        change: &mut Change,
        intent: u64,
        r: &RenameRequest,
    ) -> Result<(Vec<StepCall>, OpResponse)> {
        let now = server.now_ns();
        let (moved, other) = (self.moved, self.new.target);
        let is_dir = |t: DirentValue| i64::from(t.kind == S_IFDIR);
        let (gone, came) = (is_dir(moved), other.map_or(0, is_dir));
        let same_dir = r.dir == r.new_dir;
        // Names and subdirectories that each directory gains.
        let (old_gains, new_gains) = match (r.exchange, other) {
            (true, _) => ((0, came - gone), (0, gone - came)),
            (false, None) => ((-1, -gone), (1, gone)),
            (false, Some(_)) => ((-1, -gone), (0, gone - came)),
        };
        change.put_dirent(self.new.key.clone(), moved.handle, moved.kind);
        if let Some(old) = &mut self.old {
            match other.filter(|_| r.exchange) {
                Some(other) => change.put_dirent(old.key.clone(), other.handle, other.kind),
                None => change.delete(&old.key),
            }
            let dir = if same_dir { &mut self.new.dir } else { &mut old.dir };
            touch_dir(dir, old_gains.0, old_gains.1, now);
            if !same_dir {
                change.put_attr(&old.dir);
            }
        }
        touch_dir(&mut self.new.dir, new_gains.0, new_gains.1, now);
        change.put_attr(&self.new.dir);
        let mut steps = Vec::new();
        let (same_parent, new_home) = (self.same_parent(), self.new.dir.home());
        let new_parent = (!same_parent).then_some(new_home);
        steps.extend(re_parent(server, change, intent, moved, new_parent, now)?);
        if let Some(other) = other {
            if r.exchange {
                let new_parent = (!same_parent).then_some(self.old_home);
                steps.extend(re_parent(server, change, intent, other, new_parent, now)?);
            } else {
                steps.extend(displace(server, change, intent, other, now)?);
            }
        }
        let response = OpResponse::Rename(RenameResponse {
            handle: moved.handle.0,
            other: other.map_or(0, |t| t.handle.0),
            dir_attr: self.old.map(|old| old.dir).filter(|_| !same_dir),
            new_dir_attr: Some(self.new.dir),
        });
        Ok((steps, response))
    }
}

fn same_kind(moved: &Attr, other: &Attr) -> Result<()> {
    match (moved.is_dir(), other.is_dir()) {
        (true, false) => {
            Err(PvfsError::new(ErrorCode::NotDirectory, "the new name is no directory's"))
        }
        (false, true) => {
            Err(PvfsError::new(ErrorCode::IsDirectory, "the new name is a directory's"))
        }
        _ => Ok(()),
    }
}

/// An object got another name: its ctime, and a directory's parent.
fn re_parent(
    server: &MetaServer,
    change: &mut Change,
    intent: u64,
    target: DirentValue,
    parent: Option<u64>,
    now_ns: i64,
) -> Result<Option<StepCall>> {
    let handle = target.handle;
    if server.owns(handle) {
        let mut attr = object(server, handle)?;
        attr.ctime_ns = now_ns;
        attr.change += 1;
        change.put_attr(&attr);
        if let Some(parent) = parent.filter(|_| attr.is_dir()) {
            change.put_parent(handle, Handle(parent));
        }
        return Ok(None);
    }
    let handle = handle.0;
    let request = match parent.filter(|_| target.kind == S_IFDIR) {
        Some(parent) => {
            let step = RmdirStep::SetParent as i32;
            RmdirPeerRequest { intent, handle, step, parent }.into_request()
        }
        None => LinkCountRequest { intent, handle, delta: 0, undo: false }.into_request(),
    };
    Ok(Some(intents::step(server.owner(target.handle)?, request)))
}

/// An object lost its name to another.
fn displace(
    server: &MetaServer,
    change: &mut Change,
    intent: u64,
    target: DirentValue,
    now_ns: i64,
) -> Result<Vec<StepCall>> {
    let is_dir = target.kind == S_IFDIR;
    if server.owns(target.handle) {
        let attr = object(server, target.handle)?;
        if is_dir {
            server.store.remove_object(change, &attr)?;
        } else {
            replace_name(server, change, attr, now_ns)?;
        }
    }
    if is_dir {
        let others = server.far_objects(target.handle)?;
        let steps = server.rmdir_steps(intent, &others, RmdirStep::Finish)?;
        return Ok(steps.into_iter().map(as_step).collect());
    }
    if server.owns(target.handle) {
        return Ok(Vec::new());
    }
    let request =
        LinkCountRequest { intent, handle: target.handle.0, delta: -1, undo: false }.into_request();
    Ok(vec![intents::step(server.owner(target.handle)?, request)])
}
