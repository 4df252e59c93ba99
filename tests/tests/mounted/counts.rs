//! What an operation costs, by the servers' own counters.
use super::rights::as_nobody;
use pvfs2_proto::ioctl;
use pvfs2_tests::mount::NO_CACHES;
use pvfs2_tests::wait::{secs, within};
use pvfs2_tests::{Cluster, Mount, Spec, pattern};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

/// What `work` made the servers count.
fn cost(cluster: &Cluster, work: impl FnOnce()) -> pvfs2_tests::metrics::Counters {
    let before = cluster.counters();
    work();
    &cluster.counters() - &before
}

fn start() -> (Cluster, Mount) {
    let cluster = Cluster::start(Spec::default());
    // Caches that outlive the test: only what must be asked is asked.
    let mount = cluster.mount("acache-ms=60000,ncache-ms=60000");
    (cluster, mount)
}

pub fn a_create_is_one_request() {
    const FILES: u64 = 50;
    let (cluster, mount) = start();
    fs::create_dir(mount.path("d")).unwrap();
    let made = cost(&cluster, || {
        for i in 0..FILES {
            let file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(mount.path(&format!("d/{i}")))
                .unwrap();
            drop(file);
        }
    });
    assert_eq!(made.of("create"), FILES, "{made:?}");
    // The kernel looks a new name up before it creates it; closes travel together.
    assert!(made.of("lookup") <= FILES, "{made:?}");
    // One more: the directory's attributes, once.
    assert!(made.work() - made.of("release") <= 2 * FILES + 1, "{made:?}");
    assert!(made.of("release") <= FILES / 5, "closes without news are told together: {made:?}");
    let io: u64 =
        ["io_write", "io_read", "df_stat", "df_truncate"].iter().map(|op| made.of(op)).sum();
    assert_eq!(io, 0, "a create asks no I/O server: {made:?}");
}

pub fn many_files_are_synced_by_one_call() {
    const FILES: u64 = 250;
    let (cluster, mount) = start();
    fs::create_dir(mount.path("d")).unwrap();
    let dir = fs::File::open(mount.path("d")).unwrap();
    let mut inodes = vec![fs::metadata(mount.path("d")).unwrap().ino()];
    for i in 0..FILES {
        let len = if i % 50 == 0 { 300_000 } else { 4096 };
        fs::write(mount.path(&format!("d/{i}")), pattern::bytes(i, 0, len)).unwrap();
        inodes.push(fs::metadata(mount.path(&format!("d/{i}"))).unwrap().ino());
    }
    let ask = |of: &fs::File, inodes: &[u64]| {
        let cmd = libc::c_ulong::from(ioctl::fsync_many(inodes.len()));
        // SAFETY: an open descriptor, and as many numbers as the command says.
        match unsafe { libc::ioctl(of.as_raw_fd(), cmd, inodes.as_ptr()) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
        }
    };
    let asked = cost(&cluster, || ask(&dir, &inodes).unwrap());
    // Five are striped: a request to each I/O server at most.
    assert!((1..=4).contains(&asked.of("df_sync")), "{asked:?}");
    assert_eq!(asked.of("fsync"), FILES + 1, "{asked:?}");
    // (The closes of before may be told meanwhile.)
    assert_eq!((asked.of("open"), asked.of("write_small")), (0, 0), "{asked:?}");
    let file = fs::File::open(mount.path("d/3")).unwrap();
    ask(&file, &inodes[3..5]).unwrap();
    fs::remove_file(mount.path("d/7")).unwrap();
    assert_eq!(ask(&dir, &inodes), Err(libc::ESTALE), "one is gone");
    // SAFETY: as above; no such call.
    let other = unsafe { libc::ioctl(dir.as_raw_fd(), 0x4008_5002, inodes.as_ptr()) };
    assert_eq!((other, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ENOTTY)));
    let local = fs::File::open(std::env::temp_dir()).unwrap();
    assert_eq!(ask(&local, &inodes[..2]), Err(libc::ENOTTY), "another file system says so");
}

pub fn open_read_close_of_a_small_file_is_at_most_two() {
    const FILES: u64 = 50;
    let (cluster, writer) = start();
    fs::create_dir(writer.path("d")).unwrap();
    for i in 0..FILES {
        fs::write(writer.path(&format!("d/{i}")), pattern::bytes(i, 0, 4096)).unwrap();
    }
    // Another client, which knows nothing yet.
    let reader = cluster.mount("acache-ms=60000,ncache-ms=60000");
    fs::metadata(reader.path("d")).unwrap();
    let asked = cost(&cluster, || {
        for i in 0..FILES {
            let got = fs::File::open(reader.path(&format!("d/{i}"))).map(|f| {
                let mut buf = vec![0; 4096];
                f.read_exact_at(&mut buf, 0).unwrap();
                buf
            });
            assert_eq!(pattern::differs(i, 0, &got.unwrap()), None);
        }
    });
    // Two each (name, open with bytes), and closes told together.
    let releases = asked.of("release");
    assert!(asked.work() - releases <= 2 * FILES, "{asked:?}");
    assert!(releases <= FILES / 5, "closes without news are told together: {asked:?}");
    assert_eq!(asked.of("io_read"), 0, "{asked:?}");
    assert!(asked.work() >= FILES, "the counters count: {asked:?}");
}

