//! Directories whose names are being looked up one after another: instead of asking for each, the
//! client lists them with attributes, a page at a time, into ncache and acache (Lustre's statahead).
//!
//! | event | what happens |
//! |---|---|
//! | a lookup was answered by the server with an object, or its attributes had to be asked for | counted for its directory, for as long as names are believed |
//! | the next name is not known, or its attributes are not, and the count has reached a share of the directory's entries | that lookup reads the next page first |
//! | the last page was read, or one failed | the count begins anew |
//!
//! A page of listing costs per entry about a tenth of a lookup, so that whoever looks at one of
//! `SHARE` entries pays at most about twice; whoever walks the whole directory, a tenth. What pages
//! bring is believed for as long as any answer. Nobody is asked to give a right back for them.
//!
//! Owner of: the counts. Invariant: one page of a directory is being read at a time, by one lookup.
use crate::sys::{DirHandle, Readdir, ReaddirPage};
use parking_lot::Mutex;
use pvfs2_proto::Handle;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Fewest lookups after which a directory is listed.
const LOOKUPS_MIN: u64 = 4;
/// One lookup of so many entries makes it be listed.
const SHARE: u64 = 16;
/// Most directories that are counted.
const DIRS_MAX: usize = 4_096;

struct Walk {
    since_ns: i64,
    lookups: u64,
    /// Pages go on after this cursor; `None` while one is read.
    cursor: Option<u64>,
}

/// See the head of the file.
pub struct Statahead {
    window_ns: i64,
    walks: Mutex<HashMap<Handle, Walk>>,
}

/// The next page of a directory is this lookup's to read.
pub struct Turn {
    ahead: Arc<Statahead>,
    dir: Handle,
    cursor: u64,
    /// Where the next page begins; 0: at the beginning, if ever.
    next: u64,
}

impl Statahead {
    /// Counts lookups for `window_ms`, as long as names and attributes are believed; 0: never lists.
    pub fn new(window_ms: u64) -> Arc<Statahead> {
        let window_ns = i64::try_from(window_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        Arc::new(Statahead { window_ns, walks: Mutex::default() })
    }

    /// A server was asked for a name of `dir`, and there was an object; or only for its attributes.
    pub(crate) fn looked_up(&self, dir: Handle, now_ns: i64) {
        if self.window_ns == 0 {
            return;
        }
        let new = Walk { since_ns: now_ns, lookups: 0, cursor: Some(0) };
        let mut walks = self.walks.lock();
        if walks.len() >= DIRS_MAX && !walks.contains_key(&dir) {
            walks.retain(|_, w| w.cursor.is_none() || now_ns - w.since_ns < self.window_ns);
            if walks.len() >= DIRS_MAX {
                return;
            }
        }
        let walk = walks.entry(dir).or_insert(new);
        if now_ns - walk.since_ns >= self.window_ns && walk.cursor.is_some() {
            *walk = Walk { since_ns: now_ns, lookups: 0, cursor: Some(0) };
        }
        walk.lookups += 1;
    }

    /// A name of `dir`, which has `entries` entries, is not known: whether the next page shall be
    /// read first.
    pub(crate) fn turn(
        self: &Arc<Self>,
        dir: Handle,
        entries: Option<u64>,
        now_ns: i64,
    ) -> Option<Turn> {
        let mut walks = self.walks.lock();
        let walk = walks.get_mut(&dir)?;
        let fresh = now_ns - walk.since_ns < self.window_ns;
        if !fresh || walk.lookups < LOOKUPS_MIN || walk.lookups < entries? / SHARE {
            return None;
        }
        let cursor = walk.cursor.take()?;
        Some(Turn { ahead: self.clone(), dir, cursor, next: 0 })
    }
}

impl Turn {
    /// What reads the page.
    pub(crate) fn readdir(&self) -> Readdir {
        Readdir::new(DirHandle::new(self.dir), self.cursor, true, false)
    }

    /// It was read.
    pub(crate) fn done(mut self, page: &ReaddirPage) {
        let last = page.entries().last().filter(|_| !page.is_end());
        self.next = last.map_or(0, |e| e.cursor);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Entry::Occupied(mut walk) = self.ahead.walks.lock().entry(self.dir) {
            match self.next {
                0 => drop(walk.remove()),
                next => walk.get_mut().cursor = Some(next),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const D: Handle = Handle(7);
    const MS: i64 = 1_000_000;

    fn looked_up(ahead: &Arc<Statahead>, times: u64, now_ns: i64) {
        (0..times).for_each(|_| ahead.looked_up(D, now_ns));
    }

    #[test]
    fn a_share_of_the_entries_within_the_window() {
        let ahead = Statahead::new(1_000);
        assert!(ahead.turn(D, Some(1), 0).is_none());
        looked_up(&ahead, LOOKUPS_MIN - 1, 0);
        assert!(ahead.turn(D, Some(1), 0).is_none());
        looked_up(&ahead, 1, 0);
        assert!(ahead.turn(D, Some(SHARE * (LOOKUPS_MIN + 1)), 0).is_none());
        assert!(ahead.turn(D, None, 0).is_none(), "nobody knows how many there are");
        assert!(ahead.turn(D, Some(1), 1_000 * MS).is_none(), "too long ago");
        assert!(ahead.turn(D, Some(1), 999 * MS).is_some());
        assert!(ahead.turn(D, Some(1), 999 * MS).is_none(), "it failed: counted anew");
        looked_up(&ahead, LOOKUPS_MIN - 1, 0);
        looked_up(&ahead, LOOKUPS_MIN - 1, 1_000 * MS);
        assert!(ahead.turn(D, Some(1), 1_000 * MS).is_none(), "another window");
        looked_up(&ahead, 1, 1_000 * MS);
        assert!(ahead.turn(D, Some(1), 1_000 * MS).is_some());
        let off = Statahead::new(0);
        looked_up(&off, LOOKUPS_MIN, 0);
        assert!(off.turn(D, Some(1), 0).is_none());
    }

    #[test]
    fn one_page_after_another_by_one_lookup_at_a_time() {
        let ahead = Statahead::new(1_000);
        looked_up(&ahead, LOOKUPS_MIN, 0);
        let mut turn = ahead.turn(D, Some(1), 0).unwrap();
        assert_eq!(turn.cursor, 0);
        assert!(ahead.turn(D, Some(1), 0).is_none(), "it is being read");
        turn.next = 5;
        drop(turn);
        assert_eq!(ahead.turn(D, Some(1), 0).map(|t| t.cursor), Some(5));
        assert!(ahead.turn(D, Some(1), 0).is_none(), "that was the last");
    }

    #[test]
    fn only_so_many_directories() {
        let ahead = Statahead::new(1_000);
        for i in 0..2 * DIRS_MAX as u64 {
            ahead.looked_up(Handle(i), 0);
        }
        assert_eq!(ahead.walks.lock().len(), DIRS_MAX);
        ahead.looked_up(D, 0);
        ahead.looked_up(Handle(1 << 40), 1_000 * MS);
        assert_eq!(ahead.walks.lock().len(), 1);
    }
}
