//! Joined writes by hand: what is gathered, what is sent when, and what ends a right.
use super::*;
use crate::open_table::OpenTable;
use pvfs2_proto::attr::mode::S_IFREG;
use pvfs2_proto::dist::Dist;
use pvfs2_proto::{Attr, AttrFlags, FileLayout};

fn striped() -> Attr {
    let layout = FileLayout { dist: Dist::simple_stripe(65_536), datahandles: vec![77] };
    let flags = AttrFlags::SIZE_DYNAMIC | AttrFlags::MAY_JOIN;
    Attr { handle: 9, mode: S_IFREG | 0o644, layout: Some(layout), flags, ..Attr::default() }
}

fn opened(right: u64) -> (Joins, OpenTable, Arc<OpenFile>) {
    let (joins, table) = (Joins::new(true), OpenTable::default());
    let file = OpenFile::new(&table, striped(), (true, true), None);
    joins.opened(&file.state, 3, right, joins.cuts());
    (joins, table, file)
}

/// The jobs that wait, as words.
fn jobs(joins: &Joins) -> Vec<&'static str> {
    let word = |job| match job {
        Job::WriteOut(_) => "write out",
        Job::GiveBack(_) => "give back",
        Job::Listen(_) => "listen",
        Job::Refuse(..) => "refuse",
    };
    std::iter::from_fn(|| joins.pop()).map(word).collect()
}

fn recall(joins: &Joins, file: &Arc<OpenFile>, right: u64) {
    joins.recall(3, file.handle, right, || Some(file.state.clone()));
}

