//! Making, finding, reading and removing objects; small files; directories and their counts.
use super::harness::*;
use pvfs2_proto::attr::mode::*;
use pvfs2_proto::op::*;
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, SetAttr};

#[test]
fn the_root_is_there_at_the_first_start_and_at_the_second() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let root = u.getattr(1).await.unwrap();
        assert_eq!((root.mode, root.nlink, root.size), (S_IFDIR | 0o755, 2, 0));
        u.create(1, "kept").await.unwrap();
        c.restart(0);
        assert_eq!(u.names(1).await, ["kept"]);
    });
}

#[test]
fn a_create_is_one_change_with_everything_in_it() {
    with_cluster(1, |c| async move {
        let u = c.user(5, 6);
        c.root().setattr(1, SetAttr { mode: Some(0o777), ..Default::default() }).await.unwrap();
        let before = c.root().getattr(1).await.unwrap();
        let r = u.ask(0, CreateRequest { write: true, ..u.creating(1, "f") }).await.unwrap();
        let (attr, dir) = (r.attr.unwrap(), r.dir_attr.unwrap());
        assert!(r.created && attr.has(AttrFlags::STUFFED) && attr.layout.is_none());
        assert_eq!((attr.mode, attr.uid, attr.gid, attr.nlink), (S_IFREG | 0o644, 5, 6, 1));
        assert_eq!((dir.size, dir.nlink), (1, 2));
        assert!(dir.mtime_ns > before.mtime_ns && dir.ctime_ns > before.ctime_ns);
        assert_eq!(u.lookup(1, "f").await.unwrap(), attr.handle);
        assert_eq!(u.getattr(attr.handle).await.unwrap(), attr);
        assert_eq!(c.io_requests(), 0, "no I/O server is asked");
        // Again without O_EXCL: opened; with it: refused.
        let again = u.ask(0, CreateRequest { read: true, ..u.creating(1, "f") }).await.unwrap();
        assert!(!again.created && again.attr.unwrap().handle == attr.handle);
        let exclusive = CreateRequest { exclusive: true, ..u.creating(1, "f") };
        assert_eq!(code(u.ask(0, exclusive).await), ErrorCode::Exists);
    });
}

/// The kernel asks for a directory's attributes after each change of it; the reply brings them.
#[test]
fn changes_bring_the_attributes_of_their_directories() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let to = u.mkdir(1, "to").await.unwrap();
        let name = |n: &str| bytes::Bytes::copy_from_slice(n.as_bytes());
        let is_now = async |dir: u64, brought: Option<Attr>| {
            assert_eq!(brought.unwrap(), u.getattr(dir).await.unwrap());
        };
        let r = MkdirRequest { dir: 1, name: name("d"), mode: 0o755, umask: 0 };
        is_now(1, u.ask(0, r).await.unwrap().dir_attr).await;
        let r = MknodRequest { dir: 1, name: name("n"), mode: S_IFIFO, ..Default::default() };
        is_now(1, u.ask(0, r).await.unwrap().dir_attr).await;
        let r = SymlinkRequest { dir: 1, name: name("s"), target: name("n") };
        is_now(1, u.ask(0, r).await.unwrap().dir_attr).await;
        let handle = u.create(1, "f").await.unwrap();
        let r = LinkRequest { handle, dir: to, name: name("l") };
        is_now(to, u.ask(0, r).await.unwrap().dir_attr).await;
        let within = u.rename(1, "f", 1, "g").await.unwrap();
        assert_eq!(within.dir_attr, None);
        is_now(1, within.new_dir_attr).await;
        let over = u.rename(1, "d", to, "d").await.unwrap();
        is_now(1, over.dir_attr).await;
        is_now(to, over.new_dir_attr).await;
        is_now(1, u.unlink(1, "g").await.unwrap().dir_attr).await;
        is_now(to, u.rmdir(to, "d").await.unwrap().dir_attr).await;
    });
}

