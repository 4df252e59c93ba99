//! listxattr: names of the extended attributes. Layout attributes of files are left out (copying
//! tools would carry them along); `trusted.` names only root sees.
//!
//! Changes nothing. Errors: `Stale`.
use crate::layouts;
use crate::server::MetaServer;
use bytes::Bytes;
use pvfs2_proto::attr::XATTR_ACL_ACCESS;
use pvfs2_proto::op::{ListxattrRequest, ListxattrResponse, OpResponse};
use pvfs2_proto::{Handle, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) fn listxattr(server: &MetaServer, cx: &OpCx, r: ListxattrRequest) -> Result<Answer> {
    let attr = server.store.object(Handle(r.handle))?;
    let shown = |name: &[u8]| {
        let secret = name.starts_with(b"trusted.") && !cx.cred.is_root();
        let of_layout = attr.is_file() && name.starts_with(layouts::PREFIX);
        !(secret || of_layout)
    };
    let all = server.store.xattrs(&attr)?;
    let mut names: Vec<Bytes> = all.into_iter().map(|(name, _)| name).collect();
    names.retain(|name| shown(name));
    if !attr.acl.is_empty() {
        names.push(Bytes::from_static(XATTR_ACL_ACCESS));
    }
    Ok(Answer::new(OpResponse::Listxattr(ListxattrResponse { names })))
}
