//! What programs expect of a file system, beyond what the scripts under `tests/programs` try.
use pvfs2_tests::wait::{secs, within};
use pvfs2_tests::{Cluster, Mount, Spec, pattern};
use rustix::fs::{
    self as rfs, AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags,
};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

fn start() -> (Cluster, Mount) {
    let cluster = Cluster::start(Spec::default());
    let mount = cluster.mount("");
    (cluster, mount)
}

fn open(path: &Path, flags: OFlags) -> File {
    File::from(
        rfs::open(path, flags, Mode::from(0o644))
            .unwrap_or_else(|e| panic!("open {}: {e}", path.display())),
    )
}

/// Page-aligned memory, as O_DIRECT wants it; kept until the test's end.
fn aligned(bytes: &[u8]) -> &'static mut [u8] {
    let raw = Box::leak(vec![0u8; bytes.len() + 4096].into_boxed_slice());
    let skip = raw.as_ptr().align_offset(4096);
    let buf = &mut raw[skip..skip + bytes.len()];
    buf.copy_from_slice(bytes);
    buf
}

pub fn direct_io() {
    let (_cluster, mount) = start();
    let path = mount.path("f");
    let direct = open(&path, OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT);
    // Small, inside the stuffed size; then over strips; then back over the first.
    for (at, len) in [(0u64, 4096usize), (65_536, 1 << 20), (4096, 8192), (3 << 20, 4096)] {
        assert_eq!(direct.write_at(aligned(&pattern::bytes(1, at, len)), at).unwrap(), len);
    }
    assert_eq!(direct.metadata().unwrap().len(), (3 << 20) + 4096);
    let cached = File::open(&path).unwrap();
    for (at, len) in [(0u64, 12_288usize), (65_536, 1 << 20), (3 << 20, 4096)] {
        let buf = aligned(&vec![0xaa; len]);
        direct.read_exact_at(buf, at).unwrap();
        assert_eq!(pattern::differs(1, at, buf), None, "direct read at {at}");
        let mut buf = vec![0xaa; len];
        cached.read_exact_at(&mut buf, at).unwrap();
        assert_eq!(pattern::differs(1, at, &buf), None, "cached read at {at}");
    }
    let hole = aligned(&vec![0xaa; 4096]);
    direct.read_exact_at(hole, 2 << 20).unwrap();
    assert!(hole.iter().all(|b| *b == 0), "a hole reads as zeros");
    assert_eq!(direct.read_at(aligned(&[0; 4096]), (3 << 20) + 4096).unwrap(), 0, "end of file");
}

/// Whole strips leave a server straight from its pages: what is overwritten meanwhile must neither
/// fail the reader nor give him bytes that nobody wrote there.
pub fn reads_of_what_is_overwritten_meanwhile() {
    const MIB: usize = 1 << 20;
    let (cluster, writer) = start();
    let reader = cluster.mount("acache-ms=0,ncache-ms=0");
    // Every eight bytes say where they are and in which round they were written.
    let words = |round: u64| -> Vec<u8> {
        (0..MIB as u64 / 8).flat_map(|i| (i << 32 | round).to_le_bytes()).collect()
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT;
    let out = open(&writer.path("f"), flags);
    out.write_all_at(aligned(&words(0)), 0).unwrap();
    let done = std::sync::atomic::AtomicU64::new(0);
    let over = std::sync::atomic::AtomicBool::new(false);
    use std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let buf = aligned(&words(0));
            for round in 1..300 {
                buf.copy_from_slice(&words(round));
                out.write_all_at(buf, 0).unwrap();
                done.store(round, SeqCst);
            }
            over.store(true, SeqCst);
        });
        let file = open(&reader.path("f"), OFlags::RDONLY | OFlags::DIRECT);
        let (buf, mut reads) = (aligned(&vec![0; MIB]), 0);
        while !over.load(SeqCst) || reads < 20 {
            let before = done.load(SeqCst);
            file.read_exact_at(buf, 0).unwrap();
            let after = done.load(SeqCst) + 1;
            for (i, word) in buf.chunks_exact(8).enumerate() {
                let word = u64::from_le_bytes(word.try_into().unwrap());
                let (at, round) = (word >> 32, word & u64::from(u32::MAX));
                assert_eq!(at, i as u64, "bytes of another place");
                assert!((before..=after).contains(&round), "{before} <= {round} <= {after}");
            }
            reads += 1;
        }
    });
}

