//! Latencies: a histogram with 64 steps per power of two (an error of at most 1.6 %), which merges
//! and travels as JSON.
use serde::{Deserialize, Serialize};

const STEP_BITS: u32 = 6;
const STEPS: u64 = 1 << STEP_BITS;

/// Nanoseconds, counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Hist {
    counts: std::collections::BTreeMap<u32, u64>,
    count: u64,
    sum_ns: u64,
    min_ns: u64,
    max_ns: u64,
}

fn index(ns: u64) -> u32 {
    if ns < STEPS {
        return ns as u32;
    }
    let exponent = 63 - ns.leading_zeros() - STEP_BITS;
    // Values of one exponent have STEPS steps; `ns >> exponent` lies in STEPS..2 * STEPS.
    (exponent + 1) * STEPS as u32 + ((ns >> exponent) - STEPS) as u32
}

/// The middle of a step.
fn value(index: u32) -> f64 {
    let (exponent, step) = (index / STEPS as u32, u64::from(index) % STEPS);
    match exponent {
        0 => step as f64,
        e => ((STEPS + step) as f64 + 0.5) * 2f64.powi(e as i32 - 1),
    }
}

impl Hist {
    /// Counts one.
    pub fn add(&mut self, ns: u64) {
        *self.counts.entry(index(ns)).or_default() += 1;
        self.min_ns = if self.count == 0 { ns } else { self.min_ns.min(ns) };
        self.max_ns = self.max_ns.max(ns);
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Takes another's in.
    pub fn merge(&mut self, other: &Hist) {
        if other.count == 0 {
            return;
        }
        for (&i, &n) in &other.counts {
            *self.counts.entry(i).or_default() += n;
        }
        self.min_ns = if self.count == 0 { other.min_ns } else { self.min_ns.min(other.min_ns) };
        self.max_ns = self.max_ns.max(other.max_ns);
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }
    /// Their mean in microseconds.
    pub fn mean_us(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_ns as f64 / self.count as f64 / 1e3 }
    }
    /// The least in microseconds.
    pub fn min_us(&self) -> f64 {
        self.min_ns as f64 / 1e3
    }
    /// The greatest in microseconds.
    pub fn max_us(&self) -> f64 {
        self.max_ns as f64 / 1e3
    }

    /// The `percent`-th percentile in microseconds.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        let wanted = (self.count as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (&i, &n) in &self.counts {
            seen += n;
            if seen >= wanted {
                return value(i).clamp(self.min_ns as f64, self.max_ns as f64) / 1e3;
            }
        }
        self.max_us()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_step() {
        let some = (0..44).flat_map(|e| [(1 << e) - 1, 1 << e, (1 << e) + 12_345]);
        for ns in (0..20_000).chain(some) {
            let error = (value(index(ns)) - ns as f64).abs();
            assert!(error <= ns as f64 / 64.0 + 0.5, "{ns}: {error}");
            assert!(index(ns + 1) >= index(ns) && index(ns + 1) <= index(ns) + 1);
        }
    }

    #[test]
    fn percentiles_of_merged_parts() {
        let (mut a, mut b) = (Hist::default(), Hist::default());
        (1..=500u64).for_each(|us| a.add(us * 1_000));
        (501..=1_000u64).for_each(|us| b.add(us * 1_000));
        let text = serde_json::to_string(&b).unwrap();
        a.merge(&serde_json::from_str(&text).unwrap());
        assert_eq!((a.count(), a.min_us(), a.max_us()), (1_000, 1.0, 1_000.0));
        assert_eq!(a.mean_us(), 500.5);
        for p in [50.0, 90.0, 99.0] {
            assert!((a.percentile_us(p) / (p * 10.0) - 1.0).abs() < 0.02, "{}", a.percentile_us(p));
        }
        assert_eq!(a.percentile_us(100.0), 1_000.0);
        let mut empty = Hist::default();
        empty.merge(&Hist::default());
        assert_eq!(empty.percentile_us(50.0), 0.0);
    }
}
