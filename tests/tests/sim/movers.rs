//! Clients that move the same directories below each other, all at once, over several metadata servers:
//! the tree stays a tree, whatever is cut, lost or killed meanwhile.
use crate::hand::Hand;
use crate::world::{Chaos, World, WorldSpec};
use bytes::Bytes;
use pvfs2_bmi::mem::FaultPlan;
use pvfs2_client::sys;
use pvfs2_proto::env::{Random, SplitMix};
use pvfs2_proto::{ErrorCode, Handle};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Directories that are moved about, and what all clients believe of their parents.
struct Pool {
    handles: Vec<Handle>,
    parents: RefCell<Vec<Handle>>,
}

fn name(i: usize) -> String {
    format!("d{i}")
}

/// One client's moves; how many were done, and how many would have made a cycle.
async fn moves(hand: Hand, pool: Rc<Pool>, random: SplitMix, ops: usize) -> (usize, usize) {
    let (mut done, mut refused) = (0, 0);
    let draw = |below: usize| (random.next_u64() % below as u64) as usize;
    for _ in 0..ops {
        let n = pool.handles.len();
        let (i, j) = (draw(n), draw(n));
        let (from, to) = (pool.parents.borrow()[i], pool.handles[j]);
        // Now and then in exchange for another, which may lie deeper.
        let k = draw(n);
        let exchange = draw(5) == 0 && k != i;
        let (to, new) = if exchange {
            (pool.parents.borrow()[k], name(k))
        } else {
            (if draw(4) == 0 { Handle::ROOT } else { to }, name(i))
        };
        let old = (from, Bytes::from(name(i)));
        let rename = sys::Rename::new(old, (to, new.into()), false, exchange);
        let result = hand.run(rename).await;
        crate::trace(|| format!("move {i}: {:?}", result.as_ref().map(|_| ()).map_err(|e| e.code)));
        match result {
            // After an exchange the names no longer tell which is which: the other way round at once
            // would be another client's chance, so that both are looked up.
            Ok(_) if exchange => {
                done += 1;
                find(&hand, &pool).await;
            }
            Ok(_) => {
                done += 1;
                pool.parents.borrow_mut()[i] = to;
            }
            Err(e) => match e.code {
                ErrorCode::Invalid => refused += 1,
                ErrorCode::NotFound | ErrorCode::NotEmpty | ErrorCode::Exists => {
                    find(&hand, &pool).await;
                }
                ErrorCode::Busy | ErrorCode::Unreachable => {}
                other => panic!("rename of {i}: {other:?}: {e}"),
            },
        }
    }
    (done, refused)
}

/// Looks where the directories are now, by their names.
async fn find(hand: &Hand, pool: &Pool) {
    for dir in pool.handles.iter().copied().chain([Handle::ROOT]) {
        // Others go on moving: what is found may be old already, which costs an error.
        let Ok(names) = hand.list(dir).await else { continue };
        for text in names.keys() {
            if let Some(i) = text.strip_prefix('d').and_then(|n| n.parse::<usize>().ok()) {
                pool.parents.borrow_mut()[i] = dir;
            }
        }
    }
}

/// Plays one seed; gives what was done and refused.
pub async fn run(seed: u64, clients: usize, ops: usize) -> (usize, usize) {
    let spec = WorldSpec {
        meta: 3,
        io: 1,
        strip_size_bytes: 512,
        small_file_bytes: 1_024,
        dir_split_entries: 0,
    };
    let world = World::start(seed, spec);
    let first = world.client(true);
    let mut handles = Vec::new();
    for i in 0..7 {
        handles.push(first.mkdir(Handle::ROOT, &name(i)).await.expect("mkdir"));
    }
    let parents = RefCell::new(vec![Handle::ROOT; handles.len()]);
    let pool = Rc::new(Pool { handles, parents });
    world.net.set_plan(FaultPlan {
        delay_us_max: 5_000,
        cut_per_million: 2_000,
        refuse_per_million: 10_000,
    });
    let chaos = {
        let world = world.clone();
        let chaos = Chaos { pause_ms_max: 1_500, down_ms_max: 800 };
        tokio::task::spawn_local(async move { world.rage(chaos).await })
    };
    let tasks: Vec<_> = (0..clients)
        .map(|n| {
            let random = SplitMix::new(seed.wrapping_mul(77) + n as u64);
            tokio::task::spawn_local(moves(world.client(true), pool.clone(), random, ops))
        })
        .collect();
    let (mut done, mut refused) = (0, 0);
    for task in tasks {
        match task.await {
            Ok((d, r)) => (done, refused) = (done + d, refused + r),
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
    chaos.abort();
    let _ = chaos.await;
    world.net.set_plan(FaultPlan::default());
    world.heal();
    // From the root down every directory is met once: so from every one there is a way up.
    let fresh = world.client(true);
    let mut met: BTreeMap<Handle, usize> = BTreeMap::new();
    let mut todo = vec![Handle::ROOT];
    while let Some(dir) = todo.pop() {
        for below in fresh.list(dir).await.expect("readdir").into_values() {
            *met.entry(below).or_default() += 1;
            assert_eq!(met[&below], 1, "seed {seed}: {below} has two names");
            todo.push(below);
        }
    }
    for handle in &pool.handles {
        assert!(met.contains_key(handle), "seed {seed}: {handle} is not in the tree any more");
    }
    assert_eq!(met.len(), pool.handles.len(), "seed {seed}");
    fresh.assert_sound(&format!("seed {seed}")).await;
    (done, refused)
}
