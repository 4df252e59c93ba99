//! The bstreams' suite, run over both media: what is written is read, whatever ends the process;
//! what the disk changes is found; removed handles stay removed.
use super::*;
use crate::collection::tests::{Fixture, options};
use crate::scrub::Scrub;
use crate::space::{MemSpace, StorageSpace};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;

const H: Handle = Handle(0x0102_0304_0506_0708);
const S: usize = STRIP_BYTES as usize;

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

fn all(b: &Bstreams, h: Handle) -> Result<Vec<u8>> {
    let size = b.stat(h)?.size as usize;
    let mut buf = vec![0xee; size + 10];
    let n = b.read(h, 0, &mut buf)?;
    buf.truncate(n);
    Ok(buf)
}

fn path(f: &Fixture, h: Handle) -> std::path::PathBuf {
    let Fixture::Disk(dir, _) = f else { panic!("only on disk") };
    dir.path().join(format!("s/bstreams/{:02x}/{h}", h.0 & 0xff))
}

fn damage(f: &Fixture, h: Handle, at: u64) {
    match f {
        Fixture::Memory(m) => assert!(m.disk.damage(h.0, at, 0x10)),
        Fixture::Disk(..) => {
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path(f, h)).unwrap();
            let mut b = [0];
            file.read_exact_at(&mut b, at).unwrap();
            file.write_all_at(&[b[0] ^ 0x10], at).unwrap();
        }
    }
}

#[test]
fn a_datafile_is_lazy_and_holds_pure_bytes_where_they_belong() {
    let f = Fixture::disk();
    let s = f.open();
    let b = &s.bstreams;
    assert_eq!(b.read(H, 0, &mut [0; 4]).unwrap(), 0);
    assert_eq!(b.read_nowait(H, 0, &mut [0; 4]).unwrap(), Some(0));
    assert_eq!(b.stat(H).unwrap(), DfStat::default());
    b.truncate(H, 0, true).unwrap();
    b.truncate(H, 100, false).unwrap();
    b.punch(H, 0, 100).unwrap();
    b.sync(H).unwrap();
    assert!(!path(&f, H).exists());
    assert_eq!(b.statfs().unwrap().datafiles, 0);
    b.write(H, 5, &[b"he", b"", b"llo"]).unwrap();
    assert!(path(&f, H).ends_with("08/0102030405060708"));
    assert_eq!(std::fs::read(path(&f, H)).unwrap(), b"\0\0\0\0\0hello");
    assert_eq!(b.statfs().unwrap().datafiles, 1);
    assert!(b.remove(H).unwrap());
    assert!(!path(&f, H).exists() && !path(&f, H).with_extension("crc").exists());
    assert_eq!(b.statfs().unwrap().datafiles, 0);
}

#[test]
fn reads_writes_and_times() {
    for f in Fixture::both() {
        let s = f.open();
        let b = &s.bstreams;
        let data = pattern(3 * S + 100, 1);
        let t = b.write(H, 0, &[&data[..70_000], &data[70_000..]]).unwrap();
        assert_eq!(b.stat(H).unwrap().mtime_ns, t);
        assert_eq!(b.stat(H).unwrap().size, data.len() as u64);
        assert_eq!(all(b, H).unwrap(), data);
        for (at, len) in [(0, 1), (S - 1, 2), (S, S), (10, 2 * S), (3 * S + 99, 50), (4 * S, 9)] {
            let want = &data[at.min(data.len())..(at + len).min(data.len())];
            let mut buf = vec![0; len];
            let n = b.read(H, at as u64, &mut buf).unwrap();
            assert_eq!(&buf[..n], want);
            if let Some(n) = b.read_nowait(H, at as u64, &mut buf).unwrap() {
                assert_eq!(&buf[..n], want);
            }
        }
        let (data_at, size, more) = b.map(H, 0, 10).unwrap();
        assert_eq!((data_at[0].physical_offset, size, more), (0, data.len() as u64, false));
        b.allocate(H, 1 << 20, 1 << 20).unwrap();
        assert_eq!(b.stat(H).unwrap().size, data.len() as u64);
        let crcs: Vec<u32> = data.chunks(S).map(crc32fast::hash).collect();
        assert_eq!(b.strip_crcs(H, 0..100).unwrap(), crcs);
        assert_eq!(b.strip_crcs(H, 3..4).unwrap(), crcs[3..]);
    }
}

