//! getxattr: one extended attribute; the layout attributes of a file are computed.
//!
//! Changes nothing. Who may read what, as Linux has it: `user.` by read permission, on files and
//! directories; `trusted.` root; `security.` and ACLs all. Errors: `Stale`, `NoAttribute`, `Access`,
//! `NotSupported` (other namespaces).
use crate::keys;
use crate::layouts;
use crate::server::MetaServer;
use bytes::Bytes;
use pvfs2_proto::attr::{XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT};
use pvfs2_proto::layout::Layout;
use pvfs2_proto::op::{GetxattrRequest, GetxattrResponse, OpResponse};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::prelude::{self, READ};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) fn getxattr(server: &MetaServer, cx: &OpCx, r: GetxattrRequest) -> Result<Answer> {
    let attr = server.store.object(Handle(r.handle))?;
    may_read(cx, &attr, &r.name)?;
    let value = match computed(server, &attr, &r.name)? {
        _ if r.name == XATTR_ACL_ACCESS && attr.acl.is_empty() => return Err(no_attribute()),
        _ if r.name == XATTR_ACL_ACCESS => attr.acl,
        Some(value) => value,
        None if !attr.has(AttrFlags::HAS_XATTR) => return Err(no_attribute()),
        None => server.store.get(keys::xattr(attr.handle(), &r.name))?.ok_or_else(no_attribute)?,
    };
    Ok(Answer::new(OpResponse::Getxattr(GetxattrResponse { value })))
}

/// Namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    User,
    Trusted,
    Security,
    Acl,
}

pub(crate) fn namespace(name: &[u8]) -> Result<Namespace> {
    if name == XATTR_ACL_ACCESS || name == XATTR_ACL_DEFAULT {
        return Ok(Namespace::Acl);
    }
    for (prefix, namespace) in [
        (&b"user."[..], Namespace::User),
        (b"trusted.", Namespace::Trusted),
        (b"security.", Namespace::Security),
    ] {
        if name.len() > prefix.len() && name.starts_with(prefix) {
            return Ok(namespace);
        }
    }
    Err(PvfsError::new(
        ErrorCode::NotSupported,
        "extended attributes are named user.*, trusted.* or security.*, or are POSIX ACLs",
    ))
}

pub(crate) fn no_attribute() -> PvfsError {
    PvfsError::new(ErrorCode::NoAttribute, "the object has no such extended attribute")
}

fn may_read(cx: &OpCx, attr: &Attr, name: &[u8]) -> Result<()> {
    match namespace(name)? {
        Namespace::User if attr.is_file() || attr.is_dir() => prelude::access(&cx.cred, attr, READ),
        Namespace::Trusted if cx.cred.is_root() => Ok(()),
        Namespace::Security | Namespace::Acl => Ok(()),
        _ => Err(no_attribute()),
    }
}

/// The layout attributes of a file, and the handle of everything.
fn computed(server: &MetaServer, attr: &Attr, name: &[u8]) -> Result<Option<Bytes>> {
    if !name.starts_with(layouts::PREFIX) {
        return Ok(None);
    }
    if name == layouts::HANDLE {
        return Ok(Some(format!("{}", attr.handle()).into()));
    }
    if name == layouts::DIR_PARTS && attr.is_dir() {
        return Ok(Some(server.dir_servers(attr).into()));
    }
    if !attr.is_file() || !layouts::INHERITED.contains(&name) {
        return Ok(None);
    }
    let wish = server.layout_wish(&server.store.xattrs(attr)?)?;
    let dist = attr.layout.as_ref().map_or(&wish.dist, |l| &l.dist);
    let servers = || {
        let layout = attr.layout.as_ref()?;
        let alias = |h: &u64| server.map.io_server_of(Handle(*h)).map(|s| server.map.alias(s));
        let names: Option<Vec<&str>> = layout.datahandles.iter().map(alias).collect();
        names.map(|n| n.join(":"))
    };
    Ok(match name {
        layouts::DIST_NAME => Some(dist.name().to_owned()),
        layouts::DIST_PARAMS => Some(dist.params()),
        layouts::NUM_DFILES => Some(match &attr.layout {
            Some(layout) => layout.datahandles.len().to_string(),
            None if wish.num_dfiles == 0 => server.map.io_servers().count().to_string(),
            None => wish.num_dfiles.to_string(),
        }),
        layouts::LAYOUT => Some(layout_name(&wish.layout).to_owned()),
        layouts::SERVER_LIST => match (servers(), &wish.layout) {
            (Some(list), _) => Some(list),
            (None, Layout::List(names)) => Some(names.join(":")),
            (None, _) => None,
        },
        _ => None,
    }
    .map(Bytes::from))
}

fn layout_name(layout: &Layout) -> &'static str {
    match layout {
        Layout::RoundRobin => "round_robin",
        Layout::Random => "random",
        Layout::List(_) => "list",
        Layout::Local => "local",
        Layout::None => "none",
    }
}
