//! Simulation's counterpart: the real server over TLS on a real directory, real devices and daemons,
//! and a browser's requests.
use crate::common::folder::{tree, until};

use pvfs2_sync::api::{Changes, Delete, Login, UploadBegin};
use pvfs2_sync::device::Remote;
use pvfs2_sync::device::config::{Config, conflicts_in};
use pvfs2_sync::device::daemon::{self, Status};
use pvfs2_sync::device::engine::Report;
use pvfs2_sync::device::http::Client;
use pvfs2_sync::error::{Result, SyncError};
use pvfs2_sync::rng::hex;
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::running::{Kept, Options, Running};
use pvfs2_sync::server::users::now_ms;
use pvfs2_sync::tree::ROOT;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

const PASSWORD: &str = "correct horse battery";

struct Place {
    dir: tempfile::TempDir,
    server: Option<Running>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("user")).unwrap();
        let mut place = Self { dir, server: None };
        place.start("127.0.0.1:0".parse().unwrap());
        let accounts = &place.server.as_ref().unwrap().app.accounts;
        accounts.create("ann", PASSWORD, false, None, now_ms()).unwrap();
        place
    }

    fn start(&mut self, listen: SocketAddr) {
        let options = Options {
            signup: Some(Some(1 << 20)),
            begin: Begin::IfEmpty,
            ..Options::new(self.dir.path().join("user"), listen)
        };
        self.server = Some(Running::start(&options).unwrap());
    }

    fn restart(&mut self) {
        let addr = self.addr();
        self.server = None;
        self.start(addr);
    }

    fn addr(&self) -> SocketAddr {
        self.server.as_ref().unwrap().addr
    }

    fn url(&self) -> String {
        format!("https://{}", self.addr())
    }

    fn ca(&self) -> String {
        std::fs::read_to_string(&self.server.as_ref().unwrap().cert).unwrap()
    }

    fn device(&self, name: &str) -> Device {
        let d = Device {
            state: self.dir.path().join(format!("{name}.state")),
            folder: self.dir.path().join(name),
        };
        let login = Login { user: "ann".into(), password: PASSWORD.into(), device: name.into() };
        Config::set_up(&d.state, &self.url(), Some(self.ca()), &login, &d.folder).unwrap();
        d
    }

    fn plain(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        tree(&self.dir.path().join("user/ann"))
    }
}

struct Device {
    state: PathBuf,
    folder: PathBuf,
}

