//! Every kind of change by one side, looked for from the other.
use super::Pair;
use crate::wait::{secs, until};
use rustix::fs as rfs;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

pub(super) fn of_files(pair: &Pair) {
    // At the same time: with caches each change may take its timeout.
    std::thread::scope(|s| {
        s.spawn(|| files(&pair.inside("files")));
        s.spawn(|| files(&pair.swapped().inside("files.back")));
    });
}

/// A mount that makes names in a directory of its own making, and so knows all of them, sees those of
/// the other side.
pub(super) fn among_own_changes(pair: &Pair) {
    let p = pair.inside("among");
    let (stop, made) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let i = made.fetch_add(1, Ordering::Relaxed);
                let own = p.a.join(format!("own{i}"));
                fs::File::create_new(&own).expect("create");
                if i % 3 == 0 {
                    fs::remove_file(&own).expect("unlink");
                }
            }
        });
        for round in 0..3 {
            let (name, before) = (format!("other{round}"), made.load(Ordering::Relaxed));
            until(secs(30), "own files are made", || made.load(Ordering::Relaxed) > before + 50);
            assert!(!exists(&p.a.join(&name)));
            fs::create_dir(p.b.join(&name)).expect("mkdir");
            let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                p.seen("a name made between own ones", || exists(&p.a.join(&name)));
            }));
            if seen.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            seen.unwrap_or_else(|why| std::panic::resume_unwind(why));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// To be run alone: Linux answers ESTALE to who looks up a directory that moved on another mount
/// while a rename goes on through his own (`__d_unalias` tries the lock that the rename holds).
pub(super) fn of_directories(pair: &Pair) {
    directories(&pair.inside("dirs"));
    directories(&pair.swapped().inside("dirs.back"));
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn names(dir: &Path) -> BTreeSet<OsString> {
    fs::read_dir(dir).expect("list").map(|e| e.expect("entry").file_name()).collect()
}

fn files(p: &Pair) {
    let (a, b) = (|n: &str| p.a.join(n), |n: &str| p.b.join(n));
    let stat = |n: &str| fs::metadata(b(n)).expect("stat");
    assert!(!exists(&b("f")), "nothing there yet; this side now remembers that there is no f");
    fs::write(a("f"), "one").unwrap();
    p.reads("create", &b("f"), b"one");
    fs::write(a("f"), "three").unwrap();
    p.reads("overwrite, small", &b("f"), b"three");
    let large: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
    fs::write(a("f"), &large).unwrap();
    p.reads("small becomes large", &b("f"), &large);
    let file = OpenOptions::new().write(true).open(a("f")).unwrap();
    file.set_len(70_001).unwrap();
    p.seen("truncate, size", || stat("f").len() == 70_001);
    p.reads("truncate, bytes", &b("f"), &large[..70_001]);
    file.set_len(100_000).unwrap();
    p.seen("extend", || stat("f").len() == 100_000);
    file.set_len(70_001).unwrap();
    drop(file);
    let mut file = OpenOptions::new().append(true).open(a("f")).unwrap();
    file.write_all(b"tail").unwrap();
    p.seen("append", || stat("f").len() == 70_005);
    drop(file);
    fs::rename(a("f"), a("g")).unwrap();
    p.seen("rename", || !exists(&b("f")) && exists(&b("g")));
    fs::set_permissions(a("g"), fs::Permissions::from_mode(0o600)).unwrap();
    p.seen("chmod", || stat("g").mode() & 0o7777 == 0o600);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(a("g"), Some(7), Some(8)).unwrap();
        p.seen("chown", || (stat("g").uid(), stat("g").gid()) == (7, 8));
    }
    let then = rfs::Timespec { tv_sec: 1_000_000_007, tv_nsec: 123_456_789 };
    let times = rfs::Timestamps { last_access: then, last_modification: then };
    rfs::utimensat(rfs::CWD, a("g"), &times, rfs::AtFlags::empty()).unwrap();
    p.seen("utimes", || (stat("g").mtime(), stat("g").mtime_nsec()) == (then.tv_sec, then.tv_nsec));
    rfs::setxattr(a("g"), "user.x", b"value", rfs::XattrFlags::empty()).unwrap();
    let xattr = || {
        let mut value = [0; 64];
        rfs::getxattr(b("g"), "user.x", &mut value[..]).map(|n| value[..n].to_vec())
    };
    p.seen("setxattr", || xattr().as_deref() == Ok(b"value"));
    rfs::removexattr(a("g"), "user.x").unwrap();
    p.seen("removexattr", || xattr() == Err(rustix::io::Errno::NODATA));
    fs::hard_link(a("g"), a("h")).unwrap();
    p.seen("link", || stat("g").nlink() == 2 && exists(&b("h")));
    fs::remove_file(a("h")).unwrap();
    p.seen("unlink of one of two", || stat("g").nlink() == 1 && !exists(&b("h")));
    fs::write(a("new"), "other").unwrap();
    fs::rename(a("new"), a("g")).unwrap();
    p.reads("rename over", &b("g"), b"other");
    p.seen("rename over, old name", || !exists(&b("new")));
    symlink("g", a("s")).unwrap();
    p.seen("symlink", || fs::read_link(b("s")).is_ok_and(|t| t == Path::new("g")));
    fs::remove_file(a("s")).unwrap();
    symlink("h", a("s")).unwrap();
    p.seen("another symlink", || fs::read_link(b("s")).is_ok_and(|t| t == Path::new("h")));
    for name in ["g", "s"] {
        fs::remove_file(a(name)).unwrap();
        p.seen("unlink", || !exists(&b(name)));
    }
}

fn directories(p: &Pair) {
    let (a, b) = (|n: &str| p.a.join(n), |n: &str| p.b.join(n));
    let links = || fs::metadata(&p.b).expect("stat").nlink();
    let first = links();
    assert!(!exists(&b("d")));
    fs::create_dir(a("d")).unwrap();
    p.seen("mkdir", || b("d").is_dir());
    p.seen("mkdir, links of the parent", || links() == first + 1);
    let before = fs::metadata(&p.b).unwrap().mtime_nsec();
    fs::write(a("x"), "x").unwrap();
    p.seen("a directory's mtime", || fs::metadata(&p.b).unwrap().mtime_nsec() != before);
    fs::write(a("d/x"), "x").unwrap();
    p.reads("create in it", &b("d/x"), b"x");
    p.seen("listing", || names(&p.b) == BTreeSet::from(["d".into(), "x".into()]));
    fs::create_dir(a("e")).unwrap();
    fs::rename(a("d"), a("e/d")).unwrap();
    p.reads("a directory elsewhere", &b("e/d/x"), b"x");
    p.seen("its old name", || !exists(&b("d")));
    p.seen("..", || {
        let up = fs::metadata(b("e/d/..")).map(|m| m.ino());
        up.is_ok_and(|ino| ino == fs::metadata(b("e")).unwrap().ino())
    });
    fs::rename(a("e"), a("empty.name")).unwrap();
    p.reads("a directory's new name", &b("empty.name/d/x"), b"x");
    fs::remove_dir_all(a("empty.name")).unwrap();
    p.seen("rmdir", || !exists(&b("empty.name")));
    p.seen("rmdir, links of the parent", || links() == first);
    p.seen("listing", || names(&p.b) == BTreeSet::from(["x".into()]));
}
