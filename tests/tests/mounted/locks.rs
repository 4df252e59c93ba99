//! fcntl and flock locks across mounts: exclusion, order, deadlocks, and whoever dies on the way.
//!
//! Other processes are Python, whose calls are the system's own.
use pvfs2_tests::wait::{exit_within, secs, until};
use pvfs2_tests::{Cluster, Mount, Spec};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Error};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Locks (`kind` F_RDLCK, F_WRLCK, F_UNLCK) `len` bytes from `start` on; 0: to the end.
fn fcntl(file: &File, wait: bool, kind: i32, start: i64, len: i64) -> Result<(), i32> {
    let how = if wait { libc::F_SETLKW } else { libc::F_SETLK };
    let request = request(kind, start, len);
    // SAFETY: the call reads the struct that the pointer names, which lives until it returns.
    match unsafe { libc::fcntl(file.as_raw_fd(), how, &request) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error().raw_os_error().unwrap()),
    }
}

fn request(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

/// The first lock in the way of a write lock on the file.
fn getlk(file: &File) -> libc::flock {
    let mut request = request(libc::F_WRLCK, 0, 0);
    // SAFETY: the call reads and fills the struct that the pointer names.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut request) };
    assert_eq!(rc, 0, "{}", Error::last_os_error());
    request
}

fn open(mount: &Mount, name: &str) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(mount.path(name))
        .unwrap()
}

/// A process that says what it does, line by line.
struct Helper {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Helper {
    fn new(script: &str, path: &Path) -> Helper {
        let script = format!(
            "import fcntl,os,sys,signal,time\ndef say(x): print(x, flush=True)\n\
             f=open(sys.argv[1],'r+b',buffering=0)\n{script}"
        );
        let mut child = Command::new("python3")
            .args(["-c", &script])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Helper { child, lines }
    }

