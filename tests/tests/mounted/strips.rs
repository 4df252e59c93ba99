//! Where bytes lie: the local datafiles beside the servers are read and compared with the rule.
use pvfs2_proto::Dist;
use pvfs2_tests::wait::{secs, until};
use pvfs2_tests::{Cluster, Spec, pattern};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const SMALL: u64 = 8_192;

fn set_xattr(path: &Path, name: &str, value: &str) {
    rustix::fs::setxattr(path, name, value.as_bytes(), rustix::fs::XattrFlags::empty())
        .unwrap_or_else(|e| panic!("setxattr {name}={value}: {e}"));
}

/// A file of `size` pattern bytes, durable.
fn write_pattern(path: &Path, seed: u64, size: u64) -> u64 {
    let file = fs::File::create(path).unwrap();
    let mut at = 0;
    while at < size {
        // An odd step, so that writes begin and end inside strips.
        let len = (size - at).min(100_003);
        file.write_all_at(&pattern::bytes(seed, at, len as usize), at).unwrap();
        at += len;
    }
    file.sync_all().unwrap();
    file.metadata().unwrap().ino()
}

/// The I/O servers that hold datafiles 0..n of a file, found by the first byte of strip d.
fn servers_in_order(
    cluster: &Cluster,
    ino: u64,
    n: usize,
    first_of: impl Fn(usize) -> Vec<u8>,
) -> Vec<usize> {
    let holding: Vec<usize> =
        cluster.io_servers().filter(|&i| cluster.datafile(i, ino).exists()).collect();
    assert_eq!(holding.len(), n, "datafiles of a file over {n} servers");
    (0..n)
        .map(|d| {
            let want = first_of(d);
            let starts =
                |i: &&usize| fs::read(cluster.datafile(**i, ino)).unwrap().starts_with(&want);
            *holding.iter().find(starts).unwrap_or_else(|| panic!("no server holds datafile {d}"))
        })
        .collect()
}

pub fn strip_i_lies_on_datafile_i_mod_n() {
    let cluster = Cluster::start(Spec { small_file_bytes: SMALL, ..Spec::default() });
    let mount = cluster.mount("");
    for (n, strip) in
        [(1, 65_536u64), (2, 4_096), (3, 16_384), (4, 65_536), (4, 10_000), (3, 1_048_576)]
    {
        let dir = mount.path(&format!("n{n}-s{strip}"));
        fs::create_dir(&dir).unwrap();
        set_xattr(&dir, "user.pvfs2.num_dfiles", &n.to_string());
        set_xattr(&dir, "user.pvfs2.dist_name", "simple_stripe");
        set_xattr(&dir, "user.pvfs2.dist_params", &format!("strip_size:{strip}"));
        let (seed, size) = (strip + n as u64, strip * 11 + strip / 3 + 5);
        let path = dir.join("file");
        let ino = write_pattern(&path, seed, size);
        let order =
            servers_in_order(&cluster, ino, n, |d| pattern::bytes(seed, d as u64 * strip, 64));
        // By the issue's own rule, not by the product's code.
        for (d, server) in order.iter().enumerate() {
            let mut want = Vec::new();
            let mut i = d as u64;
            while i * strip < size {
                want.extend(pattern::bytes(seed, i * strip, strip.min(size - i * strip) as usize));
                i += n as u64;
            }
            let got = fs::read(cluster.datafile(*server, ino)).unwrap();
            assert_eq!(got.len(), want.len(), "length of datafile {d} of {n}, strips of {strip}");
            assert!(got == want, "bytes of datafile {d} of {n}, strips of {strip}");
        }
        // Round robin: neighbours in the list of servers.
        let io: Vec<usize> = cluster.io_servers().collect();
        for pair in order.windows(2) {
            let next = io[(pair[0] - io[0] + 1) % io.len()];
            assert_eq!(pair[1], next, "datafiles go round the servers: {order:?}");
        }
        pattern::check_file(&path, seed, size);
    }
}

