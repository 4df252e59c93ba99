//! Delta transfer between real devices and the real server: how many bytes really pass over the wire, TLS
//! and heads included, counted by a relay in between.

use pvfs2_sync::api::Login;
use pvfs2_sync::device::config::Config;
use pvfs2_sync::device::daemon;
use pvfs2_sync::rng::Rng;
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::running::{Options, Running};
use pvfs2_sync::server::users::now_ms;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    let mut bytes = Rng::new(7).bytes(100_000_000);
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
    bytes = Rng::new(8).bytes(3_000_000);
    put(&bytes);
    assert!(counted(&a) > 3_000_000);
    counted(&b);
    same(&bytes);
}