#[test]
fn what_follows_is_joined_up_to_a_mebibyte() {
    let (joins, _table, file) = opened(4);
    assert_eq!(jobs(&joins), ["listen"]);
    let step = [7u8; 4096];
    for i in 0..256 {
        assert!(joins.add(&file, i * 4096, &step, false, 0).unwrap(), "write {i}");
    }
    assert_eq!(jobs(&joins), ["write out"]);
    let out = joins.take_out(&file.state).unwrap();
    assert_eq!((out.logical_offset, out.bytes.len()), (0, JOINED_BYTES_MAX));
    assert_eq!(file.state.own().end, 1 << 20, "stat knows of them");
    // The next ones gather while it is on its way, and go when it has landed, as far as they are full.
    for i in 256..512 {
        assert!(joins.add(&file, i * 4096, &step, false, 0).unwrap(), "write {i}");
    }
    assert!(!joins.add(&file, 512 * 4096, &step, false, 0).unwrap(), "both are full");
    assert!(jobs(&joins).is_empty());
    joins.landed(&file.state, out.bytes.len(), None);
    assert_eq!(jobs(&joins), ["write out"]);
    let out = joins.take_out(&file.state).unwrap();
    assert_eq!((out.logical_offset, out.bytes.len()), (1 << 20, JOINED_BYTES_MAX));
    joins.landed(&file.state, out.bytes.len(), None);
    assert!(!joins.any() && file.state.joined.is_empty());
    assert_eq!(joins.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn only_with_the_right_and_only_what_goes_on() {
    let (joins, _table, file) = opened(0);
    assert!(!joins.add(&file, 0, b"abc", false, 0).unwrap(), "no right");
    let (joins, _table, file) = opened(4);
    assert!(!joins.add(&file, 5, b"abc", false, 0).unwrap(), "not where the last one ended");
    assert!(joins.add(&file, 8, b"abc", false, 0).unwrap(), "but this is");
    assert!(!joins.add(&file, 0, b"abc", false, 0).unwrap(), "back");
    assert!(!joins.add(&file, 3, &vec![0; WRITE_BYTES_MAX + 1], false, 0).unwrap(), "long");
    let (joins, table, _) = opened(4);
    let mut quota = Attr { handle: 10, ..striped() };
    quota.set(AttrFlags::QUOTA, true);
    let file = OpenFile::new(&table, quota, (true, true), None);
    joins.opened(&file.state, 3, 5, joins.cuts());
    assert!(!joins.add(&file, 0, b"abc", false, 0).unwrap(), "a quota may refuse it");
    let file = OpenFile::new(&table, Attr { handle: 11, ..striped() }, (true, true), None);
    joins.opened(&file.state, 3, 5, joins.cuts() + 1);
    assert!(
        !joins.add(&file, 0, b"abc", false, 0).unwrap(),
        "the connection was cut since it was asked for"
    );
}

#[test]
fn who_write_by_turns_do_not_wait_for_each_other() {
    let (joins, _table, file) = opened(4);
    let add = |at: u64| joins.add(&file, at, &[1; 4096], false, 0).unwrap();
    assert!(add(0), "what goes on");
    // Two places, in runs of four: after the first break none is joined.
    for round in 0..20u64 {
        for place in [1 << 30, 0] {
            for i in 0..4 {
                assert!(!add(place + (round * 4 + i) * 4096), "round {round}");
            }
            let out = joins.take_out(&file.state);
            out.inspect(|out| _ = joins.landed(&file.state, out.bytes.len(), None));
            joins.kick_all();
        }
    }
    let out = joins.take_out(&file.state);
    out.inspect(|out| _ = joins.landed(&file.state, out.bytes.len(), None));
    // One alone for a while: joined again, and after a full one at once.
    let at = 2 << 30;
    let joined = (0..u64::from(STREAK_AFTER_BREAK) + 2).map(|i| add(at + i * 4096));
    assert_eq!(joined.filter(|j| *j).count(), 2);
}

#[test]
fn a_recall_writes_out_and_ends_the_right_for_good() {
    let (joins, _table, file) = opened(4);
    jobs(&joins);
    assert!(joins.add(&file, 0, b"abc", false, 0).unwrap());
    recall(&joins, &file, 4);
    recall(&joins, &file, 4);
    assert_eq!(jobs(&joins), ["write out", "give back"], "once, however often it is asked for");
    assert!(!joins.add(&file, 3, b"def", false, 0).unwrap());
    assert_eq!(joins.given_up(&file.state), 4);
    let out = joins.take_out(&file.state).unwrap();
    joins.landed(&file.state, out.bytes.len(), None);
    joins.gave_back(&file.state);
    file.state.joined.granted(4);
    assert!(
        !joins.add(&file, 6, b"ghi", false, 0).unwrap(),
        "a late answer brings the old right again"
    );
    file.state.joined.granted(5);
    assert!(joins.add(&file, 9, b"jkl", false, 0).unwrap(), "a new one counts");
    recall(&joins, &file, 5);
    assert_eq!((jobs(&joins), joins.given_up(&file.state)), (vec!["write out", "give back"], 5));
}

#[test]
fn a_cut_ends_all_rights_of_the_server() {
    let (joins, _table, file) = opened(4);
    jobs(&joins);
    assert!(joins.add(&file, 0, b"abc", false, 0).unwrap());
    joins.cut(3, vec![file.state.clone()]);
    assert_eq!(jobs(&joins), ["write out"]);
    assert!(!joins.add(&file, 3, b"def", false, 0).unwrap());
    joins.opened(&file.state, 3, 9, joins.cuts());
    assert_eq!(jobs(&joins), ["listen"], "a connection to be called on");
}

#[test]
fn the_old_is_sent_and_who_waits_gets_everything() {
    let (joins, _table, file) = opened(4);
    jobs(&joins);
    assert!(joins.add(&file, 0, b"abc", false, 1_000).unwrap());
    joins.kick_old(999);
    assert!(jobs(&joins).is_empty());
    joins.kick_old(1_000);
    assert_eq!(jobs(&joins), ["write out"]);
    assert!(joins.add(&file, 3, b"def", false, 2_000).unwrap());
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let settled = joins.settle(&file.state, 0);
        tokio::pin!(settled);
        let soon = Duration::from_millis(5);
        assert!(tokio::time::timeout(soon, settled.as_mut()).await.is_err());
        for want in [&b"abc"[..], b"def"] {
            let out = joins.take_out(&file.state).unwrap();
            assert_eq!(out.bytes, want);
            joins.landed(&file.state, out.bytes.len(), None);
        }
        settled.await.unwrap();
    });
    assert!(file.state.joined.is_empty());
}

