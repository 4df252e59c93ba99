//! quota_set, quota_get, quota_mark: limits and usage, for tools.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (the first metadata server; quota_mark: the object's) | done | error |
//!
//! Durable when done: a limit, a mark. Nothing is cached. Errors: `NotPermitted`, `Stale`, `InUse`.
use super::keep_or_drop;
use crate::machine::{Cx, Machine, Step};
use pvfs2_bmi::call::Net;
use pvfs2_proto::op::{
    QuotaAmount, QuotaGetRequest, QuotaGetResponse, QuotaMarkRequest, QuotaSetRequest,
};
use pvfs2_proto::{Handle, Result};

/// Sets (with zeros: takes away) the limits of a user, a group or a directory tree.
pub struct QuotaSet {
    limit: QuotaAmount,
}

impl QuotaSet {
    /// Sets `limit`.
    pub fn new(limit: QuotaAmount) -> QuotaSet {
        QuotaSet { limit }
    }
}

impl Machine for QuotaSet {
    type Out = ();
    const NAME: &'static str = "quota_set";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        let first = cx.meta_server(Handle::ROOT)?;
        cx.ask(first, QuotaSetRequest { limit: Some(self.limit) }).await?;
        Ok(Step::Done(()))
    }
}

/// Usage and limits of the whole file system.
pub struct QuotaGet {
    recount: bool,
}

impl QuotaGet {
    /// `recount`: from the objects themselves.
    pub fn new(recount: bool) -> QuotaGet {
        QuotaGet { recount }
    }
}

impl Machine for QuotaGet {
    type Out = QuotaGetResponse;
    const NAME: &'static str = "quota_get";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<QuotaGetResponse>> {
        let first = cx.meta_server(Handle::ROOT)?;
        Ok(Step::Done(cx.ask(first, QuotaGetRequest { recount: self.recount }).await?))
    }
}

/// Puts an object into a directory tree with a quota.
pub struct QuotaMark {
    handle: Handle,
    tree: u64,
}

impl QuotaMark {
    /// Puts `handle` into the tree of directory `tree`; 0: into none.
    pub fn new(handle: Handle, tree: u64) -> QuotaMark {
        QuotaMark { handle, tree }
    }
}

impl Machine for QuotaMark {
    type Out = ();
    const NAME: &'static str = "quota_mark";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        let server = cx.meta_server(self.handle)?;
        let request = QuotaMarkRequest { handle: self.handle.0, tree: self.tree };
        let answer = cx.ask(server, request).await?;
        keep_or_drop(cx.client, self.handle, answer.attr);
        Ok(Step::Done(()))
    }
}
