//! The world as traits: logic asks [`Env`] for time and chance, so that one seed can run it all.
//!
//! Sleeping and spawning go through tokio (`tokio::time`, `spawn_local`), whose clock a simulation
//! pauses; wall time and random numbers come from here and nowhere else.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Wall time.
pub trait Clock: Send + Sync {
    /// Nanoseconds since 1970-01-01 UTC.
    fn now_ns(&self) -> i64;
}

/// Random numbers.
pub trait Random: Send + Sync {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}

/// Clock and chance, handed to every part at its making.
#[derive(Clone)]
pub struct Env {
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
}

impl Env {
    /// The real world: the system's clock, random numbers seeded by the operating system.
    pub fn real() -> Self {
        Env { clock: Arc::new(SystemClock), random: Arc::new(SplitMix::new(os_seed())) }
    }

    /// A world drawn from `seed`, whose clock is `clock` (for simulations: derived from a paused
    /// tokio clock).
    pub fn seeded(seed: u64, clock: Arc<dyn Clock>) -> Self {
        Env { clock, random: Arc::new(SplitMix::new(seed)) }
    }

    /// Nanoseconds since 1970-01-01 UTC.
    pub fn now_ns(&self) -> i64 {
        self.clock.now_ns()
    }

    /// The next 64 random bits.
    pub fn rand_u64(&self) -> u64 {
        self.random.next_u64()
    }
}

/// The operating system's wall clock.
pub struct SystemClock;
impl Clock for SystemClock {
    fn now_ns(&self) -> i64 {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => d.as_nanos() as i64,
            Err(e) => -(e.duration().as_nanos() as i64),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough for ids, jitter and faults;
/// not for secrets.
pub struct SplitMix(AtomicU64);
impl SplitMix {
    /// A generator whose whole sequence follows from `seed`.
    pub fn new(seed: u64) -> Self {
        SplitMix(AtomicU64::new(seed))
    }
}
impl Random for SplitMix {
    fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn os_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // RandomState is seeded by the operating system once per process and counts up per instance.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
