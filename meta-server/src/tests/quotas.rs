//! Quotas: what counts, what is refused, what survives, and how room moves between servers.
use super::harness::*;
use pvfs2_proto::op::*;
use pvfs2_proto::{ErrorCode, Handle, Result, SetAttr};
use std::collections::BTreeMap;

fn limit(kind: QuotaKind, id: u64, bytes: u64, files: u64) -> QuotaSetRequest {
    QuotaSetRequest { limit: Some(QuotaAmount { kind: kind as i32, id, bytes, files }) }
}
async fn usage(u: &User) -> BTreeMap<(i32, u64), (u64, u64)> {
    let got = u.ask(0, QuotaGetRequest { recount: false }).await.unwrap();
    got.used.iter().map(|a| ((a.kind, a.id), (a.bytes, a.files))).collect()
}
async fn of_user(root: &User, uid: u64) -> (u64, u64) {
    usage(root).await.get(&(QuotaKind::User as i32, uid)).copied().unwrap_or_default()
}
async fn mark(root: &User, handle: u64, tree: u64) -> Result<QuotaMarkResponse> {
    root.ask(root.cluster.owner(handle), QuotaMarkRequest { handle, tree }).await
}
/// A directory on server `on` in which everybody may make names.
async fn open_dir(root: &User, on: u32) -> u64 {
    for i in 0.. {
        let dir = root.mkdir_mode(1, &format!("dir{on}-{i}"), 0o777).await.unwrap();
        root.setattr(dir, SetAttr { mode: Some(0o777), ..Default::default() }).await.unwrap();
        if root.cluster.owner(dir) == on {
            return dir;
        }
    }
    unreachable!()
}

#[test]
fn usage_is_counted_and_survives() {
    with_cluster(1, |c| async move {
        let root = c.root();
        let ann = c.user(10, 20);
        let dir = open_dir(&root, 0).await;
        let f = ann.create(dir, "f").await.unwrap();
        ann.write_small(f, 0, &[7; 60]).await.result.unwrap();
        ann.mkdir(dir, "d").await.unwrap();
        assert_eq!(of_user(&root, 10).await, (60, 2));
        let striped = ann.create_open(dir, "s").await.unwrap();
        let attr = ann.unstuff(striped).await.unwrap();
        ann.write_datafiles(&attr, 0, &[1; 500]);
        ann.close(striped, true, 500).await.unwrap();
        assert_eq!(of_user(&root, 10).await, (560, 3));
        c.restart(0);
        assert_eq!(of_user(&root, 10).await, (560, 3), "counted from the attributes");
        let again = root.ask(0, QuotaGetRequest { recount: true }).await.unwrap();
        assert_eq!(again.corrected, 0);
        ann.setattr(striped, SetAttr { size: Some(100), ..Default::default() }).await.unwrap();
        root.setattr(f, SetAttr { uid: Some(11), ..Default::default() }).await.unwrap();
        assert_eq!((of_user(&root, 10).await, of_user(&root, 11).await), ((100, 2), (60, 1)));
        ann.unlink(dir, "s").await.unwrap();
        ann.rmdir(dir, "d").await.unwrap();
        root.unlink(dir, "f").await.unwrap();
        // In the grace time somebody may have them open: until then they exist, and count.
        assert_eq!(of_user(&root, 10).await, (100, 1));
        long_rest().await;
        let (root, ann) = (c.root(), c.user(10, 20));
        assert_eq!((of_user(&root, 10).await, of_user(&root, 11).await), ((0, 0), (0, 0)));
        let all = usage(&root).await;
        assert_eq!(all.get(&(QuotaKind::Group as i32, 20)), None, "{all:?}");
        // Others see what is theirs.
        let seen = ann.ask(0, QuotaGetRequest { recount: false }).await.unwrap();
        assert!(seen.used.iter().all(|a| a.id == 10 || a.id == 20), "{seen:?}");
        assert_eq!(
            code(ann.ask(0, limit(QuotaKind::User, 10, 0, 0)).await),
            ErrorCode::NotPermitted
        );
    });
}

