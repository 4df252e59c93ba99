//! Counters and latency histograms per operation of the system interface.
//!
//! Simple atomics, no locks: bucket i of a histogram counts operations that took less than
//! 2^(i+10) ns (about a microsecond) and not less than half of that; the last bucket takes the
//! rest. Filled by the runner (`machine.rs`) and by the caches' readers; read by mounts and tools.
use std::sync::atomic::{AtomicU64, Ordering};

/// Names of all operations, each once; the index is the operation's place in [`Metrics`].
pub const SYS_OPS: &[&str] = &[
    "lookup",
    "lookup_path",
    "getattr",
    "setattr",
    "create",
    "mkdir",
    "mknod",
    "symlink",
    "readlink",
    "link",
    "unlink",
    "rmdir",
    "rename",
    "readdir",
    "open",
    "release",
    "read",
    "write",
    "append",
    "fallocate",
    "lseek",
    "fsync",
    "fsync_many",
    "flush",
    "statfs",
    "getxattr",
    "setxattr",
    "listxattr",
    "removexattr",
    "other",
];
/// Buckets of a latency histogram.
pub const BUCKETS: usize = 24;

/// One operation's numbers.
#[derive(Default)]
pub struct OpMetrics {
    count: AtomicU64,
    errors: AtomicU64,
    total_ns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// All numbers of one client.
pub struct Metrics {
    ops: Vec<OpMetrics>,
    /// Bytes that programs read.
    pub read_bytes: AtomicU64,
    /// Bytes that programs wrote.
    pub written_bytes: AtomicU64,
    /// Questions that ncache or acache answered.
    pub cache_hits: AtomicU64,
    /// Questions that neither could answer.
    pub cache_misses: AtomicU64,
    /// Requests that operations sent (as calls; repeats by the network are not in it).
    pub requests: AtomicU64,
    /// Operations that left the thread of their caller because a server did not answer in time.
    pub stalled: AtomicU64,
}

/// A copy of one operation's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpSnapshot {
    /// The operation.
    pub name: &'static str,
    /// How often it ended.
    pub count: u64,
    /// How often it ended with an error.
    pub errors: u64,
    /// Nanoseconds in all.
    pub total_ns: u64,
    /// The histogram; see the head of the file.
    pub buckets: [u64; BUCKETS],
}

impl OpSnapshot {
    /// An upper bound for the latency of the fastest `percent` of 100 operations, in nanoseconds.
    pub fn percentile_ns(&self, percent: u64) -> u64 {
        let want = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= want {
                return 1 << (i + 10);
            }
        }
        0
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            ops: SYS_OPS.iter().map(|_| OpMetrics::default()).collect(),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
            cache_misses: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    /// An operation ended after `elapsed_ns`.
    pub fn ended(&self, name: &str, elapsed_ns: u64, ok: bool) {
        let i = SYS_OPS.iter().position(|n| *n == name).unwrap_or(SYS_OPS.len() - 1);
        let op = &self.ops[i];
        op.count.fetch_add(1, Ordering::Relaxed);
        op.total_ns.fetch_add(elapsed_ns, Ordering::Relaxed);
        if !ok {
            op.errors.fetch_add(1, Ordering::Relaxed);
        }
        op.buckets[bucket_of(elapsed_ns)].fetch_add(1, Ordering::Relaxed);
    }
    /// A cache answered (`hit`) or could not.
    pub fn cache(&self, hit: bool) {
        let counter = if hit { &self.cache_hits } else { &self.cache_misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }
    /// Copies of all operations that happened.
    pub fn snapshot(&self) -> Vec<OpSnapshot> {
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        SYS_OPS
            .iter()
            .zip(&self.ops)
            .filter(|(_, op)| get(&op.count) > 0)
            .map(|(name, op)| OpSnapshot {
                name,
                count: get(&op.count),
                errors: get(&op.errors),
                total_ns: get(&op.total_ns),
                buckets: std::array::from_fn(|i| get(&op.buckets[i])),
            })
            .collect()
    }
}

fn bucket_of(elapsed_ns: u64) -> usize {
    ((64 - elapsed_ns.leading_zeros() as usize).saturating_sub(10)).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        assert_eq!((bucket_of(0), bucket_of(1_023), bucket_of(1_024)), (0, 0, 1));
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        let m = Metrics::default();
        for _ in 0..99 {
            m.ended("read", 1_500, true);
        }
        m.ended("read", 1 << 20, false);
        let s = m.snapshot();
        assert_eq!((s.len(), s[0].name, s[0].count, s[0].errors), (1, "read", 100, 1));
        assert_eq!((s[0].percentile_ns(50), s[0].percentile_ns(100)), (2_048, 1 << 21));
    }
}
