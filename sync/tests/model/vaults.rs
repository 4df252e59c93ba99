//! Encrypted folders with real stores and engines over files in memory: what the server gets to see, what
//! a device without the key does, and that nothing of such a folder ever becomes plain.
use crate::memory::{Device, Direct};
use pvfs2_sync::api::{Delete, Mkdir, Move, UploadBegin};
use pvfs2_sync::error::SyncError;
use pvfs2_sync::files::{Area, At, Files};
use pvfs2_sync::tree::{NodeId, ROOT};
use pvfs2_sync::vault::key_file::KeyFile;
use pvfs2_sync::vault::{FolderKey, KEY_FILE, Vault, is_sealed};
use std::collections::BTreeMap;
use std::sync::Arc;

struct Secret {
    vault: Arc<Vault>,
    text: Vec<u8>,
}

fn secret(n: u8) -> Secret {
    let key = FolderKey::from_bytes([n; 32]);
    let (file, _) = KeyFile::make(&key, "correct horse battery").unwrap();
    Secret { vault: Arc::new(Vault::new(&key)), text: file.text().into_bytes() }
}

fn encrypt(d: &mut Device, dir: &str, s: &Secret) {
    d.mem.user_mkdir(dir);
    d.mem.user_write(&format!("{dir}/{KEY_FILE}"), &s.text, None);
    d.engine.open_vaults([s.vault.clone()]);
}

/// Two devices with the key, and an encrypted folder `S` that both have.
fn pair(s: &mut Direct, k: &Secret) -> (Device, Device) {
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    encrypt(&mut a, "S", k);
    b.engine.open_vaults([k.vault.clone()]);
    a.pass(s).unwrap();
    b.pass(s).unwrap();
    (a, b)
}

fn plain(d: &Device) -> BTreeMap<String, Option<Vec<u8>>> {
    d.mem.snapshot()
}

/// Nothing that the server has in its files holds any of these.
fn unseen(s: &Direct, what: &[&str]) {
    for (path, bytes) in s.mem.snapshot() {
        for one in what {
            assert!(!path.contains(one), "{one:?} in the name {path:?}");
            let has = |b: &Vec<u8>| b.windows(one.len()).any(|w| w == one.as_bytes());
            assert!(!bytes.as_ref().is_some_and(has), "{one:?} in the content of {path:?}");
        }
    }
}

fn node(s: &Direct, path: &str) -> NodeId {
    let mut at = ROOT;
    for name in path.split('/') {
        at = s.store.children(at).unwrap().into_iter().find(|n| n.name == name).unwrap().id;
    }
    at
}

#[test]
fn the_server_sees_neither_names_nor_contents() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, mut b) = pair(&mut s, &k);
    a.mem.user_mkdir("S/private");
    a.mem.user_write("S/private/diary.txt", b"dear diary", None);
    a.mem.user_write("S/letter.txt", &b"to whom it may concern ".repeat(20_000), None);
    a.mem.user_write("S/empty", b"", None);
    a.mem.user_write("plain.txt", b"for everybody", None);
    let report = a.pass(&mut s).unwrap();
    assert!(report.problems.is_empty() && report.skipped.is_empty(), "{report:?}");
    assert_eq!(report.vaults.len(), 1);
    assert_eq!((report.vaults[0].path.as_str(), report.vaults[0].closed.as_str()), ("S", ""));
    unseen(&s, &["diary", "private", "letter", "concern", "empty"]);
    assert!(s.mem.snapshot().contains_key("plain.txt"));
    let report = b.pass(&mut s).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!(plain(&a), plain(&b));
    assert!(b.has("S/private/diary.txt", b"dear diary") && b.has("S/empty", b""));
    // Nothing more to do, on either side.
    for d in [&mut a, &mut b] {
        let report = d.pass(&mut s).unwrap();
        assert_eq!((report.up, report.down), (0, 0), "{report:?}");
    }
    // Edited, renamed, moved, deleted: as anywhere else.
    b.mem.user_write("S/private/diary.txt", b"dear diary, a second day", None);
    assert!(b.mem.user_rename("S/letter.txt", "S/private/old letter.txt"));
    assert!(b.mem.user_rename("S/private", "S/secretly"));
    b.mem.user_remove("S/empty");
    b.pass(&mut s).unwrap();
    let report = a.pass(&mut s).unwrap();
    assert!(report.conflicts.is_empty() && report.problems.is_empty(), "{report:?}");
    assert!(report.bytes_down < 1_000, "a rename fetches nothing: {report:?}");
    assert_eq!(plain(&a), plain(&b));
    assert!(a.has("S/secretly/diary.txt", b"dear diary, a second day"));
    unseen(&s, &["diary", "secretly", "letter", "second"]);
}

