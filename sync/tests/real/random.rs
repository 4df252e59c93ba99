//! Two daemons, the API as the pages use it, and rclone through the WebDAV door edit one tree at random;
//! in the end all hold the same and no version is lost: each content that was ever written is in the tree,
//! in a conflict copy, among a file's old versions, or in the trash.
//!
//! `PVFS2_SYNC_RANDOM_S=N` sets how many seconds (default 6), `PVFS2_SYNC_SEED=S` the seed, which is
//! printed. Threads and the kernel take turns as they like, so a seed gives the same wishes, not the same
//! history. rclone takes part if it is installed.
use crate::common::folder::tree;
use pvfs2_sync::api::{BatchOp, Changes, Delete, Login, Mkdir, Move, NodeInfo, UploadBegin};
use pvfs2_sync::device::Remote;
use pvfs2_sync::device::config::Config;
use pvfs2_sync::device::daemon::{self, Status};
use pvfs2_sync::device::http::Client;
use pvfs2_sync::rng::{Rng, hex};
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::running::{Options, Running};
use pvfs2_sync::server::users::now_ms;
use pvfs2_sync::store::VERSIONS_MAX;
use pvfs2_sync::tree::{Kind, ROOT};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PASSWORD: &str = "correct horse battery";
const NAMES: [&str; 7] = ["a", "b.txt", "c", "d", "e.txt", "f", "g"];

/// Contents that nobody has written before; each names itself, and some are large enough for a delta.
struct Contents(AtomicU64);

impl Contents {
    fn next(&self, rng: &mut Rng) -> Vec<u8> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        let mut bytes = format!("content {n}\n").into_bytes();
        if rng.one_in(20) {
            let mut same = Rng::new(rng.below(3));
            bytes.extend((0..40_000).flat_map(|_| same.next_u64().to_le_bytes()));
        }
        bytes
    }
}

fn path(rng: &mut Rng) -> String {
    let name = |rng: &mut Rng| NAMES[rng.below(NAMES.len() as u64) as usize];
    (0..=rng.below(2)).map(|_| name(rng)).collect::<Vec<_>>().join("/")
}

/// A user at a device's folder. Files are written beside and renamed, as editors do.
fn at_a_folder(folder: &Path, rng: &mut Rng, contents: &Contents) {
    let at = folder.join(path(rng));
    match rng.below(10) {
        0..=5 if !at.is_dir() => {
            if at.parent().is_some_and(|p| std::fs::create_dir_all(p).is_ok()) {
                // Not in the folder's own `.pvfs2-sync/tmp`: the daemon empties that when it likes.
                let new = folder.with_extension("new");
                std::fs::write(&new, contents.next(rng)).unwrap();
                if std::fs::rename(&new, &at).is_err() {
                    std::fs::remove_file(&new).unwrap();
                }
            }
        }
        6 | 7 => {
            let to = folder.join(path(rng));
            if !to.exists() && !to.starts_with(&at) {
                let _ = std::fs::rename(&at, &to);
            }
        }
        8 if at.is_file() => {
            let _ = std::fs::remove_file(&at);
        }
        _ => {
            let _ = std::fs::create_dir_all(&at);
        }
    }
}

/// Somebody at the pages: the same calls of the store.
fn at_the_pages(c: &mut Client, rng: &mut Rng, contents: &Contents) {
    let Ok(all) = c.get::<Changes>("/changes") else { return };
    let live: Vec<NodeInfo> = all.nodes.into_iter().filter(|n| !n.deleted).collect();
    let some = |rng: &mut Rng, kind: Kind| {
        let of: Vec<_> = live.iter().filter(|n| n.kind == kind).collect();
        (!of.is_empty()).then(|| of[rng.below(of.len() as u64) as usize].clone())
    };
    let parent = some(rng, Kind::Dir).filter(|_| rng.one_in(2)).map_or(ROOT, |n| n.id);
    let name = NAMES[rng.below(NAMES.len() as u64) as usize].to_owned();
    match rng.below(8) {
        0..=4 => {
            let bytes = contents.next(rng);
            let replace = some(rng, Kind::File).filter(|_| rng.one_in(2)).map(|n| (n.id, n.rev));
            let req = UploadBegin {
                id: format!("{:032x}", rng.next_u64()),
                parent,
                name,
                replace,
                size: bytes.len() as u64,
                hash: String::new(),
                mtime_ns: now_ms() * 1_000_000,
                exec: false,
            };
            let _ = c
                .upload_begin(&req)
                .and_then(|_| c.upload_append(&req.id, 0, &bytes))
                .and_then(|()| c.upload_commit(&req.id));
        }
        5 => drop(c.run(&BatchOp::Mkdir(Mkdir { parent, name, key: String::new() }))),
        6 => {
            if let Some(n) = some(rng, Kind::File) {
                let req = Move { node: n.id, rev: n.rev, parent, name, key: String::new() };
                drop(c.run(&BatchOp::Move(req)));
            }
        }
        _ => {
            if let Some(n) = some(rng, Kind::File) {
                let req = Delete { node: n.id, rev: n.rev, tree: false, key: String::new() };
                drop(c.run(&BatchOp::Delete(req)));
            }
        }
    }
}

