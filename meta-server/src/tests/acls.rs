//! POSIX ACLs: set, shown, followed by the mode, handed down, obeyed.
use super::harness::*;
use bytes::Bytes;
use pvfs2_proto::attr::{XATTR_ACL_ACCESS, XATTR_ACL_DEFAULT};
use pvfs2_proto::op::*;
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Result, SetAttr};

const ANY: u32 = u32::MAX;

/// Entries: tag as on disk, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Bytes {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(perm.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    out.into()
}
/// Owner, user 7, group, mask, others.
fn with_user_7(perms: [u16; 5]) -> Bytes {
    let [owner, user, group, mask, other] = perms;
    acl(&[(1, owner, ANY), (2, user, 7), (4, group, ANY), (0x10, mask, ANY), (0x20, other, ANY)])
}
fn plain(owner: u16, group: u16, other: u16) -> Bytes {
    acl(&[(1, owner, ANY), (4, group, ANY), (0x20, other, ANY)])
}
async fn set(u: &User, handle: u64, name: &'static [u8], value: Bytes) -> Result<Attr> {
    let name = Bytes::from_static(name);
    let r = SetxattrRequest { handle, name, value, ..Default::default() };
    Ok(u.ask(u.cluster.owner(handle), r).await?.attr.unwrap())
}
async fn get(u: &User, handle: u64, name: &'static [u8]) -> Result<Bytes> {
    let r = GetxattrRequest { handle, name: Bytes::from_static(name) };
    Ok(u.ask(u.cluster.owner(handle), r).await?.value)
}
async fn remove(u: &User, handle: u64, name: &'static [u8]) -> Result<Attr> {
    let r = RemovexattrRequest { handle, name: Bytes::from_static(name) };
    Ok(u.ask(u.cluster.owner(handle), r).await?.attr.unwrap())
}
async fn list(u: &User, handle: u64) -> Vec<Bytes> {
    u.ask(u.cluster.owner(handle), ListxattrRequest { handle }).await.unwrap().names
}
fn bits(attr: &Attr) -> u32 {
    attr.mode & 0o7777
}
fn chmod(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode), ..Default::default() }
}
async fn open(u: &User, handle: u64, write: bool) -> Result<OpenResponse> {
    u.ask(0, OpenRequest { handle, read: true, write, ..Default::default() }).await
}

#[test]
fn mode_and_access_acl_follow_each_other() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create(1, "f").await.unwrap();
        assert_eq!(code(get(&u, f, XATTR_ACL_ACCESS).await), ErrorCode::NoAttribute);
        let before = u.getattr(f).await.unwrap();
        assert_eq!(remove(&u, f, XATTR_ACL_ACCESS).await.unwrap(), before, "none, and none after");
        let attr = set(&u, f, XATTR_ACL_ACCESS, with_user_7([6, 7, 4, 7, 0])).await.unwrap();
        assert_eq!(bits(&attr), 0o670);
        assert_eq!(list(&u, f).await, [XATTR_ACL_ACCESS]);
        assert!(!attr.has(AttrFlags::HAS_XATTR));
        let attr = u.setattr(f, chmod(0o4741)).await.unwrap();
        assert_eq!(bits(&attr), 0o4741);
        let value = get(&u, f, XATTR_ACL_ACCESS).await.unwrap();
        assert_eq!(value, with_user_7([7, 7, 4, 4, 1]));
        assert_eq!(u.getattr(f).await.unwrap().acl, value);
        // What the mode can say is kept in the mode alone; suid stays.
        let attr = set(&u, f, XATTR_ACL_ACCESS, plain(6, 4, 4)).await.unwrap();
        assert_eq!((bits(&attr), attr.acl.len()), (0o4644, 0));
        assert!(list(&u, f).await.is_empty());
        set(&u, f, XATTR_ACL_ACCESS, with_user_7([6, 7, 0, 6, 0])).await.unwrap();
        let attr = remove(&u, f, XATTR_ACL_ACCESS).await.unwrap();
        assert_eq!((bits(&attr), attr.acl.len()), (0o4660, 0), "the mode stays");
        let bad = acl(&[(1, 6, ANY), (4, 4, ANY)]);
        assert_eq!(code(set(&u, f, XATTR_ACL_ACCESS, bad).await), ErrorCode::Invalid);
    });
}

