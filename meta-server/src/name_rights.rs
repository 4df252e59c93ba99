//! Rights to know every name of a directory, so that its holder itself answers for names that are not
//! there.
//!
//! Granted with a lookup that finds nothing in an empty directory (`want_right`): from then on the
//! holder knows all names, for it made them. Whatever would add a name for another session first
//! recalls the right ([`MetaServer::adding`]), as `rights.rs` says; taking names away needs no recall,
//! for "it may be there" is all that the holder concludes from a name it knows. A directory that
//! splits loses its right, and so does every directory when the holder's session or the server ends.
//!
//! Invariant: while a right is held, no name is added but by its holder's requests. So none is granted
//! while a request that adds a name is under way, or an operation of several steps holds the directory.
use crate::server::MetaServer;
use pvfs2_proto::op::OpRequest;
use pvfs2_proto::{Handle, Result};
use pvfs2_server_core::scheduler::Mode;
use pvfs2_server_core::service::OpCx;
use std::collections::{HashMap, VecDeque};

/// Most directories of which somebody holds the right (about 150 bytes each); the oldest are recalled.
pub(crate) const HELD_MAX: usize = if cfg!(test) { 40 } else { 65_536 };

/// What is known beside the rights themselves.
#[derive(Default)]
pub(crate) struct Names {
    /// Requests under way that add names, by directory.
    adding: HashMap<Handle, u32>,
    /// Rights in the order in which they were granted, with their numbers.
    granted: VecDeque<(Handle, u64)>,
}

/// A request that adds a name is under way.
pub(crate) struct Adding<'a> {
    server: &'a MetaServer,
    dir: Handle,
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        let mut names = self.server.names.borrow_mut();
        if let Some(count) = names.adding.get_mut(&self.dir) {
            *count -= 1;
            if *count == 0 {
                names.adding.remove(&self.dir);
            }
        }
    }
}

impl MetaServer {
    /// To be called before an operation that may add a name; returns when no other session holds the
    /// right on its directory. What it returns is to be kept until the operation ends.
    ///
    /// # Errors
    /// `Busy` when the holder takes long: the client asks again.
    pub(crate) async fn adding(&self, cx: &OpCx, op: &OpRequest) -> Result<Option<Adding<'_>>> {
        let Some(dir) = adds_to(op) else { return Ok(None) };
        *self.names.borrow_mut().adding.entry(dir).or_default() += 1;
        let adding = Adding { server: self, dir };
        if self.name_rights.borrow().is_others(cx.session, dir) {
            self.recall_of(&self.name_rights, dir, Some(cx.session)).await?;
        }
        Ok(Some(adding))
    }

    /// The right to know every name of a directory, if it is empty and nobody is adding any; 0: none.
    ///
    /// # Errors
    /// Trove's.
    pub(crate) fn grant_names(&self, cx: &OpCx, dir: Handle) -> Result<u64> {
        let refused = cx.session == 0
            || cx.peer_server.is_some()
            || self.names.borrow().adding.contains_key(&dir)
            || !self.sched.is_free(&[(dir, Mode::Write)]);
        let attr = if refused { None } else { self.store.attr(dir)? };
        let Some(attr) = attr else { return Ok(0) };
        if !attr.is_dir() || attr.size != 0 || attr.nlink == 0 || attr.dir_map.is_some() {
            return Ok(0);
        }
        let is_news = !self.name_rights.borrow().is_held(dir);
        let number = self.name_rights.borrow_mut().grant(cx.session, dir);
        if is_news && number != 0 {
            self.note_granted(dir, number);
        }
        Ok(number)
    }

    fn note_granted(&self, dir: Handle, number: u64) {
        let mut names = self.names.borrow_mut();
        names.granted.push_back((dir, number));
        if names.granted.len() > HELD_MAX
            && let Some((oldest, number)) = names.granted.pop_front()
            && self.name_rights.borrow().is_number(oldest, number)
        {
            let asked = self.name_rights.borrow_mut().ask_back(oldest, None);
            if let Some((session, notice, _)) = asked {
                self.notify(session, notice);
            }
        }
    }
}

/// The directory to which an operation may add a name.
fn adds_to(op: &OpRequest) -> Option<Handle> {
    match op {
        OpRequest::Create(r) => Some(Handle(r.dir)),
        OpRequest::Mkdir(r) => Some(Handle(r.dir)),
        OpRequest::Mknod(r) => Some(Handle(r.dir)),
        OpRequest::Symlink(r) => Some(Handle(r.dir)),
        OpRequest::Link(r) => Some(Handle(r.dir)),
        OpRequest::Rename(r) => Some(Handle(r.new_dir)),
        _ => None,
    }
}