#[test]
fn both_edited_makes_a_conflict_copy_and_equal_edits_make_none() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, mut b) = pair(&mut s, &k);
    a.mem.user_write("S/f.txt", b"one", None);
    a.mem.user_write("S/g.txt", b"one", None);
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    a.mem.user_write("S/f.txt", b"from a", None);
    b.mem.user_write("S/f.txt", b"from b", None);
    a.mem.user_write("S/g.txt", b"the same", None);
    b.mem.user_write("S/g.txt", b"the same", None);
    a.pass(&mut s).unwrap();
    let report = b.pass(&mut s).unwrap();
    assert_eq!(report.conflicts, ["S/f (conflict b 2026-01-01).txt"], "{report:?}");
    a.pass(&mut s).unwrap();
    assert_eq!(plain(&a), plain(&b));
    assert!(a.has("S/f.txt", b"from a"));
    assert!(a.has("S/f (conflict b 2026-01-01).txt", b"from b"));
    unseen(&s, &["conflict", "from", "the same"]);
}

#[test]
fn a_device_that_has_the_files_already_unites_and_sends_nothing() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, _) = pair(&mut s, &k);
    let large = b"0123456789".repeat(30_000);
    a.mem.user_mkdir("S/d");
    a.mem.user_write("S/d/large", &large, None);
    a.mem.user_write("S/d/small", b"small", None);
    a.pass(&mut s).unwrap();
    let mut c = Device::new("c");
    c.engine.open_vaults([k.vault.clone()]);
    c.mem.user_mkdir("S");
    c.mem.user_mkdir("S/d");
    c.mem.user_write("S/d/large", &large, Some(7));
    c.mem.user_write("S/d/small", b"other", Some(7));
    let before = s.store.head().unwrap().0;
    let report = c.pass(&mut s).unwrap();
    assert!(c.has("S/d/large", &large) && c.has("S/d/small", b"small"));
    assert_eq!(report.conflicts, ["S/d/small (conflict c 2026-01-01)"], "{report:?}");
    assert!(report.bytes_down < 1_000 && report.bytes_up < 1_000, "{report:?}");
    assert_eq!(s.store.head().unwrap().0, before + 1, "the conflict copy alone is new");
    unseen(&s, &["other", "small", "01234567890123456789"]);
}

