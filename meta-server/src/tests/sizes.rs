//! Striped files: unstuff, truncate, append, fallocate, and the size rule.
use super::harness::*;
use pvfs2_proto::op::*;
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, SetAttr};

fn size(n: u64) -> SetAttr {
    SetAttr { size: Some(n), ..Default::default() }
}

fn dynamic(a: &Attr) -> bool {
    a.has(AttrFlags::SIZE_DYNAMIC)
}

#[test]
fn unstuff_moves_the_bytes_to_where_the_distribution_says() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create_open(1, "f").await.unwrap();
        let bytes: Vec<u8> = (0..90).collect();
        u.write_small(f, 0, &bytes).await.result.unwrap();
        let attr = u.unstuff(f).await.unwrap();
        assert!(!attr.has(AttrFlags::STUFFED) && dynamic(&attr) && attr.size == 90);
        assert!(attr.has(AttrFlags::SOLE_WRITER));
        assert_eq!(c.io.borrow().contents(&attr, 90), bytes);
        let key = crate::keys::bytes(attr.handle());
        assert!(c.meta(0).store.get(key).unwrap().is_none());
        assert_eq!(u.unstuff(f).await.unwrap().layout, attr.layout);
        let read = u.read_small(f).await;
        assert_eq!(code(read.result), ErrorCode::NotStuffed);
        assert!(matches!(read.bring, Some(OpResponse::ReadSmall(r)) if r.attr.is_some()));
        assert!(!c.io.borrow().requests.iter().any(|r| r.1 == Op::DfSync), "never promised");
    });
}

#[test]
fn bytes_that_were_promised_are_synced_before_they_leave() {
    with_cluster(1, |c| async move {
        let u = c.root();
        for (name, restart) in [("synced", false), ("old", true)] {
            let f = u.create_open(1, name).await.unwrap();
            u.write_small(f, 0, b"dear").await.result.unwrap();
            if restart {
                c.restart(0);
            } else {
                u.ask(0, FsyncRequest { handle: f }).await.unwrap();
            }
            c.io.borrow_mut().requests.clear();
            u.unstuff(f).await.unwrap();
            let synced = c.io.borrow().requests.iter().any(|r| r.1 == Op::DfSync);
            assert!(synced, "{name}");
        }
    });
}

#[test]
fn a_failed_unstuff_changes_nothing() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create_open(1, "f").await.unwrap();
        u.write_small(f, 0, b"dear").await.result.unwrap();
        c.refuse.borrow_mut().insert(Op::IoWrite, 1);
        assert_eq!(code(u.unstuff(f).await), ErrorCode::Unreachable);
        assert_eq!(u.read_small(f).await.body, "dear");
        assert_eq!(u.unstuff(f).await.unwrap().size, 4);
    });
}

#[test]
fn truncation_cuts_the_datafiles() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create_open(1, "f").await.unwrap();
        let attr = u.unstuff(f).await.unwrap();
        let bytes: Vec<u8> = (0..1_000u32).map(|i| i as u8).collect();
        u.write_datafiles(&attr, 0, &bytes);
        u.close(f, true, 1_000).await.unwrap();
        let attr = u.getattr(f).await.unwrap();
        assert!(!dynamic(&attr) && attr.size == 1_000, "the only writer told all");
        let attr = u.setattr(f, size(333)).await.unwrap();
        assert_eq!(attr.size, 333);
        let attr = u.setattr(f, size(700)).await.unwrap();
        assert_eq!(attr.size, 700);
        let mut want = bytes[..333].to_vec();
        want.resize(700, 0);
        assert_eq!(c.io.borrow().contents(&attr, 700), want);
        let requests = c.io_requests();
        u.setattr(f, size(900)).await.unwrap();
        assert_eq!(c.io_requests(), requests, "growing an exact size asks nobody");
        assert_eq!(code(u.setattr(f, size(u64::MAX)).await), ErrorCode::FileTooBig);
    });
}

