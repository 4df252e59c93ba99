//! Files that are read one after another: the servers' disks read the next ones already.
use pvfs2_tests::mount::NO_CACHES;
use pvfs2_tests::wait::{secs, until};
use pvfs2_tests::{Cluster, Mount, Spec, pattern};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const FILES: u64 = 40;
const BYTES: usize = 65_536;
const CACHES: &str = "acache-ms=60000,ncache-ms=60000";

/// Pages of a local file that are in memory, of all.
fn resident(path: &Path) -> (usize, usize) {
    let file = File::open(path).unwrap();
    let pages = (file.metadata().unwrap().len() as usize).div_ceil(4096);
    let mut told = vec![0u8; pages];
    let len = pages * 4096;
    // SAFETY: a fresh mapping of an open file, given back below; a byte of `told` for each page.
    unsafe {
        let fd = file.as_raw_fd();
        let at = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
        assert_ne!(at, libc::MAP_FAILED);
        assert_eq!(libc::mincore(at, len, told.as_mut_ptr()), 0);
        libc::munmap(at, len);
    }
    (told.iter().filter(|t| **t & 1 != 0).count(), pages)
}

fn is_in_memory(path: &Path) -> bool {
    let (there, all) = resident(path);
    there == all
}

/// Drops the pages of local files; whether that can be done.
fn evict(paths: &[PathBuf]) -> bool {
    for path in paths {
        let file = File::open(path).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    paths.iter().all(|p| resident(p).0 == 0)
}

fn name(i: u64) -> String {
    format!("d/{i:03}")
}

/// Files made by another mount, and where their bytes lie, none of them in memory.
fn files(cluster: &Cluster) -> Option<Vec<PathBuf>> {
    let writer = cluster.mount(CACHES);
    fs::create_dir(writer.path("d")).unwrap();
    let mut lie = Vec::new();
    for i in 0..FILES {
        fs::write(writer.path(&name(i)), pattern::bytes(i, 0, BYTES)).unwrap();
        let ino = fs::metadata(writer.path(&name(i))).unwrap().ino();
        let found = cluster.io_servers().map(|s| cluster.datafile(s, ino)).find(|p| p.exists());
        lie.push(found.expect("a datafile"));
    }
    evict(&lie).then_some(lie)
}

fn read(mount: &Mount, which: std::ops::Range<u64>) {
    for i in which {
        let got = fs::read(mount.path(&name(i))).unwrap();
        assert!(got.len() == BYTES && pattern::differs(i, 0, &got).is_none(), "{i}");
    }
}

pub fn the_servers_disks_read_the_next_files() {
    let cluster = Cluster::start(Spec::default());
    let Some(lie) = files(&cluster) else {
        return println!("SKIPPED: pages of the servers' file system cannot be dropped");
    };
    let mount = cluster.mount(CACHES);
    let before = cluster.counters();
    read(&mount, 0..12);
    // Each server has been told at least once, of at least the next file that it has.
    let next = &lie[12..16];
    until(secs(20), "the next files in memory", || next.iter().all(|p| is_in_memory(p)));
    let asked = &cluster.counters() - &before;
    assert_eq!(asked.of("io_read"), 12, "no request is made for it: {asked:?}");
    assert!(asked.of("readdir") == 1 && asked.of("lookup") <= 5, "{asked:?}");
    read(&mount, 12..FILES);
}

pub fn not_where_it_is_switched_off_or_not_worth_it() {
    let cluster = Cluster::start(Spec::default());
    let Some(lie) = files(&cluster) else {
        return println!("SKIPPED: pages of the servers' file system cannot be dropped");
    };
    let rest = |lie: &[PathBuf]| lie.iter().filter(|p| resident(p).0 > 0).count();
    for options in [&format!("{CACHES},nofileahead"), NO_CACHES] {
        let mount = cluster.mount(options);
        read(&mount, 0..20);
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(rest(&lie[20..]), 0, "{options}");
        assert!(evict(&lie));
    }
    // Whoever only opens or asks for attributes makes nobody read anything.
    let mount = cluster.mount(CACHES);
    for i in 0..FILES {
        assert_eq!(fs::metadata(mount.path(&name(i))).unwrap().len(), BYTES as u64);
        drop(File::open(mount.path(&name(i))).unwrap());
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(rest(&lie), 0);
}

/// What is read ahead is the server's business alone: whatever happens to the next files before they
/// are opened, here or through another mount, is what an open finds.
pub fn what_changes_before_the_open_is_seen_by_it() {
    for options in [NO_CACHES, ""] {
        let cluster = Cluster::start(Spec::default());
        drop(files(&cluster));
        let (mount, other) = (cluster.mount(options), cluster.mount(options));
        // So that names are listed in both cases.
        let listed = fs::read_dir(mount.path("d")).unwrap();
        assert_eq!(
            listed.map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>(),
            FILES * BYTES as u64
        );
        read(&mount, 0..12);
        fs::write(other.path(&name(12)), pattern::bytes(900, 0, BYTES)).unwrap();
        File::options().write(true).open(other.path(&name(13))).unwrap().set_len(10).unwrap();
        fs::rename(other.path(&name(39)), other.path(&name(14))).unwrap();
        fs::remove_file(other.path(&name(15))).unwrap();
        fs::write(mount.path(&name(16)), pattern::bytes(901, 0, BYTES + 9)).unwrap();
        if !options.contains("acache-ms=0") {
            // Names and sizes are believed for a second.
            std::thread::sleep(std::time::Duration::from_millis(1_100));
        }
        let now = |i: u64| fs::read(mount.path(&name(i)));
        assert!(now(12).unwrap() == pattern::bytes(900, 0, BYTES));
        assert!(now(13).unwrap() == pattern::bytes(13, 0, 10));
        assert!(now(14).unwrap() == pattern::bytes(39, 0, BYTES));
        assert!(now(15).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound));
        assert!(now(16).unwrap() == pattern::bytes(901, 0, BYTES + 9));
        read(&mount, 17..39);
    }
}
