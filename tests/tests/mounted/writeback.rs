//! `-o writeback`: the kernel holds writes back. What it must not get wrong all the same: bytes, sizes,
//! times; what others see after a close or fsync; servers that die; disks that are full.
use crate::rights::as_nobody;
use pvfs2_proto::env::{Random, SplitMix};
use pvfs2_tests::mount::NO_CACHES;
use pvfs2_tests::wait::{exit_within, secs, until};
use pvfs2_tests::{Cluster, Mount, Spec, pattern};
use rustix::fs::{self as rfs, FallocateFlags, SeekFrom};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

const STEP: usize = 4096;

/// One mount with write-back, and one that asks the servers each time.
fn start(spec: Spec) -> (Cluster, Mount, Mount) {
    let cluster = Cluster::start(spec);
    fs::set_permissions(cluster.dir(), fs::Permissions::from_mode(0o711)).unwrap();
    let (a, b) = (cluster.mount("writeback"), cluster.mount(NO_CACHES));
    (cluster, a, b)
}

fn open_rw(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn drop_caches() {
    rfs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// Size, mtime and ctime.
fn looks(path: &Path) -> (u64, i64, i64, i64, i64) {
    let m = fs::metadata(path).unwrap();
    (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
}

pub fn small_writes_gather_in_the_kernel() {
    const LEN: u64 = 8 << 20;
    let (cluster, a, b) = start(Spec::default());
    let before = cluster.counters();
    let file = File::create(a.path("f")).unwrap();
    for at in (0..LEN).step_by(STEP) {
        file.write_all_at(&pattern::bytes(1, at, STEP), at).unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), LEN, "the kernel knows it");
    file.sync_all().unwrap();
    let sent = (&cluster.counters() - &before).of("io_write");
    assert!(sent <= 4 * 8 + 40, "{sent} requests for {} writes", LEN as usize / STEP);
    pattern::check_file(&b.path("f"), 1, LEN);
    assert_eq!(looks(&a.path("f")), looks(&b.path("f")), "synced");
    // Some more, told by the close.
    file.write_all_at(&pattern::bytes(1, LEN, STEP), LEN).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let mine = looks(&a.path("f"));
    drop(file);
    assert_eq!(looks(&a.path("f")), mine, "a close changes no time");
    until(secs(3), "the close is told", || looks(&b.path("f")) == mine);
    pattern::check_file(&b.path("f"), 1, LEN + STEP as u64);
    // And not otherwise when the kernel has forgotten the file.
    drop_caches();
    assert_eq!(looks(&a.path("f")), mine);
    pattern::check_file(&a.path("f"), 1, LEN + STEP as u64);
    // A small file, which lives with its metafile.
    fs::write(a.path("small"), "abc").unwrap();
    let mine = looks(&a.path("small"));
    until(secs(3), "the close is told", || looks(&b.path("small")) == mine);
    assert_eq!(fs::read(b.path("small")).unwrap(), b"abc");
}

pub fn files_opened_for_writing_only_are_right() {
    let (_cluster, a, b) = start(Spec::default());
    for len in [5_000u64, 300_000] {
        let path = a.path("f");
        fs::write(&path, pattern::bytes(1, 0, len as usize)).unwrap();
        drop_caches();
        // A part of a page: the kernel reads the rest through this descriptor.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"middle", 4_090).unwrap();
        drop(file);
        // Appending, over the end that only the kernel knows, with O_DIRECT too.
        let mut one = OpenOptions::new().append(true).open(&path).unwrap();
        let mut two = OpenOptions::new().append(true).open(&path).unwrap();
        for i in 0..50u8 {
            one.write_all(&[b'a' + i % 20; 7]).unwrap();
            two.write_all(&[b'A' + i % 20; 9]).unwrap();
        }
        let mut want = pattern::bytes(1, 0, len as usize);
        want[4_090..4_096].copy_from_slice(b"middle");
        for i in 0..50u8 {
            want.extend_from_slice(&[b'a' + i % 20; 7]);
            want.extend_from_slice(&[b'A' + i % 20; 9]);
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), want.len() as u64);
        assert!(fs::read(&path).unwrap() == want);
        drop((one, two));
        assert!(fs::read(b.path("f")).unwrap() == want, "{len}");
        let mut trunc = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        trunc.write_all(b"new").unwrap();
        drop(trunc);
        assert_eq!(fs::read(&path).unwrap(), b"new");
        until(secs(3), "the close is told", || fs::read(b.path("f")).unwrap() == b"new");
        let direct = OpenOptions::new().append(true).custom_flags(libc::O_DIRECT).open(&path);
        let mut plain = OpenOptions::new().append(true).open(&path).unwrap();
        plain.write_all(&[b'x'; 4_093]).unwrap();
        let mut room = vec![0u8; 8_192];
        let from = room.as_ptr().align_offset(4_096);
        room[from..from + 4_096].fill(b'y');
        direct.unwrap().write_all(&room[from..from + 4_096]).unwrap();
        drop(plain);
        let got = fs::read(&path).unwrap();
        assert!(got[..3] == *b"new" && got[3..4_096].iter().all(|c| *c == b'x'));
        assert!(got.len() == 8_192 && got[4_096..].iter().all(|c| *c == b'y'));
    }
}

pub fn times_are_the_kernels_and_others_may_touch() {
    let (_cluster, a, b) = start(Spec::default());
    let path = a.path("f");
    fs::write(&path, pattern::bytes(1, 0, 300_000)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let set = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    let file = open_rw(&path);
    file.write_all_at(b"dirty", 100).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(set).set_accessed(set)).unwrap();
    drop(file);
    for mount in [&a, &b] {
        assert_eq!(fs::metadata(mount.path("f")).unwrap().modified().unwrap(), set);
    }
    // Whoever may write may set the times to now, and the size.
    as_nobody(&path, "os.utime(p)");
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > set);
    assert_eq!(looks(&path), looks(&b.path("f")));
    as_nobody(&path, "os.truncate(p, 5)");
    assert_eq!(looks(&path).0, 5);
    assert_eq!(looks(&path), looks(&b.path("f")));
    let refused = "\ntry: os.utime(p, (1,1))\nexcept PermissionError: print('refused')";
    assert_eq!(as_nobody(&path, refused), "refused");
    // A write by them takes suid away.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    as_nobody(&path, "os.write(os.open(p, os.O_WRONLY), b'x')");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
    until(secs(3), "the close is told", || looks(&path) == looks(&b.path("f")));
    assert_eq!(fs::metadata(b.path("f")).unwrap().mode() & 0o7777, 0o777);
}

