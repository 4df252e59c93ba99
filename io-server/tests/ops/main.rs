//! The I/O server's operations, asked as `server-core` asks them, over memory and over a disk.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod ahead;
mod copy;
mod model;
mod repeat;
mod rig;
mod shared;

use pvfs2_bmi::buf::PooledBuf;
use pvfs2_bmi::service::Body;
use pvfs2_io::scrub::{PAUSE_NS, Scrubber};
use pvfs2_proto::limits::{BODY_MAX, FLOW_BUFFER_BYTES, IO_BYTES_MAX};
use pvfs2_proto::op::{GetattrRequest, Op, OpMessage};
use pvfs2_proto::{ErrorCode, PvfsError};
use rig::{FIRST, H, Rig, flow, on_both, pattern};
use std::sync::atomic::Ordering;

#[test]
fn datafiles_are_made_by_their_first_write() {
    on_both(|r| {
        assert_eq!(r.read(H, &[(0, 100)]).unwrap(), (vec![0], vec![]));
        assert_eq!(r.stat(H).size, 0);
        assert_eq!(r.stat(H).mtime_ns, 0);
        r.truncate(H, 10, false).unwrap();
        r.fallocate(H, &[(0, 10)], true).unwrap();
        r.sync(vec![H]).unwrap();
        assert!(r.list(0, 10).datahandles.is_empty(), "{}: nothing was written", r.name);
        let mtime_ns = r.write(H, &[(5, b"abc")]).unwrap();
        assert_eq!(r.list(0, 10).datahandles, [H]);
        let stat = r.stat(H);
        assert_eq!(stat.size, 8);
        assert!(mtime_ns > 0 && stat.mtime_ns > 0, "{}: {stat:?}", r.name);
        assert_eq!(r.read(H, &[(0, 100)]).unwrap(), (vec![8], b"\0\0\0\0\0abc".to_vec()));
        assert_eq!(r.statfs().datafiles, 1);
    });
}

#[test]
fn lists_of_extents_are_cut_at_the_end() {
    on_both(|r| {
        r.write(H, &[(0, b"0123456789"), (20, b"abcde")]).unwrap();
        let (got, body) = r.read(H, &[(1, 3), (8, 4), (21, 2)]).unwrap();
        assert_eq!((got, body.as_slice()), (vec![], &b"12389\0\0bc"[..]));
        let (got, body) = r.read(H, &[(1, 3), (23, 9), (40, 5)]).unwrap();
        assert_eq!((got, body.as_slice()), (vec![3, 2, 0], &b"123de"[..]));
        let (got, body) = r.read(H, &[(4, 0), (4, 1)]).unwrap();
        assert_eq!((got, body.as_slice()), (vec![], &b"4"[..]));
    });
}

/// Strips on a disk whose system tells what is in memory; never bytes that nobody could compare.
#[test]
fn whole_strips_in_memory_are_lent_to_who_compares() {
    const STRIP: u64 = 65_536;
    let r = Rig::disk();
    let data = pattern(4, 3 * STRIP as usize + 500);
    r.write(H, &[(0, &data)]).unwrap();
    let lent = r.read_lent(H, &[(STRIP, 2 * STRIP + 500)]).expect("to the end, all in memory");
    let want = &data[STRIP as usize..];
    assert_eq!((lent.crc(), &lent.to_bytes()[..]), (crc32fast::hash(want), want));
    let lent = r.read_lent(H, &[(0, STRIP), (2 * STRIP, STRIP)]).expect("of several extents");
    assert_eq!(lent.crc(), crc32fast::hash(&lent.to_bytes()));
    for (why, at, len) in [
        ("begins within a strip", 1, 2 * STRIP),
        ("ends within one", 0, 2 * STRIP - 1),
        ("goes beyond the end", STRIP, 3 * STRIP),
        ("is short", 3 * STRIP, 500),
    ] {
        assert!(r.read_lent(H, &[(at, len)]).is_none(), "{why}");
    }
    let memory = Rig::memory();
    memory.write(H, &[(0, &data)]).unwrap();
    assert!(memory.read_lent(H, &[(0, STRIP)]).is_none(), "no file to send from");
}

