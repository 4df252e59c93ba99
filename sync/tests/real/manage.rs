//! The management interface over the real server: storage routes and moves, ports, backups and loads.
//! Moves and loads are cut off at every point, and at every point of the recovery after that.
use pvfs2_sync::api::{Mkdir, UploadBegin};
use pvfs2_sync::error::SyncError;
use pvfs2_sync::server::accounts::User;
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::running::{Options, Running};
use pvfs2_sync::server::users::{Users, now_ms};
use pvfs2_sync::tree::ROOT;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const PASSWORD: &str = "correct horse battery";

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        for dir in ["root", "other", "backups"] {
            std::fs::create_dir(place.path(dir)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> Users {
        let clock: pvfs2_sync::store::Clock = Arc::new(now_ms);
        Users::open(&self.path("root"), Begin::IfEmpty, None, clock).unwrap()
    }

    /// With a user who has files, versions, something in the trash and an upload under way.
    fn with_ann(&self) -> (Users, User) {
        let users = self.open();
        let ann = users.accounts.create("ann", PASSWORD, false, None, 1).unwrap();
        put(&users, &ann, "a.txt", b"first");
        put(&users, &ann, "a.txt", b"second");
        put(&users, &ann, "gone", b"in the trash");
        let worker = users.worker(&ann).unwrap();
        let gone = child(&users, &ann, "gone").unwrap();
        let delete =
            pvfs2_sync::api::Delete { node: gone.0, rev: gone.1, tree: false, key: String::new() };
        worker.change(|s| s.delete(&delete, "t")).unwrap();
        let docs = Mkdir { parent: ROOT, name: "docs".into(), key: String::new() };
        worker.change(|s| s.mkdir(&docs, "t")).unwrap();
        begin(&users, &ann, "under way", 100).unwrap();
        (users, ann)
    }
}

fn child(users: &Users, user: &User, name: &str) -> Option<(i64, i64)> {
    let worker = users.worker(user).unwrap();
    let all = worker.store.lock().children(ROOT).unwrap();
    all.into_iter().find(|n| n.name == name).map(|n| (n.id, n.rev))
}

fn begin(users: &Users, user: &User, name: &str, size: u64) -> Result<String, SyncError> {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let req = UploadBegin {
        id: format!("upload{:020}", NEXT.fetch_add(1, Ordering::Relaxed)),
        parent: ROOT,
        name: name.to_owned(),
        replace: child(users, user, name),
        size,
        hash: String::new(),
        mtime_ns: 1_700_000_000_123_456_789,
        exec: name == "a.txt",
    };
    users.worker(user)?.store.lock().upload_begin(&req)?;
    Ok(req.id)
}

fn try_put(users: &Users, user: &User, name: &str, bytes: &[u8]) -> Result<(), SyncError> {
    let id = begin(users, user, name, bytes.len() as u64)?;
    let worker = users.worker(user)?;
    worker.progress(&id)?.lock().append(&*worker.files, &id, 0, bytes)?;
    worker.commit(&id, "t").map(|_| ())
}

fn put(users: &Users, user: &User, name: &str, bytes: &[u8]) {
    try_put(users, user, name, bytes).unwrap();
}

/// Every file below a folder, with its bytes, mode and time.
fn plain(dir: &Path) -> BTreeMap<String, (Vec<u8>, u32, i64)> {
    use std::os::unix::fs::MetadataExt;
    let mut out = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                out.insert(format!("{name}/"), (Vec::new(), 0, 0));
                left.push(path);
            } else {
                out.insert(name, (std::fs::read(&path).unwrap(), meta.mode(), meta.mtime()));
            }
        }
    }
    out
}

