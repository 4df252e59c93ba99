//! What two mounts promise each other (`pvfs2_tests::coherence`), over one and three metadata servers:
//! without caches at once, with them within their timeouts.
use pvfs2_tests::coherence::{Pair, SLACK, run};
use pvfs2_tests::mount::NO_CACHES;
use pvfs2_tests::{Cluster, Spec};
use std::time::Duration;

/// Default of `acache-ms` and `ncache-ms`.
const CACHE_MS: u64 = 1_000;

fn judge(meta: usize, options: &str, bound: Duration) {
    let cluster = Cluster::start(Spec { meta, ..Spec::default() });
    let (a, b) = (cluster.mount(options), cluster.mount(options));
    let failed = run(&Pair { a: a.dir.clone(), b: b.dir.clone(), bound }, &[]);
    assert!(failed.is_empty(), "{meta} metadata servers, options '{options}': {failed:?}");
}

pub fn without_caches_at_once() {
    judge(1, NO_CACHES, Duration::ZERO);
}

pub fn without_caches_at_once_over_three_metadata_servers() {
    judge(3, NO_CACHES, Duration::ZERO);
}

pub fn with_caches_within_the_timeouts() {
    judge(1, "", Duration::from_millis(CACHE_MS) + SLACK);
}

pub fn with_caches_within_the_timeouts_over_three_metadata_servers() {
    judge(3, "", Duration::from_millis(CACHE_MS) + SLACK);
}