pub fn names_looked_up_one_after_another_are_listed() {
    const FILES: u64 = 400;
    let (cluster, writer) = start();
    fs::create_dir(writer.path("d")).unwrap();
    for i in 0..FILES {
        fs::write(writer.path(&format!("d/{i}")), "x".repeat(i as usize)).unwrap();
    }
    fs::set_permissions(writer.path("d"), fs::Permissions::from_mode(0o711)).unwrap();
    let walk = |mount: &Mount| {
        let path = |i: u64| mount.path(&format!("d/{i}"));
        fs::metadata(mount.path("d")).unwrap();
        cost(&cluster, || {
            (0..FILES).for_each(|i| assert_eq!(fs::metadata(path(i)).unwrap().len(), i));
        })
    };
    let asked = walk(&cluster.mount("acache-ms=60000,ncache-ms=60000"));
    assert_eq!(asked.of("lookup"), FILES / 16, "{asked:?}");
    assert_eq!(asked.of("readdir"), 1, "{asked:?}");
    assert!(asked.work() <= FILES / 16 + 2, "{asked:?}");
    // Off, and with caches that keep nothing.
    for options in ["acache-ms=60000,ncache-ms=60000,nostatahead", NO_CACHES] {
        let asked = walk(&cluster.mount(options));
        assert!(asked.of("lookup") >= FILES && asked.of("readdir") == 0, "{options}: {asked:?}");
    }
    // Whoever may not list the directory looks names up all the same.
    fs::set_permissions(cluster.dir(), fs::Permissions::from_mode(0o711)).unwrap();
    let other = cluster.mount("acache-ms=60000,ncache-ms=60000");
    let asked = cost(&cluster, || {
        let script = format!("print(sum(os.stat(f'{{p}}/{{i}}').st_size for i in range({FILES})))");
        assert_eq!(as_nobody(&other.path("d"), &script), (FILES * (FILES - 1) / 2).to_string());
    });
    assert!(asked.of("lookup") >= FILES, "{asked:?}");
}

pub fn a_listing_is_asked_for_once_while_names_are_believed() {
    const FILES: u64 = 300;
    let (cluster, mount) = start();
    fs::create_dir(mount.path("d")).unwrap();
    let make = |mount: &Mount, i: u64| fs::write(mount.path(&format!("d/{i}")), "").unwrap();
    (0..FILES).for_each(|i| make(&mount, i));
    let list = |mount: &Mount, names: u64| {
        let asked = cost(&cluster, || {
            let all = fs::read_dir(mount.path("d")).unwrap();
            let set: BTreeSet<_> = all.map(|e| e.unwrap().file_name()).collect();
            assert_eq!(set.len() as u64, names);
        });
        asked.of("readdir")
    };
    assert_eq!(list(&mount, FILES), 1);
    assert_eq!(list(&mount, FILES), 0);
    // What this mount changes is seen at once,
    make(&mount, FILES);
    assert!(list(&mount, FILES + 1) <= 1);
    fs::remove_file(mount.path("d/0")).unwrap();
    assert!(list(&mount, FILES) <= 1);
    assert_eq!(list(&mount, FILES), 0);
    // what another does, at once without caches and otherwise after their time.
    let (none, short) = (cluster.mount(NO_CACHES), cluster.mount("acache-ms=300,ncache-ms=300"));
    assert_eq!((list(&none, FILES), list(&short, FILES)), (1, 1));
    make(&mount, FILES + 1);
    assert_eq!(list(&none, FILES + 1), 1);
    std::thread::sleep(std::time::Duration::from_millis(301));
    assert_eq!(list(&short, FILES + 1), 1);
}

