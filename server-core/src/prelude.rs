//! Access checks before an operation, as Linux makes them (`fs/attr.c`, `fs/namei.c`): the mode bits
//! for owner, group and others, or the access ACL; sticky directories; who may chmod, chown and set times; what becomes
//! of suid and sgid.
//!
//! The kernel of a FUSE client checks too (`default_permissions`); this is the check that counts.
//! Which error is right where: `Access` (EACCES) when mode bits refuse, `NotPermitted` (EPERM) when
//! only the owner or root may do it at all.
//!
//! Supplementary groups: a request may come without them (`Cred::groups_known` false). Where they
//! could change the outcome, the answer is `Access`, and the client asks again with all groups.
use crate::acl::Acl;
pub use pvfs2_proto::attr::mode::without_suidgid;
use pvfs2_proto::attr::mode::{S_IFMT, S_ISGID, S_ISVTX};
use pvfs2_proto::op::Cred;
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, PvfsError, Result, SetAttr};

/// Permission to read.
pub const READ: u32 = 4;
/// Permission to write.
pub const WRITE: u32 = 2;
/// Permission to execute, or to search a directory.
pub const EXEC: u32 = 1;

const GROUP_EXEC: u32 = 0o010;

fn access_denied(attr: &Attr, what: &str) -> PvfsError {
    PvfsError::new(ErrorCode::Access, format!("no permission to {what} object {:x}", attr.handle))
}

fn not_permitted(attr: &Attr, what: &str) -> PvfsError {
    PvfsError::new(
        ErrorCode::NotPermitted,
        format!("only the owner or root may {what} object {:x}", attr.handle),
    )
}

/// Whether the caller owns the object or is root.
pub fn owns(cred: &Cred, attr: &Attr) -> bool {
    cred.is_root() || cred.uid == attr.uid
}

/// Whether the caller is in `gid`: `None` when its groups are not known and could tell.
pub fn in_group(cred: &Cred, gid: u32) -> Option<bool> {
    if cred.in_group(gid) {
        Some(true)
    } else if cred.groups_known {
        Some(false)
    } else {
        None
    }
}

/// Whether the mode bits, or the access ACL, grant `want` (bits of [`READ`], [`WRITE`], [`EXEC`]).
///
/// # Errors
/// `Access`; `Damaged` (the ACL).
pub fn access(cred: &Cred, attr: &Attr, want: u32) -> Result<()> {
    let mode = attr.mode;
    let granted = if cred.is_root() {
        want & EXEC == 0 || attr.is_dir() || mode & 0o111 != 0
    } else if cred.uid == attr.uid {
        mode >> 6 & want == want
    } else if let Some(acl) = acl_that_counts(attr)? {
        acl.grants(cred, attr, want)
    } else {
        match in_group(cred, attr.gid) {
            Some(true) => mode >> 3 & want == want,
            Some(false) => mode & want == want,
            // Without the groups only what both classes grant is sure.
            None => mode >> 3 & mode & want == want,
        }
    };
    if granted {
        return Ok(());
    }
    Err(access_denied(
        attr,
        match want {
            READ => "read",
            WRITE => "write",
            EXEC => "search or execute",
            _ => "change",
        },
    ))
}

/// The access ACL. As in Linux it says nothing while the mode gives the group nothing.
fn acl_that_counts(attr: &Attr) -> Result<Option<Acl>> {
    if attr.mode & 0o070 == 0 { Ok(None) } else { Acl::of(attr) }
}

/// Whether the caller may look names up in a directory.
///
/// # Errors
/// `NotDirectory`, `Access`.
pub fn may_search(cred: &Cred, dir: &Attr) -> Result<()> {
    is_directory(dir)?;
    access(cred, dir, EXEC)
}

/// # Errors
/// `NotDirectory` when it is none.
pub fn is_directory(dir: &Attr) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    Err(PvfsError::new(
        ErrorCode::NotDirectory,
        format!("object {:x} is not a directory", dir.handle),
    ))
}

/// Whether the caller may make a name in a directory.
///
/// # Errors
/// `NotDirectory`, `Access`; `NotFound` in a directory that is being removed.
pub fn may_create(cred: &Cred, dir: &Attr) -> Result<()> {
    is_directory(dir)?;
    if dir.has(AttrFlags::DIR_DYING) || dir.nlink == 0 {
        return Err(PvfsError::new(
            ErrorCode::NotFound,
            format!("directory {:x} is being removed", dir.handle),
        ));
    }
    access(cred, dir, WRITE | EXEC)
}

/// Whether the caller may remove (or rename) the name of an object with owner `victim_uid` in a
/// directory.
///
/// # Errors
/// `NotDirectory`, `Access`; `NotPermitted` by the sticky bit.
pub fn may_delete(cred: &Cred, dir: &Attr, victim_uid: u32) -> Result<()> {
    is_directory(dir)?;
    access(cred, dir, WRITE | EXEC)?;
    if dir.mode & S_ISVTX != 0 && !cred.is_root() && cred.uid != victim_uid && cred.uid != dir.uid {
        return Err(PvfsError::new(
            ErrorCode::NotPermitted,
            format!("directory {:x} is sticky, and neither it nor the object is yours", dir.handle),
        ));
    }
    Ok(())
}