struct Rclone {
    remote: String,
    cert: PathBuf,
    scratch: PathBuf,
}

impl Rclone {
    fn new(server: &Running, dir: &Path) -> Option<Self> {
        let made = Command::new("rclone").args(["obscure", PASSWORD]).output().ok()?;
        let pass = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        let remote = format!(
            ":webdav,url='https://{}/dav/ann/',vendor=owncloud,user=ann,pass='{pass}':",
            server.addr
        );
        let scratch = dir.join("rclone");
        std::fs::create_dir(&scratch).unwrap();
        Some(Self { remote, cert: server.cert.clone(), scratch })
    }

    fn edit(&self, rng: &mut Rng, contents: &Contents) {
        let file = self.scratch.join("one");
        std::fs::write(&file, contents.next(rng)).unwrap();
        let to = format!("{}{}", self.remote, path(rng));
        let file = file.to_str().unwrap();
        let args = if rng.one_in(5) { vec!["deletefile", &to] } else { vec!["copyto", file, &to] };
        let _ = Command::new("rclone")
            .args(["--retries", "1", "--config", "/dev/null", "--ca-cert"])
            .arg(&self.cert)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

#[test]
fn everybody_edits_at_random_and_no_version_is_lost() {
    let env = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    let seconds = env("PVFS2_SYNC_RANDOM_S").unwrap_or(6);
    let seed = env("PVFS2_SYNC_SEED").unwrap_or_else(|| now_ms() as u64);
    println!("PVFS2_SYNC_SEED={seed} PVFS2_SYNC_RANDOM_S={seconds}");
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("user");
    std::fs::create_dir(&root).unwrap();
    let options =
        Options { begin: Begin::New, ..Options::new(root.clone(), "127.0.0.1:0".parse().unwrap()) };
    let server = Running::start(&options).unwrap();
    let ann = server.app.accounts.create("ann", PASSWORD, false, None, now_ms()).unwrap();
    let ca = std::fs::read_to_string(&server.cert).unwrap();
    let url = format!("https://{}", server.addr);
    let login = |device: &str| Login {
        user: "ann".into(),
        password: PASSWORD.into(),
        device: device.into(),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let devices: Vec<(PathBuf, PathBuf)> = ["laptop", "desk"]
        .iter()
        .map(|name| {
            let (state, folder) = (dir.path().join(format!("{name}.state")), dir.path().join(name));
            Config::set_up(&state, &url, Some(ca.clone()), &login(name), &folder).unwrap();
            (state, folder)
        })
        .collect();
    let daemons: Vec<_> = devices
        .iter()
        .map(|(state, _)| {
            let (state, stop) = (state.clone(), stop.clone());
            std::thread::spawn(move || daemon::run(&state, Duration::from_secs(2), true, &stop))
        })
        .collect();
    let contents = Contents(AtomicU64::new(0));
    let answers: parking_lot::Mutex<BTreeSet<(i64, i64, String)>> = parking_lot::Mutex::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    let rclone = Rclone::new(&server, dir.path());
    println!(
        "rclone {}",
        if rclone.is_some() { "takes part" } else { "is not installed: without it" }
    );
    let (counts, number_of) =
        ([const { AtomicU64::new(0) }; 4], |n: u64| Rng::new(seed ^ (n << 32)));
    std::thread::scope(|scope| {
        for (n, (_, folder)) in devices.iter().enumerate() {
            let (contents, count, mut rng) = (&contents, &counts[n], number_of(n as u64 + 1));
            scope.spawn(move || {
                while Instant::now() < end {
                    at_a_folder(folder, &mut rng, contents);
                    count.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(rng.below(300)));
                }
            });
        }
        let (contents, mut rng, counts) = (&contents, number_of(3), &counts);
        let (url, ca, login) = (&url, &ca, &login);
        scope.spawn(move || {
            let token = Client::new(url, Some(ca), "").unwrap().login(&login("pages")).unwrap();
            let mut c = Client::new(url, Some(ca), &token.token).unwrap();
            while Instant::now() < end {
                at_the_pages(&mut c, &mut rng, contents);
                counts[2].fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(rng.below(300)));
            }
        });
        // Somebody who notes what the server tells meanwhile.
        let answers = &answers;
        scope.spawn(move || {
            let token = Client::new(url, Some(ca), "").unwrap().login(&login("notes")).unwrap();
            let c = Client::new(url, Some(ca), &token.token).unwrap();
            let (mut epoch, mut since) = (String::new(), 0);
            while Instant::now() < end {
                let path = format!("/changes?epoch={epoch}&since={since}");
                if let Ok(all) = c.get::<Changes>(&path) {
                    (epoch, since) = (all.epoch, all.next);
                    let files = all.nodes.into_iter().filter(|n| n.kind == Kind::File);
                    answers.lock().extend(files.map(|n| (n.id, n.rev, n.hash)));
                }
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        if let Some(rclone) = &rclone {
            let mut rng = number_of(4);
            scope.spawn(move || {
                while Instant::now() < end {
                    rclone.edit(&mut rng, contents);
                    counts[3].fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(200 + rng.below(500)));
                }
            });
        }
    });
    // Everybody stops; what is held by the brake is wanted.
    let there = || tree(&root.join("ann"));
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut quiet = 0;
    while quiet < 3 {
        assert!(Instant::now() < deadline, "PVFS2_SYNC_SEED={seed}: no rest: {:?}", {
            let state =
                |d: &(PathBuf, PathBuf)| Status::load(&d.0).map(|s| (s.state, s.problems)).ok();
            devices.iter().map(state).collect::<Vec<_>>()
        });
        for (state, _) in &devices {
            let held = Status::load(state).is_ok_and(|s| s.state.contains("say yes"));
            if held {
                daemon::wish(state, true).unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(700));
        let now = there();
        quiet = if devices.iter().all(|(_, f)| tree(f) == now) { quiet + 1 } else { 0 };
    }
    stop.store(true, Ordering::Relaxed);
    for d in daemons {
        d.join().unwrap().unwrap();
    }
    for (state, _) in &devices {
        let status = Status::load(state).unwrap();
        assert!(status.problems.is_empty(), "PVFS2_SYNC_SEED={seed}: {:?}", status.problems);
    }
    // What the server took, by what it answered, must be somewhere; only a file's oldest versions beyond
    // the limit may be gone. What a user replaced before any pass saw it never left the folder.
    let own = root.join(".sync").join(ann.id.to_string());
    let mut found: BTreeSet<String> = BTreeSet::new();
    let places = ["versions", "trash", "foreign"].map(|area| own.join(area));
    for place in places.iter().chain([&root.join("ann")]) {
        found.extend(tree(place).values().flatten().map(|b| hex(blake3::hash(b).as_bytes())));
    }
    let worker = server.app.worker(&ann).unwrap();
    let versions = |node: i64| worker.store.lock().versions(node).unwrap_or_default();
    let (mut took, mut dropped) = (BTreeSet::new(), 0);
    let all = |id| worker.store.lock().node(id).ok();
    let head = worker.store.lock().head().unwrap().0;
    for node in (1..=head).filter_map(all) {
        let id = node.id;
        took.extend((node.kind == Kind::File).then_some((id, node.rev, node.hash)));
        took.extend(versions(id).into_iter().map(|v| (id, v.rev, v.hash)));
    }
    took.extend(answers.lock().iter().cloned());
    for (node, rev, hash) in &took {
        if !found.contains(hash) {
            let kept = versions(*node);
            let beyond = kept.len() >= VERSIONS_MAX && kept.iter().all(|v| v.rev > *rev);
            assert!(beyond, "PVFS2_SYNC_SEED={seed}: lost: node {node} at revision {rev}, {hash}");
            dropped += 1;
        }
    }
    let edits: Vec<u64> = counts.iter().map(|c| c.load(Ordering::Relaxed)).collect();
    println!(
        "{} contents written, edits {edits:?}; the server took {}, {dropped} beyond the limit of versions",
        contents.0.load(Ordering::Relaxed),
        took.len()
    );
    assert!(took.len() > 5);
}
