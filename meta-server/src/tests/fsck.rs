//! The checker of `pvfs2 fsck` over the metadata servers of a test, and damage of every kind that it
//! must find.
use super::across::dir_on;
use super::harness::*;
use crate::keys;
use crate::store::Change;
use bytes::Bytes;
use pvfs2_proto::op::*;
use pvfs2_proto::{Attr, AttrFlags, Handle, Result};
use pvfs2_server_core::fsck::{self, Finding, Options, Report};
use pvfs2_server_core::peer::{LocalFuture, PeerCall, PeerReply, Peers};
use std::rc::Rc;
use std::time::Duration;

/// A user as the checker's way to the servers.
struct Carrier(User);

impl Peers for Carrier {
    fn call<'a>(
        &'a self,
        _cred: &'a Cred,
        _op_id: u64,
        calls: Vec<PeerCall>,
    ) -> LocalFuture<'a, Vec<Result<PeerReply>>> {
        Box::pin(async move {
            let mut replies = Vec::new();
            for call in calls {
                let c = &self.0.cluster;
                replies.push(if c.map.server(call.server).unwrap().io_range.is_some() {
                    let now_ns = c.env.now_ns();
                    let op = Some(c.io.borrow_mut().run_on(c, call.server, call.op, now_ns));
                    Ok(PeerReply { op, body: Bytes::new() })
                } else {
                    let sent = self.0.send(call.server, None, call.op, b"").await;
                    sent.result.map(|op| PeerReply { op: Some(op), body: Bytes::new() })
                });
            }
            replies
        })
    }
}

/// What fsck says; `pending_max` zero: nothing may be under way.
pub async fn check(c: &Rc<Cluster>, pending_max: Duration) -> Report {
    let options = Options { pause: Duration::from_millis(100), pending_max };
    fsck::check(&Carrier(c.root()), &Cred::root(), &c.map, options).await.unwrap()
}

/// What fsck says of all servers together; empty: all is well. To be called when nothing is under
/// way: every intent and mark that is left is a fault too, and whatever waits for the reaper.
pub async fn faults_of(c: &Rc<Cluster>) -> Vec<String> {
    let report = check(c, Duration::ZERO).await;
    assert_eq!(report.unsettled, 0, "nothing changes, so nothing is in doubt");
    let mut faults: Vec<String> = report.problems.iter().map(Finding::to_string).collect();
    for id in 0..c.backings.len() as u32 {
        for (what, prefix) in [("orphans", keys::orphans()), ("reap entries", keys::reaps())] {
            let n = c.meta(id).store.first(&prefix, 1_000).unwrap().len();
            if n > 0 {
                faults.push(format!("server {id}: {n} {what} left"));
            }
        }
    }
    faults
}

struct Damage {
    c: Rc<Cluster>,
    dir0: u64,
    dir1: u64,
    file: u64,
    sub: u64,
}

impl Damage {
    fn store(&self, handle: u64, damage: impl FnOnce(&crate::store::Store, &mut Change)) {
        let meta = self.c.meta(self.c.owner(handle));
        let mut change = Change::new();
        damage(&meta.store, &mut change);
        meta.store.commit(change).unwrap();
    }
    fn attr(&self, handle: u64, damage: impl FnOnce(&mut Attr)) {
        self.store(handle, |store, change| {
            let mut attr = store.attr(Handle(handle)).unwrap().unwrap();
            damage(&mut attr);
            change.put_attr(&attr);
        });
    }
    fn name(&self, dir: u64, name: &str, to: Option<(u64, u32)>) {
        self.store(dir, |store, change| {
            let key = store.dirent_key(Handle(dir), name.as_bytes());
            match to {
                Some((handle, kind)) => change.put_dirent(key, Handle(handle), kind),
                None => change.delete(key),
            }
        });
    }
}

