//! Looking again and again for a short while before a thread sleeps.
//!
//! To wake a sleeping thread on another processor takes longer than many an answer, above all in a
//! virtual machine. A thread that looks for its answer meanwhile offers its processor at each turn,
//! for the server may need it.
//!
//! Place in the walks: between sending and receiving on a FUSE thread, and before it asks the kernel
//! for its next request.
use std::cell::Cell;
use std::time::{Duration, Instant};

/// It is given up after this many vain tries in a row, and tried again now and then.
const PATIENCE: i32 = 4;
/// How often it is tried again all the same.
const RETRY: u32 = 64;

/// One thread's way of looking for one kind of event, as long as that tends to help.
pub struct Spin {
    at_most: Duration,
    vain: Cell<i32>,
    skipped: Cell<u32>,
}

impl Spin {
    /// Looks for at most `us` microseconds each time; 0: never.
    pub fn new(us: u32) -> Spin {
        Spin {
            at_most: Duration::from_micros(u64::from(us)),
            vain: Cell::new(0),
            skipped: Cell::new(0),
        }
    }

    /// Calls `look` until it answers or the time is up; whether it found something. `look` answers
    /// `Some(true)` when it has, `Some(false)` when there is no sense in looking on.
    pub fn wait(&self, mut look: impl FnMut() -> Option<bool>) -> bool {
        if self.at_most.is_zero() {
            return false;
        }
        if self.vain.get() >= PATIENCE {
            self.skipped.set(self.skipped.get() + 1);
            if !self.skipped.get().is_multiple_of(RETRY) {
                return false;
            }
        }
        let end = Instant::now() + self.at_most;
        loop {
            std::thread::yield_now();
            let found = look().or_else(|| (Instant::now() >= end).then_some(false));
            if let Some(found) = found {
                self.vain.set(if found { 0 } else { (self.vain.get() + 1).min(PATIENCE) });
                return found;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_looked_for_again() {
        let spin = Spin::new(1_000_000);
        for _ in 0..10 {
            let mut left = 3;
            assert!(spin.wait(|| {
                left -= 1;
                (left == 0).then_some(true)
            }));
            assert_eq!(left, 0);
        }
    }

    #[test]
    fn what_is_not_found_is_given_up_and_tried_now_and_then() {
        let spin = Spin::new(1_000_000);
        let mut looks = 0;
        for _ in 0..PATIENCE + 10 * RETRY as i32 {
            assert!(!spin.wait(|| {
                looks += 1;
                Some(false)
            }));
        }
        assert_eq!(looks, PATIENCE + 10);
        assert!(!Spin::new(0).wait(|| unreachable!("never looks")));
    }
}