/// Mode and group of a new object of type and permission bits `mode` in `dir`: a directory with sgid
/// gives its group, and to directories sgid too.
///
/// # Errors
/// `Access` when the caller's groups decide and are not known.
pub fn inherit(cred: &Cred, dir: &Attr, mode: u32) -> Result<(u32, u32)> {
    let mut mode = mode;
    if dir.mode & S_ISGID == 0 {
        return Ok((mode, cred.gid));
    }
    if mode & S_IFMT == pvfs2_proto::attr::mode::S_IFDIR {
        mode |= S_ISGID;
    } else if mode & S_ISGID != 0 && mode & GROUP_EXEC != 0 && !cred.is_root() {
        match in_group(cred, dir.gid) {
            Some(true) => {}
            Some(false) => mode &= !S_ISGID,
            None => return Err(access_denied(dir, "set sgid in")),
        }
    }
    Ok((mode, dir.gid))
}

/// Whether the caller may make the changes of `set` to `attr`.
///
/// # Errors
/// `NotPermitted`, `Access`; `IsDirectory` or `Invalid` for a size where there is none.
pub fn may_setattr(cred: &Cred, attr: &Attr, set: &SetAttr) -> Result<()> {
    let owner = owns(cred, attr);
    if set.uid.is_some_and(|uid| !cred.is_root() && (cred.uid != attr.uid || uid != attr.uid)) {
        return Err(not_permitted(attr, "change the owner of"));
    }
    if let Some(gid) = set.gid
        && !cred.is_root()
    {
        if cred.uid != attr.uid {
            return Err(not_permitted(attr, "change the group of"));
        }
        if gid != attr.gid {
            match in_group(cred, gid) {
                Some(true) => {}
                Some(false) => return Err(not_permitted(attr, "give to that group")),
                None => return Err(access_denied(attr, "change the group of")),
            }
        }
    }
    if let Some(mode) = set.mode {
        if !owner {
            return Err(not_permitted(attr, "change the mode of"));
        }
        if mode & S_ISGID != 0 && !cred.is_root() {
            let gid = set.gid.unwrap_or(attr.gid);
            in_group(cred, gid).ok_or_else(|| access_denied(attr, "set sgid on"))?;
        }
    }
    may_set_times(cred, attr, set, owner)?;
    if set.size.is_some() {
        if attr.is_dir() {
            return Err(PvfsError::new(ErrorCode::IsDirectory, "a directory has no size to set"));
        }
        if !attr.is_file() {
            return Err(PvfsError::new(
                ErrorCode::Invalid,
                "only a regular file has a size to set",
            ));
        }
        if !set.by_open_file {
            access(cred, attr, WRITE)?;
        }
    }
    Ok(())
}

fn may_set_times(cred: &Cred, attr: &Attr, set: &SetAttr, owner: bool) -> Result<()> {
    let times = [set.atime, set.mtime];
    if owner || times.iter().all(Option::is_none) || set.ctime.is_some() {
        return Ok(());
    }
    // As in Linux: whoever may write may touch, which sets both times to now; one of them alone
    // (UTIME_OMIT for the other) is the owner's to set.
    if !times.iter().all(|t| t.is_some_and(|t| t.now)) {
        return Err(not_permitted(attr, "set the times of"));
    }
    access(cred, attr, WRITE)
}

/// Whether `set` takes suid, sgid and file capabilities away: asked for, or a change of the size by
/// anybody but root, whatever the client says.
pub fn kills_suidgid(cred: &Cred, set: &SetAttr) -> bool {
    set.kill_suidgid || set.size.is_some() && !cred.is_root()
}

/// The mode after `set` on `attr`: its permission bits if given; sgid only for members of the group;
/// suid and sgid cleared by a chown and where [`kills_suidgid`], on everything but directories.
pub fn mode_after(cred: &Cred, attr: &Attr, set: &SetAttr) -> u32 {
    let mut mode = attr.mode;
    let gid = set.gid.unwrap_or(attr.gid);
    let chowned = set.uid.is_some() || set.gid.is_some();
    if (chowned || kills_suidgid(cred, set)) && !attr.is_dir() {
        mode = without_suidgid(mode);
        if chowned && mode & S_ISGID != 0 && !cred.is_root() && !cred.in_group(gid) {
            mode &= !S_ISGID;
        }
    }
    if let Some(bits) = set.mode {
        mode = attr.mode & S_IFMT | bits & !S_IFMT;
        if mode & S_ISGID != 0 && !cred.is_root() && !cred.in_group(gid) {
            mode &= !S_ISGID;
        }
    }
    mode
}

#[cfg(test)]
mod tests;
