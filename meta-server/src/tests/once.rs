//! Exactly once: every durable operation, repeated after a lost reply and after a kill.
use super::fsck::faults_of;
use super::harness::*;
use pvfs2_proto::op::*;
use pvfs2_proto::{ErrorCode, SetAttr};

/// Sends `op` with one ticket: once, again, and again after `kill -9`; the answers are equal.
async fn thrice(u: &User, op: OpRequest, body: &[u8]) -> OpResponse {
    let seq = u.next_ticket();
    let first = u.send(0, Some(seq), op.clone(), body).await.result.unwrap();
    let again = u.send(0, Some(seq), op.clone(), body).await.result.unwrap();
    assert_eq!(first, again);
    u.cluster.restart(0);
    let after = u.send(0, Some(seq), op.clone(), body).await.result.unwrap();
    assert_eq!(first, after, "{:?} after a kill", op.op());
    first
}

#[test]
fn every_durable_operation_takes_effect_once() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let name = |n: &str| bytes::Bytes::copy_from_slice(n.as_bytes());
        let r = CreateRequest { exclusive: true, ..u.creating(1, "f") };
        let OpResponse::Create(made) = thrice(&u, r.into_request(), b"").await else { panic!() };
        let f = made.attr.unwrap().handle;
        thrice(
            &u,
            MkdirRequest { dir: 1, name: name("d"), mode: 0o755, umask: 0 }.into_request(),
            b"",
        )
        .await;
        let d = u.lookup(1, "d").await.unwrap();
        let mknod = MknodRequest { dir: d, name: name("n"), mode: 0o10644, rdev: 0, umask: 0 };
        thrice(&u, mknod.into_request(), b"").await;
        let symlink = SymlinkRequest { dir: d, name: name("s"), target: name("t") };
        thrice(&u, symlink.into_request(), b"").await;
        thrice(&u, LinkRequest { handle: f, dir: d, name: name("l") }.into_request(), b"").await;
        assert_eq!(u.getattr(f).await.unwrap().nlink, 2);
        let rename = RenameRequest {
            dir: d,
            name: name("l"),
            new_dir: 1,
            new_name: name("m"),
            no_replace: true,
            ..Default::default()
        };
        thrice(&u, rename.into_request(), b"").await;
        thrice(&u, UnlinkRequest { dir: 1, name: name("m") }.into_request(), b"").await;
        assert_eq!(u.getattr(f).await.unwrap().nlink, 1);
        thrice(&u, UnlinkRequest { dir: d, name: name("n") }.into_request(), b"").await;
        thrice(&u, UnlinkRequest { dir: d, name: name("s") }.into_request(), b"").await;
        thrice(&u, RmdirRequest { dir: 1, name: name("d") }.into_request(), b"").await;
        let set = SetAttr { mode: Some(0o600), ..Default::default() };
        thrice(&u, SetattrRequest { handle: f, set: Some(set) }.into_request(), b"").await;
        let xattr = SetxattrRequest {
            handle: f,
            name: name("user.x"),
            value: name("v"),
            create: true,
            ..Default::default()
        };
        thrice(&u, xattr.into_request(), b"").await;
        let remove = RemovexattrRequest { handle: f, name: name("user.x") };
        thrice(&u, remove.into_request(), b"").await;
        let write = WriteSmallRequest { handle: f, ..Default::default() };
        thrice(&u, write.into_request(), b"abc").await;
        let append = AppendRequest { handle: f, ..Default::default() };
        thrice(&u, append.clone().into_request(), b"def").await;
        assert_eq!(u.read_small(f).await.body, "abcdef");
        thrice(&u, append.clone().into_request(), &[7; 200]).await;
        assert_eq!(u.getattr(f).await.unwrap().size, 206);
        thrice(&u, append.into_request(), &[8; 10]).await;
        assert_eq!(u.getattr(f).await.unwrap().size, 216);
        thrice(&u, UnstuffRequest { handle: f, ..Default::default() }.into_request(), b"").await;
        let punch = FallocateRequest {
            handle: f,
            kind: FallocateKind::PunchHole as i32,
            logical_offset: 0,
            len: 100,
            ..Default::default()
        };
        thrice(&u, punch.into_request(), b"").await;
        let cut = SetAttr { size: Some(7), ..Default::default() };
        thrice(&u, SetattrRequest { handle: f, set: Some(cut) }.into_request(), b"").await;
        assert_eq!(u.names(1).await, ["f"]);
        long_rest().await;
        assert_eq!(faults_of(&c).await, Vec::<String>::new());
    });
}

#[test]
fn errors_and_late_duplicates() {
    with_cluster(1, |c| async move {
        let u = c.root();
        let seq = u.next_ticket();
        let unlink = UnlinkRequest { dir: 1, name: "f".into() }.into_request();
        let missing = u.send(0, Some(seq), unlink.clone(), b"").await;
        assert_eq!(code(missing.result), ErrorCode::NotFound);
        u.create(1, "f").await.unwrap();
        let create = CreateRequest { exclusive: true, ..u.creating(1, "g") }.into_request();
        assert!(u.send(0, Some(seq + 10), create, b"").await.result.is_ok());
        // The unlink of long ago comes in at last: nobody waits, and it must do nothing.
        let late = u.send(0, Some(seq), unlink, b"");
        let late = tokio::time::timeout(std::time::Duration::from_secs(1), late).await;
        assert!(late.is_err());
        assert_eq!(u.names(1).await, ["f", "g"]);
    });
}

/// Power is lost after any number of transactions: what is there then is a whole tree.
#[test]
fn every_prefix_of_the_journal_is_a_whole_tree() {
    let mut seen_partial = false;
    for keep in 0..60 {
        with_cluster(1, |c| async move {
            let u = c.root();
            let before = u.mkdir(1, "before").await.unwrap();
            u.ask(0, FsyncRequest { handle: before }).await.unwrap();
            for i in 0..12 {
                let d = u.mkdir(1, &format!("d{i}")).await.unwrap();
                u.create(d, "f").await.unwrap();
                u.rename(d, "f", 1, &format!("f{i}")).await.unwrap();
                u.rename(1, &format!("f{i}"), 1, "one").await.unwrap();
            }
            c.kill(0);
            c.backings[0].lose_power(keep);
            c.start(0);
            let u = c.root();
            let names = u.names(1).await;
            assert!(names.contains(&"before".to_owned()), "it was synced");
            long_rest().await;
            assert_eq!(faults_of(&c).await, Vec::<String>::new(), "keep {keep}");
            names.len()
        })
        .checked_sub(14)
        .map_or_else(|| seen_partial = true, |_| ());
    }
    assert!(seen_partial);
}
