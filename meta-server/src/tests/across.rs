//! Operations over several metadata servers: where things come to lie, faults at every step, kills.
use super::fsck::faults_of;
use super::harness::*;
use crate::keys;
use pvfs2_proto::ErrorCode;
use pvfs2_proto::op::*;
use std::time::Duration;

/// Makes directories below the root until one lies on `server`.
pub async fn dir_on(u: &User, server: u32, prefix: &str) -> (u64, String) {
    dir_in(u, 1, server, prefix).await
}

/// Makes directories in `parent` until one lies on `server`.
pub async fn dir_in(u: &User, parent: u64, server: u32, prefix: &str) -> (u64, String) {
    for i in 0..100 {
        let name = format!("{prefix}{i}");
        let handle = u.mkdir(parent, &name).await.unwrap();
        if u.cluster.owner(handle) == server {
            return (handle, name);
        }
        u.rmdir(parent, &name).await.unwrap();
    }
    panic!("no directory came to lie on server {server}");
}

#[test]
fn directories_spread_over_the_servers() {
    with_cluster(3, |c| async move {
        let u = c.root();
        let mut per_server = [0; 3];
        for i in 0..60 {
            let d = u.mkdir(1, &format!("d{i}")).await.unwrap();
            per_server[c.owner(d) as usize] += 1;
            let f = u.create(d, "f").await.unwrap();
            assert_eq!(c.owner(f), c.owner(d), "a file lies beside its dirent");
        }
        assert!(per_server.iter().all(|n| *n > 8), "{per_server:?}");
        assert_eq!(u.getattr(1).await.unwrap().nlink, 62);
        for i in 0..60 {
            assert_eq!(code(u.rmdir(1, &format!("d{i}")).await), ErrorCode::NotEmpty);
        }
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

#[test]
fn paths_end_where_another_server_begins() {
    with_cluster(2, |c| async move {
        let u = c.root();
        let (d, name) = dir_on(&u, 1, "d").await;
        u.create(d, "f").await.unwrap();
        let path = vec![name.into(), "f".into()];
        let steps = u
            .ask(0, LookupRequest { dir: 1, path, want_bytes: false, ..Default::default() })
            .await
            .unwrap()
            .steps;
        assert_eq!(steps.len(), 1);
        assert!(steps[0].handle == d && steps[0].attr.is_none());
        let r = ReaddirRequest { dir: 1, cursor: 0, max: 10, plus: true, ..Default::default() };
        assert!(u.ask(0, r).await.unwrap().entries[0].attr.is_none());
        assert_eq!(
            code(u.ask(0, ReaddirRequest { dir: d, max: 1, ..Default::default() }).await),
            ErrorCode::Stale
        );
    });
}

/// Every operation over two servers, with the first or the second of its inner requests refused, or
/// its answer lost, or the coordinator killed meanwhile: afterwards the tree is whole.
#[test]
fn faults_at_every_step_leave_a_whole_tree() {
    let inner = [Op::Crdir, Op::LinkCount, Op::RmdirPeer, Op::RenamePeer];
    let (mut failed, mut succeeded) = (0, 0);
    for op in inner {
        for lose in [false, true] {
            for times in [1, 2, 3] {
                for what in 0..8 {
                    let ok = fault(op, lose, times, what);
                    failed += u32::from(!ok);
                    succeeded += u32::from(ok);
                }
            }
        }
    }
    assert!(failed > 20 && succeeded > 20, "{failed} failed, {succeeded} succeeded");
}

fn fault(op: Op, lose: bool, times: u32, what: usize) -> bool {
    with_cluster(2, |c| async move {
        let u = c.root();
        let (d0, _) = dir_on(&u, 0, "a").await;
        let (d1, n1) = dir_on(&u, 1, "b").await;
        let (_, n2) = dir_on(&u, 1, "empty").await;
        let f0 = u.create(d0, "f0").await.unwrap();
        u.create(d1, "f1").await.unwrap();
        u.link(f0, d1, "far").await.unwrap();
        let faults = if lose { &c.lose } else { &c.refuse };
        faults.borrow_mut().insert(op, times);
        let result = match what {
            0 => u.mkdir(1, &n2.replace("empty", "fresh")).await.map(|_| ()),
            1 => u.link(f0, d1, "more").await.map(|_| ()),
            2 => u.unlink(d1, "far").await.map(|_| ()),
            3 => u.rmdir(1, &n2).await.map(|_| ()),
            4 => u.rename(d0, "f0", d1, "f1").await.map(|_| ()),
            5 => u.rename(1, &n1, 1, &n2).await.map(|_| ()),
            6 => u.rename_with(d0, "f0", d1, "f1", false, true).await.map(|_| ()),
            _ => u.rename(d1, "f1", d0, "f0").await.map(|_| ()),
        };
        if what % 2 == 1 {
            c.restart(0);
        } else if times == 2 {
            c.restart(1);
        }
        long_rest().await;
        let found = faults_of(&c).await;
        assert!(found.is_empty(), "{op:?} lose {lose} x{times}, operation {what}: {found:?}");
        result.is_ok()
    })
}

#[test]
fn a_held_name_stays_held_over_a_restart() {
    with_cluster(2, |c| async move {
        let u = c.root();
        let (d0, _) = dir_on(&u, 0, "a").await;
        let (d1, _) = dir_on(&u, 1, "b").await;
        let f = u.create(d1, "f").await.unwrap();
        // The rename is prepared on server 1; its coordinator, server 0, dies before it commits.
        let cred = Cred::root();
        let peer = c.hello(1, 1_000, 1).unwrap();
        let prepare = RenamePeerRequest {
            intent: 1 << 48 | 999,
            step: RenameStep::Prepare as i32,
            dir: d1,
            name: "f".into(),
            ..Default::default()
        };
        let as_server = async |op: OpRequest| {
            let head = RequestHead {
                session: peer,
                cred: Some(cred.clone()),
                op: Some(op),
                ..Default::default()
            };
            c.send_head(1, head).await
        };
        assert_eq!(as_server(prepare.clone().into_request()).await.status, 0);
        c.restart(1);
        let reader = tokio::time::timeout(Duration::from_millis(500), u.lookup(d1, "f")).await;
        assert!(reader.is_err(), "readers wait for the decision");
        let abort = RenamePeerRequest { step: RenameStep::Abort as i32, ..prepare.clone() };
        assert_eq!(as_server(abort.into_request()).await.status, 0);
        assert_eq!(u.lookup(d1, "f").await.unwrap(), f);
        let late = as_server(prepare.into_request()).await;
        assert_eq!(ErrorCode::from_wire(late.status), ErrorCode::Invalid, "taken back");
        u.rename(d1, "f", d0, "f").await.unwrap();
        long_rest().await;
        assert!(c.meta(1).store.first(&keys::steps(), 1).unwrap().is_empty(), "marks are pruned");
    });
}

/// Renames in opposite directions at once: none waits for ever, each happens or fails.
#[test]
fn opposite_renames_do_not_wait_for_each_other() {
    with_cluster(2, |c| async move {
        let (u, v) = (c.root(), c.root());
        let (d0, _) = dir_on(&u, 0, "a").await;
        let (d1, _) = dir_on(&u, 1, "b").await;
        for i in 0..20 {
            u.create(d0, &format!("x{i}")).await.unwrap();
            v.create(d1, &format!("y{i}")).await.unwrap();
        }
        let one = async {
            for i in 0..20 {
                u.rename(d0, &format!("x{i}"), d1, &format!("x{i}")).await.unwrap();
            }
        };
        let two = async {
            for i in 0..20 {
                v.rename(d1, &format!("y{i}"), d0, &format!("y{i}")).await.unwrap();
            }
        };
        tokio::join!(one, two);
        assert_eq!((u.names(d0).await.len(), u.names(d1).await.len()), (20, 20));
        assert!(u.names(d0).await.iter().all(|n| n.starts_with('y')));
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}
