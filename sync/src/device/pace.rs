//! How fast bytes travel, and whether a pass is to end: shared by the requests of a connection and
//! whoever sets it.
use parking_lot::Mutex;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes pass in steps of this size when they are held back.
const STEP_BYTES: usize = 16 << 10;

/// One direction: bytes per second, 0 for as fast as it goes.
#[derive(Debug)]
pub struct Lane {
    rate: AtomicU64,
    free_at: Mutex<Instant>,
}

impl Default for Lane {
    fn default() -> Self {
        Self { rate: AtomicU64::new(0), free_at: Mutex::new(Instant::now()) }
    }
}

impl Lane {
    /// Sets the rate.
    pub fn set(&self, bytes_per_s: u64) {
        self.rate.store(bytes_per_s, Ordering::Relaxed);
    }

    /// Whether bytes are held back.
    #[must_use]
    pub fn limited(&self) -> bool {
        self.rate.load(Ordering::Relaxed) > 0
    }

    /// Waits until so many more bytes may pass.
    pub fn pass(&self, bytes: usize) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 || bytes == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let wait = {
            let mut free_at = self.free_at.lock();
            let now = Instant::now();
            let from = (*free_at).max(now);
            *free_at = from + cost;
            from + cost - now
        };
        std::thread::sleep(wait);
    }
}

/// Both directions.
#[derive(Debug, Default)]
pub struct Pace {
    /// To the server.
    pub up: Lane,
    /// From it.
    pub down: Lane,
}

/// A body that passes no faster than its lane allows.
#[derive(Debug)]
pub struct Held<'a> {
    rest: &'a [u8],
    pace: Arc<Pace>,
}

impl<'a> Held<'a> {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8], pace: Arc<Pace>) -> Self {
        Self { rest: bytes, pace }
    }
}

impl Read for Held<'_> {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        let n = room.len().min(self.rest.len());
        let n = if self.pace.up.limited() { n.min(STEP_BYTES) } else { n };
        self.pace.up.pass(n);
        let (now, later) = self.rest.split_at(n);
        room.get_mut(..n).unwrap_or_default().copy_from_slice(now);
        self.rest = later;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_holds_its_rate_over_several_at_once() {
        let pace = Arc::new(Pace::default());
        let begin = Instant::now();
        pace.up.pass(1 << 30);
        assert!(begin.elapsed() < Duration::from_millis(100), "no limit, no wait");
        pace.up.set(1 << 20);
        let bytes = vec![7; 64 << 10];
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let mut out = Vec::new();
                    Held::new(&bytes, pace.clone()).read_to_end(&mut out).unwrap();
                    assert_eq!(out, bytes);
                });
            }
        });
        assert!(begin.elapsed() >= Duration::from_millis(240), "{:?}", begin.elapsed());
    }
}