impl Device {
    fn pass(&self) -> Result<Report> {
        daemon::once(&self.state, false)
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn tree(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        tree(&self.folder)
    }
}

#[test]
fn two_devices_and_plain_files_on_the_server() {
    let mut place = Place::new();
    let (a, b) = (place.device("a"), place.device("b"));
    let big = vec![7_u8; 3 * (1 << 20) + 5];
    a.write("docs/plan.txt", b"one");
    a.write("docs/big", &big);
    a.write("empty", b"");
    let report = a.pass().unwrap();
    assert_eq!((report.up, report.problems.len()), (4, 0), "{report:?}");
    assert_eq!(place.plain(), a.tree(), "files are plain on the server");
    b.pass().unwrap();
    assert_eq!(b.tree(), a.tree());
    let mode =
        |d: &Device| std::fs::metadata(d.folder.join("docs/big")).unwrap().modified().unwrap();
    assert_eq!(mode(&a), mode(&b), "the time travels along");
    let idle = b.pass().unwrap();
    assert_eq!((idle.up, idle.down, idle.bytes_up, idle.bytes_down), (0, 0, 0, 0));

    // The server ends and starts again; devices stay signed in.
    place.restart();
    // A rename here, an edit there: both live on.
    std::fs::rename(a.folder.join("docs"), a.folder.join("papers")).unwrap();
    b.write("docs/plan.txt", b"two, longer");
    a.pass().unwrap();
    b.pass().unwrap();
    a.pass().unwrap();
    assert_eq!(a.tree()["papers/plan.txt"], Some(b"two, longer".to_vec()));
    assert_eq!((a.tree(), b.tree()), (b.tree(), place.plain()));

    // Edits on both sides: the server's keeps the name, the other becomes a copy, on all devices.
    a.write("papers/plan.txt", b"from a");
    b.write("papers/plan.txt", b"from b!");
    a.pass().unwrap();
    let report = b.pass().unwrap();
    a.pass().unwrap();
    assert_eq!(report.conflicts.len(), 1);
    assert_eq!(a.tree()["papers/plan.txt"], Some(b"from a".to_vec()));
    let copies = conflicts_in(&a.folder).unwrap();
    assert_eq!(copies, report.conflicts);
    assert_eq!(a.tree()[&copies[0]], Some(b"from b!".to_vec()));

    // A deletion travels; what is the same on both sides is no conflict (trap 4).
    std::fs::remove_file(a.folder.join("papers/big")).unwrap();
    a.write("same", b"same");
    b.write("same", b"same");
    a.pass().unwrap();
    assert!(b.pass().unwrap().conflicts.is_empty());
    assert_eq!((b.tree(), b.tree().contains_key("papers/big")), (place.plain(), false));
}

#[test]
fn trap5_a_mass_delete_waits_for_a_yes_and_a_lost_folder_deletes_nothing() {
    let place = Place::new();
    let a = place.device("a");
    for i in 0..30 {
        a.write(&format!("d/{i}"), format!("{i}").as_bytes());
    }
    a.pass().unwrap();
    let full = place.plain();
    // The folder is not there, or an empty one lies in its place.
    let away = a.folder.with_extension("away");
    std::fs::rename(&a.folder, &away).unwrap();
    assert!(a.pass().is_err());
    std::fs::create_dir(&a.folder).unwrap();
    assert!(matches!(a.pass(), Err(SyncError::RootLost(_))));
    std::fs::remove_dir(&a.folder).unwrap();
    std::fs::rename(&away, &a.folder).unwrap();
    // Really emptied: the brake holds until somebody says yes.
    std::fs::remove_dir_all(a.folder.join("d")).unwrap();
    assert!(matches!(a.pass(), Err(SyncError::Brake(31, 31))));
    assert_eq!(place.plain(), full);
    daemon::once(&a.state, true).unwrap();
    assert!(place.plain().is_empty());
}

#[test]
fn trap5_a_server_whose_mount_goes_answers_nothing_and_no_device_deletes() {
    let place = Place::new();
    let laptop = place.device("laptop");
    for n in 0..20 {
        laptop.write(&format!("d/{n}"), b"precious");
    }
    laptop.pass().unwrap();
    let (before, there) = (laptop.tree(), place.plain());
    assert_eq!(there.len(), 21);
    let agent = crate::common::agent(place.server.as_ref().unwrap());
    // As after `umount -l`: the path names the bare mount point.
    let (root, away) = (place.dir.path().join("user"), place.dir.path().join("away"));
    std::fs::rename(&root, &away).unwrap();
    std::fs::create_dir(&root).unwrap();
    for path in ["/healthz", "/login", "/api/v1/me", "/files/1", "/style.css"] {
        let answer = agent.get(format!("{}{path}", place.url())).call().unwrap();
        assert_eq!(answer.status(), 503, "{path}");
    }
    let why = laptop.pass().unwrap_err();
    assert!(matches!(why, SyncError::Net(_)), "{why}");
    std::fs::write(laptop.folder.join("new"), b"n").unwrap();
    laptop.pass().unwrap_err();
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "nothing on the mount point");
    let after = laptop.tree();
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)));
    // Mounted again: all is as it was, and goes on.
    std::fs::remove_dir(&root).unwrap();
    std::fs::rename(&away, &root).unwrap();
    assert_eq!(place.plain(), there);
    laptop.pass().unwrap();
    assert_eq!(place.plain().len(), 22);
    assert_eq!(laptop.tree(), after);
}

