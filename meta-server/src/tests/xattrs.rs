//! Extended attributes: limits, flags, namespaces; layout attributes and what they do.
use super::harness::*;
use bytes::Bytes;
use pvfs2_proto::op::*;
use pvfs2_proto::{AttrFlags, ErrorCode, Result};

async fn set(u: &User, handle: u64, name: &str, value: &[u8]) -> Result<SetxattrResponse> {
    let value = Bytes::copy_from_slice(value);
    let r = SetxattrRequest { handle, name: name.to_owned().into(), value, ..Default::default() };
    u.ask(u.cluster.owner(handle), r).await
}
async fn get(u: &User, handle: u64, name: &str) -> Result<String> {
    let r = GetxattrRequest { handle, name: name.to_owned().into() };
    let r = u.ask(u.cluster.owner(handle), r).await?;
    Ok(String::from_utf8(r.value.to_vec()).unwrap())
}
async fn list(u: &User, handle: u64) -> Vec<String> {
    let r = u.ask(0, ListxattrRequest { handle }).await.unwrap();
    r.names.iter().map(|n| String::from_utf8(n.to_vec()).unwrap()).collect()
}
async fn remove(u: &User, handle: u64, name: &str) -> Result<RemovexattrResponse> {
    u.ask(0, RemovexattrRequest { handle, name: name.to_owned().into() }).await
}

#[test]
fn values_flags_and_limits() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create(1, "f").await.unwrap();
        assert!(!u.getattr(f).await.unwrap().has(AttrFlags::HAS_XATTR));
        assert_eq!(code(get(&u, f, "user.a").await), ErrorCode::NoAttribute);
        let attr = set(&u, f, "user.a", b"1").await.unwrap().attr.unwrap();
        assert!(attr.has(AttrFlags::HAS_XATTR));
        set(&u, f, "user.ab", b"").await.unwrap();
        assert_eq!(get(&u, f, "user.a").await.unwrap(), "1");
        assert_eq!(get(&u, f, "user.ab").await.unwrap(), "");
        assert_eq!(list(&u, f).await, ["user.a", "user.ab"]);
        let flags = |name: &str, create| SetxattrRequest {
            handle: f,
            name: name.to_owned().into(),
            create,
            replace: !create,
            ..Default::default()
        };
        assert_eq!(code(u.ask(0, flags("user.a", true)).await), ErrorCode::Exists);
        assert_eq!(code(u.ask(0, flags("user.b", false)).await), ErrorCode::NoAttribute);
        assert_eq!(code(set(&u, f, "user.big", &[0; 65_537]).await), ErrorCode::TooBig);
        set(&u, f, "user.big", &[b'x'; 65_536]).await.unwrap();
        let long = format!("user.{}", "n".repeat(251));
        assert_eq!(code(set(&u, f, &long, b"").await), ErrorCode::Range);
        for name in ["system.posix_acl_accessed", "user.", "nothing"] {
            assert_eq!(code(set(&u, f, name, b"").await), ErrorCode::NotSupported);
        }
        for name in ["user.a", "user.ab"] {
            remove(&u, f, name).await.unwrap();
        }
        assert_eq!(code(remove(&u, f, "user.a").await), ErrorCode::NoAttribute);
        let attr = remove(&u, f, "user.big").await.unwrap().attr.unwrap();
        assert!(!attr.has(AttrFlags::HAS_XATTR));
        // A removed object leaves none for another.
        set(&u, f, "user.a", b"1").await.unwrap();
        u.unlink(1, "f").await.unwrap();
        let prefix = crate::keys::xattrs(pvfs2_proto::Handle(f));
        assert!(c.meta(0).store.first(&prefix, 1).unwrap().is_empty());
    });
}