const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// Damages a small healthy tree and tells what fsck finds.
fn found_after(damage: impl FnOnce(&Damage)) -> Vec<Finding> {
    with_cluster(2, |c| async move {
        let u = c.root();
        let (dir0, _) = dir_on(&u, 0, "a").await;
        let (dir1, _) = dir_on(&u, 1, "b").await;
        let file = u.create(dir0, "file").await.unwrap();
        u.link(file, dir1, "far").await.unwrap();
        let sub = u.mkdir(dir1, "sub").await.unwrap();
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
        let d = Damage { c: c.clone(), dir0, dir1, file, sub };
        damage(&d);
        check(&c, Duration::from_secs(90)).await.problems
    })
}

#[track_caller]
fn expect(kind: &str, damage: impl FnOnce(&Damage)) {
    let found = found_after(damage);
    let all: Vec<String> = found.iter().map(Finding::to_string).collect();
    assert!(found.iter().any(|f| f.kind == kind), "no {kind} in {all:?}");
    assert!(found.iter().all(|f| !f.server.is_empty() && !f.remedy.is_empty()), "{all:?}");
}

#[test]
fn every_kind_of_damage_is_found() {
    expect("dangling-name", |d| d.name(d.dir0, "ghost", Some((900_000, FILE))));
    expect("wrong-kind", |d| d.name(d.dir0, "file", Some((d.file, DIR))));
    expect("unnamed-object", |d| d.name(d.dir1, "sub", None));
    expect("wrong-links", |d| d.attr(d.file, |a| a.nlink = 3));
    expect("wrong-links", |d| d.name(d.dir1, "far", None));
    expect("wrong-counts", |d| d.attr(d.dir0, |a| a.size += 1));
    expect("wrong-counts", |d| d.attr(d.dir1, |a| a.nlink -= 1));
    expect("wrong-parent", |d| {
        d.store(d.sub, |_, change| change.put_parent(Handle(d.sub), Handle(d.dir0)));
    });
    expect("several-names", |d| d.name(d.dir0, "again", Some((d.sub, DIR))));
    expect("no-directory", |d| d.name(800_000, "lost", Some((d.file, FILE))));
    expect("no-directory", |d| d.name(d.file, "in a file", Some((d.file, FILE))));
    expect("dying-directory", |d| d.attr(d.sub, |a| a.set(AttrFlags::DIR_DYING, true)));
    expect("orphan", |d| {
        let orphan = Attr { handle: 700, mode: FILE | 0o644, ..Default::default() };
        d.store(700, |_, change| {
            change.new_object(&orphan);
            change.put(keys::orphan(Handle(700)), Vec::new());
        });
    });
    expect("foreign-object", |d| {
        // An object of server 1 in server 0's keyval.
        let foreign = Attr { handle: 1_500_000, mode: FILE, nlink: 1, ..Default::default() };
        d.store(1, |_, change| change.new_object(&foreign));
    });
    expect("handle-not-given-out", |d| {
        let early = Attr { handle: 900_000, mode: FILE, nlink: 1, ..Default::default() };
        d.store(900_000, |_, change| change.new_object(&early));
    });
    expect("double-object", |d| {
        let copy = Attr { handle: d.file, mode: FILE, nlink: 1, ..Default::default() };
        d.store(d.dir1, |_, change| change.new_object(&copy));
    });
}

#[test]
fn cycles_and_what_hangs_below_lost_directories_are_found() {
    // dir1 and sub below each other.
    let cycle = |d: &Damage| {
        for (name, _) in (0..100).map(|i| (format!("b{i}"), ())) {
            d.name(1, &name, None);
        }
        d.name(d.sub, "up", Some((d.dir1, DIR)));
        d.store(d.dir1, |_, change| change.put_parent(Handle(d.dir1), Handle(d.sub)));
    };
    expect("cycle", cycle);
    // dir1 has lost its name: sub in it cannot be reached.
    expect("unreachable", |d| (0..100).for_each(|i| d.name(1, &format!("b{i}"), None)));
}

