//! Traps that need a hand on the device's files or on the wire at one moment: the real store and engine,
//! files in memory.
use crate::memory::{Device, Direct};
use pvfs2_sync::api::{BatchReply, UploadBegin};
use pvfs2_sync::device::engine::Report;
use pvfs2_sync::error::SyncError;
use pvfs2_sync::files::{Area, At, Files};
use pvfs2_sync::store::Ages;
use pvfs2_sync::tree::ROOT;

#[test]
fn trap1_time_decides_nothing() {
    let (mut s, mut a, mut b) = (Direct::new(), Device::new("a"), Device::new("b"));
    a.mem.user_write("f", b"one", Some(9_000));
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    // The newer content has by far the older time.
    b.mem.user_write("f", b"newer, though of 1970", Some(1));
    b.pass(&mut s).unwrap();
    a.pass(&mut s).unwrap();
    assert!(a.has("f", b"newer, though of 1970"));
    // The time alone is no change.
    a.mem.user_write("f", b"newer, though of 1970", Some(77));
    assert_eq!(a.pass(&mut s).unwrap().up, 0);
}

#[test]
fn trap3_an_edit_just_before_the_swap_is_not_overwritten() {
    let (mut s, mut a, mut b) = (Direct::new(), Device::new("a"), Device::new("b"));
    a.mem.user_write("f", b"one", None);
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    a.mem.user_write("f", b"from a", None);
    a.pass(&mut s).unwrap();
    let mem = b.mem.clone();
    s.meanwhile = Some(Box::new(move || mem.user_write("f", b"unseen edit", None)));
    let report = b.pass(&mut s).unwrap();
    assert!(b.has("f", b"from a") && s.meanwhile.is_none());
    assert!(b.has(&report.conflicts[0], b"unseen edit"), "{report:?}");
    // The same with the size, time and inode of the file that was scanned: only its hash tells.
    a.mem.user_write("f", b"again, a", None);
    a.pass(&mut s).unwrap();
    let mem = b.mem.clone();
    let time = mem.stat(At(Area::Tree, "f")).unwrap().unwrap().mtime_ns;
    s.meanwhile = Some(Box::new(move || mem.user_write("f", b"sneaky", Some(time))));
    let report = b.pass(&mut s).unwrap();
    assert!(b.has("f", b"again, a"));
    assert!(b.has(&report.conflicts[0], b"sneaky"), "{report:?}");
}

#[test]
fn trap6_a_listing_that_fails_deletes_nothing() {
    let (mut s, mut a) = (Direct::new(), Device::new("a"));
    a.mem.user_mkdir("d");
    a.mem.user_write("d/f", b"one", None);
    a.pass(&mut s).unwrap();
    let before = s.mem.snapshot();
    a.mem.unreadable(Some("d"));
    assert!(matches!(a.pass(&mut s), Err(SyncError::Io { .. })));
    assert_eq!(s.mem.snapshot(), before);
    a.mem.unreadable(None);
    assert_eq!(a.pass(&mut s).unwrap(), Report::default());
}

#[test]
fn trap7_a_server_from_a_backup_deletes_nothing() {
    let (mut s, mut a) = (Direct::new(), Device::new("a"));
    a.mem.user_write("old", b"old", None);
    a.pass(&mut s).unwrap();
    let mut backup = Direct::new();
    backup.store.new_epoch("e2").unwrap();
    let report = a.pass(&mut backup).unwrap();
    assert_eq!((report.up, report.down), (1, 0));
    assert!(a.has("old", b"old"));
    assert_eq!(backup.mem.snapshot(), a.mem.snapshot());
}

#[test]
fn trap12_what_shrank_while_its_time_stands_still_is_fetched_again() {
    let (mut s, mut a) = (Direct::new(), Device::new("a"));
    a.mem.user_write("f", b"precious", None);
    a.pass(&mut s).unwrap();
    a.pass(&mut s).unwrap();
    a.mem.damage("f", 0);
    let report = a.pass(&mut s).unwrap();
    assert!(a.has("f", b"precious"), "{report:?}");
    assert_eq!((report.up, report.problems.len()), (0, 1), "{report:?}");
    // A user who empties it does so at a new time.
    a.mem.user_write("f", b"", None);
    assert_eq!(a.pass(&mut s).unwrap().up, 1);
}

