//! The limits: kept on every metadata server, told by the first one.
use super::{Amount, Id};
use crate::keys;
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::op::QuotaTellRequest;
use pvfs2_proto::{Result, ServerId};
use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

/// Pause before a server that did not answer is told again.
const TELL_AGAIN: Duration = Duration::from_secs(2);

impl MetaServer {
    /// Sets one limit here, durably.
    ///
    /// # Errors
    /// Trove's.
    pub(crate) fn put_limit(&self, change: &mut Change, id: Id, limit: Amount) {
        let key = keys::quota_limit(id.0 as u8, id.1);
        if limit == Amount::default() {
            change.delete(&key);
        } else {
            change.put(&key, keys::quota_value(limit.bytes, limit.files).to_vec());
        }
        change.put(keys::quota_limits_set(), Vec::new());
    }

    /// Takes over the whole table, durably.
    ///
    /// # Errors
    /// Trove's.
    pub(crate) fn put_limits(&self, limits: BTreeMap<Id, Amount>) -> Result<()> {
        let mut change = Change::new();
        let old: Vec<Id> = self.store.quota.borrow().limits().keys().copied().collect();
        for id in old.into_iter().filter(|id| !limits.contains_key(id)) {
            self.put_limit(&mut change, id, Amount::default());
        }
        for (id, limit) in &limits {
            self.put_limit(&mut change, *id, *limit);
        }
        self.store.commit(change)?;
        self.store.quota.borrow_mut().set_limits(limits);
        Ok(())
    }

    /// Tells `servers` all limits; gives those that did not answer.
    pub(crate) async fn tell_limits(&self, servers: &[ServerId]) -> Vec<ServerId> {
        let limits = self.store.quota.borrow().limits().iter().map(|(id, a)| a.of(*id)).collect();
        let tell = QuotaTellRequest { has_limits: true, limits, ..Default::default() };
        let told = self.tell(0, servers, tell).await;
        servers.iter().zip(told).filter(|(_, t)| t.is_err()).map(|(s, _)| *s).collect()
    }
}

/// Tells the limits to servers that missed them; runs until the server is gone.
pub(crate) async fn tell_others(server: Weak<MetaServer>) {
    loop {
        let Some(me) = server.upgrade() else { return };
        let behind: Vec<ServerId> = me.quota_untold.borrow().iter().copied().collect();
        if behind.is_empty() {
            let wake = me.quota_wake.clone();
            drop(me);
            wake.notified().await;
            continue;
        }
        let version = me.quota_version.get();
        let silent = me.tell_limits(&behind).await;
        if me.quota_version.get() == version {
            me.quota_untold.borrow_mut().retain(|s| silent.contains(s));
        }
        drop(me);
        if !silent.is_empty() {
            tokio::time::sleep(TELL_AGAIN).await;
        }
    }
}
