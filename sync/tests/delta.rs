//! Delta transfer between real devices and the real server: how many bytes really pass over the wire, TLS
//! and heads included, counted by a relay in between; and, over files in memory, that a crash at any
//! call leaves nothing that is not whole.
#![allow(clippy::unwrap_used)] // all test: a panic is a verdict
#[path = "common/memory.rs"]
mod memory;

use memory::{Device, Direct};
use pvfs2_sync::api::Login;
use pvfs2_sync::device::config::Config;
use pvfs2_sync::device::daemon;
use pvfs2_sync::error::SyncError;
use pvfs2_sync::rng::Rng;
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::running::{Options, Running};
use pvfs2_sync::server::users::now_ms;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut out: Vec<u8> = (0..len / 8 + 1).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    out.truncate(len);
    out
}

/// Hands bytes on both ways and counts them.
fn relay(to: SocketAddr) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, count) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counter = count.clone();
    std::thread::spawn(move || {
        for here in listener.incoming() {
            let (Ok(here), Ok(there)) = (here, TcpStream::connect(to)) else { return };
            for (mut from, mut to) in
                [(here.try_clone().unwrap(), there.try_clone().unwrap()), (there, here)]
            {
                let counter = counter.clone();
                std::thread::spawn(move || {
                    let mut room = vec![0; 64 << 10];
                    while let Ok(n @ 1..) = from.read(&mut room) {
                        counter.fetch_add(n as u64, Ordering::Relaxed);
                        if to.write_all(&room[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (addr, count)
}

#[test]
fn one_byte_of_100_mb_is_less_than_100_kb_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("user");
    std::fs::create_dir(&root).unwrap();
    let options =
        Options { begin: Begin::New, ..Options::new(root.clone(), "127.0.0.1:0".parse().unwrap()) };
    let server = Running::start(&options).unwrap();
    server.app.accounts.create("ann", "correct horse battery", false, None, now_ms()).unwrap();
    let ca = std::fs::read_to_string(&server.cert).unwrap();
    let device = |name: &str| -> (PathBuf, PathBuf, Arc<AtomicU64>) {
        let (state, folder) = (dir.path().join(format!("{name}.state")), dir.path().join(name));
        let login = Login {
            user: "ann".into(),
            password: "correct horse battery".into(),
            device: name.into(),
        };
        let (addr, count) = relay(server.addr);
        Config::set_up(&state, &format!("https://{addr}"), Some(ca.clone()), &login, &folder)
            .unwrap();
        (state, folder, count)
    };
    let (a, b) = (device("a"), device("b"));
    let counted = |d: &(PathBuf, PathBuf, Arc<AtomicU64>)| {
        d.2.store(0, Ordering::Relaxed);
        let report = daemon::once(&d.0, false).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        d.2.load(Ordering::Relaxed)
    };
    let mut bytes = noise(7, 100_000_000);
    let put = |bytes: &[u8]| std::fs::write(a.1.join("big"), bytes).unwrap();
    put(&bytes);
    assert!(counted(&a) > 100_000_000);
    assert!(counted(&b) > 100_000_000);
    let same = |bytes: &[u8]| {
        for path in [root.join("ann/big"), b.1.join("big")] {
            assert!(std::fs::read(&path).unwrap() == bytes, "{}", path.display());
        }
    };
    bytes[50_000_000] ^= 0xff;
    put(&bytes);
    let changed = (counted(&a), counted(&b));
    same(&bytes);
    bytes.insert(0, b'x');
    put(&bytes);
    let inserted = (counted(&a), counted(&b));
    same(&bytes);
    println!(
        "one byte changed: {changed:?}; one inserted at the front: {inserted:?} bytes up, down"
    );
    for (what, many) in [("changed", changed), ("inserted", inserted)] {
        assert!(many.0 < 100_000 && many.1 < 100_000, "{what}: {many:?}");
    }
    // A content that has nothing of the old one travels whole.
    bytes = noise(8, 3_000_000);
    put(&bytes);
    assert!(counted(&a) > 3_000_000);
    counted(&b);
    same(&bytes);
}

/// A device sends a change, another fetches it; one of the three is cut off at the `n`th call. True: it
/// was.
fn cut_off_at(n: u64, whose: usize) -> bool {
    let (mut s, mut a, mut b) = (Direct::new(), Device::new("a"), Device::new("b"));
    let old = noise(1, 700_000);
    a.mem.user_write("f", &old, None);
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    let mut new = old.clone();
    new.splice(300_000..300_010, noise(2, 5_000));
    a.mem.user_write("f", &new, None);
    let mems = [a.mem.clone(), b.mem.clone(), s.mem.clone()];
    mems[whose].crash_after(Some(n));
    let mut crashed = false;
    for d in [&mut a, &mut b] {
        if let Err(e) = d.pass(&mut s) {
            assert!(matches!(e, SyncError::Crash), "{e}");
            crashed = true;
        }
        if crashed {
            mems[whose].crash_after(None);
            mems[whose].lose_power();
            s.restart();
        }
        let here = d.mem.snapshot().remove("f").unwrap().unwrap();
        assert!(here == old || here == new, "cut off at {n} of {whose}: neither old nor new");
    }
    mems[whose].crash_after(None);
    for _ in 0..2 {
        a.pass(&mut s).unwrap();
        b.pass(&mut s).unwrap();
    }
    for mem in &mems {
        assert_eq!(mem.snapshot().len(), 1, "no conflict: {:?}", mem.snapshot().keys());
        assert!(mem.snapshot()["f"].as_ref() == Some(&new), "cut off at {n} of {whose}");
    }
    crashed
}

#[test]
fn a_delta_that_is_cut_off_anywhere_is_whole_in_the_end() {
    for whose in 0..3 {
        let mut cuts = 0;
        while cut_off_at(cuts, whose) {
            cuts += 1;
        }
        assert!(cuts > 20, "{cuts} calls of {whose}");
        println!("{cuts} calls of {}", ["the sender", "the receiver", "the server"][whose]);
    }
}
