//! The store over files in memory: each operation, and a crash at each call that it makes.
#![allow(clippy::unwrap_used)] // all test: a panic is a verdict
use super::*;
use crate::api::{Delete, Exchange, Mkdir, Move, UploadBegin};
use crate::files::mem::Mem;
use crate::files::{Area, At};
use crate::rng::hex;
use std::sync::atomic::{AtomicI64, Ordering};

pub(crate) fn clock() -> Clock {
    let at = AtomicI64::new(1_700_000_000_000);
    Arc::new(move || at.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn open(files: &Mem) -> Store {
    let db = Connection::open_in_memory().unwrap();
    Store::open(db, Arc::new(files.clone()), clock(), "epoch0", None).unwrap()
}

fn upload(id: u32, parent: NodeId, name: &str, bytes: &[u8]) -> UploadBegin {
    UploadBegin {
        id: format!("upload{id:020}"),
        parent,
        name: name.into(),
        replace: None,
        size: bytes.len() as u64,
        hash: hex(blake3::hash(bytes).as_bytes()),
        mtime_ns: 5,
        exec: false,
    }
}

fn put(s: &mut Store, id: u32, parent: NodeId, name: &str, bytes: &[u8]) -> NodeInfo {
    s.put(&upload(id, parent, name, bytes), bytes, "t").unwrap()
}

fn replace(s: &mut Store, id: u32, node: &NodeInfo, bytes: &[u8]) -> Result<NodeInfo> {
    let mut req = upload(id, node.parent, &node.name, bytes);
    req.replace = Some((node.id, node.rev));
    s.put(&req, bytes, "t")
}

fn mkdir(s: &mut Store, parent: NodeId, name: &str) -> NodeInfo {
    s.mkdir(&Mkdir { parent, name: name.into(), key: String::new() }, "t").unwrap()
}

fn delete(s: &mut Store, n: &NodeInfo, tree: bool) -> Result<NodeInfo> {
    s.delete(&Delete { node: n.id, rev: n.rev, tree, key: String::new() }, "t")
}

#[test]
fn files_are_plain_and_the_table_tells_all_of_them() {
    let mem = Mem::new(1);
    let mut s = open(&mem);
    let dir = mkdir(&mut s, ROOT, "docs");
    let a = put(&mut s, 1, dir.id, "a.txt", b"one");
    assert_eq!(mem.snapshot()["docs/a.txt"], Some(b"one".to_vec()));
    let b = replace(&mut s, 2, &a, b"two!").unwrap();
    assert_eq!((b.id, b.size, b.mtime_ns), (a.id, 4, 5));
    assert!(matches!(replace(&mut s, 3, &a, b"x"), Err(SyncError::Stale(_))), "If-Match");
    let all = s.changes("", 0).unwrap();
    assert_eq!(all.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["docs", "a.txt"]);
    assert!(s.changes("epoch0", all.next).unwrap().nodes.is_empty());
    assert_eq!(s.versions(a.id).unwrap()[0].hash, a.hash);
    let back = s.restore_version(a.id, a.rev, "t").unwrap();
    assert_eq!((back.hash.as_str(), s.versions(a.id).unwrap().len()), (a.hash.as_str(), 2));
    assert_eq!(mem.snapshot()["docs/a.txt"], Some(b"one".to_vec()));
}

#[test]
fn trap10_a_node_deleted_and_made_again_is_another() {
    let mem = Mem::new(1);
    let mut s = open(&mem);
    let a = put(&mut s, 1, ROOT, "a", b"one");
    let gone = delete(&mut s, &a, false).unwrap();
    assert!(gone.deleted && mem.snapshot().is_empty());
    let new = put(&mut s, 2, ROOT, "a", b"two");
    assert_ne!(new.id, a.id);
    assert!(replace(&mut s, 3, &a, b"late").is_err(), "an edit of the old node is not let in");
    let back = s.restore_trash(a.id, "t").unwrap();
    assert_eq!((back.id, back.name.as_str()), (a.id, "a (conflict restored rev3)"));
    assert_eq!(mem.snapshot()["a (conflict restored rev3)"], Some(b"one".to_vec()));
}

#[test]
fn trap11_a_wrong_length_or_hash_changes_nothing() {
    let mem = Mem::new(1);
    let mut s = open(&mem);
    let a = put(&mut s, 1, ROOT, "a", b"one");
    let mut req = upload(2, ROOT, "a", b"two");
    req.replace = Some((a.id, a.rev));
    assert!(matches!(s.put(&req, b"owt", "t"), Err(SyncError::Damaged(_))));
    req.id = "shortshortshortshort".into();
    assert!(matches!(s.put(&req, b"tw", "t"), Err(SyncError::Damaged(_))));
    assert_eq!(s.node(a.id).unwrap(), a);
    assert_eq!(mem.snapshot()["a"], Some(b"one".to_vec()));
    // The short one goes on where it ended.
    assert_eq!(s.upload_begin(&req).unwrap().offset, 2);
    assert_eq!(s.put(&req, b"two", "t").unwrap().size, 3);
}

#[test]
fn trap13_a_commit_that_is_sent_again_is_done_once() {
    let mut s = open(&Mem::new(1));
    let req = upload(1, ROOT, "a", b"one");
    let a = s.put(&req, b"one", "t").unwrap();
    assert_eq!(s.put(&req, b"one", "t").unwrap(), a);
    let make = Mkdir { parent: ROOT, name: "d".into(), key: "k1".into() };
    let d = s.mkdir(&make, "t").unwrap();
    delete(&mut s, &d, false).unwrap();
    assert_eq!(s.mkdir(&make, "t").unwrap(), d, "a late repeat brings nothing back");
    assert!(s.node(d.id).unwrap().deleted);
}

#[test]
fn trap14_room_is_reserved_when_an_upload_begins() {
    let mut s = open(&Mem::new(1));
    s.set_quota(Some(10));
    let a = put(&mut s, 1, ROOT, "a", b"1234");
    s.upload_begin(&upload(2, ROOT, "b", b"12345")).unwrap();
    let e = s.upload_begin(&upload(3, ROOT, "c", b"12")).unwrap_err();
    assert_eq!(e.status(), 507, "{e}");
    s.upload_drop(&upload(2, ROOT, "b", b"").id).unwrap();
    let a = replace(&mut s, 4, &a, b"56").unwrap();
    delete(&mut s, &a, false).unwrap();
    assert_eq!(s.usage().unwrap(), (6, Some(10)), "versions and trash count");
    s.purge(a.id).unwrap();
    assert_eq!(s.usage().unwrap().0, 0);
}

#[test]
fn trap15_names_that_fold_to_one_are_refused_and_a_case_change_is_a_move() {
    let mem = Mem::new(1);
    let mut s = open(&mem);
    let a = put(&mut s, 1, ROOT, "Résumé", b"1");
    let again = s.upload_begin(&upload(2, ROOT, "re\u{301}sume\u{301}", b""));
    assert_eq!(again.unwrap_err().status(), 409);
    let req =
        Move { node: a.id, rev: a.rev, parent: ROOT, name: "RÉSUMÉ".into(), key: String::new() };
    assert_eq!(s.move_node(&req, "t").unwrap().id, a.id);
    assert_eq!(mem.snapshot().keys().collect::<Vec<_>>(), ["RÉSUMÉ"]);
}

#[test]
fn trap16_moves_make_no_ring_and_swaps_are_one_step() {
    let mem = Mem::new(1);
    let mut s = open(&mem);
    let a = mkdir(&mut s, ROOT, "a");
    let b = mkdir(&mut s, a.id, "b");
    let req = Move { node: a.id, rev: a.rev, parent: b.id, name: "a".into(), key: String::new() };
    assert!(s.move_node(&req, "t").is_err());
    let c = put(&mut s, 1, b.id, "c", b"c");
    let d = put(&mut s, 2, ROOT, "d", b"d");
    s.exchange(&Exchange { a: (c.id, c.rev), b: (d.id, d.rev), key: String::new() }, "t").unwrap();
    let now = mem.snapshot();
    assert_eq!((&now["a/b/c"], &now["d"]), (&Some(b"d".to_vec()), &Some(b"c".to_vec())));
    assert_eq!(s.path(c.id).unwrap(), "d");
}

#[test]
fn trap7_and_9_another_history_or_dropped_marks_mean_begin_anew() {
    let mut s = open(&Mem::new(1));
    let a = put(&mut s, 1, ROOT, "a", b"1");
    s.acknowledge("phone", "phone", a.rev).unwrap();
    s.acknowledge("laptop", "laptop", a.rev).unwrap();
    let gone = delete(&mut s, &a, false).unwrap();
    s.acknowledge("laptop", "laptop", gone.rev).unwrap();
    assert_eq!(s.expire_marks(0).unwrap(), 0, "the phone has not heard of it");
    s.forget_device("phone").unwrap();
    assert_eq!(s.expire_marks(0).unwrap(), 0, "its bytes are in the trash");
    assert_eq!(s.expire_trash(0).unwrap(), 1);
    assert_eq!(s.expire_marks(0).unwrap(), 1);
    assert!(matches!(s.changes("epoch0", a.rev), Err(SyncError::Epoch)), "the ghost");
    assert!(s.changes("epoch0", gone.rev).is_ok());
    assert!(matches!(s.changes("epoch0", gone.rev + 9), Err(SyncError::Epoch)), "from the future");
    s.new_epoch("epoch1").unwrap();
    assert!(matches!(s.changes("epoch0", gone.rev), Err(SyncError::Epoch)));
}

#[test]
fn trash_versions_marks_and_devices_expire_by_their_age() {
    let (mem, now) = (Mem::new(1), Arc::new(AtomicI64::new(1_000_000)));
    let at = now.clone();
    let clock: Clock = Arc::new(move || at.load(Ordering::Relaxed));
    let db = Connection::open_in_memory().unwrap();
    let mut s = Store::open(db, Arc::new(mem.clone()), clock, "epoch0", None).unwrap();
    let ages = Ages {
        trash_ms: Some(100),
        versions_ms: Some(200),
        marks_ms: Some(150),
        devices_ms: Some(1_000),
    };
    let (a, b) = (put(&mut s, 1, ROOT, "a", b"first"), put(&mut s, 2, ROOT, "b", b"bb"));
    let b = replace(&mut s, 3, &b, b"bbb").unwrap();
    s.acknowledge("phone", "phone", b.rev).unwrap();
    let gone = delete(&mut s, &a, false).unwrap();
    let at = |ms: i64, s: &mut Store| {
        now.store(1_000_000 + ms, Ordering::Relaxed);
        let done = s.expire(&ages).unwrap();
        assert_eq!(s.expire(&ages).unwrap(), Expired::default(), "once at {ms}");
        (done.trash, done.versions, done.marks, done.devices)
    };
    assert_eq!(at(99, &mut s), (0, 0, 0, 0));
    assert_eq!(s.usage().unwrap().0, 5 + 2 + 3);
    assert_eq!(at(100, &mut s), (1, 0, 0, 0));
    assert_eq!(s.usage().unwrap().0, 2 + 3);
    assert!(s.restore_trash(a.id, "t").is_err() && s.node(a.id).unwrap().deleted);
    assert_eq!(at(199, &mut s), (0, 0, 0, 0), "the phone has not heard of the deletion");
    assert_eq!(at(200, &mut s), (0, 1, 0, 0));
    assert_eq!(s.usage().unwrap().0, 3);
    s.acknowledge("laptop", "laptop", gone.rev).unwrap();
    // The phone never comes back: it is not waited for any longer, and enters as new if it does.
    assert_eq!(at(1_001, &mut s), (0, 0, 1, 1));
    assert!(s.node(a.id).is_err());
    assert!(matches!(s.changes("epoch0", b.rev), Err(SyncError::Epoch)));
    assert!(s.changes("epoch0", gone.rev).is_ok());
    assert_eq!(s.expire(&Ages::default()).unwrap(), Expired::default(), "for ever");
    for dir in ["trash", "versions"] {
        assert!(mem.list(At(Area::Own, dir)).unwrap().entries.is_empty(), "{dir}");
    }
}

#[test]
fn much_that_expires_goes_in_pieces() {
    let mut s = open(&Mem::new(1));
    let dir = mkdir(&mut s, ROOT, "d");
    for n in 0..501 {
        put(&mut s, n, dir.id, &format!("f{n}"), b"x");
    }
    delete(&mut s, &dir, true).unwrap();
    let ages = Ages { trash_ms: Some(0), marks_ms: Some(0), ..Ages::default() };
    let one = s.expire(&ages).unwrap();
    assert!((one.trash, one.more()) == (500, true), "{one:?}");
    let mut all = one;
    while all.marks < 502 {
        let piece = s.expire(&ages).unwrap();
        assert_ne!(piece, Expired::default(), "{all:?}");
        all.add(piece);
    }
    assert_eq!((all.trash, all.marks, s.usage().unwrap().0), (501, 502, 0));
}

#[test]
fn strangers_in_the_tree_are_kept_aside() {
    let mem = Mem::new(1);
    let mut s = open(&mem);
    mem.user_write("a", b"not ours", None);
    let a = put(&mut s, 1, ROOT, "a", b"ours");
    assert_eq!(mem.snapshot()["a"], Some(b"ours".to_vec()));
    let kept = mem.list(At(Area::Own, "foreign")).unwrap().entries;
    assert_eq!(kept[0].0, format!("{}@{}", a.id, a.rev));
    let d = mkdir(&mut s, ROOT, "d");
    mem.user_write("d/x", b"not ours", None);
    delete(&mut s, &d, false).unwrap();
    assert_eq!(mem.list(At(Area::Own, "foreign")).unwrap().entries.len(), 2);
}

/// Every operation is cut off at every call it makes to the files; then the store is opened again,
/// and table and files must agree on before or after.
#[test]
fn a_crash_at_any_call_leaves_before_or_after() {
    let run = |s: &mut Store, step: usize| -> Result<()> {
        let by_name =
            |s: &Store, n: &str| s.children(ROOT).unwrap().into_iter().find(|x| x.name == n);
        match step {
            0 => drop(s.put(&upload(9, ROOT, "new", b"new"), b"new", "t")?),
            1 => {
                let a = by_name(s, "a").unwrap();
                drop(replace(s, 10, &a, b"other")?);
            }
            2 => {
                let (a, d) = (by_name(s, "a").unwrap(), by_name(s, "d").unwrap());
                let key = String::new();
                let to = Move { node: a.id, rev: a.rev, parent: d.id, name: "z".into(), key };
                drop(s.move_node(&to, "t")?);
            }
            3 => {
                let d = by_name(s, "d").unwrap();
                drop(delete(s, &d, true)?);
            }
            4 => {
                let (a, d) = (by_name(s, "a").unwrap(), by_name(s, "d").unwrap());
                let key = String::new();
                drop(s.exchange(&Exchange { a: (a.id, a.rev), b: (d.id, d.rev), key }, "t")?);
            }
            _ => drop(s.mkdir(&Mkdir { parent: ROOT, name: "e".into(), key: "k".into() }, "t")?),
        }
        Ok(())
    };
    let table = |s: &Store| -> Vec<(String, Option<String>)> {
        let nodes = s.changes("", 0).unwrap().nodes.into_iter().filter(|n| !n.deleted);
        let mut rows: Vec<_> = nodes
            .map(|n| (s.path(n.id).unwrap(), (n.kind == Kind::File).then_some(n.hash)))
            .collect();
        rows.sort();
        rows
    };
    let plain = |m: &Mem| -> Vec<(String, Option<String>)> {
        m.snapshot()
            .into_iter()
            .map(|(p, b)| (p, b.map(|b| hex(blake3::hash(&b).as_bytes()))))
            .collect()
    };
    let mut crashes = 0;
    for step in 0..6 {
        for fuel in 0.. {
            let mem = Mem::new(fuel);
            let mut s = open(&mem);
            put(&mut s, 1, ROOT, "a", b"one");
            let d = mkdir(&mut s, ROOT, "d");
            put(&mut s, 2, d.id, "in", b"inner");
            let before = table(&s);
            mem.crash_after(Some(fuel));
            let result = run(&mut s, step);
            mem.crash_after(None);
            mem.lose_power();
            let mut s =
                Store::open(s.into_db(), Arc::new(mem.clone()), clock(), "x", None).unwrap();
            assert_eq!(table(&s), plain(&mem), "step {step}, crash after {fuel} calls");
            if result.is_ok() {
                assert_ne!(table(&s), before);
                break;
            }
            crashes += 1;
            if table(&s) == before {
                run(&mut s, step).unwrap();
                assert_eq!(table(&s), plain(&mem), "step {step}, again after {fuel} calls");
            }
        }
    }
    assert!(crashes > 30, "only {crashes} crashes");
}