pub fn a_program_that_runs_is_not_emptied() {
    let (_cluster, mount) = start();
    let path = mount.path("sleep");
    fs::copy("/bin/sleep", &path).unwrap();
    let mut running = std::process::Command::new(&path).arg("60").spawn().unwrap();
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
        let open = rfs::open(&path, flags | OFlags::TRUNC, Mode::empty());
        assert_eq!(open.unwrap_err(), rustix::io::Errno::TXTBSY);
    }
    assert!(running.try_wait().unwrap().is_none(), "it runs on");
    assert!(fs::read(&path).unwrap() == fs::read("/bin/sleep").unwrap());
    running.kill().unwrap();
    running.wait().unwrap();
    for flags in [OFlags::RDONLY, OFlags::WRONLY] {
        fs::copy("/bin/sleep", &path).unwrap();
        let cut = open(&path, flags | OFlags::TRUNC);
        assert_eq!((cut.metadata().unwrap().len(), fs::read(&path).unwrap().len()), (0, 0));
    }
}

pub fn shared_mmap() {
    let (cluster, mount) = start();
    let path = mount.path("f");
    let len = 300_000usize;
    for direct in [OFlags::empty(), OFlags::DIRECT] {
        let file = open(&path, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | direct);
        file.set_len(len as u64).unwrap();
        // SAFETY: a fresh shared mapping of a file that this test alone uses; unmapped below, not used after.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                std::os::fd::AsRawFd::as_raw_fd(&file),
                0,
            )
        };
        assert_ne!(map, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        // SAFETY: the mapping above, `len` bytes, readable and writable, borrowed only in this block.
        let bytes = unsafe { std::slice::from_raw_parts_mut(map.cast::<u8>(), len) };
        assert!(bytes.iter().all(|b| *b == 0));
        bytes.copy_from_slice(&pattern::bytes(2, 0, len));
        // SAFETY: the same mapping; after munmap neither `map` nor `bytes` is used.
        unsafe {
            assert_eq!(
                libc::msync(map, len, libc::MS_SYNC),
                0,
                "{}",
                std::io::Error::last_os_error()
            );
            assert_eq!(libc::munmap(map, len), 0);
        }
        pattern::check_file(&path, 2, len as u64);
        drop(file);
        // Another client, which has no pages of it.
        pattern::check_file(&cluster.mount("").path("f"), 2, len as u64);
    }
}