#[test]
fn whole_strips_in_memory_are_lent_under_their_stored_sums() {
    use std::os::unix::fs::FileExt;
    let extent =
        |at: usize, len: usize| PhysicalExtent { physical_offset: at as u64, len: len as u64 };
    let f = Fixture::disk();
    let s = f.open();
    let b = &s.bstreams;
    let data = pattern(5 * S + 100, 1);
    assert!(b.lend(H, &[extent(0, S)]).unwrap().is_none(), "there is no such datafile");
    b.write(H, 0, &[&data]).unwrap();
    let extents = [extent(S, S), extent(3 * S, 2 * S + 100)];
    let want = [&data[S..2 * S], &data[3 * S..]].concat();
    let Some(loan) = b.lend(H, &extents).unwrap() else {
        println!("SKIPPED: this system does not tell which pages are in memory");
        return;
    };
    assert_eq!(loan.crc, crc32fast::hash(&want));
    let mut got = vec![0; S];
    loan.file.read_exact_at(&mut got, S as u64).unwrap();
    assert_eq!(got, data[S..2 * S]);
    for not_whole in [
        extent(1, S),
        extent(0, S - 1),
        extent(4 * S, S + 99),
        extent(5 * S, 200),
        extent(6 * S, S),
    ] {
        assert!(b.lend(H, &[extent(0, S), not_whole]).unwrap().is_none(), "{not_whole:?}");
    }
    // Damage is not seen here: the sum stays that of the bytes that were written.
    damage(&f, H, 9);
    let lent = b.lend(H, &[extent(0, S)]).unwrap().unwrap();
    assert_eq!(lent.crc, crc32fast::hash(&data[..S]));
    assert_eq!(b.read(H, 0, &mut got).unwrap_err().code, ErrorCode::Damaged);
    assert!(b.remove(H).unwrap());
    assert!(b.lend(H, &[extent(0, S)]).is_err_and(|e| e.code == ErrorCode::Stale));
}

