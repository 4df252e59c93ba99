//! getxattr: the value of an extended attribute.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (getxattr to the object's server, unless the acache knows that it has none) | done | error |
//!
//! Changes nothing. `user.pvfs2.*` and `system.*` always ask: they are not stored as such. Errors:
//! `NoAttribute`, `Access`, `NotSupported`, `Stale`.
use super::object_failed;
use crate::attrs::cached;
use crate::machine::{Cx, Machine, Step};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
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

    fn may_be_known(&self) -> bool {
        !self.name.starts_with(b"user.pvfs2.") && !self.name.starts_with(b"system.")
    }
}

impl Machine for Getxattr {
    type Out = Bytes;
    const NAME: &'static str = "getxattr";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Bytes>> {
        if self.may_be_known()
            && cached(cx.client, self.handle).is_some_and(|a| !a.has(AttrFlags::HAS_XATTR))
        {
            return Err(PvfsError::new(
                ErrorCode::NoAttribute,
                format!("{} has no extended attributes", self.handle),
            ));
        }
        let server = cx.meta_server(self.handle)?;
        let answer = cx
            .ask(server, GetxattrRequest { handle: self.handle.0, name: self.name.clone() })
            .await
            .inspect_err(|e| object_failed(cx.client, self.handle, e))?;
        Ok(Step::Done(answer.value))
    }
}