#[test]
fn growth_beyond_a_limit_is_refused() {
    with_cluster(1, |c| async move {
        let root = c.root();
        let ann = c.user(10, 20);
        let dir = open_dir(&root, 0).await;
        root.ask(0, limit(QuotaKind::User, 10, 1_000, 4)).await.unwrap();
        let f = ann.create(dir, "f").await.unwrap();
        ann.write_small(f, 0, &[7; 90]).await.result.unwrap();
        let to = |size| SetAttr { size: Some(size), ..Default::default() };
        ann.setattr(f, to(1_000)).await.unwrap();
        assert_eq!(code(ann.setattr(f, to(1_001)).await), ErrorCode::Quota);
        assert_eq!(code(ann.append(f, b"x").await), ErrorCode::Quota);
        let g = ann.create(dir, "g").await.unwrap();
        assert_eq!(code(ann.write_small(g, 0, b"x").await.result), ErrorCode::Quota);
        let grow = |len| FallocateRequest { handle: g, len, ..Default::default() };
        assert_eq!(code(ann.ask(0, grow(1)).await), ErrorCode::Quota);
        let keep = FallocateRequest { kind: FallocateKind::KeepSize as i32, ..grow(50) };
        ann.ask(0, keep).await.unwrap();
        // What is overwritten does not grow; what is freed can be used again.
        ann.setattr(f, to(980)).await.unwrap();
        ann.write_small(g, 0, &[1; 20]).await.result.unwrap();
        ann.write_small(g, 5, &[2; 15]).await.result.unwrap();
        assert_eq!(code(ann.write_small(g, 5, &[2; 16]).await.result), ErrorCode::Quota);
        // Objects of every kind count as files.
        ann.mkdir(dir, "d").await.unwrap();
        let link = SymlinkRequest { dir, name: "l".into(), target: "x".into() };
        ann.ask(0, link).await.unwrap();
        assert_eq!(code(ann.create(dir, "h").await), ErrorCode::Quota);
        assert_eq!(code(ann.mkdir(dir, "e").await), ErrorCode::Quota);
        assert_eq!(code(ann.create(dir, "g").await), ErrorCode::Exists, "a name that is there");
        ann.unlink(dir, "l").await.unwrap();
        ann.create(dir, "h").await.unwrap();
        // Others are not concerned; a group's limit is everybody's in it.
        let bob = c.user(11, 20);
        bob.create(dir, "b").await.unwrap();
        root.ask(0, limit(QuotaKind::Group, 20, 0, 5)).await.unwrap();
        assert_eq!(code(bob.create(dir, "b2").await), ErrorCode::Quota);
        // Limits survive, also kill -9.
        c.restart(0);
        assert_eq!(code(bob.create(dir, "b2").await), ErrorCode::Quota);
        root.ask(0, limit(QuotaKind::Group, 20, 0, 0)).await.unwrap();
        bob.create(dir, "b2").await.unwrap();
    });
}

#[test]
fn a_writer_of_datafiles_asks_for_room() {
    with_cluster(1, |c| async move {
        let root = c.root();
        let ann = c.user(10, 20);
        let dir = open_dir(&root, 0).await;
        root.ask(0, limit(QuotaKind::User, 10, 1_000_000, 0)).await.unwrap();
        let f = ann.create_open(dir, "f").await.unwrap();
        let attr = ann.unstuff(f).await.unwrap();
        assert!(attr.has(pvfs2_proto::AttrFlags::QUOTA), "the writer is told");
        let room = |end| QuotaReserveRequest { handle: f, end };
        let got = ann.ask(0, room(400_000)).await.unwrap().end;
        assert!((400_000..=1_000_000).contains(&got), "{got}");
        assert_eq!(of_user(&root, 10).await.0, got, "it counts at once");
        let got = ann.ask(0, room(1_000_000)).await.unwrap().end;
        assert_eq!(got, 1_000_000);
        assert_eq!(code(ann.ask(0, room(1_000_001)).await), ErrorCode::Quota);
        let g = ann.create_open(dir, "g").await.unwrap();
        assert_eq!(code(ann.write_small(g, 0, b"x").await.result), ErrorCode::Quota);
        // The close gives back what was not written.
        ann.write_datafiles(&attr, 0, &[1; 500]);
        ann.close(f, true, 500).await.unwrap();
        assert_eq!(of_user(&root, 10).await.0, 500);
        ann.write_small(g, 0, b"x").await.result.unwrap();
        // So does a session that ends.
        ann.open(f, true).await.unwrap();
        ann.ask(0, room(900_000)).await.unwrap();
        assert!(of_user(&root, 10).await.0 >= 900_000);
        long_rest().await;
        let root = c.root();
        assert_eq!(of_user(&root, 10).await.0, 501);
        // Without a limit nobody needs to ask again.
        root.ask(0, limit(QuotaKind::User, 10, 0, 0)).await.unwrap();
        let bob = c.root();
        bob.open(f, true).await.unwrap();
        assert_eq!(bob.ask(0, room(5)).await.unwrap().end, u64::MAX);
    });
}