#[test]
fn trap4_conflict_copies_are_sent_and_equal_contents_make_none() {
    let (mut s, mut a, mut b) = (Direct::new(), Device::new("a"), Device::new("b"));
    for n in 0..30 {
        a.mem.user_write(&format!("same{n}"), b"equal", None);
        b.mem.user_write(&format!("same{n}"), b"equal", None);
    }
    a.mem.user_write("f", b"from a", None);
    b.mem.user_write("f", b"from b", None);
    a.pass(&mut s).unwrap();
    let report = b.pass(&mut s).unwrap();
    assert_eq!(report.conflicts.len(), 1, "{report:?}");
    a.pass(&mut s).unwrap();
    assert!(a.has("f", b"from a") && a.has(&report.conflicts[0], b"from b"));
    assert_eq!((s.mem.snapshot().len(), b.pass(&mut s).unwrap()), (32, Report::default()));
}

#[test]
fn trap9_a_device_that_was_away_too_long_enters_as_new_and_deletes_nothing() {
    let (mut s, mut a, mut b) = (Direct::new(), Device::new("a"), Device::new("b"));
    for n in 0..3 {
        a.mem.user_write(&format!("f{n}"), b"x", None);
    }
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    a.mem.user_remove("f0");
    a.pass(&mut s).unwrap();
    // The mark is dropped before b comes back: its f0 is as new, and nothing of it is deleted.
    let ages = Ages { trash_ms: Some(0), versions_ms: None, marks_ms: Some(0), devices_ms: None };
    s.store.expire(&ages).unwrap();
    b.mem.user_write("f1", b"edited while away", None);
    let report = b.pass(&mut s).unwrap();
    assert!(b.has("f0", b"x") && b.has("f2", b"x"), "{report:?}");
    a.pass(&mut s).unwrap();
    assert_eq!(a.mem.snapshot(), b.mem.snapshot());
    assert_eq!(a.mem.snapshot(), s.mem.snapshot());
    let all: Vec<_> = a.mem.snapshot().into_values().flatten().collect();
    assert!(all.contains(&b"edited while away".to_vec()));
}

#[test]
fn trap10_an_edit_wins_over_a_deletion_whichever_comes_first() {
    let (mut s, mut a, mut b) = (Direct::new(), Device::new("a"), Device::new("b"));
    for n in 0..4 {
        a.mem.user_write(&format!("f{n}"), b"old", None);
    }
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    a.mem.user_remove("f0");
    b.mem.user_write("f0", b"edited by b", None);
    b.mem.user_remove("f1");
    a.mem.user_write("f1", b"edited by a", None);
    for _ in 0..2 {
        a.pass(&mut s).unwrap();
        b.pass(&mut s).unwrap();
    }
    for d in [&a, &b] {
        assert!(d.has("f0", b"edited by b") && d.has("f1", b"edited by a"));
        assert_eq!(d.mem.snapshot().len(), 4);
    }
}

#[test]
fn trap11_a_full_disk_is_told_for_its_file_and_leaves_nothing_half() {
    let (mut s, mut a, mut b) = (Direct::new(), Device::new("a"), Device::new("b"));
    for n in 0..40 {
        a.mem.user_write(&format!("f{n}"), format!("content {n}").as_bytes(), None);
    }
    s.mem.full_one_in(3);
    let report = a.pass(&mut s).unwrap();
    assert!(!report.problems.is_empty() && report.up > 0, "{report:?}");
    assert!(report.problems.iter().all(|p| p.contains("no room")), "{report:?}");
    for bytes in s.mem.snapshot().values().flatten() {
        assert!(bytes.starts_with(b"content "), "whole or not at all");
    }
    s.mem.full_one_in(0);
    assert_eq!(a.pass(&mut s).unwrap().problems, Vec::<String>::new());
    b.mem.full_one_in(3);
    assert!(!b.pass(&mut s).unwrap().problems.is_empty());
    b.mem.full_one_in(0);
    b.pass(&mut s).unwrap();
    assert_eq!((a.mem.snapshot(), b.mem.snapshot().len()), (b.mem.snapshot(), 40));
}