pub fn other_distributions_lie_where_they_say() {
    let cluster = Cluster::start(Spec { small_file_bytes: SMALL, ..Spec::default() });
    let mount = cluster.mount("");
    for (name, params) in [
        ("basic_dist", ""),
        ("varstrip_dist", "strips:0:4096;1:12288;2:8192;3:100"),
        ("twod_stripe", "num_groups:2,strip_size:4096,group_strip_factor:3"),
    ] {
        let dir = mount.path(name);
        fs::create_dir(&dir).unwrap();
        set_xattr(&dir, "user.pvfs2.dist_name", name);
        if !params.is_empty() {
            set_xattr(&dir, "user.pvfs2.dist_params", params);
        }
        let (seed, size) = (params.len() as u64 + 99, 300_001);
        let path = dir.join("file");
        let ino = write_pattern(&path, seed, size);
        let dist = Dist::parse(name, params).unwrap();
        let used = if name == "basic_dist" { 1 } else { 4 };
        // Every byte that any datafile holds is the byte that the distribution puts there.
        let order = servers_in_order(&cluster, ino, used, |d| {
            pattern::bytes(seed, dist.logical_of(4, d as u32, 0).unwrap(), 64)
        });
        let mut held = 0;
        for (d, server) in order.iter().enumerate() {
            let got = fs::read(cluster.datafile(*server, ino)).unwrap();
            held += got.len() as u64;
            let mut at = 0u64;
            while at < got.len() as u64 {
                let logical = dist.logical_of(4, d as u32, at).unwrap();
                let piece = dist.locate(4, logical).contiguous_bytes.min(got.len() as u64 - at);
                let bytes = &got[at as usize..(at + piece) as usize];
                assert_eq!(
                    pattern::differs(seed, logical, bytes),
                    None,
                    "{name}: datafile {d} at {at}"
                );
                at += piece;
            }
        }
        assert_eq!(held, size, "{name}: every byte once");
        pattern::check_file(&path, seed, size);
    }
}

pub fn no_datafile_for_empty_or_small_files() {
    let cluster = Cluster::start(Spec { small_file_bytes: SMALL, ..Spec::default() });
    let mount = cluster.mount("");
    for (name, size) in [("empty", 0), ("one", 1), ("full", SMALL)] {
        write_pattern(&mount.path(name), size, size);
    }
    fs::create_dir(mount.path("dir")).unwrap();
    std::os::unix::fs::symlink("elsewhere", mount.path("link")).unwrap();
    assert_eq!(cluster.all_datafiles(), Vec::<std::path::PathBuf>::new());
    // One byte more, and there is one: the check above can fail.
    write_pattern(&mount.path("more"), 3, SMALL + 1);
    assert_eq!(cluster.all_datafiles().len(), 1);
    for (name, size) in [("empty", 0), ("one", 1), ("full", SMALL)] {
        pattern::check_file(&mount.path(name), size, size);
    }
    pattern::check_file(&mount.path("more"), 3, SMALL + 1);
}

pub fn removed_files_leave_no_datafile() {
    let cluster = Cluster::start(Spec::default());
    let mount = cluster.mount("");
    for i in 0..20 {
        write_pattern(&mount.path(&format!("f{i}")), i, 300_000);
    }
    assert_eq!(cluster.all_datafiles().len(), 20 * 4);
    // By unlink, by rename over, and by O_TRUNC to nothing and unlink.
    for i in 0..10 {
        fs::remove_file(mount.path(&format!("f{i}"))).unwrap();
    }
    fs::write(mount.path("small"), "x").unwrap();
    for i in 10..15 {
        fs::rename(mount.path(&format!("f{i}")), mount.path("target")).unwrap();
    }
    fs::rename(mount.path("small"), mount.path("target")).unwrap();
    for i in 15..20 {
        fs::File::create(mount.path(&format!("f{i}"))).unwrap();
        fs::remove_file(mount.path(&format!("f{i}"))).unwrap();
    }
    until(secs(20), "the reaper removes every datafile", || cluster.all_datafiles().is_empty());
}