#[test]
fn a_tree_counts_what_is_below_and_keeps_it_there() {
    with_cluster(2, |c| async move {
        let root = c.root();
        let tree = open_dir(&root, 0).await;
        let old = root.create(tree, "old").await.unwrap();
        mark(&root, tree, tree).await.unwrap();
        mark(&root, old, tree).await.unwrap();
        root.ask(0, limit(QuotaKind::Dir, tree, 0, 6)).await.unwrap();
        let ann = c.user(10, 20);
        let inner = ann.mkdir_mode(tree, "inner", 0o777).await.unwrap();
        assert_eq!(ann.getattr(inner).await.unwrap().quota_tree, tree);
        ann.create(inner, "f").await.unwrap();
        let outside = open_dir(&root, 1).await;
        ann.create(outside, "o").await.unwrap();
        for (from, name, to) in [(inner, "f", outside), (outside, "o", inner), (outside, "o", tree)]
        {
            assert_eq!(code(ann.rename(from, name, to, "x").await), ErrorCode::CrossDevice);
        }
        let o = ann.lookup(outside, "o").await.unwrap();
        assert_eq!(code(ann.link(o, inner, "x").await), ErrorCode::CrossDevice);
        ann.rename(inner, "f", tree, "f2").await.unwrap();
        ann.create(tree, "more").await.unwrap();
        ann.create(inner, "last").await.unwrap();
        assert_eq!(code(ann.create(inner, "over").await), ErrorCode::Quota);
        assert_eq!(code(ann.mkdir(tree, "over").await), ErrorCode::Quota);
        let used = usage(&root).await;
        assert_eq!(used.get(&(QuotaKind::Dir as i32, tree)), Some(&(0, 6)), "{used:?}");
        // A tree is its directory's: that can be renamed; trees do not lie in each other.
        let name = "elsewhere";
        let was = root.names(1).await;
        let was = was.iter().find(|n| n.starts_with("dir0-")).unwrap().clone();
        let mut found = None;
        for n in root.names(1).await {
            if root.lookup(1, &n).await.unwrap() == tree {
                found = Some(n);
            }
        }
        root.rename(1, &found.unwrap_or(was), 1, name).await.unwrap();
        assert_eq!(code(mark(&root, inner, inner).await), ErrorCode::InUse);
        assert_eq!(code(mark(&ann, inner, 0).await), ErrorCode::NotPermitted);
    });
}

#[test]
fn three_servers_stay_within_one_limit() {
    with_cluster(3, |c| async move {
        const LIMIT: u64 = 40;
        let root = c.root();
        let ann = c.user(10, 20);
        let mut dirs = Vec::new();
        for on in 0..3 {
            dirs.push(open_dir(&root, on).await);
        }
        root.ask(0, limit(QuotaKind::User, 10, 0, LIMIT)).await.unwrap();
        // All of it can be used on one server, wherever that is ...
        for (on, dir) in dirs.iter().enumerate() {
            for i in 0..LIMIT {
                ann.create(*dir, &format!("{i}")).await.unwrap();
            }
            assert_eq!(code(ann.create(*dir, "over").await), ErrorCode::Quota, "server {on}");
            for i in 0..LIMIT {
                ann.unlink(*dir, &format!("{i}")).await.unwrap();
            }
        }
        // ... or here and there; and after a kill -9 of any of them.
        for killed in 0..3u32 {
            // What was removed in a grace time is gone after it, and sessions with it.
            long_rest().await;
            let (root, ann) = (c.root(), c.user(10, 20));
            for i in 0..LIMIT {
                if i == LIMIT / 2 {
                    c.restart(killed);
                }
                ann.create(dirs[i as usize % 3], &format!("m{i}")).await.unwrap();
            }
            for dir in &dirs {
                assert_eq!(code(ann.create(*dir, "over").await), ErrorCode::Quota);
                assert_eq!(code(ann.mkdir(*dir, "overdir").await), ErrorCode::Quota);
            }
            assert_eq!(of_user(&root, 10).await, (0, LIMIT));
            for i in 0..LIMIT {
                ann.unlink(dirs[i as usize % 3], &format!("m{i}")).await.unwrap();
            }
        }
        // A server that missed a limit hears of it when it is back.
        long_rest().await;
        let root = c.root();
        c.kill(2);
        root.ask(0, limit(QuotaKind::User, 10, 0, 2)).await.unwrap();
        c.start(2);
        long_rest().await;
        let bob = c.user(10, 20);
        bob.create(dirs[2], "1").await.unwrap();
        bob.create(dirs[1], "2").await.unwrap();
        for dir in &dirs {
            assert_eq!(code(bob.create(*dir, "over").await), ErrorCode::Quota);
        }
        let _ = Handle::ROOT;
    });
}
