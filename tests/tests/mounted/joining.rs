//! Small writes that a mount joins while it alone has a file open: what that saves, and that nobody
//! else ever misses a write that was answered.
use pvfs2_tests::mount::NO_CACHES;
use pvfs2_tests::wait::{secs, until};
use pvfs2_tests::{Cluster, Mount, Spec, pattern};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

const STEP: usize = 4096;
/// A file that is striped from the beginning on.
const BASE: u64 = 256 << 10;

fn open_rw(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Writes `steps` steps from `at` on; where that ends.
fn write_steps(file: &File, seed: u64, mut at: u64, steps: usize) -> u64 {
    for _ in 0..steps {
        file.write_all_at(&pattern::bytes(seed, at, STEP), at).unwrap();
        at += STEP as u64;
    }
    at
}

fn requests(cluster: &Cluster, work: impl FnOnce()) -> u64 {
    let before = cluster.counters();
    work();
    (&cluster.counters() - &before).of("io_write")
}

pub fn small_writes_travel_together() {
    const LEN: u64 = 8 << 20;
    let cluster = Cluster::start(Spec::default());
    let (a, b) = (cluster.mount(""), cluster.mount(NO_CACHES));
    let begin = Instant::now();
    let sent = requests(&cluster, || {
        let file = File::create(a.path("f")).unwrap();
        assert_eq!(write_steps(&file, 1, 0, LEN as usize / STEP), LEN);
        file.sync_all().unwrap();
    });
    // A mebibyte is a request to each of four servers; and some around the move out of the metafile. On
    // a machine so busy that a mebibyte takes more than half a second, what there is goes.
    let late = (begin.elapsed().as_millis() / 500) as u64;
    let most = 4 * 8 + 16 + 8 * late;
    assert!(sent <= most, "{sent} requests for {} writes", LEN as usize / STEP);
    pattern::check_file(&b.path("f"), 1, LEN);
    pattern::check_file(&a.path("f"), 1, LEN);
    // Read while it is written, and written not in order.
    let file = open_rw(&a.path("f"));
    let mut at = 0;
    for round in 0..40u64 {
        at = write_steps(&file, 2, at, 1 + round as usize % 7);
        assert_eq!(file.metadata().unwrap().len(), LEN);
        let mut got = vec![0; 3 * STEP];
        file.read_exact_at(&mut got, at.saturating_sub(2 * STEP as u64)).unwrap();
        let own = (at - at.saturating_sub(2 * STEP as u64)) as usize;
        assert_eq!(pattern::differs(2, at.saturating_sub(2 * STEP as u64), &got[..own]), None);
        assert_eq!(pattern::differs(1, at, &got[own..]), None);
        if round % 10 == 9 {
            file.set_len(at).unwrap();
            file.set_len(LEN).unwrap();
            file.write_all_at(&pattern::bytes(1, at, (LEN - at) as usize), at).unwrap();
        }
    }
    let synchronous = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(a.path("f"));
    let file = synchronous.unwrap();
    let sent = requests(&cluster, || {
        write_steps(&file, 1, 0, 8);
    });
    assert!(sent >= 8, "{sent}: O_DSYNC is never joined");
}

/// Several writers of one file, each with every fourth record, none of which ends with a page.
pub fn strided_writers_fill_blocks_together() {
    const RECORD: usize = 47_008;
    const ROUNDS: usize = 100;
    let cluster = Cluster::start(Spec::default());
    let (a, b) = (cluster.mount(""), cluster.mount(NO_CACHES));
    let sent = requests(&cluster, || {
        let file = File::create(a.path("f")).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let file = &file;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let at = ((round * 4 + writer) * RECORD) as u64;
                        file.write_all_at(&pattern::bytes(1, at, RECORD), at).unwrap();
                    }
                });
            }
        });
        file.sync_all().unwrap();
    });
    // Sent one by one, each is two writes (to the next page, and the rest), the second one to one
    // server or two.
    assert!(sent <= 4 * ROUNDS as u64, "{sent} requests for {} records", 4 * ROUNDS);
    pattern::check_file(&b.path("f"), 1, (4 * ROUNDS * RECORD) as u64);
    // Records written anew, here and there, by turns with others: what came last is there.
    let file = open_rw(&a.path("f"));
    for i in 0..60u64 {
        let at = (i * 37 % 90) * RECORD as u64 + i;
        file.write_all_at(&pattern::bytes(2, at, RECORD), at).unwrap();
        let mut got = vec![0; RECORD];
        if i % 7 == 3 {
            file.read_exact_at(&mut got, at).unwrap();
            assert_eq!(pattern::differs(2, at, &got), None, "record {i}");
        }
        file.write_all_at(&pattern::bytes(1, at, RECORD), at).unwrap();
    }
    drop(file);
    pattern::check_file(&b.path("f"), 1, (4 * ROUNDS * RECORD) as u64);
}

