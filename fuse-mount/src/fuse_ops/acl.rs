//! POSIX ACLs as far as mode bits can say them.
//!
//! The file system keeps no ACLs at this stage. An access ACL that says no more than the mode bits
//! do (rsync -A and cp -a write such ones on every file) becomes a chmod; a longer one is refused as
//! not supported; taking away what is not there succeeds. Place in the walks: setxattr, removexattr.
//!
//! | bytes | of the value (Linux's `posix_acl_xattr`, little-endian) |
//! |---|---|
//! | 0-3 | version, 2 |
//! | then each 8 | tag (2), permissions (2), id (4) |
use super::PvfsFs;
use crate::mount::Inval;
use fuser::{Errno, ReplyEmpty, Request};
use pvfs2_client::sys::{Getattr, Setattr};
use pvfs2_proto::{Handle, SetAttr};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const ACCESS: &[u8] = b"system.posix_acl_access";
const VERSION: u32 = 2;
const TAG_USER_OBJ: u16 = 0x01;
const TAG_GROUP_OBJ: u16 = 0x04;
const TAG_OTHER: u16 = 0x20;

/// Whether an extended attribute is an ACL.
pub(super) fn is_acl(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"system.posix_acl_")
}

/// The permission bits that an access ACL says, if it says no more.
fn mode_of(value: &[u8]) -> Option<u32> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() != 3 * 8 {
        return None;
    }
    let (mut mode, mut seen) = (0, 0);
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let perm = u32::from(u16::from_le_bytes([entry[2], entry[3]]));
        let shift = match tag {
            TAG_USER_OBJ => 6,
            TAG_GROUP_OBJ => 3,
            TAG_OTHER => 0,
            _ => return None,
        };
        if perm > 7 {
            return None;
        }
        mode |= perm << shift;
        seen |= tag;
    }
    (seen == TAG_USER_OBJ | TAG_GROUP_OBJ | TAG_OTHER).then_some(mode)
}

impl PvfsFs {
    /// Sets an ACL: see the head of the file.
    pub(super) fn set_acl(
        &self,
        req: &Request,
        handle: Handle,
        name: &OsStr,
        value: &[u8],
        reply: ReplyEmpty,
    ) {
        let mode = (name.as_bytes() == ACCESS).then(|| mode_of(value)).flatten();
        let Some(mode) = mode else { return reply.error(Errno::EOPNOTSUPP) };
        let (dispatch, op) = (self.dispatch.clone(), self.dispatch.op(req));
        let (shared, ino) = (self.shared.clone(), self.shared.inodes.ino(handle));
        let done = self.shared.done("setxattr", reply);
        self.dispatch.run(req, Getattr::new(handle), move |result| match result {
            Ok(attr) => {
                // An ACL leaves suid, sgid and sticky alone.
                let mode = Some(attr.mode & 0o7000 | mode);
                let set = SetAttr { mode, ..SetAttr::default() };
                // This may be the background thread: what follows goes there in any case.
                dispatch.continue_later(op, Setattr::new(handle, set), move |result| {
                    // The kernel does not know that this changes the mode.
                    let then = Box::new(move || done(result.map(|_| ())));
                    shared.invalidate(Inval::AttrThen { ino, then });
                });
            }
            Err(e) => done(Err(e)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for (tag, perm) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(perm.to_le_bytes());
            out.extend(u32::MAX.to_le_bytes());
        }
        out
    }

    #[test]
    fn an_acl_that_is_a_mode() {
        assert_eq!(mode_of(&acl(&[(1, 6), (4, 4), (0x20, 0)])), Some(0o640));
        assert_eq!(mode_of(&acl(&[(1, 7), (4, 5), (0x20, 5)])), Some(0o755));
    }

    #[test]
    fn an_acl_that_is_more_or_nonsense() {
        assert_eq!(mode_of(&acl(&[(1, 6), (2, 7), (4, 4), (0x10, 7), (0x20, 0)])), None);
        assert_eq!(mode_of(&acl(&[(1, 6), (4, 4)])), None);
        assert_eq!(mode_of(&acl(&[(1, 6), (1, 6), (0x20, 0)])), None);
        assert_eq!(mode_of(&acl(&[(1, 8), (4, 4), (0x20, 0)])), None);
        assert_eq!(mode_of(b""), None);
        assert_eq!(mode_of(&[1, 0, 0, 0]), None);
    }

    #[test]
    fn acl_names() {
        assert!(is_acl(OsStr::new("system.posix_acl_access")));
        assert!(is_acl(OsStr::new("system.posix_acl_default")));
        assert!(!is_acl(OsStr::new("user.system.posix_acl_access")));
    }
}
