//! Names in directories: what is a name, and the steps that every operation on one begins with.
use crate::keys::{DirentValue, Key, name_hash};
use crate::server::MetaServer;
use pvfs2_proto::limits::NAME_MAX;
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::prelude;
use pvfs2_server_core::scheduler::{Guard, Mode};
use pvfs2_server_core::service::OpCx;
use smallvec::SmallVec;

/// A name in a directory, as found.
pub(crate) struct Place {
    /// The directory's attributes.
    pub dir: Attr,
    /// The key of the name.
    pub key: Key,
    /// What the name points at.
    pub target: Option<DirentValue>,
}

impl Place {
    /// What the name points at.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn existing(&self) -> Result<DirentValue> {
        self.target.ok_or_else(|| {
            PvfsError::new(
                ErrorCode::NotFound,
                format!("no such name in directory {:x}", self.dir.handle),
            )
        })
    }
    /// # Errors
    /// `Exists` when the name is taken.
    pub fn must_be_free(&self) -> Result<()> {
        match self.target {
            None => Ok(()),
            Some(_) => Err(PvfsError::new(
                ErrorCode::Exists,
                format!("the name exists already in directory {:x}", self.dir.handle),
            )),
        }
    }
    /// The directory gains (or loses) a name at `now_ns`.
    pub fn count(&mut self, names: i64, subdirs: i64, now_ns: i64) {
        touch_dir(&mut self.dir, names, subdirs, now_ns);
    }
}

/// A directory gains (or loses) names and subdirectories at `now_ns`.
pub(crate) fn touch_dir(dir: &mut Attr, names: i64, subdirs: i64, now_ns: i64) {
    dir.size = dir.size.saturating_add_signed(names);
    dir.nlink = dir.nlink.saturating_add_signed(subdirs as i32);
    dir.mtime_ns = now_ns;
    dir.ctime_ns = now_ns;
    dir.change += 1;
}

/// # Errors
/// `NameTooLong`; `Invalid` for what can be no name.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(PvfsError::new(
            ErrorCode::NameTooLong,
            format!("a name has at most {NAME_MAX} bytes"),
        ));
    }
    let bad = name.is_empty() || name == b"." || name == b"..";
    if bad || name.contains(&b'/') || name.contains(&0) {
        return Err(PvfsError::new(
            ErrorCode::Invalid,
            "a name is not empty, not '.' or '..', and has neither '/' nor a zero byte",
        ));
    }
    Ok(())
}

impl MetaServer {
    /// Lets an operation on names stand back while others hold the directories, or the objects that
    /// the names point at. What it returns is to be kept until the operation ends.
    pub(crate) async fn pass_names(&self, names: &[(u64, &[u8])], more: &[u64]) -> Option<Guard> {
        loop {
            if self.sched.is_idle() {
                return None;
            }
            let wanted = self.touched(names, more);
            if self.sched.is_free(&wanted) {
                return None;
            }
            let guard = self.sched.lock(&wanted).await;
            // The names may point elsewhere by now.
            if self.touched(names, more).iter().all(|w| wanted.contains(w)) {
                return Some(guard);
            }
        }
    }

    /// Takes for itself what [`MetaServer::pass_names`] only stands back for.
    pub(crate) async fn lock_names(&self, names: &[(u64, &[u8])], more: &[u64]) -> Guard {
        loop {
            let wanted = self.touched(names, more);
            let guard = self.sched.lock(&wanted).await;
            if self.touched(names, more).iter().all(|w| wanted.contains(w)) {
                return guard;
            }
        }
    }

    fn touched(&self, names: &[(u64, &[u8])], more: &[u64]) -> SmallVec<[(Handle, Mode); 4]> {
        let mut all: SmallVec<[(Handle, Mode); 4]> = SmallVec::new();
        all.extend(more.iter().map(|h| (Handle(*h), Mode::Write)));
        for (dir, name) in names {
            let dir = Handle(*dir);
            all.push((dir, Mode::Write));
            // An error shows again when the operation itself reads.
            if let Ok(Some(target)) = self.store.dirent(&self.store.dirent_key(dir, name), dir) {
                all.push((target.handle, Mode::Write));
            }
        }
        all
    }

    /// Looks a name up for an operation that will change it: the name is one, the directory is here,
    /// holds it, and may be searched.
    pub(crate) fn place(&self, cx: &OpCx, dir: u64, name: &[u8]) -> Result<Place> {
        let dir_handle = Handle(dir);
        self.must_own(dir_handle)?;
        let dir = self.store.directory(dir_handle)?;
        prelude::may_search(&cx.cred, &dir)?;
        check_name(name)?;
        crate::split::must_hold(&dir, |map| name_hash(map.seed, name))?;
        let key = self.store.dirent_key(dir_handle, name);
        let target = self.store.dirent(&key, dir_handle)?;
        Ok(Place { dir, key, target })
    }
}
