//! Counters and latency histograms, one set per operation.
//!
//! Place in the walks: the request loop calls [`Metrics::record`] when an answer leaves; the
//! management service and `pvfs2 perf-mon` read [`Metrics::snapshot`].
//!
//! Invariants: recording never locks, allocates or fails (relaxed atomics: a snapshot taken in the
//! middle of a request may see its count and not yet its bytes, never a torn number). Every metric
//! name stands in [`names`] and nowhere else.
use pvfs2_proto::op::Op;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Names of all metrics, as Prometheus sees them.
pub mod names {
    /// Requests answered, by operation.
    pub const REQUESTS: &str = "pvfs2_requests_total";
    /// Requests answered with an error, by operation.
    pub const ERRORS: &str = "pvfs2_request_errors_total";
    /// Body bytes received, by operation.
    pub const BYTES_IN: &str = "pvfs2_received_bytes_total";
    /// Body bytes sent, by operation.
    pub const BYTES_OUT: &str = "pvfs2_sent_bytes_total";
    /// Time from the whole request to its answer, by operation.
    pub const LATENCY: &str = "pvfs2_request_duration_seconds";
    /// Longest request since the start, by operation.
    pub const LATENCY_MAX: &str = "pvfs2_request_duration_max_seconds";
    /// Seconds since the server's start.
    pub const UPTIME: &str = "pvfs2_uptime_seconds";
    /// Sessions that the server holds.
    pub const SESSIONS: &str = "pvfs2_sessions";
    /// Opens that the sessions hold.
    pub const OPEN_FILES: &str = "pvfs2_open_files";
    /// Bytes free for users in the storage space.
    pub const STORAGE_FREE: &str = "pvfs2_storage_free_bytes";
    /// Bytes of the storage space's file system.
    pub const STORAGE_TOTAL: &str = "pvfs2_storage_total_bytes";
    /// Datafiles in the storage space.
    pub const DATAFILES: &str = "pvfs2_datafiles";
    /// Whether the server is draining (1) or not (0).
    pub const DRAINING: &str = "pvfs2_draining";
}

/// Buckets per power of two: a percentile is at most a quarter of an octave too high.
const STEPS_PER_OCTAVE: usize = 4;
/// Powers of two that are told apart: 1 ns to about 18 minutes; longer counts in the last bucket.
const OCTAVES: usize = 40;
/// Buckets of one histogram.
const BUCKETS: usize = STEPS_PER_OCTAVE * OCTAVES;
/// One more than the largest operation number.
const OPS: usize = {
    let (mut most, mut i) = (0, 0);
    while i < Op::ALL.len() {
        if Op::ALL[i] as usize > most {
            most = Op::ALL[i] as usize;
        }
        i += 1;
    }
    most + 1
};

/// The bucket for a duration: its highest bit, and the two bits below that.
fn bucket_of(nanos: u64) -> usize {
    if nanos < STEPS_PER_OCTAVE as u64 {
        return nanos as usize;
    }
    let octave = 63 - nanos.leading_zeros() as usize;
    let step = (nanos >> (octave - 2)) as usize & (STEPS_PER_OCTAVE - 1);
    ((octave - 1) * STEPS_PER_OCTAVE + step).min(BUCKETS - 1)
}

/// The longest duration that [`bucket_of`] puts into `bucket`.
fn bucket_end(bucket: usize) -> u64 {
    if bucket < STEPS_PER_OCTAVE {
        return bucket as u64;
    }
    let (octave, step) = (bucket / STEPS_PER_OCTAVE + 1, (bucket % STEPS_PER_OCTAVE) as u64);
    ((STEPS_PER_OCTAVE as u64 + step + 1) << (octave - 2)) - 1
}

