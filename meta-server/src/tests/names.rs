//! Hard links, directory cursors, sticky and sgid directories.
use super::harness::*;
use pvfs2_proto::attr::mode::*;
use pvfs2_proto::op::*;
use pvfs2_proto::{ErrorCode, SetAttr};
use std::collections::BTreeSet;

#[test]
fn links_share_an_object() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let (d, f) = (u.mkdir(1, "d").await.unwrap(), u.create(1, "f").await.unwrap());
        let attr = u.link(f, d, "g").await.unwrap();
        assert_eq!((attr.handle, attr.nlink), (f, 2));
        assert_eq!(code(u.link(f, d, "g").await), ErrorCode::Exists);
        assert_eq!(code(u.link(d, 1, "dd").await), ErrorCode::NotPermitted);
        assert_eq!(u.unlink(1, "f").await.unwrap().attr.unwrap().nlink, 1);
        assert_eq!(u.lookup(d, "g").await.unwrap(), f);
        u.unlink(d, "g").await.unwrap();
        assert_eq!(code(u.getattr(f).await), ErrorCode::Stale);
        assert_eq!(code(u.link(f, d, "h").await), ErrorCode::Stale);
    });
}

#[test]
fn cursors_stay_right_while_names_come_and_go() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let stay: BTreeSet<String> = (0..200).map(|i| format!("stay{i}")).collect();
        for name in &stay {
            u.create(1, name).await.unwrap();
            u.create(1, &format!("go-{name}")).await.unwrap();
        }
        let (mut cursor, mut seen, mut round) = (0, Vec::new(), 0);
        loop {
            let r = ReaddirRequest {
                dir: 1,
                cursor,
                max: 10,
                plus: round % 2 == 0,
                ..Default::default()
            };
            let r = u.ask(0, r).await.unwrap();
            for e in &r.entries {
                assert!(e.cursor > cursor && e.cursor < 1 << 62);
                assert!(round % 2 == 1 || e.attr.as_ref().unwrap().handle == e.handle);
                cursor = e.cursor;
                seen.push(String::from_utf8(e.name.to_vec()).unwrap());
            }
            if r.end {
                break;
            }
            // Names go before and after the cursor, the one at the cursor too, and others come.
            if let Some(last) = seen.last().filter(|n| n.starts_with("go")) {
                u.unlink(1, last).await.unwrap();
            }
            u.unlink(1, &format!("go-stay{}", round * 3)).await.ok();
            u.create(1, &format!("new{round}")).await.unwrap();
            round += 1;
        }
        let unique: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len(), "no name comes twice");
        assert!(stay.iter().all(|n| unique.contains(n)), "no name that stayed is missed");
        assert!(round > 20);
    });
}

#[test]
fn every_cursor_continues_exactly_behind_its_entry() {
    with_cluster(1, |c| async move {
        let u = c.root();
        for i in 0..50 {
            u.create(1, &format!("f{i}")).await.unwrap();
        }
        let all = |cursor, max| ReaddirRequest { dir: 1, cursor, max, ..Default::default() };
        let whole = u.ask(0, all(0, 1_000)).await.unwrap();
        assert!(whole.end && whole.entries.len() == 50 && whole.parent == 1);
        for (i, e) in whole.entries.iter().enumerate() {
            let rest = u.ask(0, all(e.cursor, 1_000)).await.unwrap();
            assert_eq!(rest.entries, whole.entries[i + 1..]);
        }
        let exact = u.ask(0, all(0, 50)).await.unwrap();
        assert_eq!(exact.entries.len(), 50);
        let after = u.ask(0, all(exact.entries[49].cursor, 50)).await.unwrap();
        assert!(after.end && after.entries.is_empty());
    });
}

#[test]
fn sticky_directories_protect_names() {
    with_cluster(1, |c| async move {
        let root = c.root();
        let tmp = root.mkdir(1, "tmp").await.unwrap();
        let mode = SetAttr { mode: Some(0o1777), ..Default::default() };
        root.setattr(tmp, mode).await.unwrap();
        let (a, b) = (c.user(5, 5), c.user(6, 6));
        a.create(tmp, "a").await.unwrap();
        assert_eq!(code(b.unlink(tmp, "a").await), ErrorCode::NotPermitted);
        assert_eq!(code(b.rename(tmp, "a", tmp, "b").await), ErrorCode::NotPermitted);
        b.create(tmp, "b").await.unwrap();
        assert_eq!(code(b.rename(tmp, "b", tmp, "a").await), ErrorCode::NotPermitted);
        a.unlink(tmp, "a").await.unwrap();
        assert_eq!(code(a.create(1, "x").await), ErrorCode::Access);
        root.unlink(tmp, "b").await.unwrap();
    });
}

#[test]
fn sgid_directories_give_their_group() {
    with_cluster(1, |c| async move {
        let root = c.root();
        let d = root.mkdir(1, "d").await.unwrap();
        let set = SetAttr { mode: Some(0o2777), gid: Some(33), ..Default::default() };
        root.setattr(d, set).await.unwrap();
        let u = c.user(5, 5);
        let f = u.create(d, "f").await.unwrap();
        let sub = u.mkdir(d, "sub").await.unwrap();
        let (f, sub) = (u.getattr(f).await.unwrap(), u.getattr(sub).await.unwrap());
        assert_eq!((f.gid, f.mode & S_ISGID), (33, 0));
        assert_eq!((sub.gid, sub.mode & S_ISGID), (33, S_ISGID));
    });
}

#[test]
fn unknown_groups_are_asked_for_where_they_matter() {
    with_cluster(1, |c| async move {
        let root = c.root();
        let d = root.mkdir(1, "d").await.unwrap();
        let set = SetAttr { mode: Some(0o2770), gid: Some(33), ..Default::default() };
        root.setattr(d, set).await.unwrap();
        let mut u = c.user(5, 5);
        u.cred.groups_known = false;
        assert_eq!(code(u.create(d, "f").await), ErrorCode::Access);
        u.cred.groups = vec![33];
        u.cred.groups_known = true;
        u.create(d, "f").await.unwrap();
    });
}