#[test]
fn a_truncation_goes_on_when_an_io_server_comes_back() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create_open(1, "f").await.unwrap();
        let attr = u.unstuff(f).await.unwrap();
        u.write_datafiles(&attr, 0, &[7; 600]);
        u.close(f, true, 600).await.unwrap();
        c.down.borrow_mut().insert(2);
        assert_eq!(code(u.setattr(f, size(10)).await), ErrorCode::Unreachable);
        // The server dies with its intent, too.
        c.restart(0);
        settle().await;
        c.down.borrow_mut().remove(&2);
        tokio::time::sleep(std::time::Duration::from_secs(15)).await;
        let u = c.root();
        let attr = u.getattr(f).await.unwrap();
        assert_eq!(attr.size, 10);
        let left: usize = c.io.borrow().files.values().map(|f| f.0.len()).sum();
        assert_eq!(left, 10);
        assert_eq!(u.setattr(f, size(20)).await.unwrap().size, 20, "the handle is free again");
    });
}

#[test]
fn growing_a_small_file_beyond_its_limit_unstuffs_it() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create(1, "f").await.unwrap();
        u.write_small(f, 0, b"abc").await.result.unwrap();
        let attr = u.setattr(f, size(SMALL + 1)).await.unwrap();
        assert!(attr.layout.is_some() && !dynamic(&attr));
        assert_eq!(c.io.borrow().contents(&attr, 4), b"abc\0");
        assert_eq!(attr.size, SMALL + 1);
    });
}

#[test]
fn appends_of_two_clients_never_overlap() {
    with_cluster(1, |c| async move {
        let (a, b) = (c.root(), c.root());
        let f = a.create_open(1, "f").await.unwrap();
        b.open(f, true).await.unwrap();
        let mut want = Vec::new();
        let mut places = Vec::new();
        for i in 0..60u8 {
            let u = if i % 2 == 0 { &a } else { &b };
            let record = [i; 11];
            let r = u.append(f, &record).await.unwrap();
            assert_eq!(r.attr.unwrap().size, r.logical_offset + 11);
            places.push(r.logical_offset);
            want.extend_from_slice(&record);
        }
        // At the same time.
        let (x, y) = tokio::join!(a.append(f, &[61; 11]), b.append(f, &[62; 11]));
        let (x, y) = (x.unwrap().logical_offset, y.unwrap().logical_offset);
        assert_eq!(x.abs_diff(y), 11);
        want.extend_from_slice(&[if x < y { 61 } else { 62 }; 11]);
        want.extend_from_slice(&[if x < y { 62 } else { 61 }; 11]);
        assert_eq!(places, (0..60).map(|i| i * 11).collect::<Vec<u64>>());
        let attr = a.getattr(f).await.unwrap();
        assert_eq!(attr.size, want.len() as u64);
        assert_eq!(c.io.borrow().contents(&attr, attr.size), want);
    });
}

#[test]
fn an_append_that_was_cut_off_goes_to_the_same_place() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create_open(1, "f").await.unwrap();
        let attr = u.unstuff(f).await.unwrap();
        u.append(f, &[1; 150]).await.unwrap();
        // The bytes reach some datafiles, then the server dies; a repeat of the request follows.
        let seq = u.next_ticket();
        let r = AppendRequest { handle: f, known_end: 0, kill_suidgid: false };
        c.lose.borrow_mut().clear();
        c.down.borrow_mut().insert(3);
        let sent = u.send(0, Some(seq), r.clone().into_request(), &[2; 200]).await;
        assert_eq!(code(sent.result), ErrorCode::Unreachable);
        c.restart(0);
        c.down.borrow_mut().clear();
        let sent = u.send(0, Some(seq), r.into_request(), &[2; 200]).await;
        let again = AppendRequest::take_response(Some(sent.result.unwrap())).unwrap();
        assert_eq!(again.logical_offset, 150);
        let want: Vec<u8> = [vec![1; 150], vec![2; 200]].concat();
        assert_eq!(c.io.borrow().contents(&attr, 350), want);
    });
}