#[test]
fn small_files_live_with_their_metafile() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create_open(1, "f").await.unwrap();
        assert!(u.write_small(f, 0, b"hello").await.result.is_ok());
        assert!(u.write_small(f, 8, b"world").await.result.is_ok());
        assert_eq!(u.read_small(f).await.body, &b"hello\0\0\0world"[..]);
        let part = ReadSmallRequest { handle: f, logical_offset: 3, len: 4 };
        assert_eq!(u.send(0, None, part.into_request(), b"").await.body, &b"lo\0\0"[..]);
        let beyond = ReadSmallRequest { handle: f, logical_offset: 50, len: 4 };
        assert!(u.send(0, None, beyond.into_request(), b"").await.body.is_empty());
        // Shorter, longer: what lies beyond the old end is zeros, not what once was there.
        let size = |n| SetAttr { size: Some(n), ..Default::default() };
        u.setattr(f, size(3)).await.unwrap();
        u.setattr(f, size(6)).await.unwrap();
        assert_eq!(u.read_small(f).await.body, &b"hel\0\0\0"[..]);
        let bytes = u.ask(
            0,
            LookupRequest {
                dir: 1,
                path: vec!["f".into()],
                want_bytes: true,
                ..Default::default()
            },
        );
        assert_eq!(bytes.await.unwrap().bytes.unwrap(), &b"hel\0\0\0"[..]);
        let open = OpenRequest { handle: f, read: true, want_bytes: true, ..Default::default() };
        assert_eq!(u.ask(0, open).await.unwrap().bytes.unwrap(), &b"hel\0\0\0"[..]);
        // Too large: refused with the attributes, nothing changed.
        let refused = u.write_small(f, SMALL - 1, b"xy").await;
        assert_eq!(code(refused.result), ErrorCode::NotStuffed);
        assert!(
            matches!(refused.bring, Some(OpResponse::WriteSmall(r)) if r.attr.as_ref().unwrap().size == 6)
        );
        assert_eq!(c.io_requests(), 0);
    });
}

#[test]
fn directories_count_their_entries_and_subdirectories() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let d = u.mkdir(1, "d").await.unwrap();
        u.mkdir(d, "sub").await.unwrap();
        u.create(d, "f").await.unwrap();
        let counts = |a: pvfs2_proto::Attr| (a.size, a.nlink);
        assert_eq!(counts(u.getattr(1).await.unwrap()), (1, 3));
        assert_eq!(counts(u.getattr(d).await.unwrap()), (2, 3));
        assert_eq!(code(u.rmdir(1, "d").await), ErrorCode::NotEmpty);
        assert_eq!(code(u.rmdir(d, "f").await), ErrorCode::NotDirectory);
        assert_eq!(code(u.unlink(d, "sub").await), ErrorCode::IsDirectory);
        u.rmdir(d, "sub").await.unwrap();
        u.unlink(d, "f").await.unwrap();
        u.rmdir(1, "d").await.unwrap();
        assert_eq!(counts(u.getattr(1).await.unwrap()), (0, 2));
        assert_eq!(code(u.getattr(d).await), ErrorCode::Stale);
        assert_eq!(code(u.create(d, "late").await), ErrorCode::NotFound);
        assert_eq!(code(u.rmdir(1, "d").await), ErrorCode::NotFound);
    });
}

#[test]
fn whole_paths_are_walked_as_far_as_they_go() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let a = u.mkdir(1, "a").await.unwrap();
        let b = u.mkdir_mode(a, "b", 0o700).await.unwrap();
        let f = u.create(b, "f").await.unwrap();
        let walk = |u: &User, path: &[&str]| {
            let path = path.iter().map(|p| p.to_string().into()).collect();
            let r = LookupRequest { dir: 1, path, want_bytes: false, ..Default::default() };
            let asked = u.with(u.cred.uid, u.cred.gid, &[]);
            async move {
                let steps = asked.ask(0, r).await?.steps;
                Ok::<_, pvfs2_proto::PvfsError>(steps.iter().map(|s| s.handle).collect::<Vec<_>>())
            }
        };
        assert_eq!(walk(&u, &["a", "b", "f"]).await.unwrap(), [a, b, f]);
        assert_eq!(walk(&u, &["a", "x", "f"]).await.unwrap(), [a, 0]);
        assert_eq!(walk(&u, &["a", "b", "f", "g"]).await.unwrap(), [a, b, f]);
        let other = c.user(9, 9);
        assert_eq!(walk(&other, &["a", "b", "f"]).await.unwrap(), [a, b]);
        let far = LookupRequest {
            dir: b,
            path: vec!["f".into()],
            want_bytes: false,
            ..Default::default()
        };
        assert_eq!(code(other.ask(0, far).await), ErrorCode::Access);
        let long = LookupRequest {
            dir: 1,
            path: vec!["x".repeat(256).into()],
            want_bytes: false,
            ..Default::default()
        };
        assert_eq!(code(u.ask(0, long).await), ErrorCode::NameTooLong);
    });
}

