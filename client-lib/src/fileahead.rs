//! Files of a directory that are read one after another: with the read of one, its servers are told
//! which of the next ones lie there too, so that their disks read those while the program, the kernel
//! and the network are busy with this one.
//!
//! | event | what happens |
//! |---|---|
//! | a page of a directory's listing came, with attributes (`readdir`, `statahead.rs`) | kept as a `Sheet`: the names that follow, and where their bytes lie |
//! | the beginning of a striped file is read from its servers | its place in the sheet's three orders (of creation, of the listing, of the names) is looked up; where it follows the reads before, that order is believed more |
//! | an order is believed | the request names the files that come next in it and lie on the same server, up to `FILES_FAR` ahead and `BYTES_AHEAD_MAX` |
//! | reads leave the order | it is believed no more, and nothing is named until reads follow each other again |
//!
//! It travels with reads that are sent anyway, several files at a time; no request is made for it. It is
//! a hint to the servers' disks alone: no byte comes here before a program asks, so nothing of what
//! opens and reads promise depends on it, and sheets may be as old as they like.
//!
//! Owner of: the sheets. Invariants: at most `SHEETS_MAX`; a server is told of a
//! file of a page once, while the reads go on in an order.
use crate::io_plan::IoPlan;
use parking_lot::Mutex;
use pvfs2_proto::attr::AttrFlags;
use pvfs2_proto::limits::{AHEAD_BYTES_MAX, AHEAD_FILES_MAX};
use pvfs2_proto::op::{Ahead, Dirent};
use pvfs2_proto::{Attr, ClusterMap, Handle, ServerId};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// Most pages of listings that are kept (of at most 1,024 entries each).
const SHEETS_MAX: usize = 8;
/// Reads before a listing that are remembered: who looks up names one after another has read files
/// before the directory is listed.
const REMEMBERED: usize = 16;
/// A read so many files after the last one goes on in the order.
const STEP_MAX: usize = 8;
/// A read so near to the front does not leave the order, because several programs may share it; but it
/// speaks against it: in a small directory all files are near.
const NEAR: usize = 32;
/// What a read that goes on is worth, what one that is only near costs, how much is needed to believe an
/// order, and how much is remembered: one read in five must go on.
const GAIN: u32 = 4;
const LOSS: u32 = 1;
const BELIEVED: u32 = 2 * GAIN;
const SCORE_MAX: u32 = 3 * GAIN;
/// Files ahead of which a server is told first, and at last; in between twice as many each time, so
/// that the first read does not wait for the disk behind them all.
const FILES_NEAR: usize = 8;
const FILES_FAR: usize = 32;
/// Bytes of the files ahead that are named with one read.
const BYTES_AHEAD_MAX: u64 = 8 << 20;

/// The entries of one page, shared with whoever else keeps it.
pub(crate) trait Entries: Send + Sync {
    /// All of them.
    fn entries(&self) -> &[Dirent];
}

/// What a server was told of an order.
#[derive(Default)]
struct Told {
    server: ServerId,
    /// Up to where.
    end: usize,
    /// How often.
    times: u32,
}

/// How far reads have come in an order.
#[derive(Default)]
struct Front {
    at: Option<usize>,
    score: u32,
    told: SmallVec<[Told; 4]>,
}

impl Front {
    /// A read at `rank`.
    fn read(&mut self, rank: usize) {
        match self.at {
            Some(at) if (at + 1..=at + STEP_MAX).contains(&rank) => {
                self.score = (self.score + GAIN).min(SCORE_MAX);
                self.at = Some(rank);
            }
            Some(at) if rank.abs_diff(at) <= NEAR => {
                self.score = self.score.saturating_sub(LOSS);
                self.at = Some(at.max(rank));
            }
            _ => *self = Front { at: Some(rank), ..Front::default() },
        }
    }

    /// The ranks of which `server` is to be told now, where a file has about `bytes`; none while it
    /// knows of enough.
    fn due(&mut self, server: ServerId, bytes: u64, ranks: usize) -> std::ops::Range<usize> {
        let Some(at) = self.at.filter(|_| self.score >= BELIEVED) else { return 0..0 };
        let place = self.told.iter().position(|t| t.server == server).unwrap_or_else(|| {
            self.told.push(Told { server, ..Told::default() });
            self.told.len() - 1
        });
        let told = &mut self.told[place];
        let worth = (BYTES_AHEAD_MAX / bytes.clamp(1, AHEAD_BYTES_MAX)) as usize;
        let reach = (FILES_NEAR << told.times.min(8)).min(FILES_FAR).min(worth);
        let (from, to) = (told.end.max(at + 1), (at + 1 + reach).min(ranks));
        if from >= to || from > at + 1 + reach / 2 {
            return 0..0;
        }
        (told.end, told.times) = (to, told.times + 1);
        from..to
    }
}

/// One page of a listing.
struct Sheet {
    dir: Handle,
    page: Arc<dyn Entries>,
    /// The striped files, as places in the page, in three orders: by handle, as listed, by name. Made
    /// when the first file is read after the page came.
    orders: Option<[Vec<u32>; 3]>,
    /// Where each of the places in the order by handle stands in the others.
    ranks: Vec<[u32; 3]>,
    fronts: [Front; 3],
}

fn is_readable(entry: &Dirent) -> Option<&Attr> {
    entry.attr.as_ref().filter(|a| {
        let striped = a.layout.as_ref().is_some_and(|l| !l.datahandles.is_empty());
        striped && a.size > 0 && !a.has(AttrFlags::STUFFED)
    })
}