#[test]
fn what_is_read_ahead_is_opened_and_in_memory_soon() {
    let f = Fixture::disk();
    let all = [PhysicalExtent { physical_offset: 0, len: 2 * S as u64 }];
    let s = f.open();
    s.bstreams.write(H, 0, &[&pattern(2 * S, 1)]).unwrap();
    if s.bstreams.lend(H, &all).unwrap().is_none() {
        return println!("SKIPPED: this system does not tell which pages are in memory");
    }
    s.bstreams.close().unwrap();
    drop(s);
    let s = f.open();
    let b = &s.bstreams;
    let file = std::fs::File::open(path(&f, H)).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(b.read_ahead(H, 2 * S as u64).unwrap());
    assert!(!b.read_ahead(Handle(H.0 + 1), 1).unwrap(), "there is none");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while b.lend(H, &all).unwrap().is_none() {
        assert!(std::time::Instant::now() < end, "it does not come");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(b.remove(H).unwrap());
    assert!(b.read_ahead(H, 1).is_err_and(|e| e.code == ErrorCode::Stale));
}

#[test]
fn sums_that_are_known_already_are_not_made_again() {
    for f in Fixture::both() {
        let s = f.open();
        let b = &s.bstreams;
        let data = pattern(2 * S + 900, 3);
        let at = S - 100;
        let crcs: Vec<u32> =
            [&data[..100], &data[100..100 + S], &data[100 + S..]].map(crc32fast::hash).into();
        b.write_summed(H, at as u64, &[&data], &crcs).unwrap();
        // Over it, not beginning with a strip either, and with sums that cannot be meant.
        b.write_summed(H, (S + 5) as u64, &[&data[..S]], &[1]).unwrap();
        let mut want = vec![0; at];
        want.extend_from_slice(&data);
        want[S + 5..2 * S + 5].copy_from_slice(&data[..S]);
        assert_eq!(all(b, H).unwrap(), want);
        let sums: Vec<u32> = want.chunks(S).map(crc32fast::hash).collect();
        assert_eq!(b.strip_crcs(H, 0..9).unwrap(), sums);
        // They are believed: wrong ones are found by the next reader.
        b.write_summed(H, 0, &[&data[..S]], &[7]).unwrap();
        assert_eq!(all(b, H).unwrap_err().code, ErrorCode::Damaged);
    }
}

#[test]
fn holes_far_out_cost_nothing() {
    for f in Fixture::both() {
        let s = f.open();
        let b = &s.bstreams;
        let far = 1u64 << 40;
        b.write(H, far, &[b"far"]).unwrap();
        b.write(H, 10, &[b"near"]).unwrap();
        let (data, size, more) = b.map(H, 0, 1).unwrap();
        assert_eq!((data.len(), size, more), (1, far + 3, true));
        assert_eq!(b.map(H, data[0].len, 9).unwrap().0[0].physical_offset, far);
        let mut buf = [1; 8];
        assert_eq!(b.read(H, far - 4, &mut buf).unwrap(), 7);
        assert_eq!(&buf[..7], b"\0\0\0\0far");
        b.punch(H, 0, far + 3).unwrap();
        assert_eq!(b.map(H, 0, 9).unwrap(), (vec![], far + 3, false));
        s.close().unwrap();
        drop(s);
        let s = f.open();
        assert_eq!(s.bstreams.read(H, far, &mut buf).unwrap(), 3);
        assert_eq!(&buf[..3], b"\0\0\0");
        s.bstreams.truncate(H, 4, false).unwrap();
        assert_eq!(all(&s.bstreams, H).unwrap(), [0; 4]);
        let e = s.bstreams.write(H, i64::MAX as u64, &[b"x"]).unwrap_err();
        assert_eq!(e.code, ErrorCode::FileTooBig);
    }
}

#[test]
fn removed_handles_are_stale_across_restarts() {
    for f in Fixture::both() {
        let s = f.open();
        let never = Handle(77);
        s.bstreams.write(H, 0, &[b"x"]).unwrap();
        assert!(s.bstreams.remove(H).unwrap());
        assert!(!s.bstreams.remove(H).unwrap());
        assert!(!s.bstreams.remove(never).unwrap());
        let check = |s: &StorageSpace| {
            for h in [H, never] {
                assert_eq!(s.bstreams.write(h, 0, &[b"y"]).unwrap_err().code, ErrorCode::Stale);
                assert_eq!(s.bstreams.truncate(h, 9, true).unwrap_err().code, ErrorCode::Stale);
                assert_eq!(s.bstreams.allocate(h, 0, 9).unwrap_err().code, ErrorCode::Stale);
                assert_eq!(s.bstreams.read(h, 0, &mut [0]).unwrap_err().code, ErrorCode::Stale);
                assert_eq!(s.bstreams.stat(h).unwrap(), DfStat::default());
                s.bstreams.sync(h).unwrap();
            }
        };
        check(&s);
        f.crash(s);
        let s = f.open();
        check(&s);
        s.close().unwrap();
        drop(s);
        let mut o = options();
        o.bstreams.recycle_secs = 0;
        if let Fixture::Disk(..) = f {
            let s = f.open_with(o);
            s.bstreams.write(H, 0, &[b"y"]).unwrap();
            assert_eq!(all(&s.bstreams, H).unwrap(), b"y");
        }
    }
}

#[test]
fn listing_pages_in_order() {
    for f in Fixture::both() {
        let s = f.open();
        let mut want: Vec<u64> = (0..50u64).map(|i| (i * 7919) << 3 | 1).collect();
        for h in &want {
            s.bstreams.write(Handle(*h), 0, &[b"x"]).unwrap();
        }
        want.sort_unstable();
        let mut got = Vec::new();
        let mut after = Handle::NULL;
        loop {
            let (page, end) = s.bstreams.list(after, 7).unwrap();
            got.extend(page.iter().map(|h| h.0));
            after = page.last().copied().unwrap_or(after);
            if end {
                break;
            }
        }
        assert_eq!(got, want);
        assert_eq!(s.bstreams.statfs().unwrap().datafiles, 50);
    }
}

#[test]
fn a_damaged_byte_is_found_by_whole_and_by_partial_reads() {
    for f in Fixture::both() {
        for ending in 0..2 {
            let h = Handle(H.0 + ending);
            let s = f.open();
            s.bstreams.write(h, 0, &[&pattern(3 * S + 9, 3)]).unwrap();
            // At rest: synced, checksums written down, unmarked.
            (0..20).for_each(|_| s.bstreams.step().unwrap());
            if ending == 0 {
                s.close().unwrap()
            }
            f.crash(s);
            damage(&f, h, (S + 77) as u64);
            let s = f.open();
            let b = &s.bstreams;
            let mut buf = vec![0; S];
            assert_eq!(b.read(h, 0, &mut buf).unwrap(), S);
            for (at, len) in [(S, S), (S + 500, 10), (0, 3 * S + 9), (S - 1, 2)] {
                let mut buf = vec![0; len];
                let e = b.read(h, at as u64, &mut buf).unwrap_err();
                assert_eq!(e.code, ErrorCode::Damaged);
                assert!(e.detail.contains(&h.to_string()) && e.detail.contains("65536"), "{e}");
            }
            let mut scrub = Scrub::new(b.clone());
            let mut found = Vec::new();
            loop {
                let step = scrub.step(100_000).unwrap();
                found.extend(step.damaged.iter().map(|d| (d.handle, d.physical_offset)));
                if step.done {
                    break;
                }
            }
            assert_eq!(found, [(h, STRIP_BYTES)]);
            // Writing over part of it keeps the damage found, over all of it mends.
            b.write(h, (S + 9) as u64, &[b"part"]).unwrap();
            assert_eq!(all(b, h).unwrap_err().code, ErrorCode::Damaged);
            b.write(h, S as u64, &[&pattern(S, 9)]).unwrap();
            assert_eq!(all(b, h).unwrap().len(), 3 * S + 9);
            b.remove(h).unwrap();
            s.close().unwrap();
        }
    }
}

#[test]
fn a_shortened_datafile_and_a_damaged_hole_are_found() {
    let f = Fixture::disk();
    let s = f.open();
    s.bstreams.write(H, 5 * S as u64, &[b"end"]).unwrap();
    s.close().unwrap();
    drop(s);
    damage(&f, H, S as u64);
    let s = f.open();
    let e = s.bstreams.read(H, S as u64 - 1, &mut [0; 8]).unwrap_err();
    assert_eq!(e.code, ErrorCode::Damaged);
    s.close().unwrap();
    drop(s);
    std::fs::OpenOptions::new().write(true).open(path(&f, H)).unwrap().set_len(9).unwrap();
    let s = f.open();
    let e = s.bstreams.read(H, 0, &mut [0; 8]).unwrap_err();
    assert!(e.code == ErrorCode::Damaged && e.detail.contains("9 bytes"), "{e}");
}

#[test]
fn after_a_crash_dirty_datafiles_are_learned_again() {
    for f in Fixture::both() {
        let s = f.open();
        let data = pattern(4 * S + 17, 5);
        s.bstreams.write(H, 0, &[&data]).unwrap();
        f.crash(s);
        let s = f.open();
        let b = &s.bstreams;
        // Some strips by a partial write, one by a read, the others by the background.
        b.write(H, 100, &[b"changed"]).unwrap();
        b.read(H, 2 * STRIP_BYTES, &mut [0; 5]).unwrap();
        b.truncate(H, 4 * STRIP_BYTES + 3, false).unwrap();
        let mut want = data.clone();
        want[100..107].copy_from_slice(b"changed");
        want.truncate(4 * S + 3);
        (0..20).for_each(|_| b.step().unwrap());
        assert!(!b.inner.shared.marks.any(), "all is learned, at rest and unmarked");
        assert_eq!(all(b, H).unwrap(), want);
        f.crash(s);
        damage(&f, H, 4 * STRIP_BYTES);
        let s = f.open();
        assert_eq!(
            s.bstreams.read(H, 4 * STRIP_BYTES, &mut [0; 1]).unwrap_err().code,
            ErrorCode::Damaged
        );
        assert_eq!(s.bstreams.read(H, 0, &mut [0; 1]).unwrap(), 1);
    }
}

#[test]
fn a_failed_sync_poisons_one_datafile() {
    let m = MemSpace::new();
    let s = m.open(Env::real()).unwrap();
    s.bstreams.write(H, 0, &[b"x"]).unwrap();
    s.bstreams.write(Handle(9), 0, &[b"x"]).unwrap();
    m.disk.fail_next_sync(H.0);
    let e = s.bstreams.sync(H).unwrap_err();
    assert!(e.code == ErrorCode::Io && e.detail.contains("0102030405060708"), "{e}");
    assert_eq!(s.bstreams.write(H, 0, &[b"y"]).unwrap_err().code, ErrorCode::Io);
    assert_eq!(s.bstreams.read(H, 0, &mut [0]).unwrap_err().code, ErrorCode::Io);
    assert_eq!(s.bstreams.sync(H).unwrap_err().code, ErrorCode::Io);
    s.bstreams.sync(Handle(9)).unwrap();
    assert_eq!(all(&s.bstreams, Handle(9)).unwrap(), b"x");
}

#[test]
fn a_full_disk_leaves_what_was_written_and_right_checksums() {
    let m = MemSpace::new();
    let s = m.open(Env::real()).unwrap();
    let b = &s.bstreams;
    b.write(H, 0, &[&pattern(S, 1)]).unwrap();
    m.disk.set_space_left(Some(100));
    let e = b.write(H, 50, &[&pattern(2 * S, 2)]).unwrap_err();
    assert_eq!(e.code, ErrorCode::NoSpace);
    let mut want = pattern(S, 1);
    want[50..150].copy_from_slice(&pattern(100, 2));
    assert_eq!(all(b, H).unwrap(), want);
    m.disk.set_space_left(None);
    b.write(H, 60_000, &[&pattern(S, 3)]).unwrap();
    assert_eq!(all(b, H).unwrap().len(), 60_000 + S);
}

#[test]
fn synced_bytes_survive_loss_of_power_and_nothing_is_taken_for_damaged() {
    for keep in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, u64::MAX] {
        let m = MemSpace::new();
        let s = m.open(Env::real()).unwrap();
        let synced = pattern(2 * S + 5, 1);
        for h in 1..20 {
            s.bstreams.write(Handle(h), 0, &[&synced]).unwrap();
            s.bstreams.sync(Handle(h)).unwrap();
        }
        // At rest and unmarked: what follows is written before its mark is durable.
        (0..20).for_each(|_| s.bstreams.step().unwrap());
        assert!(!s.bstreams.inner.shared.marks.any());
        for h in 1..20 {
            s.bstreams.write(Handle(h), 7, &[b"unsynced"]).unwrap();
            s.bstreams.write(Handle(100 + h), 0, &[b"unsynced"]).unwrap();
        }
        m.lose_power(keep);
        let s = m.open(Env::real()).unwrap();
        if keep == 5 || keep == u64::MAX {
            // The background finds them all; a second end of the process forgets nothing.
            (0..2).for_each(|_| s.bstreams.step().unwrap());
            assert!(!s.bstreams.inner.shared.marks.power_lost());
            m.crash();
        }
        let s = m.open(Env::real()).unwrap();
        let mut changed = synced.clone();
        changed[7..15].copy_from_slice(b"unsynced");
        for h in 1..20 {
            let got = all(&s.bstreams, Handle(h)).unwrap();
            assert!(got == synced || got == changed);
            if keep == 0 {
                assert_eq!(got, synced)
            }
            if keep == u64::MAX {
                assert_eq!(got, changed)
            }
            let young = all(&s.bstreams, Handle(100 + h)).unwrap();
            assert!(young.is_empty() || young == b"unsynced");
        }
    }
}

