//! Setting POSIX ACLs: who may, and what becomes of mode and attributes.
//!
//! Place in the walks: setxattr and removexattr of `system.posix_acl_*`. The access ACL is part of the
//! attributes, so every check has it at hand; the default ACL of a directory is an extended
//! attribute like others. What ACLs say is `pvfs2_server_core::acl`.
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use bytes::Bytes;
use pvfs2_proto::attr::XATTR_ACL_DEFAULT;
use pvfs2_proto::attr::mode::S_ISGID;
use pvfs2_proto::op::Cred;
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, PvfsError, Result};
use pvfs2_server_core::acl::Acl;
use pvfs2_server_core::prelude;
use pvfs2_server_core::service::OpCx;

/// Whether the caller may set or remove an ACL of the object.
pub(crate) fn may_change(cx: &OpCx, attr: &Attr, name: &[u8]) -> Result<()> {
    if attr.is_symlink() {
        return Err(PvfsError::new(ErrorCode::NotSupported, "symlinks have no ACLs"));
    }
    if name == XATTR_ACL_DEFAULT && !attr.is_dir() {
        return Err(PvfsError::new(ErrorCode::Access, "only directories have a default ACL"));
    }
    if prelude::owns(&cx.cred, attr) {
        return Ok(());
    }
    Err(PvfsError::new(ErrorCode::NotPermitted, "only the owner or root may change ACLs"))
}

/// Sets the access ACL: the mode follows, and sgid goes unless the caller is in the group. A value
/// without entries takes the ACL away.
pub(crate) fn set_access(cred: &Cred, attr: &mut Attr, value: &[u8]) -> Result<()> {
    let Some(acl) = Acl::parse(value)? else {
        attr.acl = Bytes::new();
        return Ok(());
    };
    acl.set(attr);
    if attr.mode & S_ISGID != 0 && !cred.is_root() {
        match prelude::in_group(cred, attr.gid) {
            Some(true) => {}
            Some(false) => attr.mode &= !S_ISGID,
            None => {
                return Err(PvfsError::new(
                    ErrorCode::Access,
                    "whether sgid stays depends on the caller's groups, which are not known",
                ));
            }
        }
    }
    Ok(())
}

/// Sets the default ACL of a directory. A value without entries takes it away.
pub(crate) fn set_default(
    server: &MetaServer,
    change: &mut Change,
    attr: &mut Attr,
    value: &[u8],
) -> Result<()> {
    let key = keys::xattr(attr.handle(), XATTR_ACL_DEFAULT);
    match Acl::parse(value)? {
        Some(acl) => {
            change.put(key, acl.serialise());
            attr.set(AttrFlags::HAS_XATTR, true);
        }
        None => {
            change.delete(key);
            let all = server.store.xattrs(attr)?;
            let others = all.iter().any(|(name, _)| name != XATTR_ACL_DEFAULT);
            attr.set(AttrFlags::HAS_XATTR, others);
        }
    }
    Ok(())
}