#[test]
fn long_reads_come_in_pieces() {
    on_both(|r| {
        let data = pattern(3, 3 * BODY_MAX + 12_345);
        for (i, chunk) in data.chunks(BODY_MAX).enumerate() {
            r.write(H, &[((i * BODY_MAX) as u64, chunk)]).unwrap();
        }
        for extents in [
            vec![(0, data.len() as u64)],
            vec![(0, 100), (100, 2 * BODY_MAX as u64), (2_097_252, 1_060_821)],
        ] {
            assert_eq!(r.read(H, &extents).unwrap(), (vec![], data.clone()), "{}", r.name);
        }
        let at = data.len() as u64 - 10;
        let (got, body) = r.read(H, &[(0, 5), (at, BODY_MAX as u64 * 2)]).unwrap();
        assert_eq!(got, [5, 10]);
        assert_eq!(body[5..], data[at as usize..]);
    });
}

#[test]
fn flows_are_written_as_they_come() {
    on_both(|r| {
        let data = pattern(4, 2 * BODY_MAX + 77);
        let total = data.len() as u64;
        let extents = [(10, 1_000), (5_000, 300_000), (400_000, total - 301_000)];
        for piece in [FLOW_BUFFER_BYTES, 100_003] {
            let h = H + piece as u64;
            r.write_body(h, &extents, flow(&data, piece, None)).unwrap();
            assert_eq!(r.read(h, &extents).unwrap(), (vec![], data.clone()));
            assert_eq!(r.read(h, &[(1_010, 5)]).unwrap().1, [0; 5], "between the extents");
        }
        assert_eq!(r.metrics.snapshot_of(Op::IoWrite).bytes_in, 2 * total);
    });
}

#[test]
fn bodies_and_extents_must_agree() {
    on_both(|r| {
        let whole = |n| Body::Whole(PooledBuf::from_vec(pattern(1, n)));
        for (body, what) in [(whole(9), "short"), (whole(11), "long"), (Body::Empty, "none")] {
            let e = r.write_body(H, &[(0, 4), (8, 6)], body).unwrap_err();
            assert_eq!(e.code, ErrorCode::Invalid, "{what}");
        }
        assert!(r.list(0, 9).datahandles.is_empty(), "a refused body wrote nothing");
        for n in [9, 11, 0] {
            let e = r.write_body(H, &[(0, 4), (8, 6)], flow(&pattern(1, n), 4, None)).unwrap_err();
            assert_eq!(e.code, ErrorCode::Invalid, "flow of {n}");
        }
        let cut = PvfsError::new(ErrorCode::Unreachable, "cut");
        let e = r.write_body(H, &[(0, 10)], flow(&pattern(1, 8), 4, Some(cut))).unwrap_err();
        assert_eq!(e.code, ErrorCode::Unreachable);
        assert_eq!(r.metrics.snapshot_of(Op::IoWrite).bytes_in, 0, "nothing is half counted");
    });
}

#[test]
fn foreign_handles_are_stale() {
    on_both(|r| {
        for h in [0, 1, FIRST - 1, u64::MAX] {
            let errors = [
                r.read(h, &[(0, 1)]).unwrap_err(),
                r.write(h, &[(0, b"x")]).unwrap_err(),
                r.truncate(h, 0, false).unwrap_err(),
                r.fallocate(h, &[(0, 1)], true).unwrap_err(),
                r.sync(vec![H, h]).unwrap_err(),
                r.remove(vec![H, h]).unwrap_err(),
            ];
            for e in errors {
                assert_eq!(e.code, ErrorCode::Stale);
                assert!(e.detail.contains("'io0'") && e.detail.contains("compare"), "{e}");
            }
        }
        let e = r.raw(GetattrRequest { handle: 1 }.into_request(), Body::Empty).unwrap_err();
        assert_eq!(e.code, ErrorCode::NotSupported);
    });
}

#[test]
fn impossible_extents_are_refused() {
    on_both(|r| {
        for (extents, code) in [
            (vec![], ErrorCode::Invalid),
            (vec![(5, 5), (9, 1)], ErrorCode::Invalid),
            (vec![(0, IO_BYTES_MAX), (IO_BYTES_MAX, 1)], ErrorCode::Invalid),
            (vec![(u64::MAX, 1)], ErrorCode::FileTooBig),
            (vec![(i64::MAX as u64, 1)], ErrorCode::FileTooBig),
        ] {
            assert_eq!(r.read(H, &extents).unwrap_err().code, code);
            let body = Body::Whole(PooledBuf::from_vec(vec![1; 6]));
            assert_eq!(r.write_body(H, &extents, body).unwrap_err().code, code);
        }
        assert_eq!(r.truncate(H, u64::MAX, true).unwrap_err().code, ErrorCode::FileTooBig);
    });
}