pub fn one_mebibyte_over_four_servers_is_one_request_to_each() {
    const MIB: usize = 1 << 20;
    let (cluster, mount) = start();
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(mount.path("f"))
        .unwrap();
    let first = cost(&cluster, || file.write_all_at(&pattern::bytes(5, 0, MIB), 0).unwrap());
    let each = |c: &pvfs2_tests::metrics::Counters, op: &str| {
        c.by_server(op).into_values().collect::<Vec<_>>()
    };
    assert_eq!(each(&first, "io_write"), [1, 1, 1, 1], "first write: {first:?}");
    for round in 1..4u64 {
        let at = round * MIB as u64;
        let more = cost(&cluster, || file.write_all_at(&pattern::bytes(5, at, MIB), at).unwrap());
        assert_eq!(each(&more, "io_write"), [1, 1, 1, 1], "write {round}: {more:?}");
        assert_eq!(more.work(), 4, "nothing but the four writes: {more:?}");
    }
    drop(file);
    // Read by a client without pages, with O_DIRECT, so that one call is one request to the mount.
    let reader = cluster.mount("acache-ms=60000,ncache-ms=60000");
    let file = rustix::fs::open(
        reader.path("f"),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let file = fs::File::from(file);
    let buf = aligned(MIB);
    let read = cost(&cluster, || file.read_exact_at(buf, MIB as u64).unwrap());
    assert_eq!(pattern::differs(5, MIB as u64, buf), None);
    assert_eq!(each(&read, "io_read"), [1, 1, 1, 1], "{read:?}");
}

/// A buffer as O_DIRECT wants it: large allocations are page-aligned plus a small header, so one page
/// more is taken and the aligned part leaked for the length of the test.
fn aligned(len: usize) -> &'static mut [u8] {
    let raw = Box::leak(vec![0u8; len + 4096].into_boxed_slice());
    let skip = raw.as_ptr().align_offset(4096);
    &mut raw[skip..skip + len]
}

pub fn an_overwrite_is_an_open_and_a_setattr() {
    const FILES: u64 = 30;
    let (cluster, mount) = start();
    let path = |i: u64| mount.path(&format!("f{i}"));
    (0..FILES).for_each(|i| fs::write(path(i), "old").unwrap());
    let cut = cost(&cluster, || (0..FILES).for_each(|i| drop(fs::File::create(path(i)).unwrap())));
    assert_eq!((cut.of("open"), cut.of("setattr")), (FILES, FILES), "{cut:?}");
    assert!(cut.work() - cut.of("release") <= 2 * FILES + 5, "{cut:?}");
    (0..FILES).for_each(|i| assert_eq!(fs::metadata(path(i)).unwrap().len(), 0));
}

pub fn changes_of_names_are_one_request() {
    const FILES: u64 = 30;
    let (cluster, mount) = start();
    for i in 0..FILES {
        fs::write(mount.path(&format!("f{i}")), "x").unwrap();
    }
    let renamed = cost(&cluster, || {
        for i in 0..FILES {
            fs::rename(mount.path(&format!("f{i}")), mount.path(&format!("g{i}"))).unwrap();
        }
    });
    assert_eq!(renamed.of("rename"), FILES, "{renamed:?}");
    let removed = cost(&cluster, || {
        (0..FILES).for_each(|i| fs::remove_file(mount.path(&format!("g{i}"))).unwrap())
    });
    assert_eq!(removed.of("unlink"), FILES, "{removed:?}");
    assert!(removed.work() <= FILES + 5, "{removed:?}");
    let dirs = cost(&cluster, || {
        (0..FILES).for_each(|i| fs::create_dir(mount.path(&format!("d{i}"))).unwrap());
        (0..FILES).for_each(|i| fs::remove_dir(mount.path(&format!("d{i}"))).unwrap());
    });
    assert_eq!((dirs.of("mkdir"), dirs.of("rmdir")), (FILES, FILES), "{dirs:?}");
    // The kernel's lookup of the new name, and its questions for the parent, which changed: those
    // are answered by what came with the replies.
    assert!(dirs.work() <= 3 * FILES + 5, "{dirs:?}");
    assert!(renamed.work() <= 2 * FILES + 5, "{renamed:?}");
}

/// With time enough to look for, a thread that has answered is seen to look for the next request.
pub fn a_thread_looks_for_the_next_request() {
    let cluster = Cluster::start(Spec::default());
    let used = |options: &str, limit| {
        let mount = cluster.mount(&format!("{NO_CACHES},{options}"));
        let before = mount.cpu_ticks();
        let is_busy = within(limit, || {
            fs::metadata(mount.path("nothing")).unwrap_err();
            mount.cpu_ticks() > before + 50
        });
        (is_busy, mount.cpu_ticks() - before)
    };
    let (is_busy, ticks) = used("spin-us=1000000", secs(30));
    assert!(is_busy, "{ticks} ticks of 10 ms");
    let (is_busy, ticks) = used("spin-us=0", secs(3));
    assert!(!is_busy, "it looks though it shall not: {ticks} ticks of 10 ms");
}