fn write_mapped(file: &File, len: usize, at: usize, bytes: &[u8]) {
    // SAFETY: a fresh shared mapping of a file that this test alone uses and that has `len` bytes;
    // borrowed only in this block, not used after munmap.
    unsafe {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let map =
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        std::slice::from_raw_parts_mut(map.cast::<u8>(), len)[at..at + bytes.len()]
            .copy_from_slice(bytes);
        assert_eq!(libc::munmap(map, len), 0);
    }
}

/// What a plain local file and one on the mount were both told to do.
struct Twins {
    files: [File; 2],
    paths: [std::path::PathBuf; 2],
    len: u64,
}

impl Twins {
    fn step(&mut self, random: &SplitMix) {
        let at = random.next_u64() % 600_000;
        let len = 1 + random.next_u64() % 30_000;
        let what = random.next_u64() % 16;
        let seed = random.next_u64();
        for (file, path) in self.files.iter_mut().zip(&self.paths) {
            match what {
                0..=4 => file.write_all_at(&pattern::bytes(seed, at, len as usize), at).unwrap(),
                5 | 6 => {
                    let mut log = OpenOptions::new().append(true).open(path).unwrap();
                    log.write_all(&pattern::bytes(seed, 0, len as usize)).unwrap();
                }
                7 => file.set_len(at).unwrap(),
                8 => file.sync_data().unwrap(),
                9 => *file = open_rw(path),
                10 if self.len > 0 => {
                    let at = (at % self.len) as usize;
                    let bytes = pattern::bytes(seed, 0, (len as usize).min(self.len as usize - at));
                    write_mapped(file, self.len as usize, at, &bytes);
                }
                11 => rfs::fallocate(&*file, FallocateFlags::empty(), at, len).unwrap(),
                12 => {
                    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    rfs::fallocate(&*file, punch, at, len).unwrap();
                }
                13 => {
                    // Within one file, from the front to behind what is copied.
                    let (mut from, mut to) = (at / 2, at / 2 + len + 5);
                    let mut left = len as usize;
                    while left > 0 {
                        let (f, t) = (Some(&mut from), Some(&mut to));
                        match rfs::copy_file_range(&*file, f, &*file, t, left).unwrap() {
                            0 => break,
                            n => left -= n,
                        }
                    }
                }
                14 => {
                    *file = OpenOptions::new()
                        .read(true)
                        .write(true)
                        .truncate(at.is_multiple_of(3))
                        .open(path)
                        .unwrap()
                }
                _ => {
                    // A hole is what reads as zeros: none is an answer too.
                    if at < self.len {
                        let data = rfs::seek(&*file, SeekFrom::Data(at));
                        assert!(
                            data.is_ok_and(|d| d >= at) || data == Err(rustix::io::Errno::NXIO)
                        );
                    }
                }
            }
        }
        self.compare();
    }

    fn compare(&mut self) {
        let sizes = self.files.each_ref().map(|f| f.metadata().unwrap().len());
        assert_eq!(sizes[0], sizes[1]);
        self.len = sizes[0];
        let [mut want, mut got] = [vec![0; sizes[0] as usize], vec![0; sizes[0] as usize]];
        self.files[0].read_exact_at(&mut want, 0).unwrap();
        self.files[1].read_exact_at(&mut got, 0).unwrap();
        let differs = want.iter().zip(&got).position(|(a, b)| a != b);
        assert_eq!(differs, None, "of {} bytes", self.len);
    }
}

