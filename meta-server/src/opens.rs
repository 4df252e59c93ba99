//! Who has which file open: in memory, per session; told again by `reclaim` after a restart.
//!
//! Read by every operation that asks whether a file may be in use (unlink, the size rule, checks of
//! read_small and write_small); filled by create, open and reclaim; emptied by release and by the end
//! of a session.
//!
//! The size rule: while one session alone has a striped file open for writing and nothing happened
//! that it does not know of, what it reports is the whole truth (`SOLE_WRITER`). A file is
//! *disturbed* when that does not hold: another session truncated it meanwhile, its writers were
//! reclaimed after a restart, or a writer's session ended without a report. Then only the datafiles
//! tell the size, until the last writer has gone.
use pvfs2_proto::Handle;
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};

#[derive(Clone, Copy)]
struct Opens {
    session: u64,
    readers: u32,
    writers: u32,
}

#[derive(Default)]
struct OpenFile {
    by: SmallVec<[Opens; 2]>,
    disturbed: bool,
}

impl OpenFile {
    fn has_writers(&self) -> bool {
        self.by.iter().any(|o| o.writers > 0)
    }
}

/// What a close left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// It was the last open for writing.
    pub last_writer: bool,
    /// It was the last open of all.
    pub last: bool,
    /// What writers reported is not the whole truth of the size.
    pub disturbed: bool,
}

/// Opens of all sessions.
#[derive(Default)]
pub struct OpenTable {
    files: HashMap<Handle, OpenFile>,
    by_session: HashMap<u64, HashSet<Handle>>,
}

impl OpenTable {
    /// A session opens a file.
    pub fn open(&mut self, session: u64, handle: Handle, write: bool) {
        self.add(session, handle, u32::from(!write), u32::from(write));
    }

    /// A session says again what it has open: exactly this, whatever was known before.
    pub fn reclaim(&mut self, session: u64, handle: Handle, readers: u32, writers: u32) {
        self.forget(session, handle);
        if readers + writers > 0 {
            self.add(session, handle, readers, writers);
        }
        if writers > 0
            && let Some(file) = self.files.get_mut(&handle)
        {
            file.disturbed = true;
        }
    }

    fn add(&mut self, session: u64, handle: Handle, readers: u32, writers: u32) {
        let file = self.files.entry(handle).or_default();
        match file.by.iter_mut().find(|o| o.session == session) {
            Some(o) => {
                o.readers = o.readers.saturating_add(readers);
                o.writers = o.writers.saturating_add(writers);
            }
            None => file.by.push(Opens { session, readers, writers }),
        }
        self.by_session.entry(session).or_default().insert(handle);
    }

    /// A session closes a file; `None`: it did not have it open like that (a close told twice, or an
    /// open lost in a restart).
    pub fn close(&mut self, session: u64, handle: Handle, write: bool) -> Option<Closed> {
        let file = self.files.get_mut(&handle)?;
        let at = file.by.iter().position(|o| o.session == session)?;
        let opens = &mut file.by[at];
        let count = if write { &mut opens.writers } else { &mut opens.readers };
        *count = count.checked_sub(1)?;
        if opens.readers + opens.writers == 0 {
            file.by.remove(at);
            self.unlist(session, handle);
        }
        Some(self.left(handle, write))
    }

    /// What is left of a file after one of its opens went.
    fn left(&mut self, handle: Handle, write: bool) -> Closed {
        let Some(file) = self.files.get_mut(&handle) else { return Closed::default() };
        let closed = Closed {
            last_writer: write && !file.has_writers(),
            last: file.by.is_empty(),
            disturbed: file.disturbed,
        };
        if closed.last_writer {
            file.disturbed = false;
        }
        if closed.last {
            self.files.remove(&handle);
        }
        closed
    }

    fn unlist(&mut self, session: u64, handle: Handle) {
        if let Some(set) = self.by_session.get_mut(&session) {
            set.remove(&handle);
            if set.is_empty() {
                self.by_session.remove(&session);
            }
        }
    }

    /// Drops all opens of one file by one session; `None`: it had none.
    fn forget(&mut self, session: u64, handle: Handle) -> Option<Closed> {
        let file = self.files.get_mut(&handle)?;
        let at = file.by.iter().position(|o| o.session == session)?;
        let gone = file.by.remove(at);
        if gone.writers > 0 {
            file.disturbed = true;
        }
        self.unlist(session, handle);
        Some(self.left(handle, gone.writers > 0))
    }