#[test]
fn who_may_set_acls_and_where() {
    with_cluster(1, |c| async move {
        let (root, owner, other) = (c.root(), c.user(5, 5), c.user(6, 5));
        let f = root.create(1, "f").await.unwrap();
        let own = SetAttr { uid: Some(5), gid: Some(9), ..Default::default() };
        root.setattr(f, own).await.unwrap();
        root.setattr(f, chmod(0o2755)).await.unwrap();
        let value = with_user_7([7, 7, 5, 7, 5]);
        let refused = set(&other, f, XATTR_ACL_ACCESS, value.clone()).await;
        assert_eq!(code(refused), ErrorCode::NotPermitted);
        let attr = set(&root, f, XATTR_ACL_ACCESS, value.clone()).await.unwrap();
        assert_eq!(bits(&attr), 0o2775);
        let attr = set(&owner, f, XATTR_ACL_ACCESS, value.clone()).await.unwrap();
        assert_eq!(bits(&attr), 0o775, "the owner is not in the group: sgid goes");
        assert_eq!(code(remove(&other, f, XATTR_ACL_ACCESS).await), ErrorCode::NotPermitted);
        let refused = set(&root, f, XATTR_ACL_DEFAULT, value.clone()).await;
        assert_eq!(code(refused), ErrorCode::Access);
        let link = SymlinkRequest { dir: 1, name: "l".into(), target: "t".into() };
        let l = root.ask(0, link).await.unwrap().attr.unwrap().handle;
        let refused = set(&root, l, XATTR_ACL_ACCESS, value).await;
        assert_eq!(code(refused), ErrorCode::NotSupported);
    });
}

#[test]
fn acls_are_obeyed() {
    with_cluster(1, |c| async move {
        let (root, seven, member) = (c.root(), c.user(7, 7), c.user(8, 42));
        let f = root.create(1, "f").await.unwrap();
        root.setattr(f, chmod(0o600)).await.unwrap();
        assert_eq!(code(open(&seven, f, false).await), ErrorCode::Access);
        set(&root, f, XATTR_ACL_ACCESS, with_user_7([6, 6, 0, 6, 0])).await.unwrap();
        open(&seven, f, true).await.unwrap();
        assert_eq!(code(open(&member, f, false).await), ErrorCode::Access);
        root.setattr(f, chmod(0o640)).await.unwrap();
        open(&seven, f, false).await.unwrap();
        assert_eq!(code(open(&seven, f, true).await), ErrorCode::Access, "the mask");
        let group_42 = acl(&[(1, 6, ANY), (4, 0, ANY), (8, 6, 42), (0x10, 6, ANY), (0x20, 0, ANY)]);
        set(&root, f, XATTR_ACL_ACCESS, group_42).await.unwrap();
        open(&member, f, true).await.unwrap();
        assert_eq!(code(open(&seven, f, false).await), ErrorCode::Access);
        // Directories: search, and names in them.
        let d = root.mkdir_mode(1, "d", 0o700).await.unwrap();
        root.create(d, "f").await.unwrap();
        assert_eq!(code(seven.lookup(d, "f").await), ErrorCode::Access);
        set(&root, d, XATTR_ACL_ACCESS, with_user_7([7, 5, 0, 5, 0])).await.unwrap();
        seven.lookup(d, "f").await.unwrap();
        assert_eq!(code(seven.create(d, "g").await), ErrorCode::Access);
        set(&root, d, XATTR_ACL_ACCESS, with_user_7([7, 7, 0, 7, 0])).await.unwrap();
        seven.create(d, "g").await.unwrap();
    });
}

#[test]
fn the_umask_counts_without_a_default_acl() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let name = |n: &str| Bytes::copy_from_slice(n.as_bytes());
        let create = CreateRequest { mode: 0o4666, umask: 0o027, ..u.creating(1, "f") };
        let attr = u.ask(0, create).await.unwrap().attr.unwrap();
        assert_eq!(bits(&attr), 0o4640);
        let mkdir = MkdirRequest { dir: 1, name: name("d"), mode: 0o777, umask: 0o027 };
        assert_eq!(bits(&u.ask(0, mkdir).await.unwrap().attr.unwrap()), 0o750);
        let mknod =
            MknodRequest { dir: 1, name: name("p"), mode: 0o10666, rdev: 0, umask: 0o777_022 };
        let attr = u.ask(0, mknod).await.unwrap().attr.unwrap();
        assert_eq!(attr.mode, 0o10644);
    });
}