pub fn sparse_files_and_holes() {
    let (_cluster, mount) = start();
    let file = open(&mount.path("f"), OFlags::RDWR | OFlags::CREATE);
    const GIB: u64 = 1 << 30;
    file.write_all_at(&pattern::bytes(3, 0, 200_000), 0).unwrap();
    file.write_all_at(&pattern::bytes(3, GIB, 200_000), GIB).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().len(), GIB + 200_000);
    let hole = rfs::seek(&file, SeekFrom::Hole(0)).unwrap();
    assert!((200_000..=300_000).contains(&hole), "hole at {hole}");
    let data = rfs::seek(&file, SeekFrom::Data(hole)).unwrap();
    assert!(data <= GIB && data > GIB - 300_000, "data at {data}");
    assert_eq!(rfs::seek(&file, SeekFrom::Hole(GIB)).unwrap(), GIB + 200_000, "the end is a hole");
    assert_eq!(
        rfs::seek(&file, SeekFrom::Data(GIB + 200_000)).unwrap_err(),
        rustix::io::Errno::NXIO
    );
    // Punch: the size stays, the bytes are zeros, what is beside them stays.
    rfs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 50_000, 100_000)
        .unwrap();
    let mut buf = vec![0; 200_000];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(pattern::differs(3, 0, &buf[..50_000]), None);
    assert!(buf[50_000..150_000].iter().all(|b| *b == 0));
    assert_eq!(pattern::differs(3, 150_000, &buf[150_000..]), None);
    assert_eq!(file.metadata().unwrap().len(), GIB + 200_000);
    // Reserve beyond the end: with and without the size.
    rfs::fallocate(&file, FallocateFlags::KEEP_SIZE, GIB, 500_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), GIB + 200_000);
    rfs::fallocate(&file, FallocateFlags::empty(), GIB, 500_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), GIB + 500_000);
    // Truncated and grown again: what was cut off does not come back.
    file.set_len(1_000).unwrap();
    file.set_len(GIB + 200_000).unwrap();
    for at in [1_000, 65_536, 131_072, 199_000, GIB, GIB + 199_000] {
        let mut buf = vec![1; 1_000];
        file.read_exact_at(&mut buf, at).unwrap();
        assert!(buf.iter().all(|b| *b == 0), "old bytes at {at}");
    }
    // The same for a file that is small all the time.
    let small = open(&mount.path("small"), OFlags::RDWR | OFlags::CREATE);
    small.write_all_at(b"0123456789", 0).unwrap();
    small.set_len(4).unwrap();
    small.write_all_at(b"x", 8).unwrap();
    let mut text = Vec::new();
    File::open(mount.path("small")).unwrap().read_to_end(&mut text).unwrap();
    assert_eq!(text, b"0123\0\0\0\0x");
}

pub fn extended_attributes() {
    let (_cluster, mount) = start();
    fs::write(mount.path("f"), "x").unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    let big = pattern::bytes(4, 0, 20_000);
    for name in ["f", "d"] {
        let path = mount.path(name);
        let get = |n: &str| {
            let mut buf = vec![0; 70_000];
            rfs::getxattr(&path, n, buf.as_mut_slice()).map(|l| buf[..l].to_vec())
        };
        assert_eq!(get("user.a").unwrap_err(), rustix::io::Errno::NODATA);
        rfs::setxattr(&path, "user.a", b"1", XattrFlags::CREATE).unwrap();
        assert_eq!(
            rfs::setxattr(&path, "user.a", b"2", XattrFlags::CREATE).unwrap_err(),
            rustix::io::Errno::EXIST
        );
        rfs::setxattr(&path, "user.a", b"", XattrFlags::REPLACE).unwrap();
        assert_eq!(get("user.a").unwrap(), b"");
        assert_eq!(
            rfs::setxattr(&path, "user.b", b"2", XattrFlags::REPLACE).unwrap_err(),
            rustix::io::Errno::NODATA
        );
        rfs::setxattr(&path, "user.big", &big, XattrFlags::empty()).unwrap();
        rfs::setxattr(&path, "trusted.t", b"t", XattrFlags::empty()).unwrap();
        assert_eq!(get("user.big").unwrap(), big);
        let mut short = vec![0; 10];
        assert_eq!(
            rfs::getxattr(&path, "user.big", short.as_mut_slice()).unwrap_err(),
            rustix::io::Errno::RANGE
        );
        let mut list = vec![0; 4096];
        let len = rfs::listxattr(&path, list.as_mut_slice()).unwrap();
        let names: BTreeSet<&[u8]> =
            list[..len].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
        for want in [b"user.a".as_slice(), b"user.big", b"trusted.t"] {
            assert!(names.contains(want), "{names:?}");
        }
        rfs::removexattr(&path, "user.a").unwrap();
        assert_eq!(get("user.a").unwrap_err(), rustix::io::Errno::NODATA);
        assert_eq!(rfs::removexattr(&path, "user.a").unwrap_err(), rustix::io::Errno::NODATA);
    }
}