#[test]
fn special_files_and_symlinks() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let mknod = |name: &str, mode, rdev| MknodRequest {
            dir: 1,
            name: name.to_owned().into(),
            mode,
            rdev,
            umask: 0,
        };
        let dev = u.ask(0, mknod("dev", S_IFCHR | 0o600, 0x105)).await.unwrap().attr.unwrap();
        assert_eq!((dev.rdev, dev.kind()), (0x105, S_IFCHR));
        let fifo = u.ask(0, mknod("fifo", S_IFIFO | 0o600, 9)).await.unwrap().attr.unwrap();
        assert_eq!((fifo.rdev, fifo.kind()), (0, S_IFIFO));
        let file = u.ask(0, mknod("file", 0o600, 0)).await.unwrap().attr.unwrap();
        assert!(file.is_file() && file.has(AttrFlags::STUFFED));
        assert_eq!(code(u.ask(0, mknod("dir", S_IFDIR, 0)).await), ErrorCode::Invalid);
        u.setattr(1, SetAttr { mode: Some(0o777), ..Default::default() }).await.unwrap();
        let other = c.user(5, 5);
        assert_eq!(code(other.ask(0, mknod("d2", S_IFBLK, 0)).await), ErrorCode::NotPermitted);
        let link = SymlinkRequest { dir: 1, name: "l".into(), target: "a/b".into() };
        let l = other.ask(0, link).await.unwrap().attr.unwrap();
        assert_eq!((l.mode, l.size, l.uid), (S_IFLNK | 0o777, 3, 5));
        let target = other.ask(0, ReadlinkRequest { handle: l.handle }).await.unwrap().target;
        assert_eq!(target, "a/b");
        assert_eq!(code(u.ask(0, ReadlinkRequest { handle: 1 }).await), ErrorCode::Invalid);
        u.unlink(1, "l").await.unwrap();
        assert_eq!(code(u.ask(0, ReadlinkRequest { handle: l.handle }).await), ErrorCode::Stale);
        let open = OpenRequest { handle: fifo.handle, read: true, ..Default::default() };
        assert_eq!(code(u.ask(0, open).await), ErrorCode::Invalid);
    });
}

#[test]
fn names_that_are_none() {
    with_cluster(1, |c| async move {
        let u = c.root();
        for (name, want) in [
            ("", ErrorCode::Invalid),
            (".", ErrorCode::Invalid),
            ("..", ErrorCode::Invalid),
            ("a/b", ErrorCode::Invalid),
            ("a\0b", ErrorCode::Invalid),
        ] {
            assert_eq!(code(u.create(1, name).await), want, "{name:?}");
        }
        assert_eq!(code(u.mkdir(1, &"x".repeat(256)).await), ErrorCode::NameTooLong);
        u.mkdir(1, &"x".repeat(255)).await.unwrap();
        let f = u.create(1, "f").await.unwrap();
        assert_eq!(code(u.create(f, "g").await), ErrorCode::NotDirectory);
        assert_eq!(code(u.getattr(999).await), ErrorCode::Stale);
    });
}

#[test]
fn statfs_counts_objects_over_restarts() {
    with_cluster(1, |c| async move {
        let u = c.root();
        for i in 0..5 {
            u.create(1, &format!("f{i}")).await.unwrap();
        }
        u.unlink(1, "f0").await.unwrap();
        let used = |r: StatfsResponse| r.handles_used;
        assert_eq!(used(u.ask(0, StatfsRequest {}).await.unwrap()), 5);
        c.restart(0);
        assert_eq!(used(u.ask(0, StatfsRequest {}).await.unwrap()), 5);
    });
}

#[test]
fn handles_are_never_given_out_twice() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let mut seen = std::collections::HashSet::new();
        for i in 0..30 {
            assert!(seen.insert(u.create(1, "f").await.unwrap()));
            u.unlink(1, "f").await.unwrap();
            if i % 10 == 0 {
                c.restart(0);
            }
        }
    });
}
