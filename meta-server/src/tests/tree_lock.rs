//! Directories that change parents at the same moment, over several servers: never a cycle.
use super::across::{dir_in, dir_on};
use super::fsck::faults_of;
use super::harness::*;
use crate::ops::tree_lock::TREE;
use pvfs2_proto::ErrorCode;
use pvfs2_proto::op::*;
use pvfs2_server_core::scheduler::Mode;
use std::rc::Rc;
use std::time::Duration;

/// Whether the lock is free at the first server, and no intent has it.
fn is_free(c: &Rc<Cluster>) -> bool {
    let first = c.meta(0);
    first.sched.is_free(&[(TREE, Mode::Write)]) && first.tree_held.borrow().is_empty()
}

/// Two directories, each in a directory of its own, renamed below each other at once, on every pair
/// of servers, with many orders of the requests between them: one of the two fails, both stay in
/// the tree.
#[test]
fn crossing_renames_make_no_cycle() {
    for (on_a, on_b) in [(0, 1), (1, 2), (2, 0), (1, 1), (0, 0)] {
        with_cluster(3, |c| async move {
            for round in 0..12 {
                let (u, v) = (c.root(), c.root());
                let (p, _) = dir_on(&u, on_b, &format!("p{round}-")).await;
                let (q, _) = dir_on(&u, on_a, &format!("q{round}-")).await;
                let (a, an) = dir_in(&u, p, on_a, "a").await;
                let (b, bn) = dir_in(&u, q, on_b, "b").await;
                let below_a = u.mkdir(a, "x").await.unwrap();
                let below_b = v.mkdir(b, "x").await.unwrap();
                c.travel_ms_max.set(3);
                let (one, two) =
                    tokio::join!(u.rename(p, &an, below_b, "in"), v.rename(q, &bn, below_a, "in"));
                c.travel_ms_max.set(0);
                match (&one, &two) {
                    (Ok(_), Err(e)) | (Err(e), Ok(_)) => {
                        assert_eq!(e.code, ErrorCode::Invalid, "{e}");
                    }
                    both => panic!("servers {on_a}, {on_b}, round {round}: {both:?}"),
                }
                long_rest().await;
                assert_eq!(
                    faults_of(&c).await,
                    Vec::<String>::new(),
                    "{on_a}, {on_b}, round {round}"
                );
                assert!(is_free(&c));
            }
        });
    }
}

/// Three in a ring, and exchanges among them: not all can happen.
#[test]
fn a_ring_of_renames_stays_open() {
    with_cluster(3, |c| async move {
        for round in 0..15 {
            let users: Vec<User> = (0..3).map(|_| c.root()).collect();
            let mut dirs = Vec::new();
            for on in 0..3 {
                let u = &users[0];
                let (home, _) = dir_on(u, (on + 1) % 3, &format!("h{round}-{on}-")).await;
                let (dir, name) = dir_in(u, home, on, "r").await;
                let (sub, sub_name) = dir_in(u, dir, (on + 2) % 3, "sub").await;
                let (deep, _) = dir_in(u, sub, on, "deep").await;
                dirs.push((home, name, dir, sub_name, deep));
            }
            c.travel_ms_max.set(4);
            let exchange = round % 3 == 2;
            let go = async |i: usize| {
                let (from, to) = (&dirs[i], &dirs[(i + 1) % 3]);
                // Below what is below the next one; or in exchange for that.
                let (dir, name) = if exchange { (to.2, to.3.as_str()) } else { (to.4, "in") };
                users[i].rename_with(from.0, &from.1, dir, name, false, exchange).await
            };
            let all = tokio::join!(go(0), go(1), go(2));
            c.travel_ms_max.set(0);
            let done = [all.0, all.1, all.2].iter().filter(|r| r.is_ok()).count();
            assert!((1..3).contains(&done), "round {round}: {done} of the ring happened");
            long_rest().await;
            assert_eq!(faults_of(&c).await, Vec::<String>::new(), "round {round}");
            assert!(is_free(&c));
        }
    });
}

/// Files, and directories that stay with their parent, never ask for the lock.
#[test]
fn other_renames_do_not_ask_for_it() {
    with_cluster(3, |c| async move {
        let u = c.root();
        let (d0, _) = dir_on(&u, 0, "a").await;
        let (d1, _) = dir_on(&u, 1, "b").await;
        let (_, n2) = dir_on(&u, 2, "c").await;
        u.create(d0, "f").await.unwrap();
        c.refuse.borrow_mut().insert(Op::TreeLock, 1_000_000);
        u.rename(d0, "f", d1, "f").await.unwrap();
        u.rename(d1, "f", d0, "g").await.unwrap();
        u.rename(1, &n2, 1, "stays").await.unwrap();
        let moved = u.rename(1, "stays", d1, "stays").await;
        assert_eq!(code(moved), ErrorCode::Unreachable, "this one asks");
        c.refuse.borrow_mut().clear();
        u.rename(1, "stays", d1, "stays").await.unwrap();
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

/// A coordinator that dies with the lock keeps it until it is back; others are refused in time.
#[test]
fn a_dead_coordinator_gives_it_back_at_its_restart() {
    with_cluster(3, |c| async move {
        let (u, v) = (c.root(), c.root());
        let (d1, _) = dir_on(&u, 1, "a").await;
        let (d2, _) = dir_on(&u, 2, "b").await;
        let (_, n0) = dir_on(&u, 0, "c").await;
        let (_, m0) = dir_on(&u, 0, "e").await;
        // Server 1 takes the lock and is killed in its walk.
        c.travel_ms_max.set(50);
        let rename = u.rename(1, &n0, d1, "in");
        tokio::pin!(rename);
        while is_free(&c) {
            tokio::select! {
                done = &mut rename => panic!("it had no lock: {done:?}"),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        c.kill(1);
        c.travel_ms_max.set(0);
        let begin = tokio::time::Instant::now();
        let other = tokio::time::timeout(Duration::from_secs(60), v.rename(1, &m0, d2, "in"));
        assert_eq!(code(other.await.expect("bounded")), ErrorCode::Busy);
        assert!(begin.elapsed() > Duration::from_millis(500), "it has waited");
        // The first server restarts too: the lock is still held.
        c.restart(0);
        assert!(!is_free(&c));
        c.start(1);
        settle().await;
        assert!(is_free(&c), "undone at the coordinator's restart");
        v.rename(1, &m0, d2, "in").await.unwrap();
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

/// The lock stays until the directory's parent is written, however long that takes.
#[test]
fn it_is_held_until_the_parent_is_written() {
    with_cluster(3, |c| async move {
        let u = c.root();
        let (d1, n1) = dir_on(&u, 1, "a").await;
        let (d2, n2) = dir_on(&u, 2, "b").await;
        // The object of the second is on server 2; its new parent is on server 1, which coordinates.
        c.refuse.borrow_mut().insert(Op::RmdirPeer, 1);
        u.rename(1, &n2, d1, "in").await.unwrap();
        assert!(!is_free(&c), "the parent is not written yet");
        assert_eq!(c.meta(2).store.parent(pvfs2_proto::Handle(d2)).unwrap().0, 1);
        // This one would close the cycle; it waits, then sees the truth.
        assert_eq!(code(u.rename(1, &n1, d2, "in").await), ErrorCode::Invalid);
        long_rest().await;
        assert!(is_free(&c));
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}
