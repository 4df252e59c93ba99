//! Opens, orphans, reclaim, the reaper.
use super::harness::*;
use crate::keys;
use pvfs2_proto::attr::mode::S_IFREG;
use pvfs2_proto::op::*;
use pvfs2_proto::{ErrorCode, SetAttr};
use std::time::Duration;

fn orphans(c: &Cluster) -> usize {
    c.meta(0).store.first(&keys::orphans(), 10).unwrap().len()
}

#[test]
fn an_unlinked_file_lives_until_its_last_close() {
    with_cluster(1, |c| async move {
        let (a, b) = (c.root(), c.root());
        let f = a.create_open(1, "f").await.unwrap();
        let attr = a.unstuff(f).await.unwrap();
        a.write_datafiles(&attr, 0, &[1; 300]);
        b.open(f, false).await.unwrap();
        assert_eq!(b.unlink(1, "f").await.unwrap().attr.unwrap().nlink, 0);
        assert_eq!(orphans(&c), 1);
        assert_eq!(code(a.link(f, 1, "back").await), ErrorCode::NotFound);
        a.setattr(f, SetAttr { mode: Some(0o600), ..Default::default() }).await.unwrap();
        a.close(f, true, 300).await.unwrap();
        settle().await;
        assert_eq!(b.getattr(f).await.unwrap().size, 300);
        assert_eq!(c.io.borrow().files.len(), 4);
        b.close(f, false, 0).await.unwrap();
        settle().await;
        assert_eq!(code(b.getattr(f).await), ErrorCode::Stale);
        assert_eq!((orphans(&c), c.io.borrow().files.len()), (0, 0));
        b.close(f, false, 0).await.unwrap();
    });
}

#[test]
fn a_session_that_ends_closes_its_files() {
    with_cluster(1, |c| async move {
        let (a, b) = (c.root(), c.root());
        let f = a.create_open(1, "f").await.unwrap();
        b.unlink(1, "f").await.unwrap();
        let session = a.session(0).unwrap();
        a.ask(0, GoodbyeRequest {}).await.unwrap();
        settle().await;
        assert_eq!(code(b.getattr(f).await), ErrorCode::Stale);
        let asked = a.ask(0, UnlinkRequest { dir: 1, name: "f".into() }).await;
        assert_eq!(code(asked), ErrorCode::BadSession, "session {session}");
    });
}

#[test]
fn after_a_restart_orphans_wait_for_reclaims() {
    with_cluster(1, |c| async move {
        let (a, b) = (c.root(), c.root());
        let kept = a.create_open(1, "kept").await.unwrap();
        let lost = b.create_open(1, "lost").await.unwrap();
        a.unlink(1, "kept").await.unwrap();
        a.unlink(1, "lost").await.unwrap();
        c.restart(0);
        assert!(c.service(0).unwrap().in_grace());
        let during = a.create(1, "during").await.unwrap();
        a.unlink(1, "during").await.unwrap();
        assert_eq!(orphans(&c), 3, "somebody may have it open");
        let opens = vec![
            OpenState { handle: kept, readers: 0, writers: 1 },
            OpenState { handle: 4_711, readers: 1, writers: 0 },
        ];
        let r = a.ask(0, ReclaimRequest { opens, done: true, ..Default::default() }).await.unwrap();
        assert_eq!(r.lost, [4_711]);
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            a.ask(0, RenewRequest {}).await.unwrap();
        }
        assert!(!c.service(0).unwrap().in_grace());
        assert!(a.getattr(kept).await.is_ok());
        for gone in [lost, during] {
            assert_eq!(code(a.getattr(gone).await), ErrorCode::Stale);
        }
        a.close(kept, true, 0).await.unwrap();
        assert_eq!(code(a.getattr(kept).await), ErrorCode::Stale);
    });
}

#[test]
fn the_reaper_tries_until_every_datafile_is_gone() {
    with_cluster(1, |c| async move {
        let u = c.root();
        for i in 0..10 {
            let name = format!("f{i}");
            let f = u.create_open(1, &name).await.unwrap();
            let attr = u.unstuff(f).await.unwrap();
            u.write_datafiles(&attr, 0, &[1; 300]);
            u.close(f, true, 300).await.unwrap();
        }
        c.down.borrow_mut().insert(4);
        for i in 0..10 {
            u.unlink(1, &format!("f{i}")).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(c.io.borrow().files.len(), 10, "those of the server that is down");
        c.kill(0);
        c.start(0);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(c.io.borrow().files.len(), 10);
        c.down.borrow_mut().remove(&4);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(c.io.borrow().files.len(), 0);
        assert!(c.meta(0).store.first(&keys::reaps(), 10).unwrap().is_empty());
    });
}

#[test]
fn permissions_at_open_and_after() {
    with_cluster(1, |c| async move {
        let (root, u) = (c.root(), c.user(5, 5));
        root.setattr(1, SetAttr { mode: Some(0o777), ..Default::default() }).await.unwrap();
        // Made read-only, open for writing: the open counts.
        let r = CreateRequest { mode: 0o444, write: true, ..u.creating(1, "f") };
        let f = u.ask(0, r).await.unwrap().attr.unwrap();
        assert_eq!(f.mode, S_IFREG | 0o444);
        u.write_small(f.handle, 0, b"x").await.result.unwrap();
        u.close(f.handle, true, 0).await.unwrap();
        assert_eq!(code(u.write_small(f.handle, 0, b"y").await.result), ErrorCode::Access);
        assert_eq!(code(u.open(f.handle, true).await), ErrorCode::Access);
        u.open(f.handle, false).await.unwrap();
        u.setattr(f.handle, SetAttr { mode: Some(0), ..Default::default() }).await.unwrap();
        assert_eq!(u.read_small(f.handle).await.body, "x", "it is open");
        assert_eq!(code(c.user(6, 6).read_small(f.handle).await.result), ErrorCode::Access);
        let exec = OpenRequest { handle: f.handle, exec: true, ..Default::default() };
        assert_eq!(code(u.ask(0, exec).await), ErrorCode::Access);
        let dir = OpenRequest { handle: 1, read: true, ..Default::default() };
        assert_eq!(code(u.ask(0, dir).await), ErrorCode::IsDirectory);
    });
}

#[test]
fn opening_with_truncation_empties_the_file() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let small = u.create(1, "small").await.unwrap();
        u.write_small(small, 0, b"bytes").await.result.unwrap();
        let striped = u.create_open(1, "striped").await.unwrap();
        let attr = u.unstuff(striped).await.unwrap();
        u.write_datafiles(&attr, 0, &[1; 300]);
        u.close(striped, true, 300).await.unwrap();
        for (name, handle) in [("small", small), ("striped", striped)] {
            let before = u.getattr(handle).await.unwrap();
            let r = CreateRequest { write: true, truncate: true, ..u.creating(1, name) };
            let attr = u.ask(0, r).await.unwrap().attr.unwrap();
            assert_eq!((attr.handle, attr.size), (handle, 0));
            assert!(attr.mtime_ns > before.mtime_ns && attr.ctime_ns > before.ctime_ns);
        }
        assert!(c.io.borrow().files.values().all(|f| f.0.is_empty()));
    });
}