#[test]
fn datafiles_are_compared_with_their_metafiles() {
    let io_first = 1_u64 << 60;
    let put = |d: &Damage, h: u64| drop(d.c.io.borrow_mut().files.insert(h, (vec![1], 1)));
    expect("surplus-datafile", |d| put(d, io_first + 77));
    expect("foreign-datafile", |d| put(d, 5));
    let layout = |hs: &[u64]| {
        Some(pvfs2_proto::FileLayout { datahandles: hs.to_vec(), ..Default::default() })
    };
    expect("lost-datafile", |d| d.attr(d.file, |a| a.layout = layout(&[5])));
    expect("shared-datafile", |d| d.attr(d.file, |a| a.layout = layout(&[io_first, io_first])));
    // One that waits for the reaper, or is a file's, is no fault.
    let found = found_after(|d| {
        put(d, io_first + 5);
        put(d, io_first + 6);
        d.attr(d.file, |a| a.layout = layout(&[io_first + 5]));
        d.store(1, |_, change| {
            change.put(keys::reap(Handle(6)), keys::reap_value(&[io_first + 6]));
        });
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn what_stays_under_way_is_reported_and_its_objects_are_no_suspects() {
    with_cluster(2, |c| async move {
        let u = c.root();
        let (d0, _) = dir_on(&u, 0, "a").await;
        let (d1, _) = dir_on(&u, 1, "b").await;
        let f = u.create(d0, "f").await.unwrap();
        u.link(f, d1, "far").await.unwrap();
        long_rest().await;
        // The name goes, the count cannot follow.
        c.refuse.borrow_mut().insert(Op::LinkCount, 1_000);
        let u = c.root();
        u.unlink(d1, "far").await.unwrap();
        assert!(check(&c, Duration::from_secs(90)).await.problems.is_empty(), "young");
        let old = check(&c, Duration::ZERO).await.problems;
        assert_eq!(old.iter().map(|f| f.kind).collect::<Vec<_>>(), ["unfinished-intent"]);
        c.refuse.borrow_mut().clear();
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

/// A check while the tree is in use tells of no damage.
#[test]
fn a_busy_tree_is_no_damaged_one() {
    with_cluster(3, |c| async move {
        let u = c.root();
        let (d0, _) = dir_on(&u, 0, "a").await;
        let (d1, _) = dir_on(&u, 1, "b").await;
        c.travel_ms_max.set(2);
        let work = async {
            for i in 0..400 {
                let (name, other) = (format!("x{i}"), format!("y{i}"));
                u.create(d0, &name).await.unwrap();
                u.rename(d0, &name, d1, &other).await.unwrap();
                u.mkdir(d1, &name).await.unwrap();
                u.rename(d1, &name, d0, "moving").await.unwrap();
                u.rmdir(d0, "moving").await.unwrap();
                u.unlink(d1, &other).await.unwrap();
            }
        };
        let look = async {
            let mut problems = Vec::new();
            for _ in 0..20 {
                let options = Options {
                    pause: Duration::from_millis(7),
                    pending_max: Duration::from_secs(90),
                };
                let carrier = Carrier(c.root());
                let report = fsck::check(&carrier, &Cred::root(), &c.map, options).await.unwrap();
                problems.extend(report.problems);
            }
            problems
        };
        let ((), problems) = tokio::join!(work, look);
        assert!(problems.is_empty(), "{problems:?}");
    });
}

#[test]
fn only_root_may_look() {
    with_cluster(1, |c| async move {
        let r = FsckScanRequest::default();
        let uid = rustix::process::getuid().as_raw() + 1;
        let refused = c.user(uid, 5).ask(0, r.clone()).await;
        assert_eq!(code(refused), pvfs2_proto::ErrorCode::NotPermitted);
        c.root().ask(0, r).await.unwrap();
    });
}