#[test]
fn removed_datafiles_stay_removed_for_their_time() {
    on_both(|r| {
        r.write(H, &[(0, b"gone")]).unwrap();
        assert_eq!(r.remove(vec![H, H + 1]).unwrap(), 1);
        assert_eq!(r.remove(vec![H, H + 1]).unwrap(), 0);
        for h in [H, H + 1] {
            for e in [
                r.write(h, &[(0, b"late")]).unwrap_err(),
                r.truncate(h, 9, true).unwrap_err(),
                r.fallocate(h, &[(0, 9)], false).unwrap_err(),
            ] {
                assert_eq!(e.code, ErrorCode::Stale, "{e}");
            }
        }
        assert_eq!(r.read(H, &[(0, 4)]).unwrap_err().code, ErrorCode::Stale);
        assert!(r.list(0, 9).datahandles.is_empty());
        r.clock.0.fetch_add(400_000_000_000, Ordering::Relaxed);
        r.write(H, &[(0, b"new")]).unwrap();
        assert_eq!(r.read(H, &[(0, 9)]).unwrap().1, b"new");
    });
}

#[test]
fn the_background_ends_when_it_is_told() {
    on_both(|r| {
        r.write(H, &[(0, b"x")]).unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        r.rt.block_on(async {
            tokio::join!(r.server.background(stopped), async {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                stop.send(true).unwrap();
            })
        });
        r.rt.block_on(r.server.shutdown()).unwrap();
        assert_eq!(r.read(H, &[(0, 1)]).unwrap().1, b"x");
    });
}

#[test]
fn the_scrub_passes_over_everything_and_finds_damage() {
    let dir = tempfile::tempdir().unwrap();
    let data = pattern(5, 300_000);
    {
        let r = Rig::disk_at(dir.path());
        for h in [H, H + 1, H + 2] {
            r.write(h, &[(0, &data)]).unwrap();
        }
        r.space.as_ref().unwrap().close().unwrap();
    }
    let low = (H + 1) & 0xff;
    let path = dir.path().join(format!("bstreams/{low:02x}/{:016x}", H + 1));
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes, data, "a datafile holds the pure bytes");
    bytes[100_000] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    let r = Rig::disk_at(dir.path());
    let mut scrubber = Scrubber::new(r.server.state().clone());
    let turn = |scrubber: &mut Scrubber| r.rt.block_on(scrubber.turn(100_000));
    assert_eq!(turn(&mut scrubber).bytes, 0, "not before its time");
    r.clock.0.fetch_add(PAUSE_NS, Ordering::Relaxed);
    let (mut read, mut damaged, mut turns) = (0, Vec::new(), 0);
    loop {
        let step = turn(&mut scrubber);
        assert!(step.bytes <= 100_000 + 65_536, "a turn is bounded: {}", step.bytes);
        read += step.bytes;
        damaged.extend(step.damaged);
        turns += 1;
        if step.done {
            break;
        }
        assert!(turns < 100);
    }
    assert!(read >= 900_000 - 65_536, "{read}");
    assert_eq!(damaged.len(), 1);
    assert_eq!((damaged[0].handle.0, damaged[0].physical_offset), (H + 1, 65_536));
    assert_eq!(turn(&mut scrubber).bytes, 0, "the next pass waits");
    assert_eq!(r.read(H + 1, &[(65_536, 10)]).unwrap_err().code, ErrorCode::Damaged);
    assert_eq!(r.read(H + 1, &[(0, 10)]).unwrap().1, data[..10]);
}

#[test]
fn truncate_cuts_and_lengthens_only_if_asked() {
    on_both(|r| {
        r.write(H, &[(0, &pattern(8, 200_000))]).unwrap();
        r.truncate(H, 300_000, false).unwrap();
        assert_eq!(r.stat(H).size, 200_000);
        r.truncate(H, 70_001, false).unwrap();
        r.truncate(H, 100_000, true).unwrap();
        assert_eq!(r.stat(H).size, 100_000);
        let (_, body) = r.read(H, &[(0, 100_000)]).unwrap();
        assert_eq!(body[..70_001], pattern(8, 200_000)[..70_001]);
        assert!(body[70_001..].iter().all(|b| *b == 0), "cut bytes came back");
        // A long cut takes the way through the pool.
        r.truncate(H, 5 << 20, true).unwrap();
        r.truncate(H, 3, false).unwrap();
        assert_eq!(r.read(H, &[(0, 9)]).unwrap().1, pattern(8, 3));
    });
}

