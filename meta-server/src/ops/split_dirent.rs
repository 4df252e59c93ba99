//! split_dirent: takes names of a directory that splits (between metadata servers).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | names in, what was there from `low` on out, counts, mark (`seq`) in one change, synced | answer | nothing happened |
//!
//! Nobody is sent here for these names before the home has committed the move, so what an attempt
//! that did not end well left goes without harm. Repeated, it answers the same. Errors: `Stale`,
//! `Busy` (another operation holds the part), `Invalid` (an older attempt), `Protocol`.
use crate::keys::{self, DirentValue};
use crate::peer_steps::taken_back;
use crate::server::MetaServer;
use crate::store::{Change, damaged};
use pvfs2_proto::attr::mode::S_IFDIR;
use pvfs2_proto::op::{OpResponse, SplitDirentRequest, SplitDirentResponse};
use pvfs2_proto::{AttrFlags, ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::service::Answer;
use std::collections::BTreeMap;

/// Names that one look at the store brings.
const LOOK: usize = 1_024;

pub(crate) async fn split_dirent(server: &MetaServer, r: SplitDirentRequest) -> Result<Answer> {
    let part = Handle(r.part);
    server.must_own(part)?;
    server.must_be_free(part)?;
    let mut attr = server.store.object(part)?;
    let Some(map) = attr.dir_map.as_mut().filter(|_| attr.flags & AttrFlags::DIR_PART != 0) else {
        return Err(PvfsError::new(ErrorCode::Protocol, "the object is no part of a directory"));
    };
    if r.seq == map.seq {
        return answer();
    }
    if r.seq < map.seq {
        return Err(taken_back());
    }
    (map.seq, map.moved, map.last_low) = (r.seq, r.high, r.low);
    map.last_names = r.entries.len() as u64;
    map.last_subdirs = r.entries.iter().filter(|e| e.kind == S_IFDIR).count() as u32;
    let (names, subdirs) = (map.last_names as i64, map.last_subdirs as i32);
    let mut change = Change::new();
    let mut fresh = BTreeMap::new();
    for e in r.entries {
        fresh.insert(server.store.dirent_key(part, &e.name), (Handle(e.handle), e.kind));
    }
    let (old_names, old_subdirs) = take_out(server, &mut change, part, r.low, &fresh)?;
    for (key, (handle, kind)) in fresh {
        change.put_dirent(key, handle, kind);
    }
    attr.size = attr.size.saturating_add_signed(names - old_names);
    attr.nlink = attr.nlink.saturating_add_signed(subdirs - old_subdirs);
    attr.change += 1;
    change.put_attr(&attr);
    server.commit_step(change).await?;
    answer()
}

/// Removes what an attempt that did not end well left; how many names and directories that were.
fn take_out(
    server: &MetaServer,
    change: &mut Change,
    part: Handle,
    low: u64,
    fresh: &BTreeMap<keys::Key, (Handle, u32)>,
) -> Result<(i64, i32)> {
    let (mut names, mut subdirs, mut from) = (0, 0, low);
    loop {
        let records = server.store.dirents_from(part, from, LOOK)?;
        for (key, value) in &records {
            let target = DirentValue::decode(value).ok_or_else(|| damaged(part))?;
            let (hash, _) = keys::dirent_parts(key).ok_or_else(|| damaged(part))?;
            from = hash + (1 << pvfs2_proto::dirmap::RANK_BITS);
            names += 1;
            subdirs += i32::from(target.kind == S_IFDIR);
            if !fresh.contains_key(key.as_ref()) {
                change.delete(key);
            }
        }
        if records.len() < LOOK {
            return Ok((names, subdirs));
        }
    }
}

fn answer() -> Result<Answer> {
    Ok(Answer::new(OpResponse::SplitDirent(SplitDirentResponse {})))
}
