//! Whole clusters in one thread: clients, metadata servers and I/O servers over the `mem` method and
//! Trove in memory, on a paused clock; order, delays, cut connections, partitions and crashes are all
//! drawn from one seed. Random operations must give what a reference model gives.
//!
//! A failure names its seed: `PVFS2_SEED=n cargo test -p pvfs2-tests --test sim` plays it alone.
//! `PVFS2_SIM_SEEDS` says how many seeds each test plays (default 900: over 10,000 histories in all); `PVFS2_SIM_TRACE=1` tells each
//! step and each fault.
#![allow(clippy::unwrap_used, clippy::expect_used)]
// all test: a panic is a verdict
// `serve` takes an Arc; a metadata server lives on one thread, as everything here does.
#![allow(clippy::arc_with_non_send_sync)]
mod actor;
mod growing;
mod hand;
mod mess;
mod model;
mod movers;
mod world;

use actor::Actor;
use pvfs2_bmi::mem::FaultPlan;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use world::{Chaos, World, WorldSpec};

/// Tells what happens, with the virtual time, where `PVFS2_SIM_TRACE` asks for it.
fn trace(text: impl FnOnce() -> String) {
    static ON: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("PVFS2_SIM_TRACE").is_some());
    thread_local!(static BEGIN: tokio::time::Instant = tokio::time::Instant::now());
    if *ON {
        eprintln!("{:9.3} {}", BEGIN.with(|b| b.elapsed().as_secs_f64()), text());
    }
}

/// Virtual time after which a run counts as stuck.
const STUCK: Duration = Duration::from_secs(3_600);

/// What one run is made of.
#[derive(Clone)]
struct Play {
    world: WorldSpec,
    plan: FaultPlan,
    chaos: Option<Chaos>,
    /// Actors at the same time, each in a folder of its own.
    clients: usize,
    /// Clients that take turns in each folder; several of them keep no caches.
    hands: usize,
    ops: usize,
}

/// Plays one seed; gives a digest of everything that happened.
fn play(seed: u64, play: Play) -> u64 {
    in_one_thread(seed, run(seed, play))
}

/// Runs a whole cluster in this thread, on a paused clock.
fn in_one_thread<T>(seed: u64, run: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let local = LocalSet::new();
    let out = local.block_on(&runtime, async move {
        let run = tokio::time::timeout(STUCK, run).await;
        run.unwrap_or_else(|_| panic!("seed {seed}: stuck"))
    });
    drop(local);
    out
}

async fn run(seed: u64, play: Play) -> u64 {
    let world = World::start(seed, play.world.clone());
    // The clients' folders, made in peace.
    let first = world.client(true);
    let mut actors = Vec::new();
    for n in 0..play.clients {
        let name = format!("client{n}");
        let dir = first.mkdir(pvfs2_proto::Handle::ROOT, &name).await.expect("the first mkdir");
        let hands = (0..play.hands).map(|_| world.client(play.hands == 1)).collect();
        actors.push(Actor::new(seed, n, hands, dir));
    }
    world.net.set_plan(play.plan.clone());
    let chaos = play.chaos.map(|c| {
        let world = world.clone();
        tokio::task::spawn_local(async move { world.rage(c).await })
    });
    let tasks: Vec<_> = actors
        .into_iter()
        .map(|mut a| {
            let ops = play.ops;
            tokio::task::spawn_local(async move {
                for _ in 0..ops {
                    a.step().await;
                }
                a
            })
        })
        .collect();
    let mut actors = Vec::new();
    for task in tasks {
        match task.await {
            Ok(actor) => actors.push(actor),
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
    // Peace again: everybody up, nothing cut, and what is there is what the models say, for a client
    // that knows nothing yet.
    if let Some(chaos) = chaos {
        chaos.abort();
        let _ = chaos.await;
    }
    world.net.set_plan(FaultPlan::default());
    world.heal();
    let mut digest = seed;
    for actor in &mut actors {
        actor.close_all().await;
    }
    let fresh = Rc::new(world.client(true));
    for actor in &mut actors {
        digest = digest.rotate_left(9) ^ actor.verify(&fresh).await;
    }
    fresh.assert_sound(&format!("seed {seed}, with everything there")).await;
    for actor in actors {
        actor.remove_everything().await;
    }
    world.assert_no_datafile_is_left().await;
    fresh.assert_sound(&format!("seed {seed}, emptied")).await;
    world.assert_objects(1 + play.clients as u64).await;
    digest ^ world.elapsed_ns()
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    match number("PVFS2_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("PVFS2_SIM_SEEDS").unwrap_or(900)).collect(),
    }
}

/// Plays every seed; a failure names it.
fn play_all(what: &str, p: impl Fn(u64) -> Play) {
    each_seed(what, |seed| {
        play(seed, p(seed));
    });
}

/// As [`play_all`], on the same names.
fn mess_all(what: &str, p: impl Fn(u64) -> Play) {
    each_seed(what, |seed| mess(seed, p(seed)));
}

fn each_seed(what: &str, play: impl Fn(u64)) {
    for seed in seeds() {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed)));
        if let Err(e) = result {
            eprintln!("{what}: failed with PVFS2_SEED={seed}");
            std::panic::resume_unwind(e);
        }
    }
}