#[test]
fn default_acls_are_handed_down_instead_of_the_umask() {
    with_cluster(2, |c| async move {
        let u = c.root();
        let name = |n: &str| Bytes::copy_from_slice(n.as_bytes());
        let default = with_user_7([7, 7, 5, 7, 1]);
        let top = u.mkdir(1, "top").await.unwrap();
        let attr = set(&u, top, XATTR_ACL_DEFAULT, default.clone()).await.unwrap();
        assert_eq!((bits(&attr), attr.acl.len()), (0o755, 0), "it says nothing of the directory");
        let at = c.owner(top);
        let create = CreateRequest { mode: 0o666, umask: 0o077, ..u.creating(top, "f") };
        let f = u.ask(at, create).await.unwrap().attr.unwrap();
        assert_eq!((bits(&f), f.acl.clone()), (0o660, with_user_7([6, 7, 5, 6, 0])));
        assert!(!f.has(AttrFlags::HAS_XATTR), "files have no default ACL");
        let mknod =
            MknodRequest { dir: top, name: name("p"), mode: 0o10600, rdev: 0, umask: 0o077 };
        let p = u.ask(at, mknod).await.unwrap().attr.unwrap();
        assert_eq!(p.acl, with_user_7([6, 7, 5, 0, 0]));
        let link = SymlinkRequest { dir: top, name: name("l"), target: name("t") };
        let l = u.ask(at, link).await.unwrap().attr.unwrap();
        assert_eq!((bits(&l), l.acl.len()), (0o777, 0));
        // Enough directories that some lie on the other server.
        let mut homes = std::collections::HashSet::new();
        for i in 0..16 {
            let mkdir =
                MkdirRequest { dir: top, name: name(&i.to_string()), mode: 0o777, umask: 0o077 };
            let d = u.ask(at, mkdir).await.unwrap().attr.unwrap();
            homes.insert(c.owner(d.handle));
            assert_eq!((bits(&d), d.acl.clone()), (0o771, default.clone()));
            assert_eq!(get(&u, d.handle, XATTR_ACL_DEFAULT).await.unwrap(), default);
            assert_eq!(u.getattr(d.handle).await.unwrap().acl, default);
            assert_eq!(list(&u, d.handle).await, [XATTR_ACL_DEFAULT, XATTR_ACL_ACCESS]);
        }
        assert_eq!(homes.len(), 2);
        // Without it, the umask counts again; setting no entries takes it away too.
        let attr = remove(&u, top, XATTR_ACL_DEFAULT).await.unwrap();
        assert!(!attr.has(AttrFlags::HAS_XATTR));
        assert_eq!(remove(&u, top, XATTR_ACL_DEFAULT).await.unwrap(), attr);
        let create = CreateRequest { mode: 0o666, umask: 0o077, ..u.creating(top, "g") };
        assert_eq!(bits(&u.ask(at, create).await.unwrap().attr.unwrap()), 0o600);
        set(&u, top, XATTR_ACL_DEFAULT, default).await.unwrap();
        let attr = set(&u, top, XATTR_ACL_DEFAULT, acl(&[])).await.unwrap();
        assert!(!attr.has(AttrFlags::HAS_XATTR));
        assert_eq!(code(get(&u, top, XATTR_ACL_DEFAULT).await), ErrorCode::NoAttribute);
    });
}

#[test]
fn long_acls_do_not_fill_listings() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create(1, "f").await.unwrap();
        let mut entries = vec![(1, 6, ANY)];
        entries.extend((0..500).map(|id| (2, 4, id)));
        entries.extend([(4, 4, ANY), (0x10, 4, ANY), (0x20, 0, ANY)]);
        set(&u, f, XATTR_ACL_ACCESS, acl(&entries)).await.unwrap();
        let listing =
            ReaddirRequest { dir: 1, cursor: 0, max: 10, plus: true, ..Default::default() };
        let page = u.ask(0, listing).await.unwrap();
        assert_eq!(page.entries.len(), 1);
        assert!(page.entries[0].attr.is_none());
        assert_eq!(get(&u, f, XATTR_ACL_ACCESS).await.unwrap(), acl(&entries));
        entries.extend([(0x20, 0, ANY); 100]);
        let refused = set(&u, f, XATTR_ACL_ACCESS, acl(&entries)).await;
        assert_eq!(code(refused), ErrorCode::TooBig);
    });
}
