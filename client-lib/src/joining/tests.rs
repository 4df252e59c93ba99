use super::*;
use crate::open_table::OpenTable;
use pvfs2_proto::attr::mode::S_IFREG;
use pvfs2_proto::dist::Dist;
use pvfs2_proto::{Attr, FileLayout};

fn striped() -> Attr {
    let layout = FileLayout { dist: Dist::simple_stripe(65_536), datahandles: vec![77] };
    Attr { handle: 9, mode: S_IFREG | 0o644, layout: Some(layout), ..Attr::default() }
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
    };
    std::iter::from_fn(|| joins.pop()).map(word).collect()
}

#[test]
fn what_follows_is_joined_up_to_a_mebibyte() {
    let (joins, _table, file) = opened(4);
    assert_eq!(jobs(&joins), ["listen"]);
    let step = [7u8; 4096];
    for i in 0..256 {
        assert!(joins.add(&file, i * 4096, &step, false, 0), "write {i}");
    }
    assert_eq!(jobs(&joins), ["write out"]);
    let out = joins.take_out(&file.state).unwrap();
    assert_eq!((out.logical_offset, out.bytes.len()), (0, JOINED_BYTES_MAX));
    assert_eq!(file.state.own().end, 1 << 20, "stat knows of them");
    // The next ones gather while it is on its way, and go when it has landed, as far as they are full.
    for i in 256..512 {
        assert!(joins.add(&file, i * 4096, &step, false, 0), "write {i}");
    }
    assert!(!joins.add(&file, 512 * 4096, &step, false, 0), "both are full");
    assert!(jobs(&joins).is_empty());
    joins.landed(&file.state, out.bytes.len());
    assert_eq!(jobs(&joins), ["write out"]);
    let out = joins.take_out(&file.state).unwrap();
    assert_eq!((out.logical_offset, out.bytes.len()), (1 << 20, JOINED_BYTES_MAX));
    joins.landed(&file.state, out.bytes.len());
    assert!(!joins.any() && file.state.joined.is_empty());
    assert_eq!(joins.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn only_with_the_right_and_only_what_goes_on() {
    let (joins, _table, file) = opened(0);
    assert!(!joins.add(&file, 0, b"abc", false, 0), "no right");
    let (joins, _table, file) = opened(4);
    assert!(!joins.add(&file, 5, b"abc", false, 0), "not where the last one ended");
    assert!(joins.add(&file, 8, b"abc", false, 0), "but this is");
    assert!(!joins.add(&file, 0, b"abc", false, 0), "back");
    assert!(!joins.add(&file, 3, &vec![0; WRITE_BYTES_MAX + 1], false, 0), "long");
    let (joins, table, _) = opened(4);
    let quota = Attr { flags: pvfs2_proto::AttrFlags::QUOTA, handle: 10, ..striped() };
    let file = OpenFile::new(&table, quota, (true, true), None);
    joins.opened(&file.state, 3, 5, joins.cuts());
    assert!(!joins.add(&file, 0, b"abc", false, 0), "a quota may refuse it");
    let file = OpenFile::new(&table, Attr { handle: 11, ..striped() }, (true, true), None);
    joins.opened(&file.state, 3, 5, joins.cuts() + 1);
    assert!(
        !joins.add(&file, 0, b"abc", false, 0),
        "the connection was cut since it was asked for"
    );
}

#[test]
fn a_recall_writes_out_and_ends_the_right_for_good() {
    let (joins, _table, file) = opened(4);
    jobs(&joins);
    assert!(joins.add(&file, 0, b"abc", false, 0));
    joins.recall(&file.state);
    joins.recall(&file.state);
    assert_eq!(jobs(&joins), ["write out", "give back"], "once, however often it is asked for");
    assert!(!joins.add(&file, 3, b"def", false, 0));
    assert_eq!(joins.given_up(&file.state), 4);
    let out = joins.take_out(&file.state).unwrap();
    joins.landed(&file.state, out.bytes.len());
    joins.gave_back(&file.state);
    file.state.joined.granted(4);
    assert!(!joins.add(&file, 3, b"def", false, 0), "a late answer brings the old right again");
    file.state.joined.granted(5);
    assert!(joins.add(&file, 3, b"def", false, 0), "a new one counts");
    joins.recall(&file.state);
    assert_eq!((jobs(&joins), joins.given_up(&file.state)), (vec!["write out", "give back"], 5));
}

#[test]
fn a_cut_ends_all_rights_of_the_server() {
    let (joins, _table, file) = opened(4);
    jobs(&joins);
    assert!(joins.add(&file, 0, b"abc", false, 0));
    joins.cut(3, vec![file.state.clone()]);
    assert_eq!(jobs(&joins), ["write out"]);
    assert!(!joins.add(&file, 3, b"def", false, 0));
    joins.opened(&file.state, 3, 9, joins.cuts());
    assert_eq!(jobs(&joins), ["listen"], "a connection to be called on");
}

#[test]
fn the_old_is_sent_and_who_waits_gets_everything() {
    let (joins, _table, file) = opened(4);
    jobs(&joins);
    assert!(joins.add(&file, 0, b"abc", false, 1_000));
    joins.kick_old(999);
    assert!(jobs(&joins).is_empty());
    joins.kick_old(1_000);
    assert_eq!(jobs(&joins), ["write out"]);
    assert!(joins.add(&file, 3, b"def", false, 2_000));
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let settled = joins.settle(&file.state, 0);
        tokio::pin!(settled);
        let soon = Duration::from_millis(5);
        assert!(tokio::time::timeout(soon, settled.as_mut()).await.is_err());
        for want in [&b"abc"[..], b"def"] {
            let out = joins.take_out(&file.state).unwrap();
            assert_eq!(out.bytes, want);
            joins.landed(&file.state, out.bytes.len());
        }
        settled.await.unwrap();
    });
    assert!(file.state.joined.is_empty());
}
