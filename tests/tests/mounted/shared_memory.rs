//! Memory that a mount shares with the I/O servers of its host: what it writes is not sent.
use pvfs2_tests::wait::{secs, within};
use pvfs2_tests::{Cluster, Mount, Spec, pattern};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

const MIB: usize = 1 << 20;

/// KiB of mounts' regions that the servers have looked at, and how many regions they have mapped.
fn shared(cluster: &Cluster) -> (u64, usize) {
    let (mut kib, mut regions) = (0, 0);
    for pid in cluster.servers.iter().filter_map(|s| s.process_id()) {
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        let mut is_region = false;
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("Rss:") if is_region => kib += words.next().unwrap().parse::<u64>().unwrap(),
                Some(first) if !first.ends_with(':') => {
                    is_region = line.contains("memfd:pvfs2-region");
                    regions += usize::from(is_region);
                }
                _ => {}
            }
        }
    }
    (kib, regions)
}

fn write(mount: &Mount, name: &str, seed: u64, len: usize) {
    let file = File::create(mount.path(name)).unwrap();
    for at in (0..len).step_by(MIB) {
        let n = MIB.min(len - at);
        file.write_all_at(&pattern::bytes(seed, at as u64, n), at as u64).unwrap();
    }
}

pub fn writes_are_shared_and_without_it_sent() {
    let cluster = Cluster::start(Spec { unix: true, ..Spec::default() });
    for (options, is_shared) in [("noshm", false), ("", true)] {
        let mount = cluster.mount(options);
        write(&mount, "f", 5, 8 * MIB + 12_345);
        let (kib, regions) = shared(&cluster);
        assert_eq!(regions > 0, is_shared, "'{options}': {regions} regions");
        // A mebibyte of at least one loop, or each server its part of it.
        assert_eq!(kib >= MIB as u64 / 1024, is_shared, "'{options}': {kib} KiB");
        let other = cluster.mount("");
        pattern::check_file(&other.path("f"), 5, 8 * MIB as u64 + 12_345);
        fs::remove_file(mount.path("f")).unwrap();
    }
    assert!(within(secs(10), || shared(&cluster) == (0, 0)), "regions outlive their mount");
}

pub fn a_server_that_wakes_up_late_writes_what_was_meant() {
    // A short lease would let the frozen servers' sessions expire meanwhile.
    let cluster = Cluster::start(Spec { unix: true, lease_ms: 60_000, ..Spec::default() });
    let mount = cluster.mount("hard,stall-ms=30,nojoin");
    for i in 0..4 {
        write(&mount, &format!("f{i}"), 10 + i, 2 * MIB);
    }
    for round in 0..3 {
        cluster.freeze(true);
        // Each leaves its event loop after 30 ms; the loops' memory is taken by the next ones.
        let writers: Vec<_> = (0..4)
            .map(|i| {
                let path = mount.path(&format!("f{i}"));
                std::thread::spawn(move || {
                    let file = File::options().write(true).open(path).unwrap();
                    let seed = 100 * (round + 1) + i;
                    file.write_all_at(&pattern::bytes(seed, 0, MIB), 0).unwrap();
                    file.write_all_at(&pattern::bytes(seed, MIB as u64, MIB), MIB as u64).unwrap();
                })
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(300));
        cluster.freeze(false);
        writers.into_iter().for_each(|w| w.join().unwrap());
        let other = cluster.mount("");
        for i in 0..4 {
            pattern::check_file(
                &other.path(&format!("f{i}")),
                100 * (round + 1) + i,
                2 * MIB as u64,
            );
        }
    }
    assert!(shared(&cluster).0 > 0, "nothing was shared");
}
