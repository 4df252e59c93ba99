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

/// What is to be written out: where, and which bytes.
fn out(joins: &Joins, file: &OpenFile) -> Vec<(u64, Vec<u8>)> {
    let Some(out) = joins.take_out(&file.state) else { return Vec::new() };
    let mut rest = &out.bytes[..];
    let mut piece = |(at, len)| {
        let (bytes, later) = rest.split_at(len);
        rest = later;
        (at, bytes.to_vec())
    };
    out.runs.into_iter().map(&mut piece).collect()
}

/// How much of it, and from where on: one piece.
fn out_len(joins: &Joins, file: &OpenFile) -> (u64, usize) {
    match &out(joins, file)[..] {
        [(at, bytes)] => (*at, bytes.len()),
        pieces => panic!("{} pieces", pieces.len()),
    }
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
    assert_eq!(out_len(&joins, &file), (0, JOINED_BYTES_MAX));
    assert_eq!(file.state.own().end, 1 << 20, "stat knows of them");
    // The next ones gather while it is on its way, and go when it has landed, as far as they are full.
    let room = (JOINED_BYTES_MAX + blocks::GATHERED_MAX) as u64;
    for i in 256..room / 4096 {
        assert!(joins.add(&file, i * 4096, &step, false, 0).unwrap(), "write {i}");
    }
    assert!(!joins.add(&file, room, &step, false, 0).unwrap(), "all are full");
    assert!(file.state.joined.overlaps(&(room - 1..room)) && jobs(&joins).is_empty());
    assert!(!file.state.joined.overlaps(&(room..room + 4096)), "that one need not wait");
    for mib in 1..room >> 20 {
        joins.landed(&file.state, None);
        assert_eq!(jobs(&joins), ["write out"]);
        assert_eq!(out_len(&joins, &file), (mib << 20, JOINED_BYTES_MAX));
    }
    joins.landed(&file.state, None);
    assert!(!joins.any() && file.state.joined.is_empty());
    assert_eq!(joins.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn several_writers_of_one_file_gather_side_by_side() {
    let (joins, _table, file) = opened(4);
    jobs(&joins);
    const RECORD: u64 = 47_008;
    // As the kernel cuts records that begin and end amid pages: to the next page, and the rest.
    let add = |record: u64| {
        let (at, end) = (record * RECORD, (record + 1) * RECORD);
        let cut = at.next_multiple_of(4096);
        for (from, to) in [(at, cut), (cut, end)] {
            let data = vec![record as u8; (to - from) as usize];
            assert!(from == to || joins.add(&file, from, &data, false, 0).unwrap(), "{record}");
        }
    };
    let mut written = 0;
    for round in 0..100 {
        // Four writers, one of them three records ahead.
        for record in [4 * round, 4 * round + 2, 4 * round + 3, 4 * round + 13] {
            add(record);
        }
        for job in jobs(&joins) {
            assert_eq!(job, "write out");
            let (_, len) = out_len(&joins, &file);
            written += len;
            joins.landed(&file.state, None);
        }
    }
    // What the first record of the fourth writer lacks, and the end.
    assert!(written >= 16 << 20, "{written}");
}

#[test]
fn writers_one_after_the_other_send_no_more() {
    let (joins, _table, file) = opened(4);
    jobs(&joins);
    const RECORD: u64 = 47_008;
    let (mut outs, mut alone, mut written) = (0, 0, 0);
    let land = |outs: &mut usize, written: &mut usize| {
        for job in jobs(&joins) {
            assert_eq!(job, "write out");
            *outs += 1;
            *written += out(&joins, &file).iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
            joins.landed(&file.state, None);
        }
    };
    // Four writers with a stride each, but far ahead of each other: no block is ever full.
    for writer in 0..4 {
        for round in 0..300 {
            let at = (4 * round + writer) * RECORD;
            let cut = at.next_multiple_of(4096);
            for (from, to) in [(at, cut), (cut, at + RECORD)] {
                let data = vec![writer as u8; (to - from) as usize];
                if from < to && !joins.add(&file, from, &data, false, 0).unwrap() {
                    (alone, written) = (alone + 1, written + data.len());
                }
            }
            land(&mut outs, &mut written);
        }
    }
    while joins.any() {
        joins.kick_all();
        land(&mut outs, &mut written);
    }
    assert_eq!(written, 1200 * RECORD as usize);
    assert!(outs <= 80 && alone <= 8, "{outs} and {alone} for {} MiB", written >> 20);
}

#[test]
fn only_with_the_right_and_only_what_goes_on() {
    let (joins, _table, file) = opened(0);
    assert!(!joins.add(&file, 0, b"abc", false, 0).unwrap(), "no right");
    let (joins, _table, file) = opened(4);
    assert!(!joins.add(&file, 5, b"abc", false, 0).unwrap(), "not where the last one ended");
    assert!(joins.add(&file, 8, b"abc", false, 0).unwrap(), "but this is");
    assert!(!joins.add(&file, 9 << 20, b"abc", false, 0).unwrap(), "elsewhere");
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
fn who_write_here_and_there_is_soon_left_alone() {
    let (joins, _table, file) = opened(4);
    let add = |at: u64| joins.add(&file, at, &[1; 4096], false, 0).unwrap();
    assert!(add(0), "what goes on");
    // Others in its neighbourhood, each by itself.
    assert!(add(5 * 4096) && add(90 * 4096) && add(200 * 4096));
    joins.kick_all();
    assert_eq!(out(&joins, &file).len(), 4);
    joins.landed(&file.state, None);
    assert!(!add(201 * 4096) && !add(202 * 4096) && !add(7 * 4096));
    // One alone for a while: joined again.
    let at = 2 << 30;
    let joined = (0..u64::from(STREAK_AFTER_BREAK) + 2).map(|i| add(at + i * 4096));
    assert_eq!(joined.filter(|j| *j).count(), 2);
    assert!(!add(0) && !add(50 << 20), "elsewhere");
}

#[test]
fn while_somebody_waits_nothing_gathers() {
    let (joins, _table, file) = opened(4);
    assert!(joins.add(&file, 0, b"abc", false, 0).unwrap());
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let settled = joins.settle(&file.state, 0);
        tokio::pin!(settled);
        let soon = Duration::from_millis(5);
        assert!(tokio::time::timeout(soon, settled.as_mut()).await.is_err());
        assert!(!joins.add(&file, 3, b"def", false, 0).unwrap());
        assert!(!file.state.joined.overlaps(&(3..6)), "it need not wait");
        joins.landed(&file.state, None);
        settled.await.unwrap();
    });
    assert!(joins.add(&file, 6, b"ghi", false, 0).unwrap());
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
    joins.landed(&file.state, None);
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
    assert!(jobs(&joins).is_empty(), "one at a time");
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let settled = joins.settle(&file.state, 0);
        tokio::pin!(settled);
        let soon = Duration::from_millis(5);
        assert!(tokio::time::timeout(soon, settled.as_mut()).await.is_err());
        for want in [&b"abc"[..], b"def"] {
            let [(_, bytes)] = &out(&joins, &file)[..] else { panic!("one piece") };
            assert_eq!(bytes, want);
            joins.landed(&file.state, None);
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
    let full = || PvfsError::new(ErrorCode::NoSpace, "full");
    assert_eq!(joins.landed(&file.state, Some(full())), 8);
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
fn what_is_written_again_counts() {
    let (joins, _table, file) = opened(4);
    assert!(joins.add(&file, 0, b"abcdef", false, 0).unwrap());
    for xy in [b"vw", b"XY"] {
        assert!(joins.add(&file, 2, xy, false, 0).unwrap(), "in what has gathered");
    }
    assert!(joins.add(&file, 10, b"k", false, 0).unwrap(), "and near it");
    let long = vec![0; WRITE_BYTES_MAX + 1];
    assert!(!joins.add(&file, 100, &long, false, 0).unwrap());
    joins.kick_all();
    // The same bytes once more, while they are on their way: behind them.
    assert!(joins.add(&file, 0, b"12", false, 0).unwrap());
    assert_eq!(out(&joins, &file), [(0, b"abXYef".to_vec()), (10, b"k".to_vec())]);
    assert!(joins.take_out(&file.state).is_none());
    joins.landed(&file.state, None);
    assert_eq!(out(&joins, &file), [(0, b"12".to_vec())]);
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