#[test]
fn holes_and_zeros() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create_open(1, "f").await.unwrap();
        let ask = |kind: FallocateKind, at, len| FallocateRequest {
            handle: f,
            kind: kind as i32,
            logical_offset: at,
            len,
            ..Default::default()
        };
        u.write_small(f, 0, &[9; 50]).await.result.unwrap();
        let attr = u.ask(0, ask(FallocateKind::PunchHole, 10, 10)).await.unwrap().attr.unwrap();
        assert_eq!(attr.size, 50);
        let mut want = vec![9u8; 50];
        want[10..20].fill(0);
        assert_eq!(u.read_small(f).await.body, want);
        u.ask(0, ask(FallocateKind::KeepSize, 0, 1_000)).await.unwrap();
        assert_eq!(u.getattr(f).await.unwrap().size, 50);
        let attr = u.ask(0, ask(FallocateKind::ZeroRange, 40, 30)).await.unwrap().attr.unwrap();
        want.resize(70, 0);
        want[40..].fill(0);
        assert_eq!((attr.size, u.read_small(f).await.body), (70, want.clone().into()));
        // Beyond what is small: striped, with the bytes where they belong.
        let attr = u.ask(0, ask(FallocateKind::Allocate, 0, 500)).await.unwrap().attr.unwrap();
        assert!(attr.layout.is_some() && attr.size == 500);
        want.resize(500, 0);
        assert_eq!(c.io.borrow().contents(&attr, 500), want);
        u.write_datafiles(&attr, 0, &[5; 500]);
        u.ask(0, ask(FallocateKind::PunchHole, 100, 250)).await.unwrap();
        let mut want = vec![5u8; 500];
        want[100..350].fill(0);
        assert_eq!(c.io.borrow().contents(&attr, 500), want);
        assert_eq!(code(u.ask(0, ask(FallocateKind::Allocate, 0, 0)).await), ErrorCode::Invalid);
        let far = ask(FallocateKind::Allocate, u64::MAX - 5, 10);
        assert_eq!(code(u.ask(0, far).await), ErrorCode::FileTooBig);
    });
}

#[test]
fn the_size_rule() {
    with_cluster(1, |c| async move {
        let (a, b) = (c.root(), c.root());
        let f = a.create_open(1, "f").await.unwrap();
        let attr = a.unstuff(f).await.unwrap();
        assert!(attr.has(AttrFlags::SOLE_WRITER));
        assert!(!b.getattr(f).await.unwrap().has(AttrFlags::SOLE_WRITER));
        b.open(f, true).await.unwrap();
        assert!(!a.getattr(f).await.unwrap().has(AttrFlags::SOLE_WRITER));
        // B truncates what A wrote and has not told; A's end is not the truth any more.
        a.write_datafiles(&attr, 0, &[1; 500]);
        b.setattr(f, size(100)).await.unwrap();
        b.close(f, true, 0).await.unwrap();
        assert!(!a.getattr(f).await.unwrap().has(AttrFlags::SOLE_WRITER), "A does not know");
        a.close(f, true, 500).await.unwrap();
        settle().await;
        let attr = a.getattr(f).await.unwrap();
        assert!(!dynamic(&attr) && attr.size == 100, "{attr:?}");
    });
}

#[test]
fn a_writer_that_vanishes_leaves_what_the_datafiles_say() {
    with_cluster(1, |c| async move {
        let (a, b) = (c.root(), c.root());
        let f = a.create_open(1, "f").await.unwrap();
        let attr = a.unstuff(f).await.unwrap();
        a.write_datafiles(&attr, 0, &[1; 777]);
        // A's lease runs out; B renews.
        for _ in 0..8 {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            let seen = b.getattr(f).await.unwrap();
            assert!(!seen.has(AttrFlags::SOLE_WRITER));
        }
        let attr = b.getattr(f).await.unwrap();
        assert!(!dynamic(&attr) && attr.size == 777, "{attr:?}");
    });
}

#[test]
fn a_stale_dynamic_size_is_settled_by_the_next_writer() {
    with_cluster(1, |c| async move {
        let (a, b) = (c.root(), c.root());
        let f = a.create_open(1, "f").await.unwrap();
        let attr = a.unstuff(f).await.unwrap();
        a.write_datafiles(&attr, 0, &[1; 300]);
        c.down.borrow_mut().insert(1);
        tokio::time::sleep(std::time::Duration::from_secs(25)).await;
        assert!(dynamic(&b.getattr(f).await.unwrap()), "nobody could be asked");
        let doubtful = b.open(f, true).await.unwrap();
        assert!(!doubtful.has(AttrFlags::SOLE_WRITER) && dynamic(&doubtful));
        b.close(f, true, 0).await.unwrap();
        c.down.borrow_mut().clear();
        let attr = b.open(f, true).await.unwrap();
        assert!(attr.size == 300 && attr.has(AttrFlags::SOLE_WRITER), "{attr:?}");
    });
}