#[test]
fn who_may_set_what() {
    with_cluster(1, |c| async move {
        let (root, u) = (c.root(), c.user(5, 5));
        let f = root.create(1, "f").await.unwrap();
        assert_eq!(code(set(&u, f, "user.a", b"").await), ErrorCode::Access);
        assert_eq!(code(set(&u, f, "trusted.a", b"").await), ErrorCode::NotPermitted);
        set(&root, f, "trusted.a", b"x").await.unwrap();
        set(&root, f, "security.a", b"y").await.unwrap();
        assert_eq!(code(get(&u, f, "trusted.a").await), ErrorCode::NoAttribute);
        assert_eq!(get(&u, f, "security.a").await.unwrap(), "y");
        assert_eq!(list(&u, f).await, ["security.a"]);
        let link = SymlinkRequest { dir: 1, name: "l".into(), target: "t".into() };
        let l = root.ask(0, link).await.unwrap().attr.unwrap().handle;
        assert_eq!(code(set(&root, l, "user.a", b"").await), ErrorCode::NotPermitted);
    });
}

#[test]
fn directories_hand_down_layouts() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let d = u.mkdir(1, "d").await.unwrap();
        set(&u, d, "user.pvfs2.num_dfiles", b"2").await.unwrap();
        set(&u, d, "user.pvfs2.dist_params", b"strip_size:32").await.unwrap();
        set(&u, d, "user.pvfs2.layout", b"list").await.unwrap();
        set(&u, d, "user.pvfs2.server_list", b"io3:io1").await.unwrap();
        set(&u, d, "user.other", b"stays").await.unwrap();
        let sub = u.mkdir(d, "sub").await.unwrap();
        assert_eq!(code(get(&u, sub, "user.other").await), ErrorCode::NoAttribute);
        let f = u.create_open(sub, "f").await.unwrap();
        assert!(list(&u, f).await.is_empty(), "copying tools do not see them");
        assert_eq!(get(&u, f, "user.pvfs2.num_dfiles").await.unwrap(), "2");
        let attr = u.unstuff(f).await.unwrap();
        let layout = attr.layout.unwrap();
        assert_eq!((layout.dist.strip_size, layout.datahandles.len()), (32, 2));
        assert_eq!(get(&u, f, "user.pvfs2.server_list").await.unwrap(), "io3:io1");
        assert_eq!(get(&u, f, "user.pvfs2.dist_name").await.unwrap(), "simple_stripe");
        assert_eq!(get(&u, f, "user.pvfs2.dist_params").await.unwrap(), "strip_size:32");
        assert_eq!(get(&u, f, "user.pvfs2.layout").await.unwrap(), "list");
        assert_eq!(get(&u, f, "user.pvfs2.handle").await.unwrap(), format!("{f:016x}"));
    });
}

#[test]
fn layouts_of_files_are_set_before_the_first_byte() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create_open(1, "f").await.unwrap();
        assert_eq!(get(&u, f, "user.pvfs2.num_dfiles").await.unwrap(), "4");
        set(&u, f, "user.pvfs2.num_dfiles", b"1").await.unwrap();
        for (name, value) in [
            ("user.pvfs2.dist_name", "spiral"),
            ("user.pvfs2.num_dfiles", "many"),
            ("user.pvfs2.layout", "spiral"),
            ("user.pvfs2.handle", "7"),
            ("user.pvfs2.colour", "red"),
        ] {
            assert_eq!(code(set(&u, f, name, value.as_bytes()).await), ErrorCode::Invalid);
        }
        u.write_small(f, 0, b"x").await.result.unwrap();
        let late = set(&u, f, "user.pvfs2.num_dfiles", b"3").await;
        assert_eq!(code(late), ErrorCode::InUse);
        assert_eq!(u.unstuff(f).await.unwrap().layout.unwrap().datahandles.len(), 1);
    });
}

#[test]
fn round_robin_goes_round() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let mut firsts = std::collections::HashSet::new();
        for i in 0..4 {
            let f = u.create_open(1, &format!("f{i}")).await.unwrap();
            let layout = u.unstuff(f).await.unwrap().layout.unwrap();
            assert_eq!(layout.datahandles.len(), 4);
            let first = pvfs2_proto::Handle(layout.datahandles[0]);
            firsts.insert(c.map.io_server_of(first).unwrap());
        }
        assert_eq!(firsts.len(), 4);
    });
}
