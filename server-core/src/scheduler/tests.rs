//! The scheduler's core without a clock, and its waits in one thread.
use super::*;

const A: Handle = Handle(1);
const B: Handle = Handle(2);

#[test]
fn readers_share_writers_exclude_in_order() {
    let mut t = LockTable::default();
    assert!(t.request(1, A, Mode::Read));
    assert!(t.request(2, A, Mode::Read));
    assert!(!t.request(3, A, Mode::Write));
    assert!(!t.request(4, A, Mode::Read), "a reader does not overtake a waiting writer");
    assert!(t.release(A, Mode::Read).is_empty());
    assert_eq!(t.release(A, Mode::Read).as_slice(), [3]);
    assert_eq!(t.release(A, Mode::Write).as_slice(), [4]);
    assert!(t.release(A, Mode::Read).is_empty() && t.is_empty());
}

#[test]
fn a_writer_that_gives_up_lets_readers_pass() {
    let mut t = LockTable::default();
    assert!(t.request(1, A, Mode::Read));
    assert!(!t.request(2, A, Mode::Write));
    assert!(!t.request(3, A, Mode::Read));
    assert_eq!(t.cancel(2, A).as_slice(), [3]);
    t.release(A, Mode::Read);
    t.release(A, Mode::Read);
    assert!(t.is_empty());
}

#[tokio::test]
async fn pass_takes_nothing_when_free_and_waits_when_not() {
    let s = Scheduler::new();
    assert!(s.pass(&[(A, Mode::Write)]).await.is_none());
    let held = s.lock(&[(A, Mode::Write)]).await;
    assert!(s.pass(&[(B, Mode::Write)]).await.is_none(), "another handle");
    let mut waiting = std::pin::pin!(s.pass(&[(A, Mode::Read)]));
    assert!(poll_once(waiting.as_mut()).await.is_none());
    drop(held);
    let guard = poll_once(waiting.as_mut()).await.unwrap();
    assert!(guard.is_some() && s.try_lock(A, Mode::Write).is_none());
    drop(guard);
    assert!(s.inner.lock().table.is_empty());
}

#[tokio::test]
async fn a_dropped_wait_leaves_no_trace() {
    let s = Scheduler::new();
    let held = s.lock(&[(B, Mode::Write)]).await;
    {
        // Takes A, waits for B, is dropped: A is free again, and B's queue empty.
        let mut waiting = std::pin::pin!(s.lock(&[(B, Mode::Write), (A, Mode::Write)]));
        assert!(poll_once(waiting.as_mut()).await.is_none());
        assert!(s.try_lock(A, Mode::Read).is_none());
    }
    assert!(s.try_lock(A, Mode::Write).is_some());
    // Given to a waiter that is dropped before it sees that.
    {
        let mut waiting = std::pin::pin!(s.lock(&[(B, Mode::Write)]));
        assert!(poll_once(waiting.as_mut()).await.is_none());
        drop(held);
    }
    let inner = s.inner.lock();
    assert!(inner.table.is_empty() && inner.waiting.is_empty());
}

#[tokio::test]
async fn a_guard_lets_go_of_what_it_need_not_keep() {
    let s = Scheduler::new();
    let mut guard = s.lock(&[(A, Mode::Write), (B, Mode::Write)]).await;
    guard.keep(&[B]);
    assert!(s.try_lock(A, Mode::Write).is_some() && s.try_lock(B, Mode::Write).is_none());
    drop(guard);
    assert!(s.inner.lock().table.is_empty());
}

#[tokio::test]
async fn a_handle_named_twice_is_taken_once() {
    let s = Scheduler::new();
    let guard = s.lock(&[(A, Mode::Read), (A, Mode::Write)]).await;
    assert!(s.try_lock(A, Mode::Read).is_none());
    drop(guard);
    assert!(s.try_lock(A, Mode::Write).is_some());
}

/// Random requests, releases and cancels: never a writer beside anybody, nobody forgotten.
#[test]
fn random_steps_keep_the_rules() {
    let mut t = LockTable::default();
    let mut seed = 0x5eed_u64;
    let mut rand = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let mut holding: Vec<(u64, Mode)> = Vec::new();
    let mut waiting: Vec<(u64, Mode)> = Vec::new();
    for id in 1..20_000 {
        let granted = match rand(4) {
            0 | 1 => {
                let mode = if rand(3) == 0 { Mode::Write } else { Mode::Read };
                if t.request(id, A, mode) {
                    holding.push((id, mode));
                } else {
                    waiting.push((id, mode));
                }
                SmallVec::new()
            }
            2 if !holding.is_empty() => {
                let (_, mode) = holding.swap_remove(rand(holding.len() as u64) as usize);
                t.release(A, mode)
            }
            3 if !waiting.is_empty() => {
                let (id, _) = waiting.remove(rand(waiting.len() as u64) as usize);
                t.cancel(id, A)
            }
            _ => SmallVec::new(),
        };
        for id in granted {
            let at = waiting.iter().position(|w| w.0 == id).unwrap();
            assert!(at == 0, "first come, first served");
            holding.push(waiting.remove(at));
        }
        let writers = holding.iter().filter(|h| h.1 == Mode::Write).count();
        assert!(writers == 0 || holding.len() == 1);
        assert!(!holding.is_empty() || waiting.is_empty(), "somebody waits for nobody");
    }
}

async fn poll_once<F: Future>(mut f: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match f.as_mut().poll(cx) {
            std::task::Poll::Ready(out) => Some(out),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