#[test]
fn the_cache_stays_small_and_the_side_files_true() {
    for f in Fixture::both() {
        let s = f.open();
        let b = &s.bstreams;
        for h in 1..300u64 {
            b.write(Handle(h), h, &[&pattern(500, h as u8)]).unwrap();
        }
        (0..12).for_each(|_| b.step().unwrap());
        if let Fixture::Disk(..) = f {
            let open = b.inner.open_ones().len();
            assert!(open <= 64, "{open} datafiles are open");
        }
        for h in 1..300u64 {
            let mut want = vec![0; h as usize];
            want.extend(pattern(500, h as u8));
            assert_eq!(all(b, Handle(h)).unwrap(), want);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write { at: u32, len: u32, seed: u8 },
    Read { at: u32, len: u32 },
    Truncate { size: u32, extend: bool },
    Punch { at: u32, len: u32 },
    Round,
    Sync,
    Crash,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Offsets gather around the borders of strips.
    let place = || {
        (0u32..5, -20i32..20, 0u32..3).prop_map(|(strip, near, wide)| {
            (strip * STRIP_BYTES as u32).saturating_add_signed(near) + wide * 9_999
        })
    };
    let len = || prop_oneof![0u32..40, 0u32..200_000];
    let step = prop_oneof![
        6 => (place(), len(), any::<u8>()).prop_map(|(at, len, seed)| Step::Write { at, len, seed }),
        4 => (place(), len()).prop_map(|(at, len)| Step::Read { at, len }),
        2 => (place(), any::<bool>()).prop_map(|(size, extend)| Step::Truncate { size, extend }),
        2 => (place(), len()).prop_map(|(at, len)| Step::Punch { at, len }),
        2 => Just(Step::Round),
        1 => Just(Step::Sync),
        1 => Just(Step::Crash),
        1 => Just(Step::Close),
    ];
    prop::collection::vec(step, 1..40)
}

fn run(f: &Fixture, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut space = f.open();
    let mut model: Vec<u8> = Vec::new();
    for step in steps {
        let b = space.bstreams.clone();
        match step {
            Step::Write { at, len, seed } => {
                let data = pattern(len as usize, seed);
                let (a, z) = data.split_at(len as usize / 3);
                b.write(H, u64::from(at), &[a, z]).unwrap();
                if len > 0 {
                    let end = (at + len) as usize;
                    if model.len() < end {
                        model.resize(end, 0)
                    }
                    model[at as usize..end].copy_from_slice(&data);
                }
            }
            Step::Read { at, len } => {
                let mut buf = vec![0xaa; len as usize];
                let n = b.read(H, u64::from(at), &mut buf).unwrap();
                let from = (at as usize).min(model.len());
                prop_assert!(buf[..n] == model[from..model.len().min(from + len as usize)]);
            }
            Step::Truncate { size, extend } => {
                b.truncate(H, u64::from(size), extend).unwrap();
                if extend || (size as usize) < model.len() {
                    model.resize(size as usize, 0)
                }
            }
            Step::Punch { at, len } => {
                b.punch(H, u64::from(at), u64::from(len)).unwrap();
                let end = model.len().min((at + len) as usize);
                model.get_mut(at as usize..end).map(|m| m.fill(0)).unwrap_or_default();
            }
            Step::Round => (0..10).for_each(|_| b.step().unwrap()),
            Step::Sync => b.sync(H).unwrap(),
            Step::Crash => {
                drop(b);
                f.crash(space);
                space = f.open();
            }
            Step::Close => {
                space.close().unwrap();
                drop((b, space));
                space = f.open();
            }
        }
        let b = &space.bstreams;
        prop_assert_eq!(b.stat(H).unwrap().size, model.len() as u64);
    }
    let b = &space.bstreams;
    let crcs: Vec<u32> = model.chunks(S).map(crc32fast::hash).collect();
    prop_assert!(all(b, H).unwrap() == model);
    prop_assert_eq!(b.strip_crcs(H, 0..1000).unwrap(), crcs);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn equals_a_vector_in_memory(steps in steps()) {
        run(&Fixture::Memory(MemSpace::new()), steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn equals_a_vector_on_disk(steps in steps()) {
        run(&Fixture::disk(), steps)?;
    }
}