pub fn locks_between_processes() {
    let (_cluster, mount) = start();
    let path = mount.path("lock");
    let file = open(&path, OFlags::RDWR | OFlags::CREATE);
    let held_by_other = |kind: &str| {
        let script = match kind {
            "flock" => {
                "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.flock(f, fcntl.LOCK_EX|fcntl.LOCK_NB)"
            }
            _ => {
                "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB, 10, 5)"
            }
        };
        let out =
            std::process::Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() || text.contains("BlockingIOError"), "{text}");
        !out.status.success()
    };
    rfs::flock(&file, rfs::FlockOperation::LockExclusive).unwrap();
    assert!(held_by_other("flock"));
    rfs::flock(&file, rfs::FlockOperation::Unlock).unwrap();
    assert!(!held_by_other("flock"));
    let lock = |kind: i16| {
        let request = libc::flock {
            l_type: kind,
            l_whence: libc::SEEK_SET as i16,
            l_start: 0,
            l_len: 100,
            l_pid: 0,
        };
        // SAFETY: F_SETLK reads the struct that the pointer names, which lives until the call returns.
        let rc =
            unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_SETLK, &request) };
        assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    };
    lock(libc::F_WRLCK as i16);
    assert!(held_by_other("fcntl"));
    lock(libc::F_UNLCK as i16);
    assert!(!held_by_other("fcntl"));
}

pub fn rename_flags() {
    let (_cluster, mount) = start();
    let (a, b, d) = (mount.path("a"), mount.path("b"), mount.path("d"));
    fs::write(&a, "a").unwrap();
    fs::write(&b, "b").unwrap();
    fs::create_dir(&d).unwrap();
    let rename = |from: &Path, to: &Path, flags| rfs::renameat_with(CWD, from, CWD, to, flags);
    assert_eq!(rename(&a, &b, RenameFlags::NOREPLACE).unwrap_err(), rustix::io::Errno::EXIST);
    assert_eq!(fs::read(&b).unwrap(), b"b");
    rename(&a, &b, RenameFlags::EXCHANGE).unwrap();
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"b".to_vec(), b"a".to_vec()));
    rename(&a, &d, RenameFlags::EXCHANGE).unwrap();
    assert!(a.is_dir() && d.is_file());
    rename(&b, &mount.path("a/inside"), RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(mount.path("a/inside")).unwrap(), b"a");
    assert_eq!(rename(&d, &a, RenameFlags::empty()).unwrap_err(), rustix::io::Errno::ISDIR);
    assert_eq!(
        rename(&a, &mount.path("a/below"), RenameFlags::empty()).unwrap_err(),
        rustix::io::Errno::INVAL
    );
    fs::create_dir_all(mount.path("full/x")).unwrap();
    assert_eq!(
        rename(&a, &mount.path("full"), RenameFlags::empty()).unwrap_err(),
        rustix::io::Errno::NOTEMPTY
    );
}

