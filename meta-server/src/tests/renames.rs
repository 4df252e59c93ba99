//! rename: the matrix of kinds and flags, directories, times.
use super::fsck::faults_of;
use super::harness::*;
use pvfs2_proto::ErrorCode::{
    Access, Exists, Invalid, IsDirectory, NotDirectory, NotEmpty, NotFound, Stale,
};
use pvfs2_proto::SetAttr;

#[test]
fn what_may_replace_what() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let d = u.mkdir(1, "d").await.unwrap();
        let full = u.mkdir(1, "full").await.unwrap();
        u.create(full, "x").await.unwrap();
        for name in ["file", "other"] {
            u.create(1, name).await.unwrap();
        }
        u.mkdir(1, "empty").await.unwrap();
        for (old, new, want) in [
            ("none", "other", NotFound),
            ("file", "d", IsDirectory),
            ("d", "file", NotDirectory),
            ("d", "full", NotEmpty),
        ] {
            assert_eq!(code(u.rename(1, old, 1, new).await), want, "{old} -> {new}");
        }
        assert_eq!(code(u.rename_with(1, "file", 1, "other", true, false).await), Exists);
        assert_eq!(code(u.rename_with(1, "file", 1, "none", false, true).await), NotFound);
        assert_eq!(code(u.rename_with(1, "file", 1, "other", true, true).await), Invalid);
        let (file, other) =
            (u.lookup(1, "file").await.unwrap(), u.lookup(1, "other").await.unwrap());
        let r = u.rename(1, "file", 1, "other").await.unwrap();
        assert_eq!((r.handle, r.other), (file, other));
        // Who looked the name up just before still gets what it named; then it goes.
        assert_eq!(u.getattr(other).await.unwrap().nlink, 0);
        tokio::time::sleep(std::time::Duration::from_millis(crate::linger::LINGER_MS + 1)).await;
        assert_eq!(code(u.getattr(other).await), Stale);
        u.rename(1, "d", 1, "empty").await.unwrap();
        assert_eq!(u.lookup(1, "empty").await.unwrap(), d);
        u.rename_with(1, "empty", 1, "fresh", true, false).await.unwrap();
        assert_eq!(u.names(1).await, ["fresh", "full", "other"]);
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

#[test]
fn directories_move_with_their_counts_and_never_below_themselves() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let a = u.mkdir(1, "a").await.unwrap();
        let b = u.mkdir(a, "b").await.unwrap();
        let below = u.mkdir(b, "below").await.unwrap();
        for (dir, name, to) in [(1, "a", a), (1, "a", b), (1, "a", below), (a, "b", below)] {
            assert_eq!(code(u.rename(dir, name, to, "x").await), Invalid);
        }
        assert_eq!(code(u.rename(b, "below", 1, "a").await), NotEmpty);
        assert_eq!(code(u.rename_with(b, "below", 1, "a", false, true).await), Invalid);
        assert_eq!(code(u.rename_with(1, "a", b, "below", false, true).await), Invalid);
        u.rename(b, "below", 1, "up").await.unwrap();
        let nlinks = async |h: u64| u.getattr(h).await.unwrap().nlink;
        assert_eq!((nlinks(1).await, nlinks(b).await), (4, 2));
        u.rename(1, "a", below, "a").await.unwrap();
        assert_eq!(u.names(1).await, ["up"]);
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

#[test]
fn exchanges_of_every_kind() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let (d1, d2) = (u.mkdir(1, "d1").await.unwrap(), u.mkdir(1, "d2").await.unwrap());
        let f = u.create(d1, "f").await.unwrap();
        let sub = u.mkdir(d2, "sub").await.unwrap();
        let r = u.rename_with(d1, "f", d2, "sub", false, true).await.unwrap();
        assert_eq!((r.handle, r.other), (f, sub));
        assert_eq!(u.lookup(d1, "f").await.unwrap(), sub);
        assert_eq!(u.lookup(d2, "sub").await.unwrap(), f);
        let nlink = |a: pvfs2_proto::Attr| a.nlink;
        assert_eq!(nlink(u.getattr(d1).await.unwrap()), 3);
        assert_eq!(nlink(u.getattr(d2).await.unwrap()), 2);
        // In one directory, file and directory.
        u.rename_with(1, "d1", 1, "d2", false, true).await.unwrap();
        assert_eq!(u.lookup(1, "d1").await.unwrap(), d2);
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

#[test]
fn two_names_of_one_object_stay() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let f = u.create(1, "f").await.unwrap();
        u.link(f, 1, "g").await.unwrap();
        let before = u.getattr(1).await.unwrap();
        assert_eq!(u.rename(1, "f", 1, "g").await.unwrap().other, f);
        u.rename(1, "f", 1, "f").await.unwrap();
        assert_eq!(u.names(1).await, ["f", "g"]);
        assert_eq!(u.getattr(1).await.unwrap(), before);
    });
}

#[test]
fn times_and_permissions() {
    with_cluster(1, |c| async move {
        let root = c.root();
        let d = root.mkdir(1, "d").await.unwrap();
        let open = SetAttr { mode: Some(0o777), ..Default::default() };
        root.setattr(d, open.clone()).await.unwrap();
        root.setattr(1, open).await.unwrap();
        let f = root.create(1, "f").await.unwrap();
        let before = (root.getattr(f).await.unwrap(), root.getattr(d).await.unwrap());
        root.rename(1, "f", d, "f").await.unwrap();
        let after = (root.getattr(f).await.unwrap(), root.getattr(d).await.unwrap());
        assert!(after.0.ctime_ns > before.0.ctime_ns && after.0.mtime_ns == before.0.mtime_ns);
        assert!(after.1.mtime_ns > before.1.mtime_ns && after.1.ctime_ns > before.1.ctime_ns);
        // A directory whose ".." would change must be writable itself.
        let (owner, u) = (c.user(5, 5), c.user(6, 6));
        owner.mkdir_mode(1, "theirs", 0o755).await.unwrap();
        assert_eq!(code(u.rename(1, "theirs", d, "theirs").await), Access);
        u.rename(1, "theirs", 1, "renamed").await.unwrap();
        owner.rename(1, "renamed", d, "theirs").await.unwrap();
    });
}

#[test]
fn who_looked_up_a_replaced_name_can_open_it() {
    with_cluster(2, |c| async move {
        let u = c.root();
        let mut far = 1;
        for i in 0..8 {
            far = u.mkdir(1, &format!("d{i}")).await.unwrap();
            if c.owner(far) == 1 {
                break;
            }
        }
        assert_eq!(c.owner(far), 1, "directories are spread");
        for (dir, from) in [(1, 1), (1, far), (far, 1)] {
            let old = u.create(dir, "target").await.unwrap();
            u.create(from, "new").await.unwrap();
            let looked_up = u.lookup(dir, "target").await.unwrap();
            u.rename(from, "new", dir, "target").await.unwrap();
            assert_eq!(looked_up, old);
            u.open(old, false).await.unwrap();
            // Closed again, it is still there for the next one; open, it stays beyond its time.
            u.close(old, false, 0).await.unwrap();
            u.open(old, false).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(4_000)).await;
            assert_eq!(u.getattr(old).await.unwrap().nlink, 0);
            u.close(old, false, 0).await.unwrap();
            assert_eq!(code(u.getattr(old).await), Stale);
            u.unlink(dir, "target").await.unwrap();
        }
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}
