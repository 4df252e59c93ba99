//! The right to know every name of a directory: who gets it, and what waits for it.
use super::harness::*;
use super::splits::{dir_with, map_of, until_split};
use crate::name_rights::HELD_MAX;
use pvfs2_proto::op::*;
use pvfs2_proto::{ErrorCode, PvfsError};

/// What a lookup of a name that is not there brings.
async fn right(u: &User, dir: u64) -> u64 {
    let path = vec!["none".into()];
    let r = LookupRequest { dir, path, want_right: true, ..Default::default() };
    u.ask(u.cluster.owner(dir), r).await.unwrap().right
}

async fn give_back(u: &User, dir: u64, right: u64) {
    u.ask(u.cluster.owner(dir), GiveBackRequest { handle: dir, right, ..Default::default() })
        .await
        .unwrap();
}

/// The server asks to come again, as long as the right is held.
async fn waits<T: std::fmt::Debug>(users: [&User; 2], result: Result<T, PvfsError>) {
    assert_eq!(code(result), ErrorCode::Busy);
    for (user, server) in users.iter().flat_map(|u| [(u, 0), (u, 1)]) {
        user.ask(server, RenewRequest {}).await.unwrap();
    }
}

#[test]
fn one_session_gets_it_while_the_directory_is_empty() {
    with_cluster(1, |c| async move {
        let (a, b) = (c.root(), c.root());
        let dir = a.mkdir(1, "d").await.unwrap();
        assert_eq!(right(&a, 1).await, 0, "the root has a name by now");
        let first = right(&a, dir).await;
        assert_ne!(first, 0);
        assert_eq!((right(&a, dir).await, right(&b, dir).await), (first, 0));
        a.create(dir, "f").await.unwrap();
        assert_eq!((right(&a, dir).await, right(&b, dir).await), (0, 0), "it is empty no more");
        a.unlink(dir, "f").await.unwrap();
        assert_eq!(right(&a, dir).await, first, "and again it is");
        // Not wanted, not given.
        give_back(&a, dir, first).await;
        let plain = LookupRequest { dir, path: vec!["none".into()], ..Default::default() };
        assert_eq!(b.ask(0, plain).await.unwrap().right, 0);
        let second = right(&b, dir).await;
        assert!(second > first);
        give_back(&a, dir, first).await;
        assert_eq!(code(a.create(dir, "g").await), ErrorCode::Busy, "given back late: b has it");
        b.ask(0, GoodbyeRequest {}).await.unwrap();
        a.create(dir, "g").await.unwrap();
    });
}

#[test]
fn whoever_else_adds_a_name_waits_until_it_is_given_back() {
    with_cluster(2, |c| async move {
        let (a, b) = (c.root(), c.root());
        // On either server: the right is the directory's server's to give.
        let mut dirs = Vec::new();
        for i in 0..8 {
            dirs.push(a.mkdir(1, &format!("d{i}")).await.unwrap());
        }
        for server in 0..2 {
            assert!(dirs.iter().any(|d| c.owner(*d) == server), "{dirs:?}");
        }
        let f = a.create(1, "f").await.unwrap();
        for dir in dirs {
            let number = right(&a, dir).await;
            assert_ne!(number, 0);
            a.create(dir, "own").await.unwrap();
            waits([&a, &b], b.create(dir, "x").await).await;
            waits([&a, &b], b.mkdir(dir, "x").await).await;
            waits([&a, &b], b.link(f, dir, "x").await).await;
            waits([&a, &b], b.rename(1, "f", dir, "x").await).await;
            let name = || "x".into();
            let at = c.owner(dir);
            let fifo = pvfs2_proto::attr::mode::S_IFIFO | 0o600;
            let mknod = MknodRequest { dir, name: name(), mode: fifo, ..Default::default() };
            waits([&a, &b], b.ask(at, mknod).await).await;
            let symlink = SymlinkRequest { dir, name: name(), target: "t".into() };
            waits([&a, &b], b.ask(at, symlink).await).await;
            // What adds none waits for nothing.
            assert_eq!(code(b.lookup(dir, "x").await), ErrorCode::NotFound);
            assert_eq!(b.getattr(dir).await.unwrap().size, 1);
            b.unlink(dir, "own").await.unwrap();
            a.create(dir, "own").await.unwrap();
            let back = async {
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                give_back(&a, dir, number).await;
                // Somebody is adding.
                assert_eq!(right(&a, dir).await, 0);
            };
            let (made, ()) = tokio::join!(b.create(dir, "x"), back);
            made.unwrap();
            assert_eq!(b.lookup(dir, "own").await.unwrap(), a.lookup(dir, "own").await.unwrap());
        }
    });
}

#[test]
fn it_ends_with_the_server() {
    with_cluster(1, |c| async move {
        let (a, b) = (c.root(), c.root());
        let dir = a.mkdir(1, "d").await.unwrap();
        let first = right(&a, dir).await;
        c.restart(0);
        assert!(c.service(0).unwrap().in_grace());
        b.create(dir, "x").await.unwrap();
        b.unlink(dir, "x").await.unwrap();
        assert!(right(&b, dir).await > first);
    });
}

#[test]
fn a_directory_that_splits_loses_it() {
    with_cluster(3, |c| async move {
        let a = c.root();
        let dir = dir_with(&a, "d", 3, 10).await;
        let number = right(&a, dir).await;
        assert_ne!(number, 0);
        for i in 0..12 {
            a.create(dir, &format!("f{i}")).await.unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(map_of(&a, dir).await, None, "other servers would add names unasked");
        give_back(&a, dir, number).await;
        let map = until_split(&a, dir).await;
        // Not of a part either, as empty as it may be.
        for i in 0..12 {
            let name = format!("f{i}");
            a.unlink(map.owner_of(name.as_bytes()).0, &name).await.unwrap();
        }
        assert_eq!(right(&a, map.owner_of(b"none").0).await, 0);
    });
}

#[test]
fn the_oldest_is_asked_back_where_there_are_too_many() {
    with_cluster(1, |c| async move {
        let (a, b) = (c.root(), c.root());
        let first = a.mkdir(1, "first").await.unwrap();
        let number = right(&a, first).await;
        for i in 0..=HELD_MAX {
            let dir = a.mkdir(1, &format!("d{i}")).await.unwrap();
            assert_ne!(right(&a, dir).await, 0);
        }
        // It is asked back: a's next question is not answered with it any more.
        assert_eq!(right(&a, first).await, 0);
        give_back(&a, first, number).await;
        assert_ne!(right(&b, first).await, 0);
    });
}