/// The store works, with the files, versions and trash that it had.
fn is_whole(users: &Users, ann: &User) {
    let worker = users.worker(ann).unwrap();
    let (tree, own) = worker.folders(ann);
    let files = plain(&tree);
    assert_eq!(files["a.txt"].0, b"second", "{files:?}");
    assert_eq!((files["a.txt"].1 & 0o111 != 0, files["a.txt"].2), (true, 1_700_000_000));
    assert!(files.contains_key("docs/"));
    let (node, _) = child(users, ann, "a.txt").unwrap();
    let store = worker.store.lock();
    let versions = store.versions(node).unwrap();
    let (_, path) = store.version_path(node, versions[0].rev).unwrap();
    assert_eq!(std::fs::read(own.join(path)).unwrap(), b"first");
    assert_eq!(store.trash().unwrap().len(), 1);
    drop(store);
    put(users, ann, "probe", b"works");
    assert_eq!(std::fs::read(tree.join("probe")).unwrap(), b"works");
    let (id, rev) = child(users, ann, "probe").unwrap();
    let delete = pvfs2_sync::api::Delete { node: id, rev, tree: false, key: String::new() };
    worker.change(|s| s.delete(&delete, "t")).unwrap();
    worker.store.lock().purge(id).unwrap();
}

/// Nothing of a move or a load is left over.
fn nothing_aside(place: &Place, users: &Users) {
    assert!(users.local.swaps().unwrap().is_empty());
    for root in ["root", "other"] {
        let own = place.path(root).join(".sync");
        let names = std::fs::read_dir(&own).into_iter().flatten();
        let names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let left = names.iter().any(|n| n.starts_with("in-") || n.starts_with("out-"));
        assert!(!left, "{root}: {names:?}");
    }
}

#[test]
fn a_store_moves_to_another_route_and_back() {
    let place = Place::new();
    let (users, ann) = place.with_ann();
    for bad in ["relative", place.path("root/in").to_str().unwrap(), "/nowhere/at/all"] {
        assert!(users.add_route("disk2", Path::new(bad)).is_err(), "{bad}");
    }
    let route = users.add_route("disk2", &place.path("other")).unwrap();
    assert!(users.add_route("disk3", &place.path("other")).is_err(), "one store per directory");
    let old = users.worker(&ann).unwrap();
    users.move_store(&ann, route.id).unwrap();
    assert!(old.is_retired() && !place.path("root/ann").exists());
    assert!(place.path("other/ann/a.txt").exists());
    is_whole(&users, &ann);
    let late = old.store.lock().upload_begin(&UploadBegin {
        id: "late000000000000000".into(),
        parent: ROOT,
        name: "late".into(),
        replace: None,
        size: 1,
        hash: String::new(),
        mtime_ns: 0,
        exec: false,
    });
    assert!(matches!(late, Err(SyncError::Held(_))), "{late:?}");
    assert_eq!(SyncError::Held(String::new()).status(), 503);
    assert!(users.drop_route(route.id).is_err(), "a store lies there");
    drop((users, old));
    // The next start finds it there, and waits for the route if it is not mounted (trap 5).
    std::fs::rename(place.path("other"), place.path("away")).unwrap();
    std::fs::create_dir(place.path("other")).unwrap();
    let users = place.open();
    assert!(matches!(users.worker(&ann), Err(SyncError::RootLost(_))));
    assert_eq!(std::fs::read_dir(place.path("other")).unwrap().count(), 0, "nothing began there");
    std::fs::remove_dir(place.path("other")).unwrap();
    std::fs::rename(place.path("away"), place.path("other")).unwrap();
    is_whole(&users, &ann);
    // While it is open and goes: noticed too.
    std::fs::rename(place.path("other"), place.path("away")).unwrap();
    assert!(users.worker(&ann).is_err());
    std::fs::rename(place.path("away"), place.path("other")).unwrap();
    users.move_store(&ann, 0).unwrap();
    is_whole(&users, &ann);
    nothing_aside(&place, &users);
    users.drop_route(route.id).unwrap();
    // A store that begins, begins where new ones are to.
    std::fs::remove_dir_all(place.path("other/.sync")).unwrap();
    let route = users.add_route("disk2", &place.path("other")).unwrap();
    users.local.set_word("route", &route.id.to_string()).unwrap();
    let bob = users.accounts.create("bob", PASSWORD, false, None, 1).unwrap();
    put(&users, &bob, "x", b"1");
    assert!(place.path("other/bob/x").exists());
}

