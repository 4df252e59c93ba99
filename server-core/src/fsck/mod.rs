//! The checker behind `pvfs2 fsck` and the tests: reads what every server keeps, finds what does not
//! fit together, and reports only what stayed so.
//!
//! The cluster is live, and no view of all servers is of one moment. So every suspicion is looked at
//! again in a second whole view: what is reported was wrong in both, and the objects concerned were
//! not changed in between (`Attr::change`), so that it was wrong at one moment too. The order within
//! a view matters: what is under way, objects, names, what is under way again, datafiles. An intent
//! has its record from before its first effect until after its last one, a reap queue's entry until
//! its datafiles are gone: whatever another server has not done yet is found in one of the two looks
//! at what is under way, and objects of unfinished intents are no suspects.
//!
//! Not found: a datafile that is missing. One that was never written does not exist either (it is
//! made by its first write), and reads as zeros.
//!
//! Memory: about 200 bytes for each object and name. [`judge`] is pure; [`check`] drives it over
//! [`Peers`], whoever carries them.
mod judge;

pub use judge::{Finding, View, judge};

use crate::peer::{self, Peers};
use pvfs2_proto::op::{Cred, DfListRequest, FsckKind, FsckScanRequest};
use pvfs2_proto::{ClusterMap, ErrorCode, PvfsError, Result, ServerId};
use std::collections::HashMap;
use std::time::Duration;

/// Views at most; what is not settled by then belongs to objects in constant use.
const VIEWS_MAX: usize = 6;
/// Datafiles of a page.
const DATAFILES: u32 = 10_000;

/// How to check.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pause between two views.
    pub pause: Duration,
    /// Intents and steps older than this are reported.
    pub pending_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { pause: Duration::from_secs(1), pending_max: Duration::from_secs(90) }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// What is wrong.
    pub problems: Vec<Finding>,
    /// Suspicions about objects that did not stand still long enough to be sure.
    pub unsettled: usize,
    /// Objects on all metadata servers.
    pub objects: usize,
    /// Names in all directories.
    pub names: usize,
    /// Datafiles on all I/O servers.
    pub datafiles: usize,
    /// How often everything was read.
    pub views: usize,
}

/// Checks the file system that `map` describes, on behalf of `cred`.
///
/// # Errors
/// When a server does not answer, naming it; `NotPermitted` when `cred` may not ask.
pub async fn check(
    peers: &dyn Peers,
    cred: &Cred,
    map: &ClusterMap,
    options: Options,
) -> Result<Report> {
    let mut view = look(peers, cred, map).await?;
    let mut suspects = judge(map, &view, options.pending_max);
    let (mut confirmed, mut views) = (Vec::new(), 1);
    while confirmed.len() < suspects.len() && views < VIEWS_MAX {
        tokio::time::sleep(options.pause).await;
        let next = look(peers, cred, map).await?;
        let again = judge(map, &next, options.pending_max);
        let before: HashMap<_, _> = suspects.iter().map(|f| (f.key(), f)).collect();
        let stayed = |f: &&Finding| {
            let still = |h: &u64| view.change_of(*h) == next.change_of(*h);
            before.contains_key(&f.key()) && f.watch.iter().all(still)
        };
        confirmed = again.iter().filter(stayed).cloned().collect();
        (view, suspects, views) = (next, again, views + 1);
    }
    Ok(Report {
        unsettled: suspects.len() - confirmed.len(),
        problems: confirmed,
        objects: view.objects.len(),
        names: view.names.len(),
        datafiles: view.datafiles.len(),
        views,
    })
}

/// Reads everything once.
async fn look(peers: &dyn Peers, cred: &Cred, map: &ClusterMap) -> Result<View> {
    let mut view = View::default();
    let order = [FsckKind::Pending, FsckKind::Objects, FsckKind::Names, FsckKind::Pending];
    for kind in order {
        for server in map.meta_servers() {
            scan(peers, cred, map, server, kind, &mut view).await?;
        }
    }
    for server in map.io_servers() {
        let mut after = 0;
        loop {
            let ask = DfListRequest { after, max: DATAFILES };
            let page =
                peer::ask(peers, cred, 0, server, ask).await.map_err(|e| of(map, server, e))?;
            after = page.datahandles.last().copied().unwrap_or(after);
            view.datafiles.extend(page.datahandles.into_iter().map(|h| (server, h)));
            if page.end {
                break;
            }
        }
    }
    Ok(view)
}

async fn scan(
    peers: &dyn Peers,
    cred: &Cred,
    map: &ClusterMap,
    server: ServerId,
    kind: FsckKind,
    view: &mut View,
) -> Result<()> {
    let mut after = bytes::Bytes::new();
    loop {
        let ask = FsckScanRequest { kind: kind as i32, after };
        let page = peer::ask(peers, cred, 0, server, ask).await.map_err(|e| of(map, server, e))?;
        view.next_handles.insert(server, page.next_handle);
        for object in page.objects {
            view.add_object(server, object);
        }
        view.names.extend(page.names);
        view.pending.extend(page.pending.into_iter().map(|p| (server, p)));
        after = page.next;
        if after.is_empty() {
            return Ok(());
        }
    }
}

/// An error with the server that it came from.
fn of(map: &ClusterMap, server: ServerId, e: PvfsError) -> PvfsError {
    let code = if e.code == ErrorCode::Protocol { ErrorCode::NotSupported } else { e.code };
    PvfsError::new(code, format!("server {} cannot be checked: {}", map.alias(server), e.detail))
}
