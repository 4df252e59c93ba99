//! kill -9 rounds: servers die while programs work; after a restart everything goes on, ends without
//! error, and every byte is right.
//!
//! A round prints its seed; `PVFS2_SEED=... PVFS2_KILL_ROUNDS=1` draws the same victims and pauses.
use pvfs2_proto::env::{Random, SplitMix};
use pvfs2_tests::wait::{exit_within, secs};
use pvfs2_tests::{Cluster, Spec, pattern, tree};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whom a kill takes.
#[derive(Clone, Copy)]
enum Victims {
    Each,
    All,
}

const LARGE: u64 = 192 << 20;

fn rounds() -> u64 {
    std::env::var("PVFS2_KILL_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

fn first_seed() -> u64 {
    let given = std::env::var("PVFS2_SEED").ok().and_then(|v| v.parse().ok());
    given.unwrap_or_else(|| pvfs2_proto::env::Env::real().rand_u64() >> 32)
}

pub fn each_server_in_turn() {
    play(Spec { unix: true, ..Spec::default() }, Victims::Each);
}

pub fn all_servers_at_once() {
    play(Spec { unix: true, ..Spec::default() }, Victims::All);
}

pub fn several_metadata_servers() {
    play(Spec { meta: 3, io: 2, ..Spec::default() }, Victims::Each);
}

fn play(spec: Spec, victims: Victims) {
    let scratch = tempfile::tempdir().unwrap();
    let tar = tree::pack(scratch.path()).unwrap();
    let plain = scratch.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    untar(&tar, &plain).wait().unwrap();
    let seed = first_seed();
    for round in seed..seed + rounds() {
        println!("    round with seed {round}");
        self::round(&spec, victims, round, &tar, &plain);
    }
}

fn untar(tar: &Path, into: &Path) -> std::process::Child {
    let mut c = Command::new("tar");
    c.arg("xf").arg(tar).arg("-C").arg(into).stdin(Stdio::null());
    c.spawn().unwrap()
}

fn round(spec: &Spec, victims: Victims, seed: u64, tar: &Path, plain: &Path) {
    let random = SplitMix::new(seed);
    let pause = |min_ms: u64, max_ms: u64| {
        std::thread::sleep(Duration::from_millis(min_ms + random.next_u64() % (max_ms - min_ms)));
    };
    let mut cluster = Cluster::start(spec.clone());
    let mount = cluster.mount("hard");
    std::fs::create_dir(mount.path("tree")).unwrap();
    let mut tar = untar(tar, &mount.path("tree"));
    let mut writer = writer(&mount.path("large"), seed);
    let (mut kills, begin) = (0, Instant::now());
    let mut next = random.next_u64() as usize;
    let (mut status, mut written) = (None, None);
    // Until both are done, and each server was killed at least once.
    while status.is_none() || written.is_none() || kills < cluster.servers.len() {
        pause(50, 700);
        let which: Vec<usize> = match victims {
            Victims::All => (0..cluster.servers.len()).collect(),
            Victims::Each => vec![next % cluster.servers.len()],
        };
        next += 1;
        which.iter().for_each(|&i| cluster.kill(i));
        kills += which.len();
        pause(0, 400);
        cluster.restart_all(&which);
        // Time to get something done between kills.
        pause(200, 1_200);
        status = status.or_else(|| tar.try_wait().unwrap());
        written = written.or_else(|| writer.try_wait().unwrap());
        if begin.elapsed() > secs(420) {
            mount.kill(); // so that the writer and tar end too
            let _ = (tar.wait(), writer.wait());
            panic!("seed {seed}: no end after {kills} kills");
        }
    }
    assert!(tar.wait().unwrap().success(), "seed {seed}: tar ended with {status:?}");
    assert!(writer.wait().unwrap().success(), "seed {seed}: the writer ended with {written:?}");
    println!("    seed {seed}: {kills} kills, {:.1} s", begin.elapsed().as_secs_f64());
    check(&cluster, seed, plain, &[&mount, &cluster.mount("hard")]);
}

/// [`write_large`] in a process of its own. Here its open file would be inherited by the servers that
/// are started again, whose exec closes it; a close waits until what is held back is written, for
/// those very servers.
fn writer(path: &Path, seed: u64) -> std::process::Child {
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.arg(WRITER).arg(path).arg(seed.to_string()).stdin(Stdio::null());
    c.spawn().unwrap()
}

/// The argument that makes this program the writer.
const WRITER: &str = "--write-large";

/// Is the writer, if it was started as one.
pub fn is_writer() -> bool {
    let args: Vec<String> = std::env::args().collect();
    let [_, word, path, seed] = args.as_slice() else { return false };
    if word != WRITER {
        return false;
    }
    write_large(Path::new(path), seed.parse().unwrap());
    true
}

/// Writes in pieces of many sizes, reads some back on the way, ends with fsync.
fn write_large(path: &Path, seed: u64) {
    let random = SplitMix::new(seed ^ 0x1a46e);
    let options = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = options.unwrap_or_else(|e| panic!("seed {seed}: create: {e}"));
    let mut at = 0;
    while at < LARGE {
        let len = (1 + random.next_u64() % (1 << 21)).min(LARGE - at) as usize;
        file.write_all_at(&pattern::bytes(seed, at, len), at)
            .unwrap_or_else(|e| panic!("seed {seed}: write at {at}: {e}"));
        at += len as u64;
        if random.next_u64().is_multiple_of(16) {
            let (from, mut buf) = (random.next_u64() % at, [0; 5000]);
            let n = file
                .read_at(&mut buf, from)
                .unwrap_or_else(|e| panic!("seed {seed}: read at {from}: {e}"));
            assert!(n as u64 == (at - from).min(5000), "seed {seed}: {n} bytes at {from} of {at}");
            assert_eq!(pattern::differs(seed, from, &buf[..n]), None, "seed {seed}");
        }
    }
    file.sync_all().unwrap_or_else(|e| panic!("seed {seed}: fsync: {e}"));
}

/// Every byte, through the mount that saw it all and through a fresh one.
fn check(cluster: &Cluster, seed: u64, plain: &Path, mounts: &[&pvfs2_tests::Mount]) {
    for mount in mounts {
        let mut diff =
            Command::new("diff").arg("-r").arg(plain).arg(mount.path("tree")).spawn().unwrap();
        let status = exit_within(&mut diff, secs(120));
        assert!(status.is_some_and(|s| s.success()), "seed {seed}: diff -r ended with {status:?}");
        pattern::check_file(&mount.path("large"), seed, LARGE);
    }
    cluster.fsck();
    // Nothing is left over either: remove all, and every datafile goes.
    std::fs::remove_dir_all(mounts[0].path("tree")).unwrap();
    std::fs::remove_file(mounts[0].path("large")).unwrap();
    let left = || cluster.all_datafiles();
    assert!(
        pvfs2_tests::wait::within(secs(60), || left().is_empty()),
        "seed {seed}: {} datafiles are left, the first {:?}",
        left().len(),
        left().first()
    );
}
