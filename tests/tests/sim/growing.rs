//! One large directory that splits while clients make, remove and list its names, under faults and
//! kills: a listing has every name that was there all the time, none twice, none that was gone.
use crate::hand::Hand;
use crate::world::{Chaos, World, WorldSpec};
use pvfs2_bmi::mem::FaultPlan;
use pvfs2_client::sys;
use pvfs2_proto::{ErrorCode, Handle};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Names that each writer makes.
const NAMES: usize = 90;
/// Of each so many names one is removed again.
const REMOVE: usize = 4;

/// What is certain of the directory's names: made and answered; asked to be removed.
#[derive(Default)]
struct Known {
    made: BTreeSet<String>,
    going: BTreeSet<String>,
    begun: BTreeSet<String>,
}

async fn write(hand: Hand, dir: Handle, who: usize, known: Rc<RefCell<Known>>) -> Hand {
    for i in 0..NAMES {
        let name = format!("w{who}-{i}");
        known.borrow_mut().begun.insert(name.clone());
        if i % 9 == 0 {
            hand.mkdir(dir, &name).await.expect("mkdir");
        } else {
            let file = hand.create(dir, &name).await.expect("create");
            hand.close(&file).await;
        }
        known.borrow_mut().made.insert(name);
        if i % REMOVE == 1 && (i - 1) % 9 != 0 {
            let gone = format!("w{who}-{}", i - 1);
            known.borrow_mut().going.insert(gone.clone());
            hand.run(sys::Unlink::new(dir, gone.clone().into())).await.expect("unlink");
            known.borrow_mut().made.remove(&gone);
        }
    }
    hand
}

fn check(seed: u64, before: &BTreeSet<String>, seen: &BTreeMap<String, Handle>, known: &Known) {
    for name in before.difference(&known.going) {
        assert!(seen.contains_key(name), "seed {seed}: {name} is missing in a listing");
    }
    for name in seen.keys() {
        assert!(known.begun.contains(name), "seed {seed}: {name} was never made");
    }
}

async fn read(hand: Hand, dir: Handle, known: Rc<RefCell<Known>>, seed: u64) -> usize {
    let mut listings = 0;
    loop {
        let before = known.borrow().made.clone();
        let seen = hand.list(dir).await.expect("list");
        check(seed, &before, &seen, &known.borrow());
        listings += 1;
        if before.len() >= 2 * (NAMES - NAMES / REMOVE) {
            return listings;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Plays one seed.
pub async fn play(seed: u64, spec: WorldSpec, plan: FaultPlan, chaos: Option<Chaos>) {
    let world = World::start(seed, spec);
    let first = world.client(true);
    let dir = first.mkdir(Handle::ROOT, "growing").await.expect("the first mkdir");
    world.net.set_plan(plan);
    let chaos = chaos.map(|c| {
        let world = world.clone();
        tokio::task::spawn_local(async move { world.rage(c).await })
    });
    let known: Rc<RefCell<Known>> = Rc::default();
    let writers: Vec<_> = (0..2)
        .map(|who| tokio::task::spawn_local(write(world.client(true), dir, who, known.clone())))
        .collect();
    let readers: Vec<_> = (0..2)
        .map(|_| tokio::task::spawn_local(read(world.client(true), dir, known.clone(), seed)))
        .collect();
    for writer in writers {
        match writer.await {
            Ok(hand) => drop(hand),
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
    for reader in readers {
        match reader.await {
            Ok(listings) => assert!(listings > 1, "seed {seed}: the readers came too late"),
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
    if let Some(chaos) = chaos {
        chaos.abort();
        let _ = chaos.await;
    }
    world.net.set_plan(FaultPlan::default());
    world.heal();
    // A client that knows nothing: everything is there, the counts are right, and all can go.
    let fresh = world.client(true);
    let there = fresh.list(dir).await.expect("list");
    let known = known.borrow().made.clone();
    assert_eq!(there.keys().cloned().collect::<BTreeSet<_>>(), known, "seed {seed}");
    let attr = fresh.run(sys::Getattr::fresh(dir)).await.expect("getattr");
    let is_dir = |n: &&String| {
        n.rsplit_once('-').and_then(|(_, i)| i.parse::<usize>().ok()).is_some_and(|i| i % 9 == 0)
    };
    let subdirs = known.iter().filter(is_dir).count() as u32;
    assert_eq!((attr.size, attr.nlink), (known.len() as u64, 2 + subdirs), "seed {seed}");
    let parts = sys::Getxattr::new(dir, "user.pvfs2.dir_parts".into());
    let parts = fresh.run(parts).await.expect("dir_parts");
    assert_eq!(parts.split(|b| *b == b':').count(), 3, "seed {seed}: it has split: {parts:?}");
    let full = fresh.run(sys::Rmdir::new(Handle::ROOT, "growing".into())).await;
    assert_eq!(full.map_err(|e| e.code), Err(ErrorCode::NotEmpty), "seed {seed}");
    for name in &known {
        let gone = if is_dir(&name) {
            fresh.run(sys::Rmdir::new(dir, name.clone().into())).await
        } else {
            fresh.run(sys::Unlink::new(dir, name.clone().into())).await
        };
        gone.unwrap_or_else(|e| panic!("seed {seed}: {name} cannot be removed: {e}"));
    }
    fresh
        .run(sys::Rmdir::new(Handle::ROOT, "growing".into()))
        .await
        .expect("rmdir of the empty one");
}
