//! The kernel's pages: kept over close and open and through this mount's own writes, and never
//! older than what another mount has written and closed.
use pvfs2_tests::mount::NO_CACHES;
use pvfs2_tests::wait::{secs, until};
use pvfs2_tests::{Cluster, Mount, Spec, pattern};
use rustix::fs::{self as rfs, AtFlags, CWD, FallocateFlags, Timespec, Timestamps};
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Over strips, and large enough that its pages are worth keeping.
const LEN: usize = 2 << 20;

fn mtime(path: &Path) -> (i64, i64) {
    let meta = fs::metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

fn open_rw(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Reads the file; how many requests that were at the I/O servers.
fn reads(cluster: &Cluster, file: &File, seed: u64) -> u64 {
    let before = cluster.counters();
    let mut got = vec![0; LEN];
    file.read_exact_at(&mut got, 0).unwrap();
    assert_eq!(pattern::differs(seed, 0, &got), None, "seed {seed}");
    (&cluster.counters() - &before).of("io_read")
}

fn own_writes_keep(options: &str) {
    let cluster = Cluster::start(Spec::default());
    let (a, b) = (cluster.mount(options), cluster.mount(NO_CACHES));
    let path = a.path("f");
    fs::write(&path, pattern::bytes(1, 0, LEN)).unwrap();
    let mut last = mtime(&path);
    let file = File::open(&path).unwrap();
    assert_eq!(reads(&cluster, &file, 1), 0, "what was just written is in the pages");
    drop(file);
    assert_eq!(reads(&cluster, &File::open(&path).unwrap(), 1), 0, "over close and open");
    // Written again and again, looked at in every way between: the times are true, the pages stay.
    for round in 2..6u64 {
        let file = open_rw(&path);
        for at in (0..LEN).step_by(64 << 10) {
            file.write_all_at(&pattern::bytes(round, at as u64, 64 << 10), at as u64).unwrap();
        }
        assert_eq!(reads(&cluster, &file, round), 0, "round {round}, open for writing");
        let meta = file.metadata().unwrap();
        let now = (meta.mtime(), meta.mtime_nsec());
        assert!(now > last, "round {round}: fstat shows {now:?} after {last:?}");
        assert_eq!(mtime(&path), now, "round {round}: stat and fstat");
        assert_eq!(reads(&cluster, &file, round), 0, "round {round}, after stat");
        drop(file);
        let listed = fs::read_dir(&a.dir).unwrap().next().unwrap().unwrap().metadata().unwrap();
        assert_eq!((listed.mtime(), listed.mtime_nsec()), now, "round {round}: listed");
        until(secs(5), "the other mount sees the same time", || mtime(&b.path("f")) == now);
        assert_eq!(mtime(&path), now, "round {round}: after close");
        assert_eq!(reads(&cluster, &File::open(&path).unwrap(), round), 0, "round {round}, closed");
        last = now;
    }
    // A change by the other mount, and the pages go; once.
    fs::write(b.path("f"), pattern::bytes(9, 0, LEN)).unwrap();
    let file = File::open(&path).unwrap();
    assert!(reads(&cluster, &file, 9) > 0, "another mount wrote");
    until(secs(5), "they stay again", || reads(&cluster, &File::open(&path).unwrap(), 9) == 0);
}

pub fn own_writes_keep_them() {
    own_writes_keep("");
}

pub fn own_writes_keep_them_without_caches() {
    own_writes_keep(NO_CACHES);
}

/// Maps the file and writes through the mapping.
fn write_mapped(file: &File, bytes: &[u8]) {
    // SAFETY: a fresh shared mapping of `bytes.len()` bytes of a file of that size; unmapped below.
    unsafe {
        let map = libc::mmap(
            std::ptr::null_mut(),
            bytes.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(map, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), map.cast(), bytes.len());
        assert_eq!(libc::msync(map, bytes.len(), libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(map, bytes.len()), 0);
    }
}

fn set_mtime(path: &Path, (tv_sec, tv_nsec): (i64, i64)) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    rfs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

/// Ways in which one mount makes `seed` of the file that another has in its pages. Each gives whether
/// the file is still the same one.
type Change = (&'static str, fn(&Mount, u64) -> bool);
const CHANGES: &[Change] = &[
    ("overwritten", |m, seed| {
        open_rw(&m.path("f")).write_all_at(&pattern::bytes(seed, 0, LEN), 0).unwrap();
        true
    }),
    ("overwritten, mtime set back", |m, seed| {
        let (path, before) = (m.path("f"), mtime(&m.path("f")));
        open_rw(&path).write_all_at(&pattern::bytes(seed, 0, LEN), 0).unwrap();
        set_mtime(&path, before);
        true
    }),
    ("overwritten, mtime set back before the close", |m, seed| {
        let (path, before) = (m.path("f"), mtime(&m.path("f")));
        let file = open_rw(&path);
        file.write_all_at(&pattern::bytes(seed, 0, LEN), 0).unwrap();
        set_mtime(&path, before);
        true
    }),
    ("overwritten while its mtime lies ahead", |m, seed| {
        let path = m.path("f");
        let (s, ns) = mtime(&path);
        set_mtime(&path, (s + 1_000, ns));
        open_rw(&path).write_all_at(&pattern::bytes(seed, 0, LEN), 0).unwrap();
        true
    }),
    ("cut and written again", |m, seed| {
        fs::write(m.path("f"), pattern::bytes(seed, 0, LEN)).unwrap();
        true
    }),
    ("cut and written again, mtime set back", |m, seed| {
        let before = mtime(&m.path("f"));
        fs::write(m.path("f"), pattern::bytes(seed, 0, LEN)).unwrap();
        set_mtime(&m.path("f"), before);
        true
    }),
    ("written through a mapping", |m, seed| {
        write_mapped(&open_rw(&m.path("f")), &pattern::bytes(seed, 0, LEN));
        true
    }),
    ("written past the pages", |m, seed| {
        let mut how = OpenOptions::new();
        let file = how.write(true).custom_flags(libc::O_DIRECT).open(m.path("f")).unwrap();
        let mut raw = vec![0u8; LEN + 4096];
        let skip = raw.as_ptr().align_offset(4096);
        raw[skip..skip + LEN].copy_from_slice(&pattern::bytes(seed, 0, LEN));
        file.write_all_at(&raw[skip..skip + LEN], 0).unwrap();
        true
    }),
    ("copied over by the servers", |m, seed| {
        fs::write(m.path("source"), pattern::bytes(seed, 0, LEN)).unwrap();
        let (from, to) = (File::open(m.path("source")).unwrap(), open_rw(&m.path("f")));
        let (mut at, mut place) = (0, 0);
        while (at as usize) < LEN {
            let left = LEN - at as usize;
            let n = rfs::copy_file_range(&from, Some(&mut at), &to, Some(&mut place), left);
            assert!(n.unwrap() > 0);
        }
        true
    }),
    ("punched and written", |m, seed| {
        let file = open_rw(&m.path("f"));
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rfs::fallocate(&file, how, 0, LEN as u64).unwrap();
        file.write_all_at(&pattern::bytes(seed, 0, LEN), 0).unwrap();
        true
    }),
    ("replaced by another file of the same size and times", |m, seed| {
        let before = mtime(&m.path("f"));
        fs::write(m.path("new"), pattern::bytes(seed, 0, LEN)).unwrap();
        set_mtime(&m.path("new"), before);
        fs::rename(m.path("new"), m.path("f")).unwrap();
        false
    }),
];

fn check(file: &File, seed: u64, what: &str) {
    let mut got = vec![0; LEN];
    file.read_exact_at(&mut got, 0).unwrap();
    assert_eq!(pattern::differs(seed, 0, &got), None, "{what}");
}

/// Both mounts change the file in turn, in every way; the other, which has all of it in its pages,
/// must see it: by a new open, and, `at_once`, through a descriptor that was open before.
fn others(options: &str, at_once: bool) {
    let cluster = Cluster::start(Spec::default());
    let mounts = [cluster.mount(options), cluster.mount(options)];
    let paths: Vec<PathBuf> = mounts.iter().map(|m| m.path("f")).collect();
    fs::write(&paths[0], pattern::bytes(1, 0, LEN)).unwrap();
    let mut seed = 1;
    for (what, change) in CHANGES.iter().chain(CHANGES) {
        for (writer, mount) in mounts.iter().enumerate() {
            let (reader, text) = (1 - writer, format!("{what} by mount {writer}, seed {seed}"));
            // Half of the time the reader has written the pages itself: the kernel then knows an
            // older mtime than the file has.
            if seed % 2 == 0 {
                let file = open_rw(&paths[reader]);
                check(&file, seed, &text);
                file.write_all_at(&pattern::bytes(seed, 0, LEN), 0).unwrap();
            }
            let open = File::open(&paths[reader]).unwrap();
            check(&open, seed, &text);
            check(&open, seed, &text);
            seed += 1;
            let is_same_file = change(mount, seed);
            if at_once {
                // What else asks for attributes must not take the news from who reads.
                match seed % 3 {
                    0 => assert!(fs::metadata(&paths[reader]).is_ok()),
                    1 => {
                        let listed = fs::read_dir(&mounts[reader].dir).unwrap();
                        assert!(listed.into_iter().all(|e| e.unwrap().metadata().is_ok()));
                    }
                    _ => {}
                }
                let old = if is_same_file { seed } else { seed - 1 };
                check(&open, old, &format!("{text}: through an open descriptor"));
                check(&File::open(&paths[reader]).unwrap(), seed, &format!("{text}: opened anew"));
                check(&open, old, &format!("{text}: through an open descriptor, again"));
            } else {
                until(secs(3), "a replaced name is looked up again", || {
                    let inode = |m: usize| fs::metadata(&paths[m]).unwrap().ino();
                    is_same_file || inode(0) == inode(1)
                });
                check(&File::open(&paths[reader]).unwrap(), seed, &format!("{text}: opened anew"));
            }
        }
    }
}

pub fn others_changes_are_seen_at_once_without_caches() {
    others(NO_CACHES, true);
}

pub fn others_changes_are_seen_at_the_next_open() {
    others("", false);
}
