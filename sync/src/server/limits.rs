//! Limits on attempts to sign in, per account and per address (trap 20): five are free, then each wait
//! doubles, up to a quarter of an hour. In memory; a restart forgets it.
use crate::error::{Result, SyncError};
use parking_lot::Mutex;
use std::collections::HashMap;

const FREE: u32 = 5;
const WAIT_S_MAX: u64 = 900;
/// More names than this are not remembered; the oldest go first.
const NAMES_MAX: usize = 100_000;

/// Counts failures by name.
#[derive(Debug, Default)]
pub struct Limits(Mutex<HashMap<String, (u32, i64)>>);

fn wait_ms(failures: u32) -> i64 {
    match failures.checked_sub(FREE) {
        None => 0,
        Some(over) => (1_000_u64 << over.min(20)).min(WAIT_S_MAX * 1_000) as i64,
    }
}

impl Limits {
    /// Whether another attempt may be made now. It counts as a failure until [`Limits::succeeded`], so
    /// that attempts at the same time do not slip through.
    ///
    /// # Errors
    /// [`SyncError::Busy`] with the seconds to wait.
    pub fn attempt(&self, names: &[&str], now_ms: i64) -> Result<()> {
        let mut all = self.0.lock();
        for name in names {
            if let Some((failures, last)) = all.get(*name) {
                let left = last + wait_ms(*failures) - now_ms;
                if left > 0 {
                    return Err(SyncError::Busy((left as u64).div_ceil(1_000)));
                }
            }
        }
        if all.len() > NAMES_MAX {
            let old = now_ms - (WAIT_S_MAX * 1_000) as i64;
            all.retain(|_, (_, last)| *last > old);
        }
        for name in names {
            let entry = all.entry((*name).to_owned()).or_insert((0, now_ms));
            if now_ms - entry.1 > (WAIT_S_MAX * 1_000) as i64 {
                entry.0 = 0;
            }
            *entry = (entry.0 + 1, now_ms);
        }
        Ok(())
    }

    /// An attempt succeeded: its account may try again at once.
    pub fn succeeded(&self, names: &[&str]) {
        let mut all = self.0.lock();
        for name in names {
            all.remove(*name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap20_guessing_becomes_slow_per_account_and_per_address() {
        let limits = Limits::default();
        for _ in 0..5 {
            limits.attempt(&["u:a", "a:1"], 0).unwrap();
        }
        assert!(matches!(limits.attempt(&["u:a", "a:2"], 0), Err(SyncError::Busy(1))));
        assert!(matches!(limits.attempt(&["u:b", "a:1"], 0), Err(SyncError::Busy(1))));
        limits.attempt(&["u:b", "a:2"], 0).unwrap();
        limits.attempt(&["u:a", "a:1"], 1_000).unwrap();
        assert!(matches!(limits.attempt(&["u:a", "a:1"], 1_000), Err(SyncError::Busy(2))));
        limits.succeeded(&["u:a"]);
        limits.attempt(&["u:a", "a:3"], 1_000).unwrap();
        assert_eq!(wait_ms(1_000_000), 900_000);
    }
}
