//! What one side wrote and closed, or synced, the other reads.
use super::{Pair, on_both_sides};
use crate::pattern;
use rustix::fs as rfs;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("open")
}

/// Sizes around every border: empty, small, just small, striped.
const SIZES: [usize; 8] = [10, 8_192, 8_193, 300_000, 65_536, 5_000, 0, 70_000];

pub(super) fn close_to_open(p: &Pair) {
    // Turn by turn, each side after it has read what the other wrote.
    for (turn, len) in SIZES.into_iter().enumerate() {
        let [mine, others] =
            if turn % 2 == 0 { p.both("turns") } else { p.swapped().both("turns") };
        let want = pattern::bytes(turn as u64, 0, len);
        fs::write(mine, &want).unwrap();
        p.reads(&format!("{len} bytes, written and closed"), &others, &want);
    }
    // Pieces in the middle of what the other side has in its page cache.
    let [a, b] = p.both("pieces");
    let mut want = pattern::bytes(99, 0, 200_000);
    fs::write(&a, &want).unwrap();
    for (turn, at) in [0, 4_095, 65_535, 131_072, 199_000].into_iter().enumerate() {
        p.reads("all before", &b, &want);
        let piece = pattern::bytes(100 + turn as u64, 0, 1_000);
        open(&a).write_all_at(&piece, at).unwrap();
        want[at as usize..at as usize + piece.len()].copy_from_slice(&piece);
    }
    p.reads("a piece, written and closed", &b, &want);
}

pub(super) fn read_after_fsync(p: &Pair) {
    for (name, len, at) in [("small", 3_000, 100), ("large", 200_000, 65_000)] {
        let [a, b] = p.both(name);
        let mut want = pattern::bytes(1, 0, len);
        let writer = open(&a);
        writer.write_all_at(&want, 0).unwrap();
        writer.sync_all().unwrap();
        p.reads("synced, opened after", &b, &want);
        let reader = File::open(&b).unwrap();
        let held = || {
            let mut got = vec![0; want_max(len)];
            let n = reader.read_at(&mut got, 0).expect("read");
            got.truncate(n);
            got
        };
        for turn in 0..3u64 {
            let piece = pattern::bytes(2 + turn, 0, 1_500);
            let at = at + turn * 500;
            writer.write_all_at(&piece, at).unwrap();
            if turn == 1 {
                rfs::fdatasync(&writer).unwrap();
            } else {
                writer.sync_all().unwrap();
            }
            want[at as usize..at as usize + piece.len()].copy_from_slice(&piece);
            p.seen(&format!("{name}: synced, held open"), || held() == want);
            p.reads("synced, opened again", &b, &want);
        }
        writer.write_all_at(b"more", len as u64 + 1_000).unwrap();
        writer.sync_all().unwrap();
        want.resize(len + 1_000, 0);
        want.extend_from_slice(b"more");
        p.seen("grown and synced, held open", || held() == want);
        writer.set_len(50).unwrap();
        want.truncate(50);
        p.seen("cut, held open", || held() == want);
        writer.set_len(2_000).unwrap();
        want.resize(2_000, 0);
        p.seen("cut and longer again: zeros", || held() == want);
    }
}

/// Room for what the readers above may find.
fn want_max(len: usize) -> usize {
    len + 10_000
}

/// A shared mapping of a whole file.
struct Map(*mut libc::c_void, usize);

impl Map {
    fn new(file: &File, len: usize, prot: i32) -> Map {
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Map(at, len)
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.1);
        // SAFETY: within the mapping, which lives as long as self.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.cast::<u8>().add(at), bytes.len());
        }
    }

    fn sync(&self) {
        // SAFETY: exactly the mapping.
        let rc = unsafe { libc::msync(self.0, self.1, libc::MS_SYNC) };
        assert_eq!(rc, 0, "msync: {}", std::io::Error::last_os_error());
    }

    fn get(&self) -> Vec<u8> {
        // SAFETY: the mapping is readable for its whole length; the copy ends before the borrow.
        unsafe { std::slice::from_raw_parts(self.0.cast::<u8>(), self.1) }.to_vec()
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping, which nobody uses any more.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

pub(super) fn mmap_after_msync(p: &Pair) {
    for (name, len) in [("small", 4_000), ("large", 150_000)] {
        let [a, b] = p.both(name);
        let mut want = pattern::bytes(5, 0, len);
        fs::write(&a, &want).unwrap();
        p.reads("before", &b, &want);
        let file = open(&a);
        let map = Map::new(&file, len, libc::PROT_READ | libc::PROT_WRITE);
        for turn in 0..3 {
            let piece = pattern::bytes(6 + turn, 0, 1_000);
            let at = turn as usize * (len / 3);
            map.put(at, &piece);
            map.sync();
            want[at..at + piece.len()].copy_from_slice(&piece);
            p.reads(&format!("{name}: mapped and synced, read"), &b, &want);
            let reader = File::open(&b).unwrap();
            let seen = Map::new(&reader, len, libc::PROT_READ);
            assert!(seen.get() == want, "{name}: mapped and synced, mapped by the other");
        }
        // And the way back: what the other writes and closes is in a mapping made after.
        drop(map);
        drop(file);
        let piece = pattern::bytes(50, 0, 900);
        open(&b).write_all_at(&piece, 10).unwrap();
        want[10..910].copy_from_slice(&piece);
        p.reads("written by the other", &a, &want);
        assert!(Map::new(&open(&a), len, libc::PROT_READ).get() == want, "{name}: mapped after");
    }
}

pub(super) fn disjoint_writers_lose_nothing(p: &Pair) {
    for (piece, pieces) in [(100, 60), (1_000, 64), (4_096, 64), (65_537, 24)] {
        let name = format!("pieces.{piece}");
        fs::write(p.a.join(&name), "").unwrap();
        let paths = p.both(&name);
        let ready = Barrier::new(4);
        on_both_sides(2, |side, n| {
            let file = open(&paths[side]);
            ready.wait();
            for i in (n..pieces).step_by(4) {
                let at = (i * piece) as u64;
                file.write_all_at(&pattern::bytes(7, at, piece), at).expect("write");
            }
        });
        let want = pattern::bytes(7, 0, piece * pieces);
        for path in &paths {
            p.seen(&format!("four writers, {piece} bytes in turn"), || {
                let got = fs::read(path).expect("read");
                got.len() == want.len() && pattern::differs(7, 0, &got).is_none()
            });
        }
    }
}

/// A file that one side appends to: the other never sees it shrink, never bytes that were not written,
/// and sees all of it in the end.
pub(super) fn a_growing_file(p: &Pair) {
    const LEN: usize = 400_000;
    let [a, b] = p.both("grows");
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut writer = open(&a);
    std::thread::scope(|s| {
        s.spawn(|| {
            let all = pattern::bytes(8, 0, LEN);
            all.chunks(1_777).for_each(|piece| writer.write_all(piece).expect("write"));
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let (mut last, mut looks) = (0, 0);
        while !done.load(std::sync::atomic::Ordering::Acquire) {
            let size = fs::metadata(&b).expect("stat").len();
            assert!(size >= last, "the file shrank from {last} to {size}");
            let got = fs::read(&b).expect("read");
            if let Some(at) = pattern::differs(8, 0, &got) {
                panic!("byte {at} of {} was never written", got.len());
            }
            (last, looks) = (size, looks + 1);
        }
        assert!(looks > 0);
    });
    p.seen("the last size", || fs::metadata(&b).expect("stat").len() == LEN as u64);
    p.reads("all of it", &b, &pattern::bytes(8, 0, LEN));
}