#[test]
fn a_move_does_not_overwrite_what_is_there_and_needs_room() {
    let place = Place::new();
    let (users, ann) = place.with_ann();
    let route = users.add_route("disk2", &place.path("other")).unwrap();
    std::fs::create_dir(place.path("other/ann")).unwrap();
    assert!(matches!(users.move_store(&ann, route.id), Err(SyncError::Taken(_))));
    std::fs::remove_dir(place.path("other/ann")).unwrap();
    // A file that the table has and the disk has not: nothing moves.
    std::fs::rename(place.path("root/ann/a.txt"), place.path("a.txt")).unwrap();
    let lost = users.move_store(&ann, route.id);
    assert!(matches!(lost, Err(SyncError::Damaged(_))), "{lost:?}");
    nothing_aside(&place, &users);
    std::fs::rename(place.path("a.txt"), place.path("root/ann/a.txt")).unwrap();
    is_whole(&users, &ann);
}

/// Cuts `work` off at each of its points in turn, and the recovery after that at each of its points,
/// until both come through; `fine` looks at what is there then.
fn cut_everywhere(work: impl Fn(&Users, &User) -> bool, fine: impl Fn(&Place, &Users, &User)) {
    for first in 0.. {
        let mut cut_at_all = false;
        for second in 0.. {
            let place = Place::new();
            let (users, ann) = place.with_ann();
            users.add_route("disk2", &place.path("other")).unwrap();
            users.set_backup_dir(place.path("backups").to_str().unwrap()).unwrap();
            users.make_backup(std::slice::from_ref(&ann), "test").unwrap();
            users.crash_in.store(first, Ordering::Relaxed);
            cut_at_all = !work(&users, &ann);
            drop(users);
            // The start after the crash has no points: let it begin without the recovery.
            let users = place.open_cut(second);
            let cut_again = users.crash_in.load(Ordering::Relaxed) < 0;
            drop(users);
            let users = place.open();
            is_whole(&users, &ann);
            nothing_aside(&place, &users);
            fine(&place, &users, &ann);
            if !cut_again {
                break;
            }
        }
        if !cut_at_all {
            assert!(first > 5, "there are points to be cut at");
            return;
        }
    }
}

impl Place {
    /// Opens it, with the process ending at the given point of the recovery.
    fn open_cut(&self, point: i64) -> Users {
        let clock: pvfs2_sync::store::Clock = Arc::new(now_ms);
        Users::open_cut(&self.path("root"), clock, point).unwrap()
    }
}

#[test]
fn trap12_a_move_that_is_cut_off_anywhere_has_moved_or_not() {
    cut_everywhere(
        |users, ann| users.move_store(ann, 1).is_ok(),
        |place, users, ann| {
            let there = [place.path("root/ann").exists(), place.path("other/ann").exists()];
            assert_eq!(there.iter().filter(|t| **t).count(), 1, "{there:?}");
            assert_eq!(there[1], users.place(ann).unwrap() == 1);
        },
    );
}

#[test]
fn trap12_a_load_that_is_cut_off_anywhere_has_loaded_or_not() {
    cut_everywhere(
        |users, _| {
            let name = users.backups().unwrap()[0].name.clone();
            users.load_backup(&name, None).is_ok()
        },
        |_, users, ann| {
            assert_eq!(users.place(ann).unwrap(), 0);
            for b in users.backups().unwrap() {
                assert!(users.verify_backup(&b.name).unwrap().is_empty());
            }
        },
    );
}