    /// Its next line; empty at its end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    #[track_caller]
    fn says(&mut self, what: &str) {
        assert_eq!(self.line(), what);
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const HOLD: &str = "fcntl.lockf(f, fcntl.LOCK_EX); say('held'); sys.stdin.read()";
const WAIT: &str = "say('asks'); fcntl.lockf(f, fcntl.LOCK_EX); say('got'); sys.stdin.read()";

fn start() -> (Cluster, Mount, Mount) {
    let cluster = Cluster::start(Spec::default());
    let (a, b) = (cluster.mount(""), cluster.mount(""));
    fs::write(a.path("f"), "").unwrap();
    fs::metadata(b.path("f")).unwrap();
    (cluster, a, b)
}

const BUSY: Result<(), i32> = Err(libc::EAGAIN);

pub fn a_counter_under_a_lock_loses_nothing() {
    const TIMES: u32 = 150;
    let (_cluster, a, b) = start();
    for (kind, large) in [("lockf", false), ("flock", false), ("lockf", true)] {
        // In the file's first bytes while it is small; or in one that is striped.
        fs::write(a.path(kind), format!("{:12}", 0)).unwrap();
        if large {
            File::options().write(true).open(a.path(kind)).unwrap().set_len(1 << 20).unwrap();
        }
        let script = format!(
            "for i in range({TIMES}):\n  fcntl.{kind}(f, fcntl.LOCK_EX)\n  n=int(os.pread(f.fileno(),12,0))\n  \
             os.pwrite(f.fileno(),b'%12d' % (n+1),0)\n  fcntl.{kind}(f, fcntl.LOCK_UN)\nsay('done')"
        );
        let mounts = [&a, &a, &b, &b];
        let mut helpers: Vec<Helper> =
            mounts.iter().map(|m| Helper::new(&script, &m.path(kind))).collect();
        helpers.iter_mut().for_each(|h| h.says("done"));
        let counted = fs::read(a.path(kind)).unwrap();
        let counted = std::str::from_utf8(&counted[..12]).unwrap().trim().to_owned();
        assert_eq!(counted, (TIMES * 4).to_string(), "{kind}, large: {large}");
        fs::remove_file(a.path(kind)).unwrap();
    }
}

pub fn ranges_exclude_between_mounts() {
    let (_cluster, a, b) = start();
    let (fa, fb) = (open(&a, "f"), open(&b, "f"));
    fcntl(&fa, false, libc::F_WRLCK, 10, 10).unwrap();
    assert_eq!(fcntl(&fb, false, libc::F_RDLCK, 19, 1), BUSY);
    fcntl(&fb, false, libc::F_WRLCK, 20, 0).unwrap();
    fcntl(&fa, false, libc::F_UNLCK, 12, 4).unwrap();
    fcntl(&fb, false, libc::F_RDLCK, 12, 4).unwrap();
    fcntl(&fa, false, libc::F_RDLCK, 10, 8).unwrap();
    assert_eq!(fcntl(&fb, false, libc::F_WRLCK, 12, 4), BUSY, "upgrade against a reader");
    let found = getlk(&fb);
    assert_eq!(
        (i32::from(found.l_type), found.l_start, found.l_len, found.l_pid),
        (libc::F_RDLCK, 10, 8, std::process::id() as i32)
    );
    // Any close by the process ends its locks.
    drop(open(&a, "f"));
    let found = getlk(&fb);
    assert_eq!(i32::from(found.l_type), libc::F_UNLCK);
    fcntl(&fb, false, libc::F_WRLCK, 0, 0).unwrap();
    drop(fb);
    until(secs(1), "the close unlocks", || fcntl(&fa, false, libc::F_WRLCK, 0, 0).is_ok());
}

pub fn a_file_opened_for_reading_is_unlocked_by_its_close() {
    let (_cluster, a, b) = start();
    let other = open(&b, "f");
    // The first time the kernel sends no flush, later it does.
    for round in 0..3 {
        let reader = File::open(a.path("f")).unwrap();
        fcntl(&reader, false, libc::F_RDLCK, 0, 0).unwrap();
        assert_eq!(fcntl(&other, false, libc::F_WRLCK, 0, 0), BUSY);
        drop(reader);
        until(secs(1), &format!("round {round}"), || {
            fcntl(&other, false, libc::F_WRLCK, 0, 0).is_ok()
        });
        fcntl(&other, false, libc::F_UNLCK, 0, 0).unwrap();
    }
}

pub fn who_waits_is_woken_by_the_unlock() {
    let (_cluster, a, b) = start();
    let file = open(&a, "f");
    for _ in 0..3 {
        fcntl(&file, false, libc::F_WRLCK, 0, 0).unwrap();
        let mut waiter = Helper::new(WAIT, &b.path("f"));
        waiter.says("asks");
        std::thread::sleep(Duration::from_millis(1_200)); // long enough to be in the background
        fcntl(&file, false, libc::F_UNLCK, 0, 0).unwrap();
        let begin = Instant::now();
        waiter.says("got");
        // Less than the interval at which a waiter asks by itself.
        assert!(begin.elapsed() < Duration::from_millis(900), "after {:?}", begin.elapsed());
        assert_eq!(fcntl(&file, false, libc::F_WRLCK, 0, 0), BUSY);
        drop(waiter);
        until(secs(1), "freed", || fcntl(&file, false, libc::F_WRLCK, 0, 0).is_ok());
    }
}

pub fn a_deadlock_between_mounts_is_refused() {
    let (_cluster, a, b) = start();
    let (fa, fb) = (open(&a, "f"), open(&b, "g"));
    let (ga, gb) = (open(&b, "f"), open(&a, "g"));
    // One process for the kernel, but two mounts: two owners. a holds f, b holds g.
    fcntl(&fa, false, libc::F_WRLCK, 0, 0).unwrap();
    fcntl(&fb, false, libc::F_WRLCK, 0, 0).unwrap();
    let waiter = std::thread::spawn(move || {
        let got = fcntl(&gb, true, libc::F_WRLCK, 0, 0);
        (got, gb)
    });
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(fcntl(&ga, true, libc::F_WRLCK, 0, 0), Err(libc::EDEADLK));
    fcntl(&fb, false, libc::F_UNLCK, 0, 0).unwrap();
    assert_eq!(waiter.join().unwrap().0, Ok(()));
}

pub fn a_killed_waiter_is_gone_and_gets_nothing() {
    let (_cluster, a, b) = start();
    let holder = open(&a, "f");
    fcntl(&holder, false, libc::F_WRLCK, 0, 0).unwrap();
    for options in ["lockf", "flock"] {
        let mut waiter = Helper::new(&WAIT.replace("lockf", options), &b.path("f"));
        waiter.says("asks");
        std::thread::sleep(Duration::from_millis(800));
        let begin = Instant::now();
        waiter.child.kill().unwrap();
        let gone = exit_within(&mut waiter.child, secs(10)).is_some();
        assert!(gone && begin.elapsed() < Duration::from_millis(1_100), "{:?}", begin.elapsed());
        // Nobody got it behind our back.
        fcntl(&holder, false, libc::F_UNLCK, 0, 0).unwrap();
        let third = open(&b, "f");
        until(secs(1), "the lock is free", || fcntl(&third, false, libc::F_WRLCK, 0, 0).is_ok());
        drop(third);
        until(secs(1), "and again", || fcntl(&holder, false, libc::F_WRLCK, 0, 0).is_ok());
    }
    // Killed while the lock is being granted.
    for round in 0..10u64 {
        let mut waiter = Helper::new(WAIT, &b.path("f"));
        waiter.says("asks");
        std::thread::sleep(Duration::from_millis(450));
        waiter.child.kill().unwrap();
        std::thread::sleep(Duration::from_millis(30 * round));
        fcntl(&holder, false, libc::F_UNLCK, 0, 0).unwrap();
        assert!(exit_within(&mut waiter.child, secs(5)).is_some());
        until(secs(3), &format!("round {round}: free"), || {
            fcntl(&holder, false, libc::F_WRLCK, 0, 0).is_ok()
        });
    }
}

pub fn a_signal_ends_the_wait() {
    let (_cluster, a, b) = start();
    let holder = open(&a, "f");
    fcntl(&holder, false, libc::F_WRLCK, 0, 0).unwrap();
    let script = "class T(Exception): pass\ndef h(*_): raise T()\nsignal.signal(signal.SIGALRM, h)\n\
                  signal.alarm(1)\ntry:\n  fcntl.lockf(f, fcntl.LOCK_EX)\n  say('got')\nexcept T:\n  say('alarm')\n\
                  fcntl.lockf(f, fcntl.LOCK_EX); say('got'); sys.stdin.read()";
    let begin = Instant::now();
    let mut waiter = Helper::new(script, &b.path("f"));
    waiter.says("alarm");
    assert!(begin.elapsed() < secs(4), "{:?}", begin.elapsed());
    // It lives on, and may wait again.
    fcntl(&holder, false, libc::F_UNLCK, 0, 0).unwrap();
    waiter.says("got");
    assert_eq!(fcntl(&holder, false, libc::F_WRLCK, 0, 0), BUSY);
}

pub fn a_killed_holder_frees_its_locks() {
    let (_cluster, a, b) = start();
    let file = open(&b, "f");
    for kind in ["lockf", "flock"] {
        let mut holder = Helper::new(&HOLD.replace("lockf", kind), &a.path("f"));
        holder.says("held");
        assert_eq!(fcntl(&file, false, libc::F_WRLCK, 0, 0), BUSY);
        holder.child.kill().unwrap();
        assert!(exit_within(&mut holder.child, secs(2)).is_some());
        until(secs(2), "freed", || fcntl(&file, false, libc::F_WRLCK, 0, 0).is_ok());
        fcntl(&file, false, libc::F_UNLCK, 0, 0).unwrap();
    }
}

pub fn a_killed_mount_frees_its_locks_after_its_lease() {
    let cluster = Cluster::start(Spec { lease_ms: 2_000, ..Spec::default() });
    let (a, b) = (cluster.mount(""), cluster.mount(""));
    fs::write(b.path("f"), "").unwrap();
    let mut holder = Helper::new(HOLD, &a.path("f"));
    holder.says("held");
    let mut waiter = Helper::new(WAIT, &b.path("f"));
    waiter.says("asks");
    let file = open(&b, "f");
    std::thread::sleep(Duration::from_millis(500));
    a.kill();
    let begin = Instant::now();
    assert_eq!(fcntl(&file, false, libc::F_WRLCK, 0, 0), BUSY, "its lease runs");
    waiter.says("got");
    assert!(begin.elapsed() < secs(6), "{:?}", begin.elapsed());
    drop(waiter);
}

pub fn locks_outlive_a_killed_server() {
    let mut cluster = Cluster::start(Spec { lease_ms: 8_000, ..Spec::default() });
    let (a, b) = (cluster.mount(""), cluster.mount("hard"));
    fs::write(a.path("f"), "").unwrap();
    let mine = open(&a, "f");
    fcntl(&mine, false, libc::F_WRLCK, 0, 10).unwrap();
    fs::write(a.path("g"), "").unwrap();
    let mut flock = Helper::new(&HOLD.replace("lockf", "flock"), &a.path("g"));
    flock.says("held");
    let (other, other_g) = (open(&b, "f"), open(&b, "g"));
    let mut waiter = Helper::new(WAIT, &b.path("f"));
    waiter.says("asks");
    std::thread::sleep(Duration::from_millis(700));
    for _ in 0..2 {
        cluster.kill(0);
        std::thread::sleep(Duration::from_millis(300));
        cluster.restart(0);
        // In the grace time and after it.
        for _ in 0..3 {
            assert_eq!(fcntl(&other, false, libc::F_RDLCK, 9, 1), BUSY);
            assert_eq!(fcntl(&other_g, false, libc::F_RDLCK, 0, 0), BUSY);
            std::thread::sleep(Duration::from_millis(300));
        }
        fcntl(&other, false, libc::F_WRLCK, 10, 0).expect("what nobody held, after the grace time");
        fcntl(&other, false, libc::F_UNLCK, 0, 0).unwrap();
    }
    assert_eq!(waiter.child.try_wait().unwrap(), None, "it still waits");
    fcntl(&mine, false, libc::F_UNLCK, 0, 0).unwrap();
    waiter.says("got");
    assert_eq!(fcntl(&mine, false, libc::F_RDLCK, 0, 1), BUSY);
}

pub fn two_mounts_write_one_sqlite_database() {
    const ROWS: u32 = 60;
    let (_cluster, a, b) = start();
    let script = |who: &str| {
        format!(
            "import sqlite3\ndb=sqlite3.connect(sys.argv[1]+'.db', timeout=120, isolation_level=None)\n\
             db.execute('CREATE TABLE IF NOT EXISTS t(who TEXT, n INTEGER, UNIQUE(who, n))')\n\
             for n in range({ROWS}):\n  db.execute('BEGIN IMMEDIATE')\n  \
             db.execute('INSERT INTO t VALUES(?, ?)', ('{who}', n))\n  db.execute('COMMIT')\nsay('done')"
        )
    };
    let mut writers: Vec<Helper> = [(&a, "a"), (&b, "b"), (&b, "c")]
        .into_iter()
        .map(|(mount, who)| Helper::new(&script(who), &mount.path("f")))
        .collect();
    writers.iter_mut().for_each(|w| w.says("done"));
    for mount in [&a, &b] {
        let look = "import sqlite3\ndb=sqlite3.connect(sys.argv[1]+'.db', timeout=60)\n\
                    say(db.execute('SELECT count(*) FROM t').fetchone()[0])\n\
                    say(db.execute('PRAGMA integrity_check').fetchone()[0])";
        let mut look = Helper::new(look, &mount.path("f"));
        look.says(&(3 * ROWS).to_string());
        look.says("ok");
    }
}

pub fn locks_cost_what_they_say() {
    let cluster = Cluster::start(Spec::default());
    let mount = cluster.mount("acache-ms=60000,ncache-ms=60000");
    fs::write(mount.path("f"), "x").unwrap();
    let count = |work: &dyn Fn()| {
        let before = cluster.counters();
        work();
        &cluster.counters() - &before
    };
    let file = open(&mount, "f");
    let counted = count(&|| {
        for _ in 0..20 {
            fcntl(&file, true, libc::F_WRLCK, 0, 0).unwrap();
            fcntl(&file, true, libc::F_UNLCK, 0, 0).unwrap();
        }
    });
    assert_eq!((counted.of("lock"), counted.work()), (40, 40), "{counted:?}");
    let counted = count(&|| {
        for _ in 0..20 {
            drop(File::options().write(true).open(mount.path("f")).unwrap());
        }
    });
    assert_eq!(counted.of("lock"), 0, "nothing is locked any more: {counted:?}");
    // Reading pages under a lock that no other mount takes reads them once.
    let counted = count(&|| {
        for _ in 0..20 {
            let mut buf = [0];
            fcntl(&file, true, libc::F_RDLCK, 0, 0).unwrap();
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut buf, 0).unwrap();
            fcntl(&file, true, libc::F_UNLCK, 0, 0).unwrap();
        }
    });
    assert!(counted.work() <= 42, "{counted:?}");
    // And under `locks=local` the servers hear of none.
    let local = cluster.mount("locks=local");
    let file = open(&local, "f");
    let counted = count(&|| fcntl(&file, true, libc::F_WRLCK, 0, 0).unwrap());
    assert_eq!(counted.of("lock"), 0);
}
