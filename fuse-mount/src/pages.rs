//! Which state of a file's bytes the kernel's pages show, and what it is told so that it keeps them.
//!
//! Place in the walks: open decides by it whether the pages stay; every reply that carries attributes
//! of a file passes [`Pages::show`]. Owned by the inode table, one per file that the kernel knows.
//!
//! The kernel (with AUTO_INVAL_DATA) drops a file's pages when attributes come with another mtime than
//! it knows, and at an open without KEEP_CACHE. What this mount writes through the kernel's pages is in
//! them already (also what `client-lib/src/joining.rs` holds back), but moves the mtime. So the
//! metadata server counts changes of the bytes and tells each session when others made the last one
//! ([`Attr::data_others`]), and as long as all that has happened since the pages were good was this
//! mount's own:
//!
//! | the kernel asks | it is told |
//! |---|---|
//! | open | keep the pages |
//! | attributes for reading (getattr with an open file), a name | the mtime that it knows, for no longer than this answer |
//! | attributes for a program (stat: getattr without an open file) | the truth, after a notice that makes the kernel hand it to the program without taking it over |
//!
//! An answer that costs the kernel a question which it would not ask otherwise is counted: after some
//! of them (more for a larger file) it is told the truth, drops the pages once, and reads them again.
//!
//! Invariants: `good` is a version at whose time no page was older. It is set only when the kernel has
//! no pages (it hears of the inode for the first time) or is about to drop them all (open), from
//! attributes that were asked for before; it moves on only over versions that were all this mount's
//! own, and is gone with the first sign of anything else: a writer elsewhere, an operation of ours
//! that passes the pages by, a restart of a server. Without it everything is told as it is. Should
//! the kernel not behave as above, it drops pages too often, never too seldom.
use pvfs2_proto::Attr;

/// Bytes of a file that are worth one answer that keeps its pages: reading them from the servers again
/// takes longer than answering.
const BYTES_PER_ANSWER: u64 = 32 << 10;

/// What the kernel is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The attributes as they are.
    Truth,
    /// The truth, and that the pages are old: it could not know by the mtime. Said until it has heard
    /// it ([`Pages::told_old`]), whoever asks.
    Old,
    /// This mtime, which it knows: its pages are good.
    Good {
        /// The mtime.
        mtime_ns: i64,
    },
}

/// See the head of the file.
#[derive(Debug, Default)]
pub struct Pages {
    good: Option<u64>,
    told_ns: Option<i64>,
    answers: u64,
    /// The pages are old, and the kernel may not have heard of it.
    old: bool,
}

impl Pages {
    /// The kernel hears of the file, and has no page of it.
    pub fn new(attr: Option<&Attr>) -> Pages {
        let good = attr.filter(|a| a.data_is_known()).map(|a| a.data_version);
        Pages { good, told_ns: attr.map(|a| a.mtime_ns), ..Pages::default() }
    }

    /// Whether the pages are good as far as `attr` tells; moves `good` on, or ends it.
    fn check(&mut self, attr: &Attr) -> bool {
        let good = self.good.filter(|g| attr.data_is_known() && *g >= attr.data_others);
        self.good = good.map(|g| g.max(attr.data_version));
        self.good.is_some()
    }

    /// `attr` is about to go to the kernel, which drops the pages where it sees another mtime.
    /// `counted`: keeping them costs something.
    pub fn show(&mut self, attr: &Attr, counted: bool) -> Told {
        let were_good = self.good.is_some();
        let is_same = self.told_ns == Some(attr.mtime_ns);
        if self.check(attr)
            && let Some(mtime_ns) = self.told_ns.filter(|_| !is_same)
            && self.answers < attr.size / BYTES_PER_ANSWER
        {
            self.answers += u64::from(counted);
            return Told::Good { mtime_ns };
        }
        self.told_ns = Some(attr.mtime_ns);
        self.answers = 0;
        // Another mtime tells the kernel by itself.
        self.old = is_same && (self.old || were_good && self.good.is_none());
        if self.old { Told::Old } else { Told::Truth }
    }

    /// `attr` is about to go to the kernel as the answer to its own change of attributes, and it
    /// drops nothing for that.
    pub fn show_changed(&mut self, attr: &Attr) -> Told {
        let were_good = self.good.is_some();
        self.check(attr);
        self.told_ns = Some(attr.mtime_ns);
        self.answers = 0;
        self.old |= were_good && self.good.is_none();
        if self.old { Told::Old } else { Told::Truth }
    }

    /// The kernel has dropped the pages.
    pub fn told_old(&mut self) {
        self.old = false;
    }

    /// The kernel could not be kept from taking over the truth.
    pub fn told_all_the_same(&mut self, attr: &Attr) {
        self.told_ns = Some(attr.mtime_ns);
        self.answers = 0;
    }

    /// `attr` came with an open. True: the kernel may keep the pages; else it is about to drop them.
    pub fn keep_at_open(&mut self, attr: &Attr, truncated: bool) -> bool {
        let keep = self.check(attr) && !truncated;
        if !keep {
            self.old = false;
            self.good = attr.data_is_known().then_some(attr.data_version);
        }
        keep
    }