/// Opens "f" and writes some steps to it that are held back; where that ends. There is no right while
/// another mount's close is on its way, nor in a server's grace time: then once more.
fn hold_some(cluster: &Cluster, mount: &Mount, mut at: u64) -> (File, u64) {
    let until = Instant::now() + secs(20);
    loop {
        let file = open_rw(&mount.path("f"));
        let sent = requests(cluster, || at = write_steps(&file, 1, at, 4));
        // The first write of an open is sent as it is, unless it goes on where the last one ended.
        if sent <= 1 {
            return (file, at);
        }
        assert!(Instant::now() < until, "{sent} requests: nothing is held back");
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub fn others_see_each_write_that_was_answered() {
    let cluster = Cluster::start(Spec { meta: 2, ..Spec::default() });
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    fs::write(a.path("f"), pattern::bytes(1, 0, BASE as usize)).unwrap();
    let reader = |name: &str| b.path(name);
    let looks: [(&str, &dyn Fn() -> u64); 5] = [
        ("stat", &|| fs::metadata(reader("f")).unwrap().len()),
        ("open and read", &|| fs::read(reader("f")).unwrap().len() as u64),
        ("a listing", &|| {
            let entries = fs::read_dir(&b.dir).unwrap().map(|e| e.unwrap());
            let found = entries.filter(|e| e.file_name() == "f").map(|e| e.metadata().unwrap());
            found.last().unwrap().len()
        }),
        ("open for writing and fstat", &|| open_rw(&reader("f")).metadata().unwrap().len()),
        ("append", &|| {
            use std::io::Write;
            let mut file = OpenOptions::new().append(true).open(reader("f")).unwrap();
            file.write_all(b"").unwrap();
            file.metadata().unwrap().len()
        }),
    ];
    let (mut at, mut slowest) = (BASE, Duration::ZERO);
    for round in 0..6 {
        for (what, look) in looks {
            let (file, end) = hold_some(&cluster, &a, at);
            let begin = Instant::now();
            assert_eq!(look(), end, "round {round}: {what}");
            slowest = slowest.max(begin.elapsed());
            at = end;
            // The right is gone: what comes now is sent at once, and seen.
            at = write_steps(&file, 1, at, 2);
            assert_eq!(fs::metadata(b.path("f")).unwrap().len(), at, "round {round}: {what}, then");
            drop(file);
        }
    }
    pattern::check_file(&b.path("f"), 1, at);
    eprintln!("slowest look of another mount at what was held back: {slowest:?}");
    assert!(slowest < secs(1), "{slowest:?}");
}

pub fn what_is_held_back_is_sent_soon() {
    let cluster = Cluster::start(Spec::default());
    let a = cluster.mount("");
    fs::write(a.path("f"), pattern::bytes(1, 0, BASE as usize)).unwrap();
    let before = cluster.counters();
    let (_file, _) = hold_some(&cluster, &a, BASE);
    let at_once = (&cluster.counters() - &before).of("io_write");
    until(secs(3), "it is sent", || (&cluster.counters() - &before).of("io_write") > at_once);
}

pub fn a_killed_holder_delays_others_for_its_lease_at_most() {
    let cluster = Cluster::start(Spec { lease_ms: 2_000, ..Spec::default() });
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    fs::write(a.path("f"), pattern::bytes(1, 0, BASE as usize)).unwrap();
    let (_file, _) = hold_some(&cluster, &a, BASE);
    a.kill();
    let begin = Instant::now();
    let got = fs::read(b.path("f")).unwrap();
    let took = begin.elapsed();
    assert!(took < secs(5), "{took:?}");
    assert!(got.len() as u64 >= BASE, "{}", got.len());
    assert_eq!(pattern::differs(1, 0, &got), None);
    fs::write(b.path("f"), "others write it").unwrap();
}

pub fn a_holder_that_was_stopped_overwrites_nothing() {
    let cluster = Cluster::start(Spec { lease_ms: 2_000, ..Spec::default() });
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    fs::write(a.path("f"), pattern::bytes(1, 0, BASE as usize)).unwrap();
    // Stopped for a moment only: nothing is lost.
    let (file, end) = hold_some(&cluster, &a, BASE);
    a.freeze(true);
    std::thread::sleep(Duration::from_millis(900));
    a.freeze(false);
    file.sync_all().unwrap();
    drop(file);
    pattern::check_file(&b.path("f"), 1, end);
    let (file, end) = hold_some(&cluster, &a, end);
    a.freeze(true);
    // The other waits for the lease, and then has the file for itself.
    let other = open_rw(&b.path("f"));
    let len = other.metadata().unwrap().len();
    write_steps(&other, 2, 0, (end / STEP as u64) as usize);
    other.sync_all().unwrap();
    assert!(len >= end - 4 * STEP as u64, "{len} of {end}");
    a.freeze(false);
    assert_eq!(told(file.sync_all()), Some(libc::EIO));
    assert_eq!(told(file.sync_all()), None);
    drop((file, other));
    pattern::check_file(&b.path("f"), 2, end);
    pattern::check_file(&a.path("f"), 2, end);
}

pub fn a_killed_metadata_server_loses_nothing_that_is_held_back() {
    let mut cluster = Cluster::start(Spec { lease_ms: 6_000, ..Spec::default() });
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount("hard,acache-ms=0,ncache-ms=0"));
    fs::write(a.path("f"), pattern::bytes(1, 0, BASE as usize)).unwrap();
    let mut at = BASE;
    for round in 0..3 {
        let (file, end) = hold_some(&cluster, &a, at);
        at = end;
        cluster.kill(0);
        cluster.restart(0);
        let got = fs::read(b.path("f")).unwrap();
        assert_eq!(got.len() as u64, at, "round {round}");
        assert_eq!(pattern::differs(1, 0, &got), None, "round {round}");
        // And once more, with the open that outlived the server.
        at = write_steps(&file, 1, at, 4);
        assert_eq!(fs::metadata(b.path("f")).unwrap().len(), at, "round {round}, written after");
    }
}

pub fn what_cannot_be_written_is_told_once() {
    let mut cluster = Cluster::start(Spec { io: 1, ..Spec::default() });
    let a = cluster.mount("retry-limit=1,retry-delay-ms=100");
    fs::write(a.path("f"), pattern::bytes(1, 0, BASE as usize)).unwrap();
    let (file, end) = hold_some(&cluster, &a, BASE);
    let io = cluster.io_servers().start;
    cluster.kill(io);
    let error = file.sync_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    cluster.restart(io);
    until(secs(10), "the server is back, and the error was told", || file.sync_all().is_ok());
    let again = write_steps(&file, 1, BASE, 4);
    assert_eq!(again, end);
    file.sync_all().unwrap();
    drop(file);
    pattern::check_file(&a.path("f"), 1, end);
}

/// What is told of `calls` that nobody expects to succeed.
fn told<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().map(|e| e.raw_os_error().unwrap())
}