#[test]
fn a_device_without_the_key_leaves_the_folder_alone() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, mut b) = pair(&mut s, &k);
    a.mem.user_write("S/f", b"one", None);
    a.pass(&mut s).unwrap();
    let mut c = Device::new("c");
    let report = c.pass(&mut s).unwrap();
    assert!(report.vaults[0].closed.starts_with("locked"), "{report:?}");
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!(c.mem.snapshot().keys().collect::<Vec<_>>(), ["S", "S/.pvfs2-vault"]);
    // What somebody puts there, renames or removes there stays there.
    let before = s.mem.snapshot();
    c.mem.user_write("S/mine", b"plain by mistake", None);
    let report = c.pass(&mut s).unwrap();
    assert_eq!((report.up, report.down), (0, 0), "{report:?}");
    c.mem.user_remove("S");
    c.pass(&mut s).unwrap();
    assert_eq!(s.mem.snapshot(), before);
    assert!(c.mem.snapshot().contains_key("S/.pvfs2-vault"), "it is back");
    // Unlocked, it unites.
    c.mem.user_write("S/mine", b"plain by mistake", None);
    c.engine.open_vaults([k.vault.clone()]);
    c.pass(&mut s).unwrap();
    assert!(c.has("S/f", b"one") && c.has("S/mine", b"plain by mistake"));
    unseen(&s, &["mine", "mistake", "one"]);
    // Locked again while it holds files: edits here and there change nothing here.
    b.pass(&mut s).unwrap();
    b.engine.open_vaults([]);
    b.mem.user_write("S/f", b"edited while locked", None);
    b.mem.user_remove("S/mine");
    a.pass(&mut s).unwrap();
    a.mem.user_write("S/f", b"two", None);
    a.pass(&mut s).unwrap();
    let before = s.mem.snapshot();
    let report = b.pass(&mut s).unwrap();
    assert_eq!((report.up, report.down), (0, 0), "{report:?}");
    assert_eq!(s.mem.snapshot(), before);
    assert!(b.has("S/f", b"edited while locked"));
    // The folder may be renamed meanwhile: it is the same one.
    assert!(b.mem.user_rename("S", "T"));
    b.pass(&mut s).unwrap();
    a.pass(&mut s).unwrap();
    assert!(a.has("T/f", b"two"));
    // Deleted by who has the key: what lies here is kept, and never sent plain.
    a.mem.user_remove("T");
    a.pass(&mut s).unwrap();
    for _ in 0..2 {
        let report = b.pass(&mut s).unwrap();
        assert_eq!((report.up, report.down), (0, 0), "{report:?}");
    }
    assert!(b.has("T/f", b"edited while locked"));
    assert!(s.mem.snapshot().is_empty(), "{:?}", s.mem.snapshot());
    unseen(&s, &["edited"]);
}

#[test]
fn what_crosses_the_border_is_sent_anew() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, mut b) = pair(&mut s, &k);
    a.mem.user_mkdir("d");
    a.mem.user_write("d/f", b"was plain", None);
    a.mem.user_write("S/g", b"was secret", None);
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    assert!(a.mem.user_rename("d", "S/d") && a.mem.user_rename("S/g", "g"));
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    assert_eq!(plain(&a), plain(&b));
    assert!(b.has("S/d/f", b"was plain") && b.has("g", b"was secret"));
    unseen(&s, &["was plain"]);
    // A folder that is encrypted moves as a whole, with its key file.
    a.mem.user_mkdir("e");
    assert!(a.mem.user_rename("S", "e/S"));
    a.pass(&mut s).unwrap();
    let report = b.pass(&mut s).unwrap();
    assert!(report.bytes_down == 0 && b.has("e/S/d/f", b"was plain"), "{report:?}");
}

#[test]
fn a_key_file_that_goes_missing_makes_nothing_plain() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, _) = pair(&mut s, &k);
    a.mem.user_write("S/f", b"one", None);
    a.pass(&mut s).unwrap();
    a.mem.user_remove("S/.pvfs2-vault");
    a.mem.user_write("S/new", b"after that", None);
    a.pass(&mut s).unwrap();
    assert!(a.mem.snapshot().contains_key("S/.pvfs2-vault"));
    unseen(&s, &["after", "new"]);
    // Damaged, and another folder's.
    for text in [&b"{}"[..], &secret(2).text] {
        a.mem.user_write("S/.pvfs2-vault", text, None);
        a.mem.user_write("S/more", b"after that", None);
        let report = a.pass(&mut s).unwrap();
        unseen(&s, &["after", "more"]);
        if text != b"{}" {
            assert!(report.vaults[0].closed.contains("another key"), "{report:?}");
        }
    }
    // A server that says it is a plain folder gets nothing, and deletes nothing here.
    a.mem.user_write("S/.pvfs2-vault", &k.text, None);
    a.pass(&mut s).unwrap();
    let here = plain(&a);
    let mut liar = Direct::new();
    // As many revisions as the true one has, so that it is believed to be the same history.
    let dir = Mkdir { parent: ROOT, name: "S".into(), key: String::new() };
    let made = liar.store.mkdir(&dir, "x").unwrap();
    assert_eq!(made.id, node(&s, "S"));
    while liar.store.head().unwrap().0 < s.store.head().unwrap().0 {
        let dir = Mkdir {
            parent: made.id,
            name: format!("d{}", liar.store.head().unwrap().0),
            key: String::new(),
        };
        liar.store.mkdir(&dir, "x").unwrap();
    }
    a.mem.user_write("S/third", b"after that", None);
    let report = a.pass(&mut liar).unwrap();
    assert!(plain(&a).keys().all(|p| here.contains_key(p) || p == "S/third"), "{:?}", plain(&a));
    assert!(here.keys().all(|p| plain(&a).contains_key(p)), "{report:?}");
    unseen(&liar, &["after", "third"]);
}

