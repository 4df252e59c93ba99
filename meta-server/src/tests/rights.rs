//! What changes take away without being asked: suid and sgid; and limits of links and attributes.
use super::harness::*;
use crate::store::Change;
use bytes::Bytes;
use pvfs2_proto::limits::{LINK_MAX, XATTR_LIST_MAX};
use pvfs2_proto::op::*;
use pvfs2_proto::{ErrorCode, Handle, SetAttr};

#[test]
fn truncation_by_another_clears_suid_and_sgid() {
    with_cluster(1, |c| async move {
        let root = c.root();
        let other = c.user(50, 50);
        let f = root.create(1, "f").await.unwrap();
        let set_mode = || SetAttr { mode: Some(0o6777), ..Default::default() };
        let cut = SetAttr { size: Some(0), ..Default::default() };
        root.setattr(f, set_mode()).await.unwrap();
        // Nobody but the server says so: no flag in the request.
        let attr = other.setattr(f, cut.clone()).await.unwrap();
        assert_eq!(attr.mode & 0o7777, 0o777);
        root.setattr(f, set_mode()).await.unwrap();
        let open =
            |truncate| OpenRequest { handle: f, write: true, truncate, ..Default::default() };
        let opened = other.ask(0, open(false)).await.unwrap().attr.unwrap();
        assert_eq!(opened.mode & 0o7777, 0o6777, "an open alone changes nothing");
        let opened = other.ask(0, open(true)).await.unwrap().attr.unwrap();
        assert_eq!(opened.mode & 0o7777, 0o777);
        root.setattr(f, set_mode()).await.unwrap();
        // The same through a create of a name that exists.
        let r = CreateRequest { write: true, truncate: true, ..other.creating(1, "f") };
        let made = other.ask(0, r).await.unwrap();
        assert!(!made.created);
        assert_eq!(made.attr.unwrap().mode & 0o7777, 0o777);
        root.setattr(f, set_mode()).await.unwrap();
        let attr = root.setattr(f, cut).await.unwrap();
        assert_eq!(attr.mode & 0o7777, 0o6777, "root keeps them");
    });
}

#[test]
fn chown_takes_file_capabilities_away() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create(1, "f").await.unwrap();
        let name = Bytes::from_static(b"security.capability");
        let r = SetxattrRequest { handle: f, name: name.clone(), ..Default::default() };
        u.ask(0, r).await.unwrap();
        u.ask(0, GetxattrRequest { handle: f, name: name.clone() }).await.unwrap();
        u.setattr(f, SetAttr { uid: Some(7), ..Default::default() }).await.unwrap();
        let gone = u.ask(0, GetxattrRequest { handle: f, name }).await;
        assert_eq!(code(gone), ErrorCode::NoAttribute);
    });
}

#[test]
fn links_have_a_limit() {
    with_cluster(2, |c| async move {
        let u = c.root();
        let f = u.create(1, "f").await.unwrap();
        let meta = c.meta(0);
        let mut attr = meta.store.object(Handle(f)).unwrap();
        attr.nlink = LINK_MAX - 1;
        let mut change = Change::new();
        change.put_attr(&attr);
        meta.store.commit(change).unwrap();
        assert_eq!(u.link(f, 1, "last").await.unwrap().nlink, LINK_MAX);
        assert_eq!(code(u.link(f, 1, "more").await), ErrorCode::TooManyLinks);
        u.unlink(1, "last").await.unwrap();
        u.link(f, 1, "again").await.unwrap();
    });
}

#[test]
fn names_of_attributes_fit_into_one_list() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create(1, "f").await.unwrap();
        let name = |i: usize| Bytes::from(format!("user.{i:0>250}"));
        let set = |name| SetxattrRequest { handle: f, name, ..Default::default() };
        let fit = XATTR_LIST_MAX / 256;
        for i in 0..fit {
            u.ask(0, set(name(i))).await.unwrap();
        }
        assert_eq!(code(u.ask(0, set(name(fit))).await), ErrorCode::NoSpace);
        u.ask(0, set(name(3))).await.unwrap();
        let listed = u.ask(0, ListxattrRequest { handle: f }).await.unwrap();
        assert_eq!(listed.names.iter().map(|n| n.len() + 1).sum::<usize>(), XATTR_LIST_MAX);
    });
}
