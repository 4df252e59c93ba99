//! Who reads, lists or holds a file while the other side replaces or removes it.
use super::Pair;
use crate::pattern;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The bytes of generation `g`: its number, then a pattern; small, then just striped, then long.
fn generation(g: u64) -> Vec<u8> {
    let len = [30, 9_000, 150_000][g as usize % 3];
    let mut out = g.to_le_bytes().to_vec();
    out.extend(pattern::bytes(g, 0, len));
    out
}

/// Reads `path` until `stop`: it is always there, always one whole generation, never an older one
/// than before.
fn read_on(path: &Path, stop: &AtomicBool) {
    let (mut last, mut looks) = (0, 0);
    while !stop.load(Ordering::Acquire) || looks == 0 {
        let size = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("stat: {e}")).len();
        assert!([38, 9_008, 150_008].contains(&size), "stat: {size} bytes");
        let mut file = File::open(path).unwrap_or_else(|e| panic!("open: {e}"));
        let mut got = Vec::new();
        file.read_to_end(&mut got).unwrap_or_else(|e| panic!("read: {e}"));
        let g = got.first_chunk().map(|b| u64::from_le_bytes(*b)).expect("at least a number");
        assert!(
            got == generation(g),
            "{} bytes that begin as generation {g}: a mixture",
            got.len()
        );
        assert!(g >= last, "generation {g} after {last}");
        (last, looks) = (g, looks + 1);
    }
}

fn rename_over(p: &Pair, from: &str) {
    let [a, b] = p.both("target");
    fs::write(&a, generation(0)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        for path in [&b, &b, &a] {
            let stop = &stop;
            s.spawn(move || read_on(path, stop));
        }
        for g in 1..120 {
            let new = p.a.join(format!("{from}new{}", g % 2));
            fs::write(&new, generation(g)).expect("write the next one");
            fs::rename(&new, &a).expect("rename over");
        }
        stop.store(true, Ordering::Release);
    });
    p.reads("the last one", &b, &generation(119));
}

pub(super) fn rename_over_under_a_reader(p: &Pair) {
    rename_over(p, "");
}

pub(super) fn rename_over_from_another_directory(p: &Pair) {
    // Some of them on other metadata servers than the target.
    for n in 0..3 {
        let own = p.inside(&format!("target{n}"));
        fs::create_dir(own.a.join("new")).unwrap();
        rename_over(&own, "new/");
    }
}

/// Uses `held`, whose file has lost its last name, in every way.
fn goes_on(p: &Pair, held: &File, mut want: Vec<u8>) {
    let read = || {
        let mut got = vec![0; want_room()];
        let n = held.read_at(&mut got, 0).expect("read what has no name");
        got.truncate(n);
        got
    };
    assert!(read() == want, "the bytes of a file without a name");
    p.seen("no link is left", || held.metadata().expect("fstat").nlink() == 0);
    for (at, len) in [(10, 500), (want.len(), 3_000), (100_000, 70_000)] {
        let piece = pattern::bytes(at as u64, 0, len);
        held.write_all_at(&piece, at as u64).expect("write to what has no name");
        want.resize(want.len().max(at + len), 0);
        want[at..at + len].copy_from_slice(&piece);
        assert!(read() == want, "{len} bytes written at {at} to a file without a name");
    }
    held.sync_all().expect("fsync of what has no name");
    assert!(read() == want, "synced");
    held.set_len(20).expect("truncate what has no name");
    want.truncate(20);
    assert!(read() == want, "truncated");
    assert_eq!(held.metadata().expect("fstat").len(), 20);
}

fn want_room() -> usize {
    400_000
}

fn held_open(p: &Pair, take_away: impl Fn(&Path)) {
    for len in [0usize, 1_000, 8_192, 200_000] {
        let [a, b] = p.both(&format!("held{len}"));
        let want = pattern::bytes(1, 0, len);
        fs::write(&a, &want).unwrap();
        let open = OpenOptions::new().read(true).write(true).open(&b).expect("open");
        let reader = File::open(&b).expect("open for reading");
        take_away(&a);
        goes_on(p, &open, want);
        drop(open);
        // The other descriptor keeps it.
        let mut left = Vec::new();
        (&reader).read_to_end(&mut left).expect("read");
        assert_eq!(left.len(), 20, "after the writer's close");
    }
}

pub(super) fn removed_while_open_elsewhere(p: &Pair) {
    held_open(p, |path| {
        fs::remove_file(path).expect("unlink");
    });
}

pub(super) fn replaced_while_open_elsewhere(p: &Pair) {
    held_open(p, |path| {
        let new = path.with_extension("new");
        fs::write(&new, "new").expect("write");
        fs::rename(&new, path).expect("rename over");
    });
}

/// One side makes and removes names all the time; the other lists: what was there all the time is
/// there exactly once, and nothing is there twice.
pub(super) fn listings_keep_what_stays(p: &Pair) {
    const STAY: usize = 400;
    for i in 0..STAY {
        // Among them others that go before the first listing, so that there are gaps.
        fs::write(p.a.join(format!("stays{i}")), "").unwrap();
        fs::write(p.a.join(format!("gone{i}")), "").unwrap();
    }
    for i in 0..STAY {
        fs::remove_file(p.a.join(format!("gone{i}"))).unwrap();
    }
    let stop = AtomicBool::new(false);
    let list = |dir: &Path| {
        let mut looks = 0;
        while !stop.load(Ordering::Acquire) || looks < 3 {
            let mut seen = BTreeMap::new();
            for entry in fs::read_dir(dir).expect("list") {
                let name = entry.expect("entry").file_name().into_string().expect("our own names");
                *seen.entry(name).or_insert(0) += 1;
            }
            let twice: Vec<_> = seen.iter().filter(|(_, n)| **n > 1).collect();
            assert!(twice.is_empty(), "listed twice: {twice:?}");
            let missing: Vec<_> =
                (0..STAY).map(|i| format!("stays{i}")).filter(|n| !seen.contains_key(n)).collect();
            assert!(missing.is_empty(), "not listed: {missing:?}");
            looks += 1;
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| list(&p.b));
        s.spawn(|| list(&p.b));
        s.spawn(|| list(&p.a));
        for i in 0..250 {
            let path = p.a.join(format!("comes{i}"));
            fs::write(&path, "").expect("create");
            if i % 3 == 0 {
                fs::rename(&path, p.a.join(format!("moved{i}"))).expect("rename");
            } else {
                fs::remove_file(&path).expect("unlink");
            }
        }
        stop.store(true, Ordering::Release);
    });
}