#[test]
fn two_devices_that_encrypt_the_same_name_make_two_folders() {
    let (mut s, k, l) = (Direct::new(), secret(1), secret(2));
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    encrypt(&mut a, "S", &k);
    encrypt(&mut b, "S", &l);
    a.mem.user_write("S/f", b"from a", None);
    b.mem.user_write("S/f", b"from b", None);
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    a.pass(&mut s).unwrap();
    assert!(a.has("S/f", b"from a") && b.has("S (conflict b 2026-01-01)/f", b"from b"));
    unseen(&s, &["from"]);
    for d in [&mut a, &mut b] {
        d.engine.open_vaults([k.vault.clone(), l.vault.clone()]);
        d.pass(&mut s).unwrap();
    }
    assert_eq!(plain(&a), plain(&b));
}

#[test]
fn damage_at_the_server_is_told_and_overwrites_nothing() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, mut b) = pair(&mut s, &k);
    let large = b"0123456789".repeat(30_000);
    a.mem.user_write("S/f", b"precious", None);
    a.mem.user_write("S/large", &large, None);
    a.mem.user_write("S/other", b"other", None);
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    // Somebody at the server gives files other contents, and the table says so too.
    let dir = node(&s, "S");
    let all = s.store.children(dir).unwrap();
    let evil = |n: u64, req: &pvfs2_sync::api::NodeInfo, bytes: &[u8]| UploadBegin {
        id: format!("evilevilevilevil{n}x{}", req.id),
        parent: req.parent,
        name: req.name.clone(),
        replace: Some((req.id, req.rev)),
        size: bytes.len() as u64,
        hash: String::new(),
        mtime_ns: 5,
        exec: false,
    };
    for info in all.iter().filter(|i| i.name != KEY_FILE) {
        let path = s.store.path(info.id).unwrap();
        let mut bytes = s.mem.snapshot()[&path].clone().unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        s.store.put(&evil(1, info, &bytes), &bytes, "x").unwrap();
    }
    for d in [&mut a, &mut b] {
        let report = d.pass(&mut s).unwrap();
        assert_eq!(report.problems.len(), 3, "{report:?}");
        for name in ["f", "large", "other"] {
            let named = |p: &String| p.contains(&format!("{name:?} at the server does not open"));
            assert!(report.problems.iter().any(named), "{report:?}");
        }
        assert!(
            d.has("S/f", b"precious") && d.has("S/large", &large) && d.has("S/other", b"other")
        );
    }
    // Repaired by an edit, or by restoring the version from before.
    let version = |s: &Direct, n| s.store.versions(n).unwrap()[0].rev;
    for info in all.iter().filter(|i| i.name != KEY_FILE) {
        let rev = version(&s, info.id);
        s.store.restore_version(info.id, rev, "x").unwrap();
    }
    let report = a.pass(&mut s).unwrap();
    assert!(report.problems.is_empty() && report.conflicts.is_empty(), "{report:?}");
    // A name that does not open is left alone, on both sides.
    let f = s.store.children(dir).unwrap().into_iter().find(|i| i.name != KEY_FILE).unwrap();
    let name = k.vault.seal_name(999, "elsewhere").unwrap();
    let to = Move { node: f.id, rev: f.rev, parent: f.parent, name, key: String::new() };
    s.store.move_node(&to, "x").unwrap();
    let here = plain(&a);
    let report = a.pass(&mut s).unwrap();
    assert!(report.problems.iter().any(|p| p.contains("does not open")), "{report:?}");
    assert_eq!(plain(&a), here);
}

