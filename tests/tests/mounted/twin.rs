//! Random histories through two mounts, beside a local directory (`pvfs2_tests::twin`).
//!
//! `PVFS2_TWIN_SEEDS` says how many each case plays (default 100); `PVFS2_SEED=n` plays one alone.
use pvfs2_proto::env::{Random, SplitMix};
use pvfs2_tests::mount::NO_CACHES;
use pvfs2_tests::twin::Twin;
use pvfs2_tests::{Cluster, Mount, Spec};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Operations of a history.
const STEPS: u64 = 70;

fn seeds(default: u64) -> std::ops::RangeInclusive<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    match number("PVFS2_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("PVFS2_TWIN_SEEDS").unwrap_or(default),
    }
}

/// Small strips and small files, so that short files cross every border.
fn spec(meta: usize) -> Spec {
    Spec { meta, io: 3, strip_size_bytes: 4_096, small_file_bytes: 1_024, ..Spec::default() }
}

fn begin(seed: u64, a: &Mount, b: &Mount, local: &Path) -> Twin {
    let name = format!("history{seed}");
    let (ours, local) = (a.path(&name), local.join(&name));
    std::fs::create_dir(&ours).unwrap();
    std::fs::create_dir(&local).unwrap();
    Twin::new(seed, [ours, b.path(&name)], local)
}

fn end(seed: u64, a: &Mount, local: &Path) {
    let name = format!("history{seed}");
    std::fs::remove_dir_all(a.path(&name)).unwrap();
    std::fs::remove_dir_all(local.join(&name)).unwrap();
}

/// Runs `history`; a failure names its seed.
fn play(seed: u64, history: impl FnOnce()) {
    if let Err(e) = catch_unwind(AssertUnwindSafe(history)) {
        eprintln!("failed with PVFS2_SEED={seed}");
        resume_unwind(e);
    }
}

fn in_peace(meta: usize) {
    let cluster = Cluster::start(spec(meta));
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    let local = tempfile::tempdir().unwrap();
    for seed in seeds(100) {
        play(seed, || {
            let mut twin = begin(seed, &a, &b, local.path());
            (0..STEPS).for_each(|_| twin.step());
            twin.finish();
            end(seed, &a, local.path());
        });
    }
}

pub fn one_metadata_server() {
    in_peace(1);
}

pub fn three_metadata_servers() {
    in_peace(3);
}

/// A server, or all, killed and started again between two operations.
pub fn three_metadata_servers_and_kills() {
    // Files are open here while servers are started from here: see `crash::writer`.
    let options = format!("{NO_CACHES},hard,nojoin");
    let mut cluster = Cluster::start(Spec { lease_ms: 3_000, ..spec(3) });
    let (a, b) = (cluster.mount(&options), cluster.mount(&options));
    let local = tempfile::tempdir().unwrap();
    for seed in seeds(100).take(12) {
        play(seed, || {
            let random = SplitMix::new(seed ^ 0x6b69_6c6c);
            let mut twin = begin(seed, &a, &b, local.path());
            for _ in 0..STEPS {
                if random.next_u64().is_multiple_of(30) {
                    let all = cluster.servers.len();
                    let one = random.next_u64() as usize % (all + 1);
                    let victims: Vec<usize> =
                        if one == all { (0..all).collect() } else { vec![one] };
                    victims.iter().for_each(|&i| cluster.kill(i));
                    cluster.restart_all(&victims);
                    twin.note(&format!("killed and started again: servers {victims:?}"));
                }
                twin.step();
            }
            twin.finish();
            end(seed, &a, local.path());
        });
    }
}