pub fn names_links_and_special_files() {
    let (cluster, mount) = start();
    let long = "n".repeat(255);
    fs::write(mount.path(&long), "long").unwrap();
    let error = fs::write(mount.path(&"n".repeat(256)), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
    let odd = mount
        .dir
        .join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\n \x01"));
    fs::write(&odd, "odd").unwrap();
    assert_eq!(fs::read(&odd).unwrap(), b"odd");
    fs::hard_link(mount.path(&long), mount.path("second")).unwrap();
    assert_eq!(fs::metadata(mount.path("second")).unwrap().nlink(), 2);
    fs::write(mount.path("second"), "changed").unwrap();
    assert_eq!(fs::read(mount.path(&long)).unwrap(), b"changed");
    let target = "t/".repeat(2000);
    std::os::unix::fs::symlink(&target, mount.path("sym")).unwrap();
    assert_eq!(fs::read_link(mount.path("sym")).unwrap(), Path::new(&target));
    assert_eq!(fs::symlink_metadata(mount.path("sym")).unwrap().len(), 4000);
    rfs::mknodat(CWD, mount.path("fifo"), rfs::FileType::Fifo, Mode::from(0o600), 0).unwrap();
    rfs::mknodat(
        CWD,
        mount.path("null"),
        rfs::FileType::CharacterDevice,
        Mode::from(0o666),
        rfs::makedev(1, 3),
    )
    .unwrap();
    assert!(fs::symlink_metadata(mount.path("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::symlink_metadata(mount.path("null")).unwrap().rdev(), rfs::makedev(1, 3));
    fs::write(mount.path("null"), "gone").unwrap();
    assert_eq!(fs::read(mount.path("null")).unwrap(), b"", "the device itself answers");
    let names: BTreeSet<_> =
        fs::read_dir(&mount.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    let (statfs, disk) = (rfs::statfs(&mount.dir).unwrap(), rfs::statfs(cluster.dir()).unwrap());
    let total = |s: &rfs::StatFs| s.f_blocks * s.f_bsize as u64;
    assert!(
        total(&statfs).abs_diff(total(&disk)) <= 4096,
        "one disk for all servers: counted once"
    );
    assert!(statfs.f_blocks > 0 && statfs.f_bfree <= statfs.f_blocks && statfs.f_bavail > 0);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|l| l.contains(mount.dir.to_str().unwrap())).unwrap();
    assert_eq!(line.split(' ').nth(2), Some("fuse.pvfs2"), "{line}");
}

pub fn open_unlinked_files_live_on() {
    let (cluster, mount) = start();
    let other = cluster.mount(pvfs2_tests::mount::NO_CACHES);
    for size in [100usize, 500_000] {
        let path = mount.path("f");
        fs::write(&path, pattern::bytes(6, 0, size)).unwrap();
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        // Removed by the other mount, which does not have it open.
        fs::remove_file(other.path("f")).unwrap();
        assert!(within(secs(3), || fs::metadata(&path).is_err()), "the name is gone");
        let mut buf = vec![0; size];
        file.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(pattern::differs(6, 0, &buf), None, "{size} bytes, read after removal");
        file.write_all_at(b"still writable", 7).unwrap();
        let mut part = vec![0; 14];
        file.read_exact_at(&mut part, 7).unwrap();
        assert_eq!(part, b"still writable");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        drop(file);
    }
    assert!(
        within(secs(20), || cluster.all_datafiles().is_empty()),
        "the last close frees the datafiles"
    );
}

pub fn times_have_nanoseconds() {
    let (_cluster, mount) = start();
    let path = mount.path("f");
    fs::write(&path, "x").unwrap();
    let set = |a: (i64, i64), m: (i64, i64)| {
        let time = |(tv_sec, tv_nsec): (i64, i64)| rustix::fs::Timespec { tv_sec, tv_nsec };
        let times = rfs::Timestamps { last_access: time(a), last_modification: time(m) };
        rfs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
    };
    for (a, m) in
        [((1, 2), (3, 999_999_999)), ((-5, 123_456_789), (4_294_967_296, 1)), ((0, 0), (0, 0))]
    {
        set(a, m);
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(((meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec())), (a, m));
    }
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut f| std::io::Write::write_all(&mut f, b"y"))
        .unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert!(
        meta.mtime() > 1_000_000_000 && meta.ctime() > 1_000_000_000,
        "a write sets the time: {meta:?}"
    );
}

pub fn a_large_directory_is_listed_whole() {
    const NAMES: usize = 3_000;
    let (_cluster, mount) = start();
    let dir = mount.path("d");
    fs::create_dir(&dir).unwrap();
    for i in 0..NAMES {
        File::create(dir.join(format!("name-{i:05}"))).unwrap();
    }
    // While names come and go, those that stay are listed once.
    let mut seen = Vec::new();
    for (n, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        seen.push(entry.unwrap().file_name().into_string().unwrap());
        if n % 100 == 0 && n < NAMES {
            fs::remove_file(dir.join(format!("name-{:05}", n + 1))).unwrap();
            File::create(dir.join(format!("later-{n}"))).unwrap();
        }
    }
    let unique: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "a name twice");
    for i in (0..NAMES).filter(|i| i % 100 != 1) {
        assert!(unique.contains(&format!("name-{i:05}")), "name-{i:05} is missing");
    }
    fs::remove_dir_all(&dir).unwrap();
}