pub fn what_finds_no_room_is_told_and_counts_in_no_size() {
    let cluster = Cluster::start(Spec { space_bytes: 96 << 20, ..Spec::default() });
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    let ballast = cluster.dir().join("ballast");
    let full = Some(libc::ENOSPC);
    for how in ["write", "fsync", "close", "another open", "stat", "another mount"] {
        let _ = fs::remove_file(&ballast);
        fs::write(a.path("f"), pattern::bytes(1, 0, BASE as usize)).unwrap();
        let (file, sure) = hold_some(&cluster, &a, BASE);
        file.sync_all().unwrap();
        let other = open_rw(&a.path("f"));
        let free = rustix::fs::statvfs(cluster.dir()).unwrap();
        let filler = File::create(&ballast).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&filler, flags, 0, free.f_bavail * free.f_frsize).unwrap();
        let end = write_steps(&file, 1, sure, 100);
        match how {
            "write" => {
                // Before it is known, they count; afterwards they do not.
                until(secs(3), "it was tried", || file.metadata().unwrap().len() == sure);
                assert_eq!(told(file.write_all_at(&[1; STEP], end)), full);
                assert_eq!(told(file.sync_all()), None, "told once");
            }
            "fsync" => {
                assert_eq!(told(file.sync_all()), full);
                assert_eq!(told(file.sync_all()), None, "told once");
            }
            "close" => {
                use std::os::fd::IntoRawFd;
                // SAFETY: a descriptor of its own, given up by the duplicate.
                let closed = unsafe { libc::close(file.try_clone().unwrap().into_raw_fd()) };
                let error = std::io::Error::last_os_error().raw_os_error();
                assert_eq!((closed, error), (-1, full));
            }
            "another open" => {
                assert_eq!(told(file.sync_all()), full);
                assert_eq!(told(other.sync_all()), full, "each open hears of it");
                assert_eq!(told(other.sync_all()), None);
            }
            "stat" => {
                assert_eq!(fs::metadata(a.path("f")).unwrap().len(), sure);
                assert_eq!(told(file.sync_all()), full);
            }
            _ => {
                assert_eq!(fs::metadata(b.path("f")).unwrap().len(), sure);
                assert_eq!(told(file.sync_all()), full);
            }
        }
        assert_eq!(fs::metadata(a.path("f")).unwrap().len(), sure, "{how}");
        drop((file, other));
        pattern::check_file(&a.path("f"), 1, sure);
        pattern::check_file(&b.path("f"), 1, sure);
    }
}

pub fn an_unmount_writes_out_what_is_held_back() {
    let cluster = Cluster::start(Spec::default());
    let (mut a, b) = (cluster.mount(""), cluster.mount(NO_CACHES));
    fs::write(a.path("f"), pattern::bytes(1, 0, BASE as usize)).unwrap();
    let (file, end) = hold_some(&cluster, &a, BASE);
    // The file is still open: the mount is cut off.
    assert!(a.terminate(secs(15)));
    pattern::check_file(&b.path("f"), 1, end);
    drop(file);
}
