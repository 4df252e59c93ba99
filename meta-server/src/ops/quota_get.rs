//! quota_get: usage and limits of the whole file system. The first metadata server's.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | count anew, if asked | ask the others | answer |
//! | ask the other metadata servers (`quota_tell`) | sum, answer | answer without those that are silent, naming them |
//!
//! Changes nothing (but wrong counts, which there should be none of). Everybody sees what is theirs,
//! their groups' and the trees'; root sees all. Errors: `Invalid`, `NotPermitted` (a recount).
use crate::quota::{Amount, Id};
use crate::server::MetaServer;
use pvfs2_proto::op::{OpResponse, QuotaGetRequest, QuotaGetResponse, QuotaKind, QuotaTellRequest};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use pvfs2_server_core::service::{Answer, OpCx};
use std::collections::BTreeMap;

pub(crate) async fn quota_get(
    server: &MetaServer,
    cx: &OpCx,
    r: QuotaGetRequest,
) -> Result<Answer> {
    if !server.is_first() {
        let why = "quotas are told by the first metadata server";
        return Err(PvfsError::new(ErrorCode::Invalid, why));
    }
    if r.recount && !cx.cred.is_root() {
        return Err(PvfsError::new(ErrorCode::NotPermitted, "only root has quotas counted anew"));
    }
    let mut corrected = if r.recount { server.store.recount()? } else { 0 };
    let mut used: BTreeMap<Id, Amount> = BTreeMap::new();
    let mut add = |id: Id, more: Amount| {
        let sum = used.entry(id).or_default();
        sum.bytes = sum.bytes.saturating_add(more.bytes);
        sum.files = sum.files.saturating_add(more.files);
    };
    let others = server.other_metas();
    let tell = QuotaTellRequest { all: true, recount: r.recount, ..Default::default() };
    let told = server.tell(cx.op_id, &others, tell).await;
    let mut silent = Vec::new();
    for (other, told) in others.iter().zip(told) {
        match told {
            Err(_) => silent.push(*other),
            Ok(told) => {
                corrected += told.corrected;
                told.used.iter().filter_map(Amount::parse).for_each(|(id, a)| add(id, a));
            }
        }
    }
    let table = server.store.quota.borrow();
    for id in table.used().keys() {
        add(*id, table.taken(*id));
    }
    let seen = |id: &Id| match id.0 {
        _ if cx.cred.is_root() => true,
        QuotaKind::User => id.1 == u64::from(cx.cred.uid),
        QuotaKind::Group => u32::try_from(id.1).is_ok_and(|gid| cx.cred.in_group(gid)),
        QuotaKind::Dir => true,
    };
    let list = |all: &BTreeMap<Id, Amount>| {
        all.iter().filter(|(id, _)| seen(id)).map(|(id, a)| a.of(*id)).collect()
    };
    let (used, limits) = (list(&used), list(table.limits()));
    let response = QuotaGetResponse { used, limits, silent, corrected };
    Ok(Answer::new(OpResponse::QuotaGet(response)))
}