#[test]
fn holes_show_in_the_map() {
    on_both(|r| {
        let mib = 1u64 << 20;
        r.write(H, &[(0, &pattern(1, 65_536)), (mib, &pattern(2, 65_536))]).unwrap();
        let m = r.map(H, 0, 100);
        assert_eq!((m.size, m.more), (mib + 65_536, false));
        let has = |m: &pvfs2_proto::op::DfMapResponse, at: u64| {
            m.data.iter().any(|e| (e.physical_offset..e.physical_offset + e.len).contains(&at))
        };
        assert!(has(&m, 0) && has(&m, mib) && !has(&m, mib / 2), "{}: {m:?}", r.name);
        assert!(r.map(H, 0, 1).more);
        r.fallocate(H, &[(mib, 65_536)], true).unwrap();
        let m = r.map(H, 0, 100);
        assert!(!has(&m, mib) && m.size == mib + 65_536, "{}: {m:?}", r.name);
        assert_eq!(r.read(H, &[(mib, 4)]).unwrap().1, [0; 4]);
        assert!(r.map(H + 1, 0, 4).data.is_empty());
    });
}

#[test]
fn lists_are_paged_in_order() {
    on_both(|r| {
        let mut all: Vec<u64> = (0..50).map(|i| FIRST + i * 37).collect();
        for h in all.iter().rev() {
            r.write(*h, &[(0, b"x")]).unwrap();
        }
        all.sort_unstable();
        let (mut seen, mut after) = (Vec::<u64>::new(), 0);
        loop {
            let page = r.list(after, 7);
            assert!(page.datahandles.len() <= 7);
            seen.extend(&page.datahandles);
            if page.end {
                break;
            }
            after = *page.datahandles.last().unwrap();
        }
        assert_eq!(seen, all);
        r.sync(all.clone()).unwrap();
        assert_eq!(r.remove(all).unwrap(), 50);
        r.rt.block_on(r.server.shutdown()).unwrap();
    });
}

#[test]
fn several_loops_write_one_datafile() {
    const LOOPS: u64 = 4;
    const ROUNDS: u64 = 60;
    const LEN: usize = 10_007;
    on_both(|r| {
        // Each loop owns every fourth piece of the datafile; strips are shared by neighbours. A
        // fifth truncates at the far end, where nobody else writes.
        let far = 64 << 20;
        std::thread::scope(|s| {
            for l in 0..LOOPS {
                s.spawn(move || {
                    let other = Rig::sharing(r);
                    for i in 0..ROUNDS {
                        let n = i * LOOPS + l;
                        other.write(H, &[(n * LEN as u64, &pattern(n, LEN))]).unwrap();
                    }
                });
            }
            s.spawn(move || {
                let other = Rig::sharing(r);
                for i in 0..ROUNDS {
                    other.write(H, &[(far + i, b"end")]).unwrap();
                    other.truncate(H, far, false).unwrap();
                }
            });
        });
        assert_eq!(r.stat(H).size, far);
        for n in 0..LOOPS * ROUNDS {
            let (_, body) = r.read(H, &[(n * LEN as u64, LEN as u64)]).unwrap();
            assert!(body == pattern(n, LEN), "{}: piece {n}", r.name);
        }
        r.sync(vec![H]).unwrap();
    });
}

#[test]
#[ignore = "needs root: mounts a tmpfs; run with --ignored"]
fn a_full_disk_leaves_nothing_half_written() {
    let small = rig::SmallDisk::mount(6 << 20);
    let r = Rig::disk_at(small.path());
    r.write(H, &[(0, &pattern(1, 65_536))]).unwrap();
    let mut full = None;
    for i in 0..400u64 {
        let h = H + 1 + i;
        r.write(h, &[(0, &pattern(i, 65_536))]).unwrap_or_else(|e| {
            assert_eq!(e.code, ErrorCode::NoSpace, "{e}");
            full = Some(h);
            0
        });
        if full.is_some() {
            break;
        }
    }
    let full = full.expect("the disk did not fill up");
    assert_eq!(r.stat(full).size, 0, "nothing is left of the write that failed");
    let e =
        r.write(H, &[(65_536, &pattern(9, 600_000)), (900_000, &pattern(9, 400_000))]).unwrap_err();
    assert_eq!(e.code, ErrorCode::NoSpace, "{e}");
    assert_eq!(r.stat(H).size, 65_536, "the datafile has its former length");
    assert_eq!(r.read(H, &[(0, 65_536)]).unwrap().1, pattern(1, 65_536));
    let gone: Vec<u64> = r.list(H, 100).datahandles;
    assert!(r.remove(gone).unwrap() > 0);
    r.write(H, &[(65_536, &pattern(9, 600_000))]).unwrap();
    assert_eq!(r.read(H, &[(65_536, 600_000)]).unwrap().1, pattern(9, 600_000));
}