/// The upload of a new file of five bytes, the `n`th.
fn file(n: u64) -> UploadBegin {
    UploadBegin {
        id: format!("{n:032}"),
        parent: ROOT,
        name: format!("f{n}"),
        replace: None,
        size: 5,
        hash: String::new(),
        mtime_ns: 1,
        exec: false,
    }
}

#[test]
fn trap13_many_files_that_are_sent_twice_or_were_given_up_are_done_once_or_never() {
    let mut s = Direct::new();
    let all: Vec<_> = (0..3).map(|n| (file(n), b"bytes".to_vec())).collect();
    let first = s.store.put_many(&all, "t").unwrap();
    let again = s.store.put_many(&all, "t").unwrap();
    let revs =
        |r: &[BatchReply]| r.iter().map(|r| r.node.as_ref().unwrap().rev).collect::<Vec<_>>();
    assert_eq!((revs(&first), s.mem.snapshot().len()), (revs(&again), 3));
    // The same twice in one request, another of the same name, wrong bytes: each for itself.
    let mut bad = file(9);
    bad.hash = "00".repeat(32);
    let mut taken = file(10);
    taken.name = "f4".into();
    let mixed = [file(4), file(4), taken, bad, file(5)].map(|f| (f, b"bytes".to_vec()));
    let told = s.store.put_many(&mixed, "t").unwrap();
    assert_eq!(told.iter().map(|r| r.status).collect::<Vec<_>>(), [200, 200, 409, 422, 200]);
    assert_eq!(told[0].node, told[1].node);
    // Given up before it came: late, it does nothing.
    s.store.upload_drop(&file(7).id).unwrap();
    let late = s.store.put_many(&[(file(7), b"bytes".to_vec())], "t").unwrap();
    assert_eq!((late[0].status, s.mem.snapshot().contains_key("f7")), (412, false));
    assert!(s.store.upload_begin(&file(7)).is_err());
    assert_eq!(s.mem.list(At(Area::Own, "tmp")).unwrap().entries.len(), 0, "nothing left behind");
}

#[test]
fn trap14_many_files_share_one_quota_and_are_refused_before_a_byte() {
    let mut s = Direct::new();
    s.store.set_quota(Some(12));
    let all: Vec<_> = (0..4).map(|n| (file(n), b"bytes".to_vec())).collect();
    let told = s.store.put_many(&all, "t").unwrap();
    assert_eq!(told.iter().map(|r| r.status).collect::<Vec<_>>(), [200, 200, 507, 507]);
    assert_eq!((s.store.usage().unwrap().0, s.mem.snapshot().len()), (10, 2));
}

#[test]
fn trap16_names_that_two_devices_swap_end_where_one_of_them_said() {
    let (mut s, mut a, mut b) = (Direct::new(), Device::new("a"), Device::new("b"));
    a.mem.user_mkdir("x");
    a.mem.user_mkdir("y");
    a.mem.user_write("x/1", b"1", None);
    a.mem.user_write("y/2", b"2", None);
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    // Into each other on two sides, and the files swapped on one.
    assert!(a.mem.user_rename("x", "y/x") && b.mem.user_rename("y", "x/y"));
    for _ in 0..3 {
        a.pass(&mut s).unwrap();
        b.pass(&mut s).unwrap();
    }
    assert_eq!((a.mem.snapshot(), b.mem.snapshot()), (b.mem.snapshot(), s.mem.snapshot()));
    let all: Vec<_> = a.mem.snapshot().into_values().flatten().collect();
    assert_eq!(all.len(), 2);
}