/// The counters of one operation.
struct OpMetrics {
    count: AtomicU64,
    errors: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl OpMetrics {
    fn new() -> OpMetrics {
        OpMetrics {
            count: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// Counters of one server, shared by all its event loops.
pub struct Metrics {
    ops: Box<[OpMetrics]>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// All zero.
    pub fn new() -> Metrics {
        Metrics { ops: (0..OPS).map(|_| OpMetrics::new()).collect() }
    }

    /// Counts one answered request that took `nanos` nanoseconds.
    pub fn record(&self, op: Op, nanos: u64, ok: bool) {
        let m = &self.ops[op as usize];
        m.count.fetch_add(1, Relaxed);
        if !ok {
            m.errors.fetch_add(1, Relaxed);
        }
        m.sum_ns.fetch_add(nanos, Relaxed);
        m.max_ns.fetch_max(nanos, Relaxed);
        m.buckets[bucket_of(nanos)].fetch_add(1, Relaxed);
    }

    /// Counts body bytes that came in with requests of `op`.
    pub fn add_bytes_in(&self, op: Op, bytes: u64) {
        self.ops[op as usize].bytes_in.fetch_add(bytes, Relaxed);
    }

    /// Counts body bytes that left with responses of `op`.
    pub fn add_bytes_out(&self, op: Op, bytes: u64) {
        self.ops[op as usize].bytes_out.fetch_add(bytes, Relaxed);
    }

    /// Requests of `op` answered so far (tests count what an operation costs).
    pub fn count(&self, op: Op) -> u64 {
        self.ops[op as usize].count.load(Relaxed)
    }

    /// Requests answered so far, of all operations.
    pub fn total(&self) -> u64 {
        self.ops.iter().map(|m| m.count.load(Relaxed)).sum()
    }

    /// What every operation that was asked at least once has counted, in order of their numbers.
    pub fn snapshot(&self) -> Vec<OpSnapshot> {
        Op::ALL.iter().map(|&op| self.snapshot_of(op)).filter(|s| s.count > 0).collect()
    }

    /// What `op` has counted.
    pub fn snapshot_of(&self, op: Op) -> OpSnapshot {
        let m = &self.ops[op as usize];
        OpSnapshot {
            op,
            count: m.count.load(Relaxed),
            errors: m.errors.load(Relaxed),
            bytes_in: m.bytes_in.load(Relaxed),
            bytes_out: m.bytes_out.load(Relaxed),
            sum_ns: m.sum_ns.load(Relaxed),
            max_ns: m.max_ns.load(Relaxed),
            buckets: m.buckets.iter().map(|b| b.load(Relaxed)).collect(),
        }
    }
}

/// The counters of one operation at one moment.
#[derive(Clone, Debug)]
pub struct OpSnapshot {
    /// The operation.
    pub op: Op,
    /// Requests answered.
    pub count: u64,
    /// Of them with an error.
    pub errors: u64,
    /// Body bytes received.
    pub bytes_in: u64,
    /// Body bytes sent.
    pub bytes_out: u64,
    /// All durations together.
    pub sum_ns: u64,
    /// The longest.
    pub max_ns: u64,
    buckets: Vec<u64>,
}

impl OpSnapshot {
    /// The duration that a share `q` (0 to 1) of the requests did not exceed, in nanoseconds: the
    /// end of its bucket, so at most a quarter of an octave too high. 0 when nothing was counted.
    pub fn quantile_ns(&self, q: f64) -> u64 {
        let total: u64 = self.buckets.iter().sum();
        if total == 0 {
            return 0;
        }
        let rank = ((total as f64 * q).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return bucket_end(i).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

/// Values of a server that are no counters of an operation.
pub struct Gauge {
    /// One of [`names`].
    pub name: &'static str,
    /// What it says, for Prometheus.
    pub help: &'static str,
    /// The value.
    pub value: u64,
}

/// The snapshots and gauges as Prometheus text (exposition format 0.0.4), labelled with the
/// server's alias.
pub fn prometheus_text(alias: &str, ops: &[OpSnapshot], gauges: &[Gauge]) -> String {
    let server = escape_label(alias);
    let mut out = String::with_capacity(4096);
    for g in gauges {
        head(&mut out, g.name, g.help, "gauge");
        let _ = writeln!(out, "{}{{server=\"{server}\"}} {}", g.name, g.value);
    }
    type Column = (&'static str, &'static str, fn(&OpSnapshot) -> u64);
    const COLUMNS: [Column; 4] = [
        (names::REQUESTS, "Requests answered.", |s| s.count),
        (names::ERRORS, "Requests answered with an error.", |s| s.errors),
        (names::BYTES_IN, "Body bytes received.", |s| s.bytes_in),
        (names::BYTES_OUT, "Body bytes sent.", |s| s.bytes_out),
    ];
    for (name, help, value) in COLUMNS {
        head(&mut out, name, help, "counter");
        for s in ops {
            let op = s.op.name();
            let _ = writeln!(out, "{name}{{server=\"{server}\",op=\"{op}\"}} {}", value(s));
        }
    }
    let (name, max) = (names::LATENCY, names::LATENCY_MAX);
    head(&mut out, name, "Time from the whole request to its answer.", "summary");
    for s in ops {
        let labels = format!("server=\"{server}\",op=\"{}\"", s.op.name());
        for q in [0.5, 0.95, 0.99] {
            let v = seconds(s.quantile_ns(q));
            let _ = writeln!(out, "{name}{{{labels},quantile=\"{q}\"}} {v}");
        }
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", seconds(s.sum_ns));
        let _ = writeln!(out, "{name}_count{{{labels}}} {}", s.count);
    }
    head(&mut out, max, "Longest request since the start.", "gauge");
    for s in ops {
        let op = s.op.name();
        let _ = writeln!(out, "{max}{{server=\"{server}\",op=\"{op}\"}} {}", seconds(s.max_ns));
    }
    out
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Prometheus wants backslash, quote and line feed escaped in a label's value.
fn escape_label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_ascend_and_hold_what_they_say() {
        let mut last = 0;
        for shift in 0..40 {
            for low in [0u64, 1, 3, 7] {
                let nanos = (1u64 << shift) + (low << shift >> 3);
                let b = bucket_of(nanos);
                assert!(b >= last || low == 0, "{nanos}");
                last = b;
                assert!(bucket_end(b) >= nanos, "{nanos} in bucket {b} ending {}", bucket_end(b));
                assert!(b == 0 || bucket_end(b - 1) < nanos, "{nanos}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_of(0), 0);
    }

    #[test]
    fn quantiles_are_at_most_a_quarter_octave_high() {
        let m = Metrics::new();
        for i in 1..=1000u64 {
            m.record(Op::Ping, i * 1000, i % 10 != 0);
        }
        let s = m.snapshot_of(Op::Ping);
        assert_eq!((s.count, s.errors, s.max_ns), (1000, 100, 1_000_000));
        for (q, exact) in [(0.5, 500_000.0), (0.95, 950_000.0), (0.99, 990_000.0)] {
            let got = s.quantile_ns(q) as f64;
            assert!(got >= exact && got <= exact * 1.25, "{q}: {got} for {exact}");
        }
        assert_eq!(s.quantile_ns(1.0), 1_000_000);
        assert_eq!(m.snapshot_of(Op::Lookup).quantile_ns(0.5), 0);
        assert_eq!(m.snapshot().len(), 1);
    }

    #[test]
    fn many_threads_lose_nothing() {
        let m = Metrics::new();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for i in 0..10_000 {
                        m.record(Op::IoWrite, i, true);
                        m.add_bytes_in(Op::IoWrite, 3);
                    }
                });
            }
        });
        let s = m.snapshot_of(Op::IoWrite);
        assert_eq!((s.count, s.bytes_in), (40_000, 120_000));
        assert_eq!(s.buckets.iter().sum::<u64>(), 40_000);
        assert_eq!(m.total(), 40_000);
    }

    #[test]
    fn prometheus_text_has_every_series() {
        let m = Metrics::new();
        m.record(Op::Create, 2_000, false);
        m.add_bytes_out(Op::Create, 17);
        let gauges = [Gauge { name: names::SESSIONS, help: "Sessions.", value: 3 }];
        let text = prometheus_text("m\"0", &m.snapshot(), &gauges);
        for line in [
            "pvfs2_sessions{server=\"m\\\"0\"} 3",
            "pvfs2_requests_total{server=\"m\\\"0\",op=\"create\"} 1",
            "pvfs2_request_errors_total{server=\"m\\\"0\",op=\"create\"} 1",
            "pvfs2_sent_bytes_total{server=\"m\\\"0\",op=\"create\"} 17",
            "pvfs2_request_duration_seconds_count{server=\"m\\\"0\",op=\"create\"} 1",
            "pvfs2_request_duration_max_seconds{server=\"m\\\"0\",op=\"create\"} 0.000002",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nnot in\n{text}");
        }
    }
}