fn calm() -> Play {
    Play {
        world: WorldSpec {
            meta: 1,
            io: 3,
            strip_size_bytes: 512,
            small_file_bytes: 1_024,
            dir_split_entries: 0,
        },
        plan: FaultPlan::default(),
        chaos: None,
        clients: 1,
        hands: 1,
        ops: 150,
    }
}

#[test]
fn one_client_in_peace() {
    play_all("one client in peace", |_| calm());
}

/// Found by seed 261: the client that renamed a file over another link of it no longer found the old
/// name, which stays.
#[test]
fn a_file_renamed_over_its_other_name_keeps_both() {
    in_one_thread(1, async {
        let world = World::start(1, calm().world);
        let (hand, root) = (world.client(true), pvfs2_proto::Handle::ROOT);
        let file = hand.create(root, "f").await.expect("create");
        hand.close(&file).await;
        let link = pvfs2_client::sys::Link::new(file.handle, root, hand::name("g"));
        hand.run(link).await.expect("link");
        let (old, new) = ((root, hand::name("f")), (root, hand::name("g")));
        let rename = pvfs2_client::sys::Rename::new(old, new, false, false);
        hand.run(rename).await.expect("rename");
        for name in ["f", "g"] {
            let lookup = pvfs2_client::sys::Lookup::new(root, hand::name(name));
            assert_eq!(hand.run(lookup).await.expect(name).handle(), file.handle);
        }
    });
}

#[test]
fn several_clients_and_metadata_servers_in_peace() {
    play_all("several in peace", |_| Play {
        world: WorldSpec { meta: 3, ..calm().world },
        plan: FaultPlan { delay_us_max: 2_000, ..Default::default() },
        clients: 3,
        ..calm()
    });
}

#[test]
fn several_clients_in_one_folder_in_peace() {
    play_all("several in one folder, in peace", |seed| Play {
        world: WorldSpec { meta: 1 + seed as usize % 3, ..calm().world },
        plan: FaultPlan { delay_us_max: 2_000, ..Default::default() },
        hands: 2 + seed as usize % 2,
        ..calm()
    });
}

#[test]
fn several_clients_in_one_folder_and_crashes() {
    play_all("several in one folder, crashes", |seed| Play {
        world: WorldSpec { meta: 1 + seed as usize % 3, ..calm().world },
        plan: FaultPlan { delay_us_max: 3_000, cut_per_million: 3_000, refuse_per_million: 20_000 },
        chaos: Some(Chaos { pause_ms_max: 400, down_ms_max: 1_500 }),
        clients: 2,
        hands: 2 + seed as usize % 2,
        ..calm()
    });
}