#[test]
fn the_server_takes_nothing_plain_into_an_encrypted_folder() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, _) = pair(&mut s, &k);
    a.mem.user_mkdir("S/d");
    a.mem.user_write("S/f", b"one", None);
    a.mem.user_write("p", b"plain", None);
    a.mem.user_mkdir("q");
    a.pass(&mut s).unwrap();
    let dir = node(&s, "S");
    let inside = s.store.children(dir).unwrap();
    let below = inside.iter().find(|n| n.hash.is_empty()).unwrap().clone();
    let file = inside.iter().find(|n| !n.hash.is_empty() && n.name != KEY_FILE).unwrap().clone();
    let key = inside.iter().find(|n| n.name == KEY_FILE).unwrap().clone();
    let (p, q) = (node(&s, "p"), node(&s, "q"));
    let rev = |s: &Direct, n| s.store.node(n).unwrap().rev;
    let mut n = 0;
    let mut put = |parent, name: &str, bytes: &[u8], replace| {
        n += 1;
        UploadBegin {
            id: format!("plainplainplain{n:05}x{}", bytes.len()),
            parent,
            name: name.into(),
            replace,
            size: bytes.len() as u64,
            hash: String::new(),
            mtime_ns: 5,
            exec: false,
        }
    };
    let sealed = k.vault.seal_name(0, "new").unwrap();
    assert!(is_sealed(&sealed));
    let before = s.mem.snapshot();
    let refused = |r: Result<pvfs2_sync::api::NodeInfo, SyncError>, what: &str| match r {
        Err(SyncError::Invalid(why)) => assert!(!why.is_empty()),
        other => panic!("{what}: {other:?}"),
    };
    for parent in [dir, below.id] {
        let req = put(parent, "plain.txt", b"plain", None);
        refused(s.store.put(&req, b"plain", "x"), "a plain name");
        let req = put(parent, &sealed, b"plain", None);
        refused(s.store.put(&req, b"plain", "x"), "a plain content");
        let dir = Mkdir { parent, name: "plain".into(), key: String::new() };
        refused(s.store.mkdir(&dir, "x"), "a plain folder");
        let to =
            Move { node: p, rev: rev(&s, p), parent, name: sealed.clone(), key: String::new() };
        refused(s.store.move_node(&to, "x"), "moving in");
        let many = [(put(parent, "many.txt", b"plain", None), b"plain".to_vec())];
        assert_eq!(s.store.put_many(&many, "x").unwrap()[0].status, 400, "many at once");
    }
    let req = put(dir, &file.name, b"plain", Some((file.id, file.rev)));
    refused(s.store.put(&req, b"plain", "x"), "replacing by a plain content");
    for text in [&b"plain"[..], &secret(2).text] {
        let req = put(dir, KEY_FILE, text, Some((key.id, key.rev)));
        refused(s.store.put(&req, text, "x"), "a key file that opens nothing");
    }
    let to =
        Move { node: file.id, rev: file.rev, parent: q, name: "out".into(), key: String::new() };
    refused(s.store.move_node(&to, "x"), "moving out");
    let swap = pvfs2_sync::api::Exchange {
        a: (file.id, file.rev),
        b: (p, rev(&s, p)),
        key: String::new(),
    };
    refused(s.store.exchange(&swap, "x"), "swapping");
    let gone = Delete { node: key.id, rev: key.rev, tree: false, key: String::new() };
    refused(s.store.delete(&gone, "x"), "deleting the key file");
    let to =
        Move { node: key.id, rev: key.rev, parent: q, name: KEY_FILE.into(), key: String::new() };
    refused(s.store.move_node(&to, "x"), "moving the key file");
    for (parent, name) in [(ROOT, KEY_FILE), (below.id, KEY_FILE), (q, ".PVFS2-vault")] {
        let req = put(parent, name, &k.text, None);
        refused(s.store.put(&req, &k.text, "x"), "a key file where none may be");
    }
    let req = put(ROOT, "in the way", b"", None);
    s.store.put(&UploadBegin { parent: q, ..req }, b"", "x").unwrap();
    let req = put(q, KEY_FILE, &k.text, None);
    refused(s.store.put(&req, &k.text, "x"), "a key file in a folder that is not empty");
    let mut after = s.mem.snapshot();
    after.remove("q/in the way");
    assert_eq!(after, before);
    let gone = Delete { node: dir, rev: rev(&s, dir), tree: false, key: String::new() };
    assert!(matches!(s.store.delete(&gone, "x"), Err(SyncError::Stale(_))), "not empty");
}

