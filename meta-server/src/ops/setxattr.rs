//! setxattr: sets an extended attribute; layout attributes on directories (handed down to what is
//! made in them) and on empty files without datahandles; POSIX ACLs (`acl.rs`).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check; value, attributes, reply in one change | answer | nothing happened |
//! | of a split directory: value, attributes and an intent | tell the parts (`part_attr`), then answer | goes on in the background |
//!
//! Durable: all of it. Errors: `Stale`, `Exists`, `NoAttribute`, `Access`, `NotPermitted`, `TooBig`
//! (value), `Range` (name), `Invalid` (layout attribute, ACL), `InUse` (layout of a file with bytes),
//! `NoSpace` (the names would not fit into one list), `NotSupported`.
use super::getxattr::{Namespace, namespace, no_attribute};
use crate::server::MetaServer;
use crate::store::Change;
use crate::{acl, keys, layouts};
use pvfs2_proto::attr::mode::S_ISVTX;
use pvfs2_proto::attr::{XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT};
use pvfs2_proto::limits::{NAME_MAX, XATTR_LIST_MAX, XATTR_VALUE_MAX};
use pvfs2_proto::op::{OpResponse, SetxattrRequest, SetxattrResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::prelude::{self, WRITE};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) async fn setxattr(server: &MetaServer, cx: &OpCx, r: SetxattrRequest) -> Result<Answer> {
    if r.name.len() > NAME_MAX || r.name.contains(&0) {
        return Err(PvfsError::new(
            ErrorCode::Range,
            format!("an attribute's name has at most {NAME_MAX} bytes, none of them zero"),
        ));
    }
    if r.value.len() > XATTR_VALUE_MAX {
        return Err(PvfsError::new(
            ErrorCode::TooBig,
            format!("an attribute's value has at most {XATTR_VALUE_MAX} bytes"),
        ));
    }
    let (guard, mut attr) = server.pass_attr(Handle(r.handle)).await?;
    may_change(cx, &attr, &r.name)?;
    let key = keys::xattr(attr.handle(), &r.name);
    let exists = match r.name.as_ref() {
        XATTR_ACL_ACCESS => !attr.acl.is_empty(),
        _ => attr.has(AttrFlags::HAS_XATTR) && server.store.get(&key)?.is_some(),
    };
    if r.create && exists {
        return Err(PvfsError::new(ErrorCode::Exists, "the object has this attribute already"));
    }
    if r.replace && !exists {
        return Err(no_attribute());
    }
    if !exists {
        names_fit(server, &attr, &r.name)?;
    }
    if r.name.starts_with(layouts::PREFIX) {
        may_lay_out(&attr, &r.name)?;
        let mut all = server.store.xattrs(&attr)?;
        all.retain(|(name, _)| *name != r.name);
        all.push((r.name.clone(), r.value.clone()));
        server.layout_wish(&all)?;
        server.split_wish(&all)?;
        server.store.growth.forget(attr.handle());
    }
    let mut change = Change::new();
    match r.name.as_ref() {
        XATTR_ACL_ACCESS => acl::set_access(&cx.cred, &mut attr, &r.value)?,
        XATTR_ACL_DEFAULT => acl::set_default(server, &mut change, &mut attr, &r.value)?,
        _ => {
            attr.set(AttrFlags::HAS_XATTR, true);
            change.put(key, r.value);
        }
    }
    attr.ctime_ns = server.now_ns();
    attr.change += 1;
    change.put_attr(&attr);
    let seen = Some(server.seen(cx, attr.clone()));
    let response = OpResponse::Setxattr(SetxattrResponse { attr: seen });
    server.answer_attr(cx, change, &attr, guard, response).await
}

/// Whether all names can still be listed with one more.
fn names_fit(server: &MetaServer, attr: &Attr, name: &[u8]) -> Result<()> {
    if !attr.has(AttrFlags::HAS_XATTR) {
        return Ok(());
    }
    let mut bytes = name.len() + 1;
    server.store.scan(&keys::xattrs(attr.handle()), |key, _| {
        bytes += keys::xattr_name(key).len() + 1;
        Ok(())
    })?;
    if bytes <= XATTR_LIST_MAX {
        return Ok(());
    }
    Err(PvfsError::new(
        ErrorCode::NoSpace,
        format!("the names of an object's attributes have at most {XATTR_LIST_MAX} bytes together"),
    ))
}

/// Whether the caller may set or remove the attribute.
pub(crate) fn may_change(cx: &OpCx, attr: &Attr, name: &[u8]) -> Result<()> {
    let not_permitted = |what: &'static str| Err(PvfsError::new(ErrorCode::NotPermitted, what));
    match namespace(name)? {
        Namespace::User if !attr.is_file() && !attr.is_dir() => {
            not_permitted("only regular files and directories have user.* attributes")
        }
        Namespace::User
            if attr.is_dir() && attr.mode & S_ISVTX != 0 && !prelude::owns(&cx.cred, attr) =>
        {
            not_permitted("only the owner sets attributes of a sticky directory")
        }
        Namespace::User => prelude::access(&cx.cred, attr, WRITE),
        Namespace::Trusted | Namespace::Security if !cx.cred.is_root() => {
            not_permitted("only root sets trusted.* and security.* attributes")
        }
        Namespace::Trusted | Namespace::Security => Ok(()),
        Namespace::Acl => acl::may_change(cx, attr, name),
    }
}

/// Whether a layout attribute may be changed on this object.
pub(crate) fn may_lay_out(attr: &Attr, name: &[u8]) -> Result<()> {
    let of_dirs = layouts::INHERITED_BY_DIRS.contains(&name);
    if !(layouts::INHERITED.contains(&name) || of_dirs && attr.is_dir()) {
        return Err(PvfsError::new(
            ErrorCode::Invalid,
            "layout attributes are dist_name, dist_params, num_dfiles, layout and server_list, of \
             directories dir_servers_max and dir_split_entries too",
        ));
    }
    if attr.is_dir() || attr.is_file() && attr.layout.is_none() && attr.size == 0 {
        return Ok(());
    }
    Err(PvfsError::new(
        ErrorCode::InUse,
        "the layout of a file is set before its first byte: make a new file and copy",
    ))
}