/// Plays one seed of several clients on the same names.
fn mess(seed: u64, play: Play) {
    in_one_thread(seed, async move {
        let world = World::start(seed, play.world.clone());
        let first = world.client(true);
        let top = first.mkdir(pvfs2_proto::Handle::ROOT, "mess").await.expect("the first mkdir");
        world.net.set_plan(play.plan.clone());
        let chaos = play.chaos.map(|c| {
            let world = world.clone();
            tokio::task::spawn_local(async move { world.rage(c).await })
        });
        let vandal = |n| mess::Vandal::new(seed, n, world.client(false), top);
        let tasks: Vec<_> = (0..play.clients)
            .map(vandal)
            .map(|v| {
                let ops = play.ops;
                tokio::task::spawn_local(async move {
                    for _ in 0..ops {
                        v.step().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            if let Err(e) = task.await {
                std::panic::resume_unwind(e.into_panic());
            }
        }
        if let Some(chaos) = chaos {
            chaos.abort();
            let _ = chaos.await;
        }
        world.net.set_plan(FaultPlan::default());
        world.heal();
        // What goes on in the background ends: intents, sessions of the dead.
        tokio::time::sleep(Duration::from_secs(120)).await;
        mess::check_and_remove(seed, &world, &world.client(false), top).await;
    });
}

#[test]
fn several_clients_on_the_same_names_in_peace() {
    mess_all("a mess in peace", |seed| Play {
        world: WorldSpec { meta: 1 + seed as usize % 3, ..calm().world },
        plan: FaultPlan { delay_us_max: 2_000, ..Default::default() },
        clients: 2 + seed as usize % 2,
        ops: 80,
        ..calm()
    });
}

#[test]
fn several_clients_on_the_same_names_and_crashes() {
    mess_all("a mess with crashes", |seed| Play {
        world: WorldSpec { meta: 1 + seed as usize % 3, ..calm().world },
        plan: FaultPlan { delay_us_max: 3_000, cut_per_million: 3_000, refuse_per_million: 20_000 },
        chaos: Some(Chaos { pause_ms_max: 400, down_ms_max: 1_500 }),
        clients: 3,
        ops: 80,
        ..calm()
    });
}

/// Writes are joined in all of these; here with longer runs of them, read by another hand in between.
#[test]
fn joined_writes_are_seen_by_others_whatever_fails() {
    let before = hand::JOINED.load(std::sync::atomic::Ordering::Relaxed);
    play_all("joined writes", |seed| Play {
        world: WorldSpec { meta: 1 + seed as usize % 2, small_file_bytes: 64, ..calm().world },
        plan: FaultPlan { delay_us_max: 3_000, cut_per_million: 3_000, refuse_per_million: 20_000 },
        chaos: (seed % 3 != 0).then_some(Chaos { pause_ms_max: 400, down_ms_max: 1_500 }),
        hands: 2,
        ..calm()
    });
    let joined = hand::JOINED.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!(joined > seeds().len(), "{joined} writes were joined");
}

#[test]
fn cut_connections_change_nothing() {
    play_all("cut connections", |seed| Play {
        world: WorldSpec { meta: 1 + seed as usize % 2, ..calm().world },
        plan: FaultPlan {
            delay_us_max: 3_000,
            cut_per_million: 20_000,
            refuse_per_million: 100_000,
        },
        clients: 2,
        ..calm()
    });
}

#[test]
fn crashes_and_partitions_change_nothing() {
    play_all("crashes and partitions", |seed| Play {
        world: WorldSpec { meta: 1 + seed as usize % 3, ..calm().world },
        plan: FaultPlan { delay_us_max: 3_000, cut_per_million: 3_000, refuse_per_million: 20_000 },
        chaos: Some(Chaos { pause_ms_max: 400, down_ms_max: 1_500 }),
        clients: 3,
        ..calm()
    });
}

/// Directories split with their third name, so that nearly every operation meets a split one.
#[test]
fn split_directories_change_nothing() {
    play_all("split directories", |seed| {
        let raging = seed % 2 == 0;
        Play {
            world: WorldSpec { meta: 3, dir_split_entries: 3, ..calm().world },
            plan: FaultPlan {
                delay_us_max: 3_000,
                cut_per_million: 3_000,
                refuse_per_million: 20_000,
            },
            chaos: raging.then_some(Chaos { pause_ms_max: 400, down_ms_max: 1_500 }),
            clients: 2,
            hands: 1 + seed as usize % 3,
            ..calm()
        }
    });
}

#[test]
fn a_directory_splits_under_its_readers() {
    for seed in seeds() {
        let spec = WorldSpec { meta: 3, dir_split_entries: 30, ..calm().world };
        let plan =
            FaultPlan { delay_us_max: 3_000, cut_per_million: 3_000, refuse_per_million: 20_000 };
        let chaos = (seed % 2 == 0).then_some(Chaos { pause_ms_max: 400, down_ms_max: 1_500 });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async move {
            let run = tokio::time::timeout(STUCK, growing::play(seed, spec, plan, chaos)).await;
            run.unwrap_or_else(|_| panic!("PVFS2_SEED={seed}: stuck"));
        });
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let p = Play {
        chaos: Some(Chaos { pause_ms_max: 200, down_ms_max: 500 }),
        clients: 2,
        ops: 60,
        ..calm()
    };
    let first = play(7, p.clone());
    assert_eq!(first, play(7, p.clone()), "a run must be replayable");
    assert_ne!(first, play(8, p), "another seed gives another run");
}

#[test]
fn directories_moved_into_each_other_stay_a_tree() {
    let (mut done, mut refused) = (0, 0);
    for seed in seeds() {
        let played = std::panic::catch_unwind(|| in_one_thread(seed, movers::run(seed, 4, 40)));
        match played {
            Ok((d, r)) => (done, refused) = (done + d, refused + r),
            Err(e) => {
                eprintln!("movers: failed with PVFS2_SEED={seed}");
                std::panic::resume_unwind(e);
            }
        }
    }
    assert!(done > 0 && refused > 0, "{done} moves done, {refused} refused: nothing was tried");
}