#[test]
fn trap7_a_backup_is_made_checked_and_loaded_as_a_new_history() {
    let place = Place::new();
    let (users, ann) = place.with_ann();
    let dir = place.path("backups");
    assert!(users.set_backup_dir(place.path("root/x").to_str().unwrap()).is_err());
    users.set_backup_dir(dir.to_str().unwrap()).unwrap();
    let token = users.accounts.share(ann.id, ROOT, "", None, 1).unwrap();
    let all = std::slice::from_ref(&ann);
    let one = users.make_backup(all, "by hand").unwrap();
    let saved = users.backup(&one).unwrap().1.users;
    assert_eq!((saved[0].files, saved[0].problems.len()), (3, 0), "{saved:?}");
    assert_eq!(std::fs::read(dir.join(&one).join("ann/tree/a.txt")).unwrap(), b"second");
    assert!(!place.path("root/.sync/1/snapshot").exists());

    // The next one shares the files that are the same.
    put(&users, &ann, "b.txt", b"later");
    let two = users.make_backup(all, "by hand").unwrap();
    let inode = |name: &str| {
        let meta = std::fs::metadata(dir.join(name).join("ann/tree/a.txt")).unwrap();
        (std::os::unix::fs::MetadataExt::ino(&meta), std::os::unix::fs::MetadataExt::nlink(&meta))
    };
    assert_eq!((inode(&one).0, inode(&one).1), (inode(&two).0, 2));

    // Loading the first: as it was then, another history, what is newer is in a backup of its own.
    let late = users.accounts.share(ann.id, child(&users, &ann, "b.txt").unwrap().0, "", None, 9);
    let epoch = users.worker(&ann).unwrap().store.lock().head().unwrap().1.to_owned();
    let said = users.load_backup(&one, Some("ann")).unwrap();
    is_whole(&users, &ann);
    assert!(child(&users, &ann, "b.txt").is_none());
    let worker = users.worker(&ann).unwrap();
    let changes = worker.store.lock().changes(&epoch, 3);
    assert!(matches!(changes, Err(SyncError::Epoch)), "devices begin anew: {changes:?}");
    assert!(users.accounts.shared(&token, 5).is_ok(), "the link was there then");
    assert!(users.accounts.shared(&late.unwrap(), 5).is_err(), "this one was not");
    let before = said.rsplit(' ').next().unwrap();
    users.load_backup(before, Some("ann")).unwrap();
    assert!(child(&users, &ann, "b.txt").is_some());

    // A backup that is damaged is told, and is not loaded.
    let file = dir.join(&two).join("ann/own/versions");
    let version = std::fs::read_dir(&file).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&version).unwrap();
    std::fs::write(&version, "xxxxx").unwrap();
    assert_eq!(users.verify_backup(&two).unwrap().len(), 1);
    assert!(users.verify_backup(&one).unwrap().is_empty());
    let refused = users.load_backup(&two, None);
    assert!(matches!(refused, Err(SyncError::Damaged(_))), "{refused:?}");
    is_whole(&users, &ann);
    nothing_aside(&place, &users);
    users.drop_backup(&two).unwrap();
    assert!(users.verify_backup(&one).unwrap().is_empty(), "the others keep their files");
    drop((users, worker));

    // Everything is lost but the backups: a new root gets the accounts and the files back.
    std::fs::remove_dir_all(place.path("root")).unwrap();
    std::fs::create_dir(place.path("root")).unwrap();
    let users = place.open();
    users.accounts.create("admin", PASSWORD, true, None, 1).unwrap();
    users.set_backup_dir(dir.to_str().unwrap()).unwrap();
    users.load_backup(&one, None).unwrap();
    let ann = users.accounts.by_name("ann").unwrap().unwrap();
    assert_eq!(users.accounts.check("ann", PASSWORD, "x", 5).unwrap(), ann);
    is_whole(&users, &ann);
    // Accounts that are lost alone: nobody new gets the number, and with it the store, of another.
    drop(users);
    for file in ["accounts.db", "accounts.db-wal", "accounts.db-shm"] {
        let _ = std::fs::remove_file(place.path("root/.sync").join(file));
    }
    let users = place.open();
    let eve = users.accounts.create("eve", PASSWORD, false, None, 1).unwrap();
    assert!(eve.id > ann.id, "{} {}", eve.id, ann.id);
    assert!(child(&users, &eve, "a.txt").is_none());
    users.load_backup(&one, None).unwrap();
    let ann = users.accounts.by_name("ann").unwrap().unwrap();
    is_whole(&users, &ann);
    // A backup disk that is not mounted is no empty list.
    std::fs::rename(&dir, place.path("away")).unwrap();
    std::fs::create_dir(&dir).unwrap();
    assert!(matches!(users.backups(), Err(SyncError::RootLost(_))));
}

#[test]
fn a_backup_that_is_cut_off_leaves_nothing_that_counts() {
    for point in 0.. {
        let place = Place::new();
        let (users, ann) = place.with_ann();
        users.crash_in.store(point, Ordering::Relaxed);
        let cut = users.make_backup(std::slice::from_ref(&ann), "t").is_err();
        drop(users);
        let users = place.open();
        assert_eq!(users.backups().unwrap().len(), usize::from(!cut));
        is_whole(&users, &ann);
        assert!(!place.path("root/.sync/1/snapshot").exists());
        let name = users.make_backup(std::slice::from_ref(&ann), "t").unwrap();
        assert!(users.verify_backup(&name).unwrap().is_empty());
        let names = std::fs::read_dir(place.path("root/.sync/backups")).unwrap();
        assert!(!names.map(|e| e.unwrap().path()).any(|p| p.extension().is_some()));
        if !cut {
            assert!(point > 2);
            return;
        }
    }
}