impl Sheet {
    /// Sorts its files, and goes through the reads that came before it.
    fn unfold(&mut self, before: &VecDeque<Handle>) {
        if self.orders.is_some() {
            return;
        }
        let entries = self.page.entries();
        let listed: Vec<u32> = (0..entries.len() as u32)
            .filter(|i| is_readable(&entries[*i as usize]).is_some())
            .collect();
        let mut by_handle = listed.clone();
        by_handle.sort_unstable_by_key(|i| entries[*i as usize].handle);
        let mut by_name = listed.clone();
        by_name.sort_unstable_by(|a, b| entries[*a as usize].name.cmp(&entries[*b as usize].name));
        let mut rank_of = vec![[0u32; 3]; entries.len()];
        let orders = [by_handle, listed, by_name];
        for (o, order) in orders.iter().enumerate() {
            for (rank, i) in order.iter().enumerate() {
                rank_of[*i as usize][o] = rank as u32;
            }
        }
        self.ranks = orders[0].iter().map(|i| rank_of[*i as usize]).collect();
        self.orders = Some(orders);
        for handle in before {
            self.read(*handle);
        }
    }

    /// A file was read: its size, if it is one of these.
    fn read(&mut self, handle: Handle) -> Option<u64> {
        let (by_handle, entries) = (&self.orders.as_ref()?[0], self.page.entries());
        let of = |i: &u32| entries[*i as usize].handle;
        let at = by_handle.binary_search_by_key(&handle.0, of).ok()?;
        for (front, rank) in self.fronts.iter_mut().zip(self.ranks[at]) {
            front.read(rank as usize);
        }
        entries[by_handle[at] as usize].attr.as_ref().map(|a| a.size)
    }

    /// What `server` is to be told with the read of a file of `size` bytes.
    fn tell(&mut self, map: &ClusterMap, size: u64, server: ServerId) -> Vec<Ahead> {
        let mut out = Vec::new();
        let Some(orders) = &self.orders else { return out };
        // The order of creation first: it is also the one in which the disk is quickest.
        let Some(best) = (0..3).max_by_key(|o| (self.fronts[*o].score, 3 - o)) else { return out };
        let mut bytes = 0;
        for rank in self.fronts[best].due(server, size, orders[best].len()) {
            let entry = &self.page.entries()[orders[best][rank] as usize];
            let Some((attr, layout)) =
                is_readable(entry).and_then(|a| Some((a, a.layout.as_ref()?)))
            else {
                continue;
            };
            // The parts of a file are of equal size, nearly.
            let begin = AHEAD_BYTES_MAX.min(attr.size) as usize;
            let Ok(plan) = IoPlan::window(map, layout, 0, begin) else { continue };
            for part in plan.parts.iter().filter(|p| p.server == server) {
                let len = part.extents.last().map_or(0, |e| e.physical_offset + e.len);
                bytes += len;
                if bytes > BYTES_AHEAD_MAX || out.len() >= AHEAD_FILES_MAX {
                    return out;
                }
                out.push(Ahead { datahandle: part.datahandle.0, len });
            }
        }
        out
    }
}

#[derive(Default)]
struct Inner {
    /// The last used one last.
    sheets: Vec<Sheet>,
    before: VecDeque<Handle>,
}

/// See the head of the file.
pub struct Fileahead {
    is_on: bool,
    inner: Mutex<Inner>,
}

impl Fileahead {
    /// Off, it keeps nothing and names nothing.
    pub fn new(is_on: bool) -> Fileahead {
        Fileahead { is_on, inner: Mutex::default() }
    }

    /// A page of `dir` came, with attributes.
    pub(crate) fn listed(&self, dir: Handle, page: Arc<dyn Entries>) {
        let readable =
            |page: &Arc<dyn Entries>| page.entries().iter().any(|e| is_readable(e).is_some());
        if !self.is_on || !readable(&page) {
            return;
        }
        let first = page.entries().first().map(|e| e.cursor);
        let mut inner = self.inner.lock();
        // The same page again takes its place; the reads before tell where in it they are.
        let same = |s: &Sheet| s.dir == dir && s.page.entries().first().map(|e| e.cursor) == first;
        let fresh =
            Sheet { dir, page, orders: None, ranks: Vec::new(), fronts: Default::default() };
        if let Some(i) = inner.sheets.iter().position(same) {
            inner.sheets.remove(i);
        } else if inner.sheets.len() >= SHEETS_MAX {
            inner.sheets.remove(0);
        }
        inner.sheets.push(fresh);
    }

    /// The beginning of a file is about to be read from `servers`: what each is to be told.
    pub(crate) fn reads(
        &self,
        map: &ClusterMap,
        handle: Handle,
        servers: impl Iterator<Item = ServerId>,
    ) -> Vec<Vec<Ahead>> {
        if !self.is_on {
            return Vec::new();
        }
        let inner = &mut *self.inner.lock();
        let before = &inner.before;
        let found = inner.sheets.iter_mut().enumerate().rev().find_map(|(i, s)| {
            s.unfold(before);
            Some((i, s.read(handle)?))
        });
        let mut out = Vec::new();
        if let Some((i, size)) = found {
            // The last used one last.
            inner.sheets[i..].rotate_left(1);
            if let Some(sheet) = inner.sheets.last_mut() {
                out = servers.map(|server| sheet.tell(map, size, server)).collect();
            }
        }
        if inner.before.len() >= REMEMBERED {
            inner.before.pop_front();
        }
        inner.before.push_back(handle);
        out
    }

    /// Pages kept.
    pub fn len(&self) -> usize {
        self.inner.lock().sheets.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