#[test]
fn what_fails_is_lost_with_what_follows_and_each_open_hears_of_it_once() {
    let (joins, table, file) = opened(4);
    let other = OpenFile::new(&table, striped(), (true, true), None);
    jobs(&joins);
    file.state.wrote(4, 1);
    assert!(joins.add(&file, 0, b"abcd", false, 0).unwrap());
    joins.kick_all();
    assert!(joins.add(&file, 4, b"efgh", false, 0).unwrap());
    joins.kick_all();
    assert_eq!((jobs(&joins), file.state.own().end), (vec!["write out"], 8));
    let out = joins.take_out(&file.state).unwrap();
    let full = || PvfsError::new(ErrorCode::NoSpace, "full");
    assert_eq!(joins.landed(&file.state, out.bytes.len(), Some(full())), 8);
    assert_eq!((jobs(&joins), file.state.own().end), (vec![], 4), "what is lost does not count");
    assert!(!joins.any() && joins.bytes.load(Ordering::Relaxed) == 0);
    let late = OpenFile::new(&table, striped(), (true, true), None);
    assert_eq!(joins.add(&file, 8, b"ijkl", false, 0).unwrap_err().code, ErrorCode::NoSpace);
    assert!(joins.add(&file, 8, b"i", false, 0).is_ok_and(|taken| !taken), "told, and not taken");
    assert!(joins.add(&file, 9, b"j", false, 0).unwrap());
    assert!(file.take_error().is_none(), "told once");
    assert_eq!(other.take_error().unwrap().code, ErrorCode::NoSpace);
    assert!(other.take_error().is_none() && other.take_write_error().is_none());
    assert!(late.take_write_error().is_some(), "nobody had been told when it was opened");
    let later = OpenFile::new(&table, striped(), (true, true), None);
    assert!(later.take_error().is_none(), "now they have");
    file.state.set_error(full());
    assert!(later.take_write_error().is_none(), "of no write");
    assert!(later.take_error().is_some());
}

#[test]
fn only_what_follows_what_has_gathered_is_put_behind_it() {
    let (joins, _table, file) = opened(4);
    assert!(joins.add(&file, 0, b"abcd", false, 0).unwrap());
    let long = vec![0; WRITE_BYTES_MAX + 1];
    assert!(!joins.add(&file, 100, &long, false, 0).unwrap());
    let end = 100 + long.len() as u64;
    assert!(!joins.add(&file, end, b"efgh", false, 0).unwrap(), "there is something else to send");
}

#[test]
fn a_right_that_is_recalled_before_it_comes_is_not_taken() {
    let (joins, table, file) = opened(4);
    jobs(&joins);
    let other = Attr { handle: 10, ..striped() };
    joins.recall(3, Handle(10), 6, || None);
    assert_eq!(jobs(&joins), ["refuse"]);
    let late = OpenFile::new(&table, other.clone(), (true, true), None);
    joins.opened(&late.state, 3, 6, joins.cuts());
    assert!(!joins.add(&late, 0, b"abc", false, 0).unwrap());
    joins.opened(&late.state, 3, 7, joins.cuts());
    assert!(!joins.add(&late, 0, b"abc", false, 0).unwrap(), "not where the last one ended");
    assert!(joins.add(&late, 3, b"abc", false, 0).unwrap());
    assert!(joins.add(&file, 0, b"abc", false, 0).unwrap(), "another file's is not touched");
    // Known, but the right is not here yet.
    joins.recall(3, Handle(9), 8, || Some(file.state.clone()));
    joins.opened(&file.state, 3, 8, joins.cuts());
    assert!(!joins.add(&file, 3, b"abc", false, 0).unwrap());
    assert_eq!(joins.given_up(&file.state), 8);
}

#[test]
fn ages_are_looked_at_however_often_the_wait_is_broken_off() {
    let (joins, _table, file) = opened(4);
    jobs(&joins);
    assert!(joins.add(&file, 0, b"abc", false, 1_000_000_000).unwrap());
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut now_ns = 1_000_000_000;
    rt.block_on(async {
        for _ in 0..60 {
            now_ns += 10_000_000;
            let waits = joins.next_job(|| now_ns);
            if tokio::time::timeout(Duration::from_millis(1), waits).await.is_ok() {
                return;
            }
        }
        panic!("it waits for ever");
    });
    assert!(now_ns >= 1_000_000_000 + JOINED_NS_MAX);
}

#[test]
fn a_right_on_a_stuffed_file_may_have_ended_when_it_is_striped() {
    for (joins_then, held) in [(false, false), (true, true)] {
        let (joins, table) = (Joins::new(true), OpenTable::default());
        let stuffed = Attr { layout: None, flags: AttrFlags::STUFFED, ..striped() };
        let file = OpenFile::new(&table, stuffed, (true, true), None);
        joins.opened(&file.state, 3, 4, joins.cuts());
        assert!(!joins.add(&file, 0, b"abc", false, 0).unwrap(), "stuffed");
        let mut attr = striped();
        attr.set(AttrFlags::MAY_JOIN, joins_then);
        file.state.learn(&attr);
        assert_eq!(joins.add(&file, 3, b"def", false, 0).unwrap(), held);
    }
}
