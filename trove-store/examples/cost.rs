//! What Trove's calls cost on this machine: `cargo run --release -p pvfs2-trove --example cost -- DIR`.
//!
//! Prints one line per call: microseconds each, or MiB/s. DIR must be empty or missing.
use pvfs2_proto::env::Env;
use pvfs2_proto::{Handle, Result};
use pvfs2_trove::{FormatInfo, StorageSpace, TroveOptions, Txn};
use std::path::PathBuf;
use std::time::Instant;

fn report(what: &str, count: u64, bytes: u64, since: Instant) {
    let us = since.elapsed().as_secs_f64() * 1e6;
    let rate = bytes as f64 / (1 << 20) as f64 / (us / 1e6);
    println!("{what:32} {:9.2} us each {rate:9.0} MiB/s", us / count as f64);
}

fn main() -> Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "trove-cost".into()));
    let info = FormatInfo {
        fs_id: 1,
        server_alias: "cost".into(),
        server_id: 0,
        keyval: Default::default(),
    };
    StorageSpace::format(&dir, &info)?;
    let s = StorageSpace::open(&dir, &info, TroveOptions::default(), Env::real())?;
    let (c, b) = (&s.collection, &s.bstreams);

    const N: u64 = 100_000;
    let start = Instant::now();
    for n in 0..N {
        let mut t = Txn::new();
        t.put([&[1], &n.to_be_bytes()[..]].concat(), vec![7; 120]);
        t.put([&[2, 0, 0, 0, 1], format!("file-{n}").as_bytes()].concat(), vec![1; 12]);
        t.put(vec![3, (n % 64) as u8], vec![2; 40]);
        c.commit(t)?;
    }
    report("commit of 3 keys", N, 0, start);
    let start = Instant::now();
    for n in 0..N {
        c.get(&[&[1], &n.to_be_bytes()[..]].concat())?;
    }
    report("get", N, 0, start);
    c.step()?;
    let start = Instant::now();
    for n in 0..N {
        c.get(&[&[1], &n.to_be_bytes()[..]].concat())?;
    }
    report("get, after the move into sled", N, 0, start);
    let start = Instant::now();
    for n in 0..50 {
        let mut t = Txn::new();
        t.put(vec![9, n], vec![n]);
        let index = c.commit(t)?;
        c.sync_now(index)?;
    }
    report("commit + sync", 50, 0, start);

    let data = vec![0x5a_u8; 1 << 20];
    let mut buf = vec![0_u8; 1 << 20];
    let h = Handle(1);
    for (what, len) in [("64 KiB", 64 << 10), ("1 MiB", 1 << 20), ("4 KiB", 4 << 10)] {
        let total = 256_u64 << 20;
        let count = (total / len).min(20_000);
        let start = Instant::now();
        for i in 0..count {
            b.write(h, i * len, &[&data[..len as usize]])?;
        }
        report(&format!("write {what}"), count, count * len, start);
        let start = Instant::now();
        for i in 0..count {
            b.read(h, i * len, &mut buf[..len as usize])?;
        }
        report(&format!("read {what}"), count, count * len, start);
    }
    let start = Instant::now();
    for i in 0..2000 {
        b.write(Handle(1000 + i), 0, &[&data[..4096]])?;
    }
    report("first write of a datafile", 2000, 0, start);
    let start = Instant::now();
    for i in 0..2000 {
        b.remove(Handle(1000 + i))?;
    }
    report("remove", 2000, 0, start);
    let start = Instant::now();
    s.close()?;
    report("close", 1, 0, start);
    Ok(())
}
