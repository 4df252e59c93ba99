//! Tests of handle allocation: unique across crashes, reserved in batches, reused late and in order.
use super::*;
use crate::collection::MemCollection;
use proptest::prelude::*;
use pvfs2_proto::env::{Clock, Env};
use std::sync::atomic::{AtomicI64, Ordering};

struct Hand(AtomicI64);
impl Clock for Hand {
    fn now_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

const SECOND: i64 = 1_000_000_000;

fn world() -> (Arc<Hand>, Env) {
    let clock = Arc::new(Hand(AtomicI64::new(SECOND)));
    (clock.clone(), Env::seeded(1, clock))
}

fn take(a: &HandleAllocator, c: &Collection) -> Result<Handle> {
    let mut t = Txn::new();
    let h = a.alloc(&mut t)?;
    c.commit(t)?;
    Ok(h)
}

fn give(a: &HandleAllocator, c: &Collection, h: Handle) {
    let mut t = Txn::new();
    a.free(&mut t, h);
    c.commit(t).unwrap();
}

#[test]
fn handles_are_reserved_in_batches_and_unique_across_crashes() {
    let backing = MemCollection::default();
    let (_, env) = world();
    let range = HandleRange { first: 1, last: 1 << 40 };
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let c = Collection::open_memory(&backing, env.clone());
        let a = HandleAllocator::load(&c, range, 360).unwrap();
        let mut changed = 0;
        for _ in 0..5000 {
            let mut t = Txn::new();
            let h = a.alloc(&mut t).unwrap();
            assert!(seen.insert(h), "{h} was given twice");
            assert!(range.contains(h) && h != Handle::ROOT);
            changed += t.len();
            c.commit(t).unwrap();
        }
        assert_eq!(changed, 2, "two batches, two reservations");
        backing.crash();
    }
    let most = seen.iter().max().unwrap().0;
    assert!(most <= 3 * (5000 + BATCH));
}

#[test]
fn a_dropped_transaction_does_not_lose_the_reservation() {
    let backing = MemCollection::default();
    let (_, env) = world();
    let range = HandleRange { first: 100, last: 1 << 40 };
    let c = Collection::open_memory(&backing, env.clone());
    let a = HandleAllocator::load(&c, range, 360).unwrap();
    let mut dropped = Txn::new();
    a.alloc(&mut dropped).unwrap();
    assert!(!dropped.is_empty());
    drop(dropped);
    let used = take(&a, &c).unwrap();
    backing.crash();
    let c = Collection::open_memory(&backing, env);
    let a = HandleAllocator::load(&c, range, 360).unwrap();
    assert!(take(&a, &c).unwrap() > used);
}

#[test]
fn freed_handles_come_back_late_oldest_first_and_once() {
    let backing = MemCollection::default();
    let (clock, env) = world();
    let range = HandleRange { first: 10, last: 19 };
    let c = Collection::open_memory(&backing, env.clone());
    let a = HandleAllocator::load(&c, range, 360).unwrap();
    let all: Vec<Handle> = (0..10).map(|_| take(&a, &c).unwrap()).collect();
    assert_eq!(take(&a, &c).unwrap_err().code, ErrorCode::NoSpace);
    for h in [all[3], all[1], all[7]] {
        give(&a, &c, h);
        clock.0.fetch_add(SECOND, Ordering::Relaxed);
    }
    assert_eq!(take(&a, &c).unwrap_err().code, ErrorCode::NoSpace);
    clock.0.fetch_add(358 * SECOND, Ordering::Relaxed);
    assert_eq!(take(&a, &c).unwrap(), all[3]);
    // The queue is in the collection: it outlives a crash, and what was reused is out of it.
    backing.crash();
    let c = Collection::open_memory(&backing, env);
    let a = HandleAllocator::load(&c, range, 360).unwrap();
    assert_eq!(take(&a, &c).unwrap(), all[1]);
    assert_eq!(take(&a, &c).unwrap_err().code, ErrorCode::NoSpace);
    clock.0.fetch_add(SECOND, Ordering::Relaxed);
    assert_eq!(take(&a, &c).unwrap(), all[7]);
    assert_eq!(take(&a, &c).unwrap_err().code, ErrorCode::NoSpace);
}

#[test]
fn impossible_ranges_are_refused() {
    let (_, env) = world();
    let c = Collection::memory(env);
    for (first, last) in [(0, 5), (6, 5)] {
        assert!(HandleAllocator::load(&c, HandleRange { first, last }, 1).is_err());
    }
    let a =
        HandleAllocator::load(&c, HandleRange { first: u64::MAX - 3, last: u64::MAX }, 1).unwrap();
    for n in (0..4).rev() {
        assert_eq!(take(&a, &c).unwrap(), Handle(u64::MAX - n));
    }
    assert!(take(&a, &c).is_err());
    let other = HandleRange { first: 1, last: 50 };
    assert!(HandleAllocator::load(&c, other, 1).err().unwrap().detail.contains("cluster file"));
}

proptest! {
    #[test]
    fn a_live_handle_is_never_given_again(ops in prop::collection::vec((0u8..10, any::<u16>()), 1..300)) {
        let backing = MemCollection::default();
        let (clock, env) = world();
        let range = HandleRange { first: 1, last: 40 };
        let mut c = Collection::open_memory(&backing, env.clone());
        let mut a = HandleAllocator::load(&c, range, 5).unwrap();
        let mut live: Vec<Handle> = Vec::new();
        let mut rest: Vec<(Handle, i64)> = Vec::new();
        for (op, pick) in ops {
            match op {
                0..=4 => if let Ok(h) = take(&a, &c) {
                    prop_assert!(!live.contains(&h) && h != Handle::ROOT && range.contains(h));
                    prop_assert!(!rest.iter().any(|(r, t)| *r == h && clock.now_ns() - t < 5 * SECOND));
                    live.push(h);
                },
                5..=7 if !live.is_empty() => {
                    let h = live.swap_remove(pick as usize % live.len());
                    rest.push((h, clock.now_ns()));
                    give(&a, &c, h);
                }
                8 => {
                    backing.crash();
                    c = Collection::open_memory(&backing, env.clone());
                    a = HandleAllocator::load(&c, range, 5).unwrap();
                }
                _ => drop(clock.0.fetch_add(SECOND, Ordering::Relaxed)),
            }
        }
    }
}