    /// Bytes may have changed that the pages do not show.
    pub fn doubt(&mut self) {
        self.good = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvfs2_proto::AttrFlags;

    const LARGE: u64 = 10 * BYTES_PER_ANSWER;

    /// Version, last change of others, mtime.
    fn attr(data_version: u64, data_others: u64, mtime_ns: i64) -> Attr {
        Attr { data_version, data_others, mtime_ns, size: LARGE, ..Attr::default() }
    }

    #[test]
    fn own_changes_keep_the_pages_and_show_no_new_mtime() {
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        assert_eq!(p.show(&attr(5, 5, 100), true), Told::Truth);
        assert_eq!(
            p.show(&attr(5, 5, 200), true),
            Told::Good { mtime_ns: 100 },
            "not reported yet"
        );
        assert_eq!(p.show(&attr(7, 5, 300), true), Told::Good { mtime_ns: 100 });
        assert!(p.keep_at_open(&attr(7, 5, 300), false));
        assert_eq!(p.show(&attr(9, 7, 300), true), Told::Good { mtime_ns: 100 }, "seen up to 7");
        assert!(!p.keep_at_open(&attr(9, 7, 300), true), "cut");
        assert!(p.keep_at_open(&attr(9, 7, 300), false));
    }

    #[test]
    fn a_change_by_others_drops_them() {
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        assert_eq!(p.show(&attr(6, 6, 200), true), Told::Truth);
        assert_eq!(p.show(&attr(6, 6, 200), true), Told::Truth);
        assert!(!p.keep_at_open(&attr(6, 6, 200), false));
        assert!(p.keep_at_open(&attr(6, 6, 200), false));
        assert!(!p.keep_at_open(&attr(8, 7, 200), false), "others, then this mount");
    }

    #[test]
    fn with_the_mtime_set_back_the_kernel_must_hear_of_it() {
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        assert_eq!(p.show(&attr(6, 6, 100), true), Told::Old);
        assert_eq!(p.show(&attr(6, 6, 100), true), Told::Old, "until it has heard");
        p.told_old();
        assert_eq!(p.show(&attr(6, 6, 100), true), Told::Truth);
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        assert_eq!(p.show(&attr(6, 6, 100), true), Told::Old);
        assert_eq!(p.show(&attr(6, 6, 200), true), Told::Truth, "another mtime tells it");
        assert_eq!(p.show(&attr(6, 6, 200), true), Told::Truth);
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        assert_eq!(p.show(&attr(6, 6, 100), true), Told::Old);
        assert!(!p.keep_at_open(&attr(6, 6, 100), false), "it drops them now");
        assert_eq!(p.show(&attr(6, 6, 100), true), Told::Truth);
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        assert_eq!(p.show_changed(&attr(6, 6, 200)), Told::Old, "no mtime tells the kernel");
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        assert_eq!(p.show_changed(&attr(6, 5, 200)), Told::Truth, "a change of our own");
        assert_eq!(p.show(&attr(6, 5, 200), true), Told::Truth, "of which the kernel knows");
    }

    #[test]
    fn while_others_write_everything_is_told_as_it_is() {
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        let mut dynamic = attr(5, 5, 200);
        dynamic.set(AttrFlags::SIZE_DYNAMIC, true);
        dynamic.set(AttrFlags::SOLE_WRITER, true);
        assert_eq!(p.show(&dynamic, true), Told::Good { mtime_ns: 100 }, "only this mount writes");
        dynamic.set(AttrFlags::SOLE_WRITER, false);
        assert_eq!(p.show(&dynamic, true), Told::Truth);
        assert!(!p.keep_at_open(&dynamic, false) && !p.keep_at_open(&dynamic, false));
        assert_eq!(p.show(&attr(6, 5, 300), true), Told::Truth, "what was between nobody knows");
    }

    #[test]
    fn doubt_lasts_until_the_next_open() {
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        p.doubt();
        assert_eq!(p.show(&attr(6, 5, 200), true), Told::Truth);
        assert!(!p.keep_at_open(&attr(6, 5, 200), false));
        assert!(p.keep_at_open(&attr(6, 5, 200), false));
    }

    #[test]
    fn answers_that_cost_nothing_are_not_counted() {
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        for _ in 0..=LARGE / BYTES_PER_ANSWER {
            assert_eq!(p.show(&attr(6, 5, 200), false), Told::Good { mtime_ns: 100 });
        }
    }

    #[test]
    fn a_file_is_worth_only_so_many_answers() {
        let mut p = Pages::new(Some(&attr(5, 5, 100)));
        for _ in 0..LARGE / BYTES_PER_ANSWER {
            assert_eq!(p.show(&attr(6, 5, 200), true), Told::Good { mtime_ns: 100 });
        }
        assert_eq!(p.show(&attr(6, 5, 200), true), Told::Truth);
        assert_eq!(p.show(&attr(6, 5, 300), true), Told::Good { mtime_ns: 200 });
        let small = Attr { size: BYTES_PER_ANSWER - 1, ..attr(7, 5, 400) };
        assert_eq!(p.show(&small, true), Told::Truth);
    }
}
