//! Real processes and real disks: `kill -9` amid commits and writes, a full disk, a second opener.
//!
//! The test binary runs itself again as the child (see `child`). The full disk is a small tmpfs,
//! which needs root; without root that test says so and counts as skipped.
#![allow(clippy::unwrap_used)]
use pvfs2_proto::env::Env;
use pvfs2_proto::{ErrorCode, Handle, KeyvalMethod};
use pvfs2_trove::{FormatInfo, StorageSpace, TroveOptions, Txn};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const DIR: &str = "PVFS2_TROVE_TEST_DIR";

/// The keyval methods that this build has.
fn methods() -> impl Iterator<Item = KeyvalMethod> {
    let has = |m: &KeyvalMethod| *m != KeyvalMethod::Fjall || cfg!(feature = "fjall");
    KeyvalMethod::ALL.into_iter().filter(has)
}

fn info(dir: &Path) -> FormatInfo {
    let name = dir.file_name().unwrap().to_str().unwrap();
    FormatInfo { fs_id: 1, server_alias: "s0".into(), server_id: 0, keyval: name.parse().unwrap() }
}

fn open(dir: &Path) -> StorageSpace {
    let mut options = TroveOptions::default();
    // Checkpoints and rotations happen often enough to be hit by a kill.
    options.collection.overlay_entries = 300;
    options.collection.segment_bytes = 64 << 10;
    options.collection.sync_within_ms = 20;
    options.bstreams.writeout_ms = 20;
    options.bstreams.open_max = 32;
    StorageSpace::open(dir, &info(dir), options, Env::real()).unwrap()
}

fn bytes_of(n: u64) -> Vec<u8> {
    (0..n * 37 % 90_000).map(|i| (i * n) as u8).collect()
}

/// Not a test of its own: commits and writes until it is killed, telling what was acknowledged.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let s = open(Path::new(&dir));
    let mut out = std::io::stdout().lock();
    let first = s.collection.last_index() + 1;
    for n in first.. {
        let mut t = Txn::new();
        t.put(format!("a{n:08}"), format!("{n}"));
        t.put(format!("b{n:08}"), vec![n as u8; (n % 500) as usize]);
        t.delete(format!("a{:08}", n.wrapping_sub(1000)));
        assert_eq!(s.collection.commit(t).unwrap(), n);
        s.bstreams.write(Handle(1 + n % 50), n % 1000 * 100, &[&bytes_of(n)]).unwrap();
        writeln!(out, "done {n}").unwrap();
        out.flush().unwrap();
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

#[test]
fn kill_9_loses_nothing_acknowledged() {
    for method in methods() {
        let t = tempfile::tempdir().unwrap();
        killed_again_and_again(&t.path().join(method.name()));
    }
}

fn killed_again_and_again(dir: &Path) {
    StorageSpace::format(dir, &info(dir)).unwrap();
    let mut last = 0u64;
    for round in 0..6u64 {
        let mut child = spawn(dir);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let goal = last + 150 + round * 211;
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(n) = line.split("done ").nth(1) {
                last = n.trim().parse().unwrap();
                if last >= goal {
                    break;
                }
            }
        }
        // A second opener is refused while the first lives.
        let e = StorageSpace::open(dir, &info(dir), TroveOptions::default(), Env::real());
        let e = e.err().unwrap();
        assert!(e.code == ErrorCode::InUse && e.detail.contains("pid"), "{e}");
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said between our last look and its end counts too.
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("done ") {
                last = n.trim().parse().unwrap_or(last);
            }
        }
        let s = open(dir);
        assert!(!s.clean_stop);
        let c = &s.collection;
        let found = c.last_index();
        assert!(found == last || found == last + 1, "acknowledged {last}, found {found}");
        let from = found.saturating_sub(999).max(1);
        for n in from..=found {
            let a = c.get(format!("a{n:08}").as_bytes()).unwrap();
            assert_eq!(a.as_deref(), Some(n.to_string().as_bytes()), "record {n} of {found}");
        }
        let a = c.scan(b"a", None, usize::MAX).unwrap();
        assert_eq!(a.len() as u64, found - from + 1);
        assert_eq!(c.scan(b"b", None, usize::MAX).unwrap().len() as u64, found);
        // The newest acknowledged write of each datafile is there, byte by byte.
        for h in 1..=50u64 {
            let n = (0..50).map(|k| last - k).find(|n| 1 + n % 50 == h).unwrap();
            let want = bytes_of(n);
            let mut got = vec![0; want.len()];
            assert_eq!(s.bstreams.read(Handle(h), n % 1000 * 100, &mut got).unwrap(), want.len());
            assert!(n + 50 == found || got == want, "datafile {h}, write {n}");
        }
        last = found;
        if round % 2 == 0 {
            s.close().unwrap();
        }
    }
}

/// A tmpfs of a few MiB, unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mib: u32) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().ok()?;
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
        mounted.then_some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_no_more() {
    methods().for_each(full_disk);
}

fn full_disk(method: KeyvalMethod) {
    let Some(disk) = SmallDisk::mount(24) else {
        eprintln!("SKIPPED a_full_disk_is_an_error_and_no_more: a tmpfs needs root");
        return;
    };
    let dir = disk.0.path().join(method.name());
    StorageSpace::format(&dir, &info(&dir)).unwrap();
    let mut options = TroveOptions::default();
    options.bstreams.reserve_bytes = 0;
    let s = StorageSpace::open(&dir, &info(&dir), options, Env::real()).unwrap();
    let mut written = 0u64;
    let e = loop {
        match s.bstreams.write(Handle(9), written, &[&[7; 100_000]]) {
            Ok(_) => written += 100_000,
            Err(e) => break e,
        }
    };
    assert_eq!(e.code, ErrorCode::NoSpace);
    let mut committed = 0u32;
    let e = loop {
        let mut t = Txn::new();
        t.put(format!("k{committed:06}"), vec![1; 1000]);
        match s.collection.commit(t) {
            Ok(_) => committed += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(e.code, ErrorCode::NoSpace);
    assert_eq!(s.collection.scan(b"k", None, usize::MAX).unwrap().len() as u32, committed);
    // Everything that was acknowledged is right, and there is room again after a removal.
    let mut buf = vec![0; 100_000];
    assert_eq!(s.bstreams.read(Handle(9), written - 100_000, &mut buf).unwrap(), 100_000);
    assert!(buf.iter().all(|b| *b == 7));
    assert!(s.bstreams.remove(Handle(9)).unwrap());
    let mut t = Txn::new();
    t.put("room", "again");
    s.collection.commit(t).unwrap();
    drop(s);
    let s = open(&dir);
    assert_eq!(s.collection.scan(b"k", None, usize::MAX).unwrap().len() as u32, committed);
    s.close().unwrap();
}