#[test]
fn trap5_a_root_that_is_mounted_anew_is_served_again() {
    let mut place = Place::new();
    let laptop = place.device("laptop");
    laptop.write("d/one", b"1");
    laptop.pass().unwrap();
    let server = place.server.take().unwrap();
    let (root, away) = (place.dir.path().join("user"), place.dir.path().join("away"));
    let options = Options::new(root.clone(), server.addr);
    let kept = Kept::new(server, &options).unwrap();
    std::fs::rename(&root, &away).unwrap();
    std::fs::create_dir(&root).unwrap();
    laptop.write("d/two", b"2");
    laptop.pass().unwrap_err();
    // The same store in another directory: what a mount of the same file system is.
    std::fs::remove_dir(&root).unwrap();
    let new = place.dir.path().join("new");
    let copied = std::process::Command::new("cp").arg("-a").args([&away, &new]).status().unwrap();
    assert!(copied.success());
    std::fs::rename(&new, &root).unwrap();
    until("the server to answer again", || laptop.pass().is_ok());
    assert_eq!((place.plain(), place.plain().len()), (laptop.tree(), 3));
    assert_eq!(tree(&away.join("ann")).len(), 2, "nothing went to the one before");
    drop(kept);
    laptop.pass().unwrap_err();
}

#[test]
fn trap5_a_server_does_not_start_on_an_empty_mount_point() {
    let mut place = Place::new();
    place.server = None;
    let root = place.dir.path().join("user");
    std::fs::rename(&root, place.dir.path().join("away")).unwrap();
    std::fs::create_dir(&root).unwrap();
    let options = Options::new(root.clone(), "127.0.0.1:0".parse().unwrap());
    let why = Running::start(&options).unwrap_err().to_string();
    assert!(why.contains("mount it first") && why.contains("--init"), "{why}");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn trap8_a_first_pass_of_a_full_folder_unites() {
    let place = Place::new();
    let a = place.device("a");
    a.write("x/one", b"1");
    a.write("x/both", b"from a");
    a.pass().unwrap();
    let b = place.device("b");
    b.write("x/two", b"2");
    b.write("x/both", b"from b");
    b.write("x/one", b"1");
    let report = b.pass().unwrap();
    assert_eq!(report.conflicts.len(), 1);
    a.pass().unwrap();
    assert_eq!((a.tree(), a.tree().len()), (b.tree(), 5));
}

#[test]
fn a_server_that_runs_drops_what_was_kept_long_enough() {
    static NOW: AtomicI64 = AtomicI64::new(1_700_000_000_000);
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        begin: Begin::New,
        clock: || NOW.load(Ordering::Relaxed),
        sweep_every: Duration::from_millis(20),
        ..Options::new(dir.path().to_owned(), "127.0.0.1:0".parse().unwrap())
    };
    let server = Running::start(&options).unwrap();
    let app = &server.app;
    let ann = app.accounts.create("ann", PASSWORD, false, None, now_ms()).unwrap();
    let worker = app.worker(&ann).unwrap();
    let put = |id: u8, name: &str| {
        let req = UploadBegin {
            id: format!("{id:032}"),
            parent: ROOT,
            name: name.into(),
            replace: None,
            size: 5,
            hash: String::new(),
            mtime_ns: 0,
            exec: false,
        };
        worker.change(|s| s.put(&req, b"bytes", "t")).unwrap()
    };
    let (gone, stays) = (put(1, "gone"), put(2, "stays"));
    let req = Delete { node: gone.id, rev: gone.rev, tree: false, key: String::new() };
    worker.change(|s| s.delete(&req, "t")).unwrap();
    let rounds = || {
        // Two rounds have begun and ended since.
        for _ in 0..2 {
            *app.swept.lock() = None;
            until("a round", || app.swept.lock().is_some());
        }
        let store = worker.store.lock();
        (store.trash().unwrap().len(), store.usage().unwrap().0, store.node(gone.id).is_ok())
    };
    const DAY: i64 = 86_400_000;
    assert_eq!(rounds(), (1, 10, true));
    NOW.fetch_add(29 * DAY, Ordering::Relaxed);
    assert_eq!(rounds(), (1, 10, true), "30 days, by default");
    NOW.fetch_add(DAY, Ordering::Relaxed);
    assert_eq!(rounds(), (0, 5, true));
    app.accounts.set_keep_days([30, 180, 31, 180]).unwrap();
    assert_eq!(rounds(), (0, 5, true));
    NOW.fetch_add(DAY, Ordering::Relaxed);
    assert_eq!(rounds(), (0, 5, false), "the mark too");
    NOW.fetch_add(3_650 * DAY, Ordering::Relaxed);
    assert_eq!(rounds(), (0, 5, false));
    assert_eq!(worker.store.lock().children(ROOT).unwrap(), vec![stays]);
}

