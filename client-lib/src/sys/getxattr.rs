//! getxattr: the value of an extended attribute.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (getxattr to the object's server, unless the acache knows that it has none) | done | error |
//!
//! Changes nothing. `user.pvfs2.*` always asks: it is not stored as such. The access ACL is part of
//! the attributes, so the acache knows it; the kernel asks for it wherever it walks. Errors:
//! `NoAttribute`, `Access`, `NotSupported`, `Stale`.
use super::object_failed;
use crate::attrs::cached;
use crate::client::Client;
use crate::machine::{Cx, Machine, Step};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::attr::{XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT};
use pvfs2_proto::op::GetxattrRequest;
use pvfs2_proto::{AttrFlags, ErrorCode, Handle, PvfsError, Result};

/// See the head of the file.
pub struct Getxattr {
    handle: Handle,
    name: Bytes,
}

impl Getxattr {
    /// The value of `name` (with its namespace) of `handle`.
    pub fn new(handle: Handle, name: Bytes) -> Getxattr {
        Getxattr { handle, name }
    }

    /// The value, as far as cached attributes tell it.
    fn known(&self, client: &Client) -> Option<Result<Bytes>> {
        if self.name.starts_with(b"user.pvfs2.") {
            return None;
        }
        let attr = cached(client, self.handle)?;
        if self.name == XATTR_ACL_ACCESS && !attr.acl.is_empty() {
            return Some(Ok(attr.acl));
        }
        let none = match self.name.as_ref() {
            XATTR_ACL_ACCESS => true,
            XATTR_ACL_DEFAULT if !attr.is_dir() => true,
            _ => !attr.has(AttrFlags::HAS_XATTR),
        };
        none.then(|| {
            Err(PvfsError::new(
                ErrorCode::NoAttribute,
                format!("{} has no such extended attribute", self.handle),
            ))
        })
    }
}

impl Machine for Getxattr {
    type Out = Bytes;
    const NAME: &'static str = "getxattr";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Bytes>> {
        if let Some(value) = self.known(cx.client) {
            return value.map(Step::Done);
        }
        let server = cx.meta_server(self.handle)?;
        let answer = cx
            .ask(server, GetxattrRequest { handle: self.handle.0, name: self.name.clone() })
            .await
            .inspect_err(|e| object_failed(cx.client, self.handle, e))?;
        Ok(Step::Done(answer.value))
    }
}