    /// A session has ended: its opens, with what each left behind.
    pub fn end_session(&mut self, session: u64) -> Vec<(Handle, Closed)> {
        let handles = self.by_session.remove(&session).unwrap_or_default();
        handles.into_iter().filter_map(|h| self.forget(session, h).map(|c| (h, c))).collect()
    }

    /// Whether anybody has the file open.
    pub fn is_open(&self, handle: Handle) -> bool {
        self.files.contains_key(&handle)
    }
    /// Whether anybody has the file open for writing.
    pub fn has_writers(&self, handle: Handle) -> bool {
        self.files.get(&handle).is_some_and(OpenFile::has_writers)
    }
    /// Whether the session has the file open (for writing, if `write`).
    pub fn has(&self, session: u64, handle: Handle, write: bool) -> bool {
        self.files.get(&handle).is_some_and(|f| {
            f.by.iter().any(|o| o.session == session && (o.writers > 0 || !write && o.readers > 0))
        })
    }
    /// Whether the session is the only one with the file open for writing, and knows all of it.
    pub fn is_sole_writer(&self, session: u64, handle: Handle) -> bool {
        self.files.get(&handle).is_some_and(|f| {
            !f.disturbed
                && f.has_writers()
                && f.by.iter().all(|o| o.session == session || o.writers == 0)
        })
    }
    /// Whether the session is the only one that has the file open, and for writing.
    pub fn is_alone(&self, session: u64, handle: Handle) -> bool {
        self.files
            .get(&handle)
            .is_some_and(|f| f.has_writers() && f.by.iter().all(|o| o.session == session))
    }
    /// The session changed the size: other writers do not know of it.
    pub fn size_changed(&mut self, session: u64, handle: Handle) {
        if let Some(file) = self.files.get_mut(&handle)
            && file.by.iter().any(|o| o.session != session && o.writers > 0)
        {
            file.disturbed = true;
        }
    }
    /// What writers will report is not the whole truth.
    pub fn disturb(&mut self, handle: Handle) {
        if let Some(file) = self.files.get_mut(&handle) {
            file.disturbed = true;
        }
    }
    /// Whether what writers report is not the whole truth.
    pub fn is_disturbed(&self, handle: Handle) -> bool {
        self.files.get(&handle).is_some_and(|f| f.disturbed)
    }
    /// Number of open files.
    pub fn len(&self) -> usize {
        self.files.len()
    }
    /// Whether no file is open.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const F: Handle = Handle(9);

    #[test]
    fn counts_per_session_and_mode() {
        let mut t = OpenTable::default();
        t.open(1, F, true);
        t.open(1, F, false);
        t.open(2, F, false);
        assert!(t.is_sole_writer(1, F) && !t.is_sole_writer(2, F));
        assert!(t.has(2, F, false) && !t.has(2, F, true));
        let closed = t.close(1, F, true).unwrap();
        assert_eq!(closed, Closed { last_writer: true, last: false, disturbed: false });
        assert_eq!(t.close(1, F, true), None, "a close told twice");
        assert!(!t.close(1, F, false).unwrap().last);
        assert!(t.close(2, F, false).unwrap().last);
        assert!(t.is_empty() && t.by_session.is_empty());
    }

    #[test]
    fn a_size_change_by_another_session_disturbs_until_the_last_writer_goes() {
        let mut t = OpenTable::default();
        t.open(1, F, true);
        t.size_changed(1, F);
        assert!(t.is_sole_writer(1, F), "its own change it knows of");
        t.size_changed(2, F);
        assert!(!t.is_sole_writer(1, F));
        assert!(t.close(1, F, true).unwrap().disturbed);
        t.open(1, F, true);
        assert!(t.is_sole_writer(1, F));
    }

    #[test]
    fn a_session_that_ends_disturbs_what_others_write() {
        let mut t = OpenTable::default();
        t.open(1, F, true);
        t.open(2, F, true);
        assert!(!t.is_sole_writer(1, F));
        assert_eq!(t.end_session(2), [(F, Closed { disturbed: true, ..Closed::default() })]);
        assert!(!t.is_sole_writer(1, F), "session 2 may have written more than it told");
        let ended = t.end_session(1);
        assert_eq!(ended, [(F, Closed { last_writer: true, last: true, disturbed: true })]);
        assert!(t.end_session(1).is_empty());
    }

    #[test]
    fn reclaim_replaces_and_disturbs() {
        let mut t = OpenTable::default();
        t.reclaim(1, F, 1, 1);
        t.reclaim(1, F, 0, 1);
        assert!(!t.is_sole_writer(1, F));
        assert!(t.close(1, F, true).unwrap().last);
        t.reclaim(1, F, 0, 0);
        assert!(t.is_empty());
    }
}
