//! Two mounts of one file system: what one does, the other sees. A judge that asks nothing of the
//! file system but two directories, so that it can be pointed at any other's two mounts as well:
//! `cargo run --release -p pvfs2-tests --bin coherence -- DIR_A DIR_B [--within MS] [NAME...]`.
//!
//! Each check works in a folder of its own and panics when a promise is broken. With a bound of zero
//! what one side did must be seen by the other at once; otherwise within the bound, by polling. What
//! holds at any time (races, nothing twice, nothing torn) is asked for in both cases.
//!
//! - `visibility`: every kind of change, looked for from the other side
//! - `bytes`: what was written and closed, or synced, is read
//! - `races`: of several who want one name, one wins; appended records are whole; link counts add up
//! - `readers`: who reads, lists or holds a file while the other side replaces or removes it
mod bytes;
mod races;
mod readers;
mod visibility;

use crate::wait::{secs, until};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Two directories that should be one.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The directory through one mount.
    pub a: PathBuf,
    /// The same directory through the other.
    pub b: PathBuf,
    /// Within what time the other side sees a change; zero: at once.
    pub bound: Duration,
}

/// One promise.
pub struct Check {
    /// Its name.
    pub name: &'static str,
    run: fn(&Pair),
}

/// What cannot be asked while other renames go on.
const ALONE: Check = Check { name: "visibility::of_directories", run: visibility::of_directories };

macro_rules! checks {
    ($($path:path),+ $(,)?) => {
        /// All that can go on at the same time.
        const CHECKS: &[Check] = &[$(Check { name: stringify!($path), run: $path }),+];
    };
}

checks![
    visibility::of_files,
    visibility::among_own_changes,
    bytes::close_to_open,
    bytes::read_after_fsync,
    bytes::mmap_after_msync,
    bytes::disjoint_writers_lose_nothing,
    bytes::a_growing_file,
    races::appended_records_are_whole,
    races::one_of_several_makes_a_name,
    races::one_of_several_takes_a_name,
    races::link_counts_add_up,
    races::a_removed_directory_stays_empty,
    races::exchanged_names_are_always_there,
    readers::rename_over_under_a_reader,
    readers::rename_over_from_another_directory,
    readers::removed_while_open_elsewhere,
    readers::replaced_while_open_elsewhere,
    readers::listings_keep_what_stays,
];

impl Pair {
    /// A new folder below both, there for both.
    fn inside(&self, name: &str) -> Pair {
        let pair = Pair { a: self.a.join(name), b: self.b.join(name), bound: self.bound };
        std::fs::create_dir(&pair.a).expect("a folder for the check");
        // Nobody asked for this name before, so it is not remembered as absent.
        assert!(pair.b.is_dir(), "a new folder is not there for the other mount");
        pair
    }

    /// The same with the sides exchanged.
    fn swapped(&self) -> Pair {
        Pair { a: self.b.clone(), b: self.a.clone(), bound: self.bound }
    }

    /// `name` through both sides.
    fn both(&self, name: &str) -> [PathBuf; 2] {
        [self.a.join(name), self.b.join(name)]
    }

    /// Waits until `check` sees what the other side did, as long as the promise allows.
    #[track_caller]
    fn seen(&self, what: &str, mut check: impl FnMut() -> bool) {
        if self.bound.is_zero() {
            assert!(check(), "{what} is not seen at once");
        } else {
            until(self.bound, what, check);
        }
    }

    /// Waits until the file has these bytes for this path.
    #[track_caller]
    fn reads(&self, what: &str, path: &Path, want: &[u8]) {
        self.seen(what, || std::fs::read(path).is_ok_and(|got| got == want));
    }
}

/// Runs the checks whose names contain one of `words` (none: all), almost all at the same time, each in
/// a folder of its own; prints a line for each and returns the names of the failed ones.
pub fn run(pair: &Pair, words: &[String]) -> Vec<&'static str> {
    let wanted = |c: &&Check| words.is_empty() || words.iter().any(|w| c.name.contains(w.as_str()));
    let alone = [&ALONE].into_iter().filter(wanted).collect();
    let mut failed = run_at_once(pair, alone);
    failed.extend(run_at_once(pair, CHECKS.iter().filter(wanted).collect()));
    failed
}

fn run_at_once(pair: &Pair, chosen: Vec<&'static Check>) -> Vec<&'static str> {
    std::thread::scope(|s| {
        let one = |check: &Check| {
            let begin = std::time::Instant::now();
            let own = pair.inside(&check.name.replace("::", "."));
            (check.run)(&own);
            println!("    {}: ok, {:.1} s", check.name, begin.elapsed().as_secs_f64());
        };
        let start = |check: &'static Check| {
            let thread = std::thread::Builder::new().name(check.name.into());
            (check, thread.spawn_scoped(s, move || one(check)).expect("a thread"))
        };
        let running: Vec<_> = chosen.into_iter().map(start).collect();
        let ended = running.into_iter().filter_map(|(check, thread)| {
            let failed = thread.join().is_err();
            failed.then(|| {
                println!("    {}: FAILED", check.name);
                check.name
            })
        });
        ended.collect()
    })
}

/// Slack over a timeout, for machines that are busy with other things.
pub const SLACK: Duration = secs(2);

/// Runs `work` with (side, number) in `per_side` threads on each side.
fn on_both_sides<T: Send>(per_side: usize, work: impl Fn(usize, usize) -> T + Sync) -> Vec<T> {
    let work = &work;
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..2 * per_side).map(|n| s.spawn(move || work(n % 2, n))).collect();
        threads.into_iter().map(|t| t.join().expect("a thread of the check")).collect()
    })
}
