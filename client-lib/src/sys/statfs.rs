//! statfs: space and objects of the whole file system.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | ask (statfs to all metadata servers, io_statfs to all I/O servers, one exchange) | done | the first error |
//!
//! As in PVFS2: the smallest free space among the I/O servers times their number, because a
//! round-robin file is full when its fullest server is; totals likewise. Servers that take their space
//! from one disk have an equal part of it each. Changes nothing.
use crate::machine::{Cx, Machine, Step};
use crate::tickets::take;
use pvfs2_bmi::call::{Call, Net};
use pvfs2_proto::Result;
use pvfs2_proto::op::{IoStatfsRequest, IoStatfsResponse, OpMessage, StatfsRequest};

/// What the file system has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatfsOut {
    /// Bytes in all.
    pub bytes_total: u64,
    /// Bytes that users can still write.
    pub bytes_free: u64,
    /// Objects that exist.
    pub handles_used: u64,
    /// Objects that can still be made.
    pub handles_free: u64,
    /// Datafiles on all I/O servers.
    pub datafiles: u64,
    /// Metadata servers.
    pub meta_servers: u32,
    /// I/O servers.
    pub io_servers: u32,
}

/// See the head of the file.
#[derive(Default)]
pub struct Statfs;

impl Statfs {
    /// Space and objects.
    pub fn new() -> Statfs {
        Statfs
    }
}

impl Machine for Statfs {
    type Out = StatfsOut;
    const NAME: &'static str = "statfs";
    fn state(&self) -> &'static str {
        "ask"
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<StatfsOut>> {
        let map = cx.client.map().clone();
        let mut calls: Vec<Call<'_>> =
            map.meta_servers().map(|s| Call::new(s, StatfsRequest {}.into_request())).collect();
        let metas = calls.len();
        calls.extend(map.io_servers().map(|s| Call::new(s, IoStatfsRequest {}.into_request())));
        cx.exchange(&mut calls).await?;
        let ios = (calls.len() - metas) as u64;
        let mut out =
            StatfsOut { meta_servers: metas as u32, io_servers: ios as u32, ..Default::default() };
        let mut shares = Vec::with_capacity(calls.len() - metas);
        for (i, call) in calls.into_iter().enumerate() {
            let reply = take(call.result)?;
            if i < metas {
                let s = StatfsRequest::take_response(reply.op)?;
                out.handles_used += s.handles_used;
                out.handles_free = out.handles_free.saturating_add(s.handles_free);
            } else {
                let s = IoStatfsRequest::take_response(reply.op)?;
                out.datafiles += s.datafiles;
                shares.push(s);
            }
        }
        // Of each server the part of its disk, so that four on one disk have that disk in all.
        let least = |of: fn(&IoStatfsResponse) -> u64| {
            let part = |s: &IoStatfsResponse| {
                let sharing = shares.iter().filter(|o| s.disk != 0 && o.disk == s.disk).count();
                u128::from(of(s)) * u128::from(ios) / (sharing.max(1) as u128)
            };
            shares.iter().map(part).min().map_or(0, |n| u64::try_from(n).unwrap_or(u64::MAX))
        };
        out.bytes_free = least(|s| s.bytes_free);
        out.bytes_total = least(|s| s.bytes_total);
        Ok(Step::Done(out))
    }
}
