//! copy_file_range: what is copied is right, and by whom.
use pvfs2_tests::wait::{secs, within};
use pvfs2_tests::{Cluster, Mount, Spec, pattern};
use rustix::fs::{self as rfs, SeekFrom};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

fn start() -> (Cluster, Mount) {
    let cluster = Cluster::start(Spec::default());
    let mount = cluster.mount("");
    (cluster, mount)
}

fn opened(mount: &Mount, name: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(mount.path(name))
        .unwrap()
}

/// Copies until all is copied or nothing more comes; how much it was.
fn copy(
    from: &File,
    mut at: u64,
    to: &File,
    mut place: u64,
    len: usize,
) -> rustix::io::Result<usize> {
    let mut done = 0;
    while done < len {
        match rfs::copy_file_range(from, Some(&mut at), to, Some(&mut place), len - done)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

pub fn cp_of_a_large_file_costs_requests_and_no_bytes() {
    const LEN: u64 = 40 << 20;
    let (cluster, mount) = start();
    fs::write(mount.path("from"), pattern::bytes(7, 0, LEN as usize)).unwrap();
    let before = cluster.counters();
    let mut cp = Command::new("cp");
    cp.arg("--reflink=auto").args([mount.path("from"), mount.path("to")]);
    assert!(cp.status().unwrap().success());
    let cost = &cluster.counters() - &before;
    assert_eq!((cost.of("io_read"), cost.of("io_write")), (0, 0), "{cost:?}");
    // 10 MiB on each of four servers: one window, wherever the two files begin.
    let each: Vec<u64> = cost.by_server("df_copy").into_values().collect();
    assert_eq!(each, [1, 1, 1, 1], "{cost:?}");
    assert!(cost.work() <= 20, "{cost:?}");
    pattern::check_file(&mount.path("to"), 7, LEN);
    // Another client sees it so too, and no datafile is damaged.
    let other = cluster.mount("");
    pattern::check_file(&other.path("to"), 7, LEN);
    // A small file is copied by its metadata server.
    fs::write(mount.path("small"), pattern::bytes(8, 0, 5_000)).unwrap();
    let before = cluster.counters();
    let mut cp = Command::new("cp");
    assert!(cp.arg(mount.path("small")).arg(mount.path("small2")).status().unwrap().success());
    let cost = &cluster.counters() - &before;
    assert_eq!((cost.of("copy_small"), cost.of("write_small")), (1, 0), "{cost:?}");
    pattern::check_file(&other.path("small2"), 8, 5_000);
}

pub fn ranges_of_any_kind_are_copied() {
    let (_cluster, mount) = start();
    const LEN: usize = 1_000_000;
    let bytes = pattern::bytes(9, 0, LEN);
    let from = opened(&mount, "from");
    from.write_all_at(&bytes, 0).unwrap();
    // (source, target, length): whole strips, odd places, beyond the end, within small files.
    let ranges = [
        (0u64, 0u64, LEN),
        (65_536, 131_072, 300_000),
        (262_144, 0, 262_144),
        (1, 3, 500_000),
        (999_000, 70_000, 50_000),
        (10, 20, 1_000),
        (400_000, 5_000_000, 200_000),
    ];
    for (i, (at, place, len)) in ranges.into_iter().enumerate() {
        for old in [0usize, 3_000, 600_000] {
            let name = format!("to{i}-{old}");
            let to = opened(&mount, &name);
            let mut want = pattern::bytes(10, 0, old);
            to.write_all_at(&want, 0).unwrap();
            let copied = copy(&from, at, &to, place, len).unwrap();
            let expected = len.min(LEN - at as usize);
            assert_eq!(copied, expected, "{name}");
            want.resize(want.len().max(place as usize + copied), 0);
            let source = &bytes[at as usize..at as usize + copied];
            want[place as usize..place as usize + copied].copy_from_slice(source);
            assert_eq!(to.metadata().unwrap().len(), want.len() as u64, "{name}: size");
            drop(to);
            assert!(fs::read(mount.path(&name)).unwrap() == want, "{name}: bytes");
        }
    }
    // Within one file; ranges that overlap are refused.
    let one = opened(&mount, "one");
    one.write_all_at(&bytes, 0).unwrap();
    assert_eq!(copy(&one, 0, &one, 2_000_000, LEN).unwrap(), LEN);
    let mut got = vec![0; LEN];
    one.read_exact_at(&mut got, 2_000_000).unwrap();
    assert!(got == bytes);
    assert_eq!(copy(&one, 0, &one, 10, 1_000).unwrap_err(), rustix::io::Errno::INVAL);
    // A file that grows while another mount reads of it keeps its times in order.
    let before = fs::metadata(mount.path("from")).unwrap();
    let after = fs::metadata(mount.path("one")).unwrap();
    assert!((after.mtime(), after.mtime_nsec()) >= (before.mtime(), before.mtime_nsec()));
}

pub fn holes_stay_holes_and_cover_what_was_there() {
    let (cluster, mount) = start();
    const MIB: u64 = 1 << 20;
    let from = opened(&mount, "sparse");
    from.write_all_at(&pattern::bytes(11, 0, 300_000), 0).unwrap();
    from.write_all_at(&pattern::bytes(11, 40 * MIB, 300_000), 40 * MIB).unwrap();
    from.set_len(64 * MIB).unwrap();
    for full in [false, true] {
        let name = format!("copy-{full}");
        let to = opened(&mount, &name);
        if full {
            to.write_all_at(&vec![0xee; 50 * MIB as usize], 0).unwrap();
        }
        let copied = copy(&from, 0, &to, 0, 64 * MIB as usize).unwrap();
        assert_eq!(copied as u64, 64 * MIB);
        drop(to);
        let other = cluster.mount("");
        let to = File::open(other.path(&name)).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 64 * MIB, "{name}");
        let mut piece = vec![0; MIB as usize];
        for i in 0..64 {
            to.read_exact_at(&mut piece, i * MIB).unwrap();
            let data = if i == 0 || i == 40 { 300_000 } else { 0 };
            assert_eq!(pattern::differs(11, i * MIB, &piece[..data]), None, "{name}: MiB {i}");
            assert!(piece[data..].iter().all(|b| *b == 0), "{name}: old bytes in MiB {i}");
        }
        // A file that had its layout before may have to be filled by the client.
        let hole = rfs::seek(&to, SeekFrom::Hole(0)).unwrap();
        assert!(full || hole < 2 * MIB, "{name}: a hole at {hole}");
    }
}

pub fn a_copy_ends_early_where_a_server_is_dead() {
    let mut cluster = Cluster::start(Spec { retry_delay_ms: 50, ..Spec::default() });
    let mount = cluster.mount("retry-limit=2");
    let from = opened(&mount, "from");
    from.write_all_at(&pattern::bytes(12, 0, 4 << 20), 0).unwrap();
    let to = opened(&mount, "to");
    let victim = cluster.io_servers().start;
    cluster.kill(victim);
    assert_eq!(copy(&from, 0, &to, 0, 4 << 20).unwrap_err(), rustix::io::Errno::IO);
    cluster.restart(victim);
    let copied = || copy(&from, 0, &to, 0, 4 << 20) == Ok(4 << 20);
    assert!(within(secs(20), copied), "the server is back");
    drop(to);
    pattern::check_file(&mount.path("to"), 12, 4 << 20);
}