#[test]
fn times_set_explicitly_outlast_earlier_writes() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create_open(1, "f").await.unwrap();
        let attr = u.unstuff(f).await.unwrap();
        u.write_datafiles(&attr, 0, &[1; 10]);
        let written_ns = c.env.now_ns();
        let old = SetAttr {
            mtime: Some(pvfs2_proto::TimeSpec { now: false, ns: 5 }),
            ..Default::default()
        };
        u.setattr(f, old).await.unwrap();
        let item = ReleaseItem {
            handle: f,
            write: true,
            wrote: true,
            end: 10,
            mtime_ns: written_ns,
            atime_ns: 0,
        };
        let report = ReportRequest { item: Some(item), sync: true };
        let attr = u.ask(0, report).await.unwrap().attr.unwrap();
        assert_eq!((attr.mtime_ns, attr.size), (5, 10));
        u.close(f, true, 20).await.unwrap();
        let attr = u.getattr(f).await.unwrap();
        assert!(attr.mtime_ns > written_ns && attr.size == 20 && attr.ctime_ns >= attr.mtime_ns);
    });
}

#[test]
fn a_kernel_that_keeps_times_sets_them_itself() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create_open(1, "f").await.unwrap();
        let made = u.getattr(f).await.unwrap();
        let request =
            |keep_times| WriteSmallRequest { handle: f, keep_times, ..Default::default() };
        let kept = u.ask(0, request(true)).await.unwrap().attr.unwrap();
        assert_eq!((kept.mtime_ns, kept.ctime_ns), (made.mtime_ns, made.ctime_ns));
        assert!(kept.data_version > made.data_version);
        let written = u.ask(0, request(false)).await.unwrap().attr.unwrap();
        assert!(written.mtime_ns > made.mtime_ns);
        let at = |ns| Some(pvfs2_proto::TimeSpec { now: false, ns });
        let times = SetAttr { mtime: at(5), ctime: at(7), ..Default::default() };
        let attr = u.setattr(f, times.clone()).await.unwrap();
        assert_eq!((attr.mtime_ns, attr.ctime_ns), (5, 7));
        let attr = u.setattr(f, SetAttr { size: Some(3), ..times }).await.unwrap();
        assert_eq!((attr.mtime_ns, attr.ctime_ns, attr.size), (5, 7, 3));
    });
}

#[test]
fn a_close_in_the_grace_time_is_settled_after_it() {
    with_cluster(1, |c| async move {
        let (a, idle) = (c.root(), c.root());
        idle.session(0).unwrap();
        let f = a.create_open(1, "f").await.unwrap();
        let attr = a.unstuff(f).await.unwrap();
        a.write_datafiles(&attr, 0, &[1; 400]);
        c.restart(0);
        a.close(f, true, 400).await.unwrap();
        settle().await;
        assert!(dynamic(&a.getattr(f).await.unwrap()), "another may have it open");
        for _ in 0..6 {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            a.ask(0, RenewRequest {}).await.unwrap();
        }
        let attr = a.getattr(f).await.unwrap();
        assert!(!dynamic(&attr) && attr.size == 400, "{attr:?}");
    });
}

#[test]
fn a_look_at_an_abandoned_size_settles_it() {
    with_cluster(1, |c| async move {
        let a = c.root();
        let f = a.create_open(1, "f").await.unwrap();
        let attr = a.unstuff(f).await.unwrap();
        a.write_datafiles(&attr, 0, &[1; 400]);
        c.restart(0);
        // The writer never comes back.
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        let b = c.root();
        assert!(dynamic(&b.getattr(f).await.unwrap()));
        settle().await;
        let attr = b.getattr(f).await.unwrap();
        assert!(!dynamic(&attr) && attr.size == 400, "{attr:?}");
    });
}