#[test]
fn ports_change_without_losing_what_is_under_way() {
    let place = Place::new();
    let options = Options {
        begin: Begin::New,
        ..Options::new(place.path("root"), "127.0.0.1:0".parse().unwrap())
    };
    let server = Running::start(&options).unwrap();
    let ann = server.app.accounts.create("ann", PASSWORD, false, None, now_ms()).unwrap();
    let (token, _) = server.app.accounts.begin_session(ann.id, "dev", now_ms()).unwrap();
    let agent = crate::common::agent(&server);
    let ask = |addr: &str, path: &str| {
        let url = format!("https://{addr}/api/v1{path}");
        agent.get(url).header("authorization", format!("Bearer {token}")).call()
    };
    let old = server.addr.to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = server.app.change_port(taken.local_addr().unwrap(), true);
    assert!(matches!(bad, Err(SyncError::Io { .. })), "{bad:?}");
    let last = server.app.change_port(server.addr, false);
    assert!(matches!(last, Err(SyncError::Invalid(_))), "the only one stays: {last:?}");
    server.app.change_port("127.0.0.1:0".parse().unwrap(), true).unwrap();
    let ports = server.app.ports.get().unwrap().upgrade().unwrap();
    let new = ports.list().into_iter().find(|p| p.address != old).unwrap().address;
    for addr in [&old, &new] {
        assert_eq!(ask(addr, "/me").unwrap().status(), 200, "both answer");
    }
    // Something is under way on the old one while it is closed: a question that waits for a change,
    // and an upload of which half is sent.
    std::thread::scope(|scope| {
        let (waiting, sent) = std::sync::mpsc::channel();
        let upload = scope.spawn({
            let (old, token, agent) = (old.clone(), token.clone(), agent.clone());
            let app = server.app.clone();
            move || {
                let worker = app.worker(&ann).unwrap();
                let begin = UploadBegin {
                    id: "upload0000000000000000".into(),
                    parent: ROOT,
                    name: "big".into(),
                    replace: None,
                    size: 6 << 20,
                    hash: String::new(),
                    mtime_ns: 0,
                    exec: false,
                };
                worker.store.lock().upload_begin(&begin).unwrap();
                let url = format!("https://{old}/api/v1/uploads/{}?offset=0", begin.id);
                let body = Slow { left: 6 << 20, half: 3 << 20, said: Some(waiting) };
                let answer = agent
                    .put(url)
                    .header("authorization", format!("Bearer {token}"))
                    .send(ureq::SendBody::from_owned_reader(body))
                    .unwrap();
                assert_eq!(answer.status(), 200);
                worker.commit(&begin.id, "t").unwrap();
            }
        });
        sent.recv().unwrap();
        server.app.change_port(server.addr, false).unwrap();
        assert_eq!(ask(&new, "/me").unwrap().status(), 200);
        upload.join().unwrap();
    });
    assert_eq!(std::fs::metadata(place.path("root/ann/big")).unwrap().len(), 6 << 20);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while ports.list().len() > 1 {
        assert!(std::time::Instant::now() < end, "{:?}", ports.list());
        std::thread::yield_now();
    }
    assert!(std::net::TcpStream::connect(&old).is_err(), "the old one is closed");
    assert_eq!(ask(&new, "/me").unwrap().status(), 200);
    // Kept for the next start with the same --listen; another --listen wins.
    drop((server, ports));
    let options = Options { begin: Begin::Never, ..options };
    assert_eq!(Running::start(&options).unwrap().addr.to_string(), new);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = Options { listen: free, ..options };
    assert_eq!(Running::start(&options).unwrap().addr, free);
}

/// A body that says when half of it is gone.
struct Slow {
    left: usize,
    half: usize,
    said: Option<std::sync::mpsc::Sender<()>>,
}

impl std::io::Read for Slow {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = buf.len().min(self.left);
        buf[..n].fill(7);
        self.left -= n;
        if self.left < self.half
            && let Some(said) = self.said.take()
        {
            said.send(()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        Ok(n)
    }
}