pub fn any_operations_leave_what_a_local_file_has() {
    let (cluster, a, b) = start(Spec::default());
    let seed = std::env::var("PVFS2_SEED").ok().and_then(|v| v.parse().ok());
    let seed = seed.unwrap_or_else(|| pvfs2_proto::env::Env::real().rand_u64() >> 32);
    println!("    seed {seed}");
    let random = SplitMix::new(seed);
    for round in 0..4 {
        let name = format!("f{round}");
        let paths = [cluster.dir().join(&name), a.path(&name)];
        let files = paths
            .each_ref()
            .map(|p| OpenOptions::new().read(true).write(true).create_new(true).open(p).unwrap());
        let mut twins = Twins { files, paths: paths.clone(), len: 0 };
        for step in 0..150 {
            twins.step(&random);
            if step % 40 == 39 {
                drop_caches();
                twins.compare();
            }
        }
        twins.files[1].sync_all().unwrap();
        assert!(fs::read(&paths[0]).unwrap() == fs::read(b.path(&name)).unwrap(), "round {round}");
    }
}

pub fn killed_servers_lose_nothing_that_the_kernel_holds() {
    const LEN: u64 = 12 << 20;
    // A process of its own: a server that is started again while this one has the file open would,
    // on its way, wait for the file to be written out.
    const WRITER: &str = "import os,sys,time\n\
        f=os.open(sys.argv[2],os.O_WRONLY|os.O_CREAT)\n\
        for i,b in enumerate(iter(lambda g=open(sys.argv[1],'rb'): g.read(4096), b'')):\n\
        \x20   os.write(f,b)\n\
        \x20   if i%64==0: time.sleep(0.04)\n\
        if sys.argv[3]=='sync': os.fsync(f)\n\
        os.close(f)";
    let mut cluster = Cluster::start(Spec { lease_ms: 3_000, ..Spec::default() });
    let (a, b) = (cluster.mount("writeback,hard"), cluster.mount("hard,acache-ms=0,ncache-ms=0"));
    let all: Vec<usize> = (0..cluster.servers.len()).collect();
    for (round, how) in ["sync", "close"].into_iter().enumerate() {
        let (name, local) = (format!("f{round}"), cluster.dir().join("local"));
        fs::write(&local, pattern::bytes(round as u64, 0, LEN as usize)).unwrap();
        let mut writer = Command::new("python3");
        writer.args(["-c", WRITER]).arg(&local).arg(a.path(&name)).arg(how);
        let mut writer = writer.spawn().unwrap();
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(500));
            all.iter().for_each(|i| cluster.kill(*i));
            cluster.restart_all(&all);
        }
        assert!(exit_within(&mut writer, secs(60)).is_some_and(|s| s.success()), "{how}");
        until(secs(10), "it is told", || fs::metadata(b.path(&name)).unwrap().len() == LEN);
        pattern::check_file(&b.path(&name), round as u64, LEN);
        assert_eq!(looks(&a.path(&name)).0, LEN);
    }
}

pub fn what_finds_no_room_is_told_by_fsync() {
    let (cluster, a, _b) = start(Spec { space_bytes: 96 << 20, ..Spec::default() });
    fs::write(a.path("f"), pattern::bytes(1, 0, 256 << 10)).unwrap();
    let file = open_rw(&a.path("f"));
    file.sync_all().unwrap();
    let free = rfs::statvfs(cluster.dir()).unwrap();
    let filler = File::create(cluster.dir().join("ballast")).unwrap();
    rfs::fallocate(&filler, FallocateFlags::empty(), 0, free.f_bavail * free.f_frsize).unwrap();
    for i in 0..100u64 {
        let at = (256 << 10) + i * STEP as u64;
        file.write_all_at(&pattern::bytes(1, at, STEP), at).unwrap();
    }
    let error = file.sync_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(file.sync_all().is_ok(), "told once");
    let mut got = vec![0; 256 << 10];
    file.read_exact_at(&mut got, 0).unwrap();
    assert_eq!(pattern::differs(1, 0, &got), None);
}

pub fn an_unmount_writes_out_what_the_kernel_holds() {
    const LEN: u64 = 40 << 20;
    let (_cluster, mut a, b) = start(Spec::default());
    let file = File::create(a.path("f")).unwrap();
    for at in (0..LEN).step_by(STEP) {
        file.write_all_at(&pattern::bytes(1, at, STEP), at).unwrap();
    }
    // The file is still open: the mount is cut off.
    assert!(a.terminate(secs(30)));
    pattern::check_file(&b.path("f"), 1, LEN);
    drop(file);
}