#[test]
fn a_deleted_folder_comes_out_of_the_trash_with_its_key_file() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, mut b) = pair(&mut s, &k);
    a.mem.user_mkdir("S/d");
    a.mem.user_write("S/d/f", b"one", None);
    a.mem.user_write("S/g", b"two", None);
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    let whole = plain(&a);
    a.mem.user_remove("S");
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    assert!(s.mem.snapshot().is_empty() && plain(&b).is_empty(), "{:?}", plain(&b));
    let trash = s.store.trash().unwrap();
    assert_eq!(trash.len(), 3, "two files and the key file");
    for (info, _) in trash.iter().filter(|(i, _)| i.name != KEY_FILE) {
        s.store.restore_trash(info.id, "x").unwrap();
    }
    assert!(s.store.trash().unwrap().is_empty());
    for d in [&mut a, &mut b] {
        let report = d.pass(&mut s).unwrap();
        assert!(report.problems.is_empty(), "{report:?}");
        assert_eq!(plain(d), whole);
    }
    unseen(&s, &["one", "two"]);
}

#[test]
fn a_new_passphrase_reaches_the_others_and_an_old_key_file_is_noticed() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, mut b) = pair(&mut s, &k);
    let key = FolderKey::from_bytes([1; 32]);
    let mut file = KeyFile::parse(&k.text).unwrap();
    file.set_passphrase(&key, "another passphrase").unwrap();
    let info = s.store.node(node(&s, "S/.pvfs2-vault")).unwrap();
    let text = file.text().into_bytes();
    let req = |n: u32, text: &[u8], rev| UploadBegin {
        id: format!("keykeykeykeykeykey{n}"),
        parent: info.parent,
        name: KEY_FILE.into(),
        replace: Some((info.id, rev)),
        size: text.len() as u64,
        hash: String::new(),
        mtime_ns: 1,
        exec: false,
    };
    let now = s.store.put(&req(1, &text, info.rev), &text, "x").unwrap();
    for d in [&mut a, &mut b] {
        d.mem.user_write("S/f", b"still encrypted with the same key", None);
        d.pass(&mut s).unwrap();
        assert!(d.has("S/.pvfs2-vault", &text));
    }
    unseen(&s, &["still"]);
    s.store.put(&req(2, &k.text, now.rev), &k.text, "x").unwrap();
    let report = a.pass(&mut s).unwrap();
    assert!(report.problems.iter().any(|p| p.contains("older than the one here")), "{report:?}");
    assert!(a.has("S/.pvfs2-vault", &text), "the newer one stays");
    assert!(a.has("S/f", b"still encrypted with the same key"));
}

#[test]
fn names_that_do_not_fit_or_fold_to_one_are_told_apart_here() {
    let (mut s, k) = (Direct::new(), secret(1));
    let (mut a, mut b) = pair(&mut s, &k);
    let long = "x".repeat(200);
    a.mem.user_write(&format!("S/{long}"), b"long", None);
    a.mem.user_write("S/A.txt", b"from a", None);
    b.mem.user_write("S/a.txt", b"from b", None);
    let report = a.pass(&mut s).unwrap();
    assert!(
        report.skipped.iter().any(|w| w.contains("the most in an encrypted folder")),
        "{report:?}"
    );
    for d in [&mut b, &mut a] {
        d.pass(&mut s).unwrap();
    }
    let mut here = plain(&a);
    here.remove(&format!("S/{long}"));
    assert_eq!(here, plain(&b));
    assert!(b.has("S/A.txt", b"from a") && b.has("S/a (conflict b 2026-01-01).txt", b"from b"));
    assert!(a.mem.stat(At(Area::Tree, &format!("S/{long}"))).unwrap().is_some());
}