#[test]
fn metrics_are_for_this_machine_and_count() {
    let place = Place::new();
    place.device("laptop").pass().unwrap();
    let agent = crate::common::agent(place.server.as_ref().unwrap());
    let ask = |more: Option<(&str, &str)>| {
        let mut request = ureq::http::Request::get(format!("{}/metrics", place.url()));
        if let Some((k, v)) = more {
            request = request.header(k, v);
        }
        let mut answer = agent.run(request.body(()).unwrap()).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    let (status, text) = ask(None);
    assert_eq!(status, 200);
    for line in [
        "pvfs2_sync_users 1",
        "pvfs2_sync_stores_open 1",
        "pvfs2_sync_requests_total{route=\"/api/v1/login\",status=\"200\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    assert!(!text.contains("ann"), "no names");
    // Through a proxy: with an administrator's token only.
    assert_eq!(ask(Some(("x-forwarded-for", "192.0.2.1"))).0, 401);
    let accounts = &place.server.as_ref().unwrap().app.accounts;
    let admin = accounts.create("boss", PASSWORD, true, None, now_ms()).unwrap();
    for (user, want) in [(1, 401), (admin.id, 200)] {
        let token = accounts.begin_session(user, "prometheus", now_ms()).unwrap().0;
        let request = ureq::http::Request::get(format!("{}/metrics", place.url()))
            .header("via", "1.1 proxy")
            .header("authorization", format!("Bearer {token}"));
        let answer = agent.run(request.body(()).unwrap()).unwrap();
        assert_eq!(answer.status(), want);
    }
}

#[test]
fn trap2_same_size_and_time_but_other_bytes_are_seen() {
    let place = Place::new();
    let a = place.device("a");
    a.write("f", b"one");
    let time = std::fs::metadata(a.folder.join("f")).unwrap().modified().unwrap();
    a.pass().unwrap();
    a.write("f", b"two");
    let f = std::fs::File::options().write(true).open(a.folder.join("f")).unwrap();
    f.set_modified(time).unwrap();
    a.pass().unwrap();
    assert_eq!(place.plain()["f"], Some(b"two".to_vec()));
}

#[test]
fn trap15_what_is_not_taken_is_shown() {
    let place = Place::new();
    let a = place.device("a");
    a.write("fine", b"1");
    a.write("back\\slash", b"2");
    std::os::unix::fs::symlink("/etc/passwd", a.folder.join("link")).unwrap();
    let report = a.pass().unwrap();
    assert_eq!(report.skipped.len(), 2, "{:?}", report.skipped);
    assert_eq!(place.plain().keys().collect::<Vec<_>>(), ["fine"]);
    // A link in the place of a file is no deletion.
    std::fs::remove_file(a.folder.join("fine")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", a.folder.join("fine")).unwrap();
    a.pass().unwrap();
    assert_eq!(place.plain()["fine"], Some(b"1".to_vec()));
}

#[test]
fn trap13_an_upload_goes_on_where_it_was_after_a_restart() {
    let mut place = Place::new();
    let login = Login { user: "ann".into(), password: PASSWORD.into(), device: "x".into() };
    let token = Client::new(&place.url(), Some(&place.ca()), "").unwrap().login(&login).unwrap();
    let client = |p: &Place| Client::new(&p.url(), Some(&p.ca()), &token.token).unwrap();
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let req = UploadBegin {
        id: "abcdefghijklmnop".into(),
        parent: ROOT,
        name: "big".into(),
        replace: None,
        size: bytes.len() as u64,
        hash: hex(blake3::hash(&bytes).as_bytes()),
        mtime_ns: 1,
        exec: false,
    };
    let mut c = client(&place);
    assert_eq!(c.upload_begin(&req).unwrap().offset, 0);
    c.upload_append(&req.id, 0, &bytes[..500_000]).unwrap();
    assert!(c.upload_append(&req.id, 7, b"x").unwrap_err().is_stale(), "a wrong offset");
    place.restart();
    let mut c = client(&place);
    assert_eq!(c.upload_begin(&req).unwrap().offset, 500_000);
    assert!(matches!(c.upload_commit(&req.id), Err(SyncError::Damaged(_))), "not all is there");
    c.upload_append(&req.id, 500_000, &bytes[500_000..]).unwrap();
    let node = c.upload_commit(&req.id).unwrap();
    assert_eq!(c.upload_commit(&req.id).unwrap(), node, "sent again");
    assert_eq!(c.outcome(&req.id).unwrap(), Some(node));
    assert_eq!(place.plain()["big"].as_ref(), Some(&bytes));
    assert!(Client::new(&place.url(), None, "").unwrap().login(&login).is_err(), "unknown issuer");
    assert!(Client::new("http://127.0.0.1:1", None, "").is_err(), "never without TLS");
}

#[test]
fn daemons_carry_changes_over_within_moments() {
    let place = Place::new();
    let (a, b) = (place.device("a"), place.device("b"));
    let stop = Arc::new(AtomicBool::new(false));
    let run = |d: &Device| {
        let (state, stop) = (d.state.clone(), stop.clone());
        std::thread::spawn(move || daemon::run(&state, Duration::from_secs(600), true, &stop))
    };
    let threads = [run(&a), run(&b)];
    let in_step = |d: &Device| Status::load(&d.state).is_ok_and(|s| s.state == "in step");
    until("both daemons are in step", || in_step(&a) && in_step(&b));
    assert!(Config::lock(&a.state).unwrap().is_none(), "one daemon per state");
    a.write("deep/er/hello", b"hello");
    until("the file is on b", || b.tree().get("deep/er/hello") == Some(&Some(b"hello".to_vec())));
    b.write("deep/er/hello", b"hello back");
    until("the edit is on a", || {
        a.tree().get("deep/er/hello") == Some(&Some(b"hello back".to_vec()))
    });
    std::fs::remove_dir_all(a.folder.join("deep")).unwrap();
    until("the deletion is on b", || b.tree().is_empty());
    for i in 0..20 {
        a.write(&format!("m/{i}"), b"x");
    }
    until("many files are on b", || b.tree().len() == 21);
    // The brake holds in the daemon too, and a wish releases it.
    std::fs::remove_dir_all(a.folder.join("m")).unwrap();
    until("the brake holds", || Status::load(&a.state).is_ok_and(|s| s.state.contains("say yes")));
    assert_eq!(b.tree().len(), 21);
    daemon::wish(&a.state, true).unwrap();
    until("the server has deleted them", || place.plain().is_empty());
    // Every device asks for itself.
    until("the brake holds on b", || {
        Status::load(&b.state).is_ok_and(|s| s.state.contains("say yes"))
    });
    daemon::wish(&b.state, true).unwrap();
    until("the deletions are on b", || b.tree().is_empty());
    stop.store(true, Ordering::Relaxed);
    for t in threads {
        t.join().unwrap().unwrap();
    }
}

#[test]
fn long_poll_answers_when_something_changes() {
    let place = Place::new();
    let a = place.device("a");
    let c = Config::load(&a.state).unwrap().client().unwrap();
    let begin: Changes = c.get("/changes").unwrap();
    let waiting = std::thread::spawn(move || {
        let c = c;
        let epoch = begin.epoch;
        (c.wait(&epoch, begin.next, 1).unwrap(), c.wait(&epoch, begin.next, 30).unwrap())
    });
    std::thread::sleep(Duration::from_millis(1_200));
    a.write("x", b"x");
    a.pass().unwrap();
    assert_eq!(waiting.join().unwrap(), (false, true));
}
