//! Traps that need a hand on the device's files or on the wire at one moment: the real store and engine,
//! files in memory.
#![allow(clippy::unwrap_used)] // all test: a panic is a verdict
use pvfs2_sync::api::{BatchOp, Changes, NodeInfo, UploadBegin, UploadState};
use pvfs2_sync::device::Remote;
use pvfs2_sync::device::base::Base;
use pvfs2_sync::device::engine::{Engine, Report};
use pvfs2_sync::error::{Result, SyncError};
use pvfs2_sync::files::mem::Mem;
use pvfs2_sync::files::{Area, At, Files};
use pvfs2_sync::plan::Names;
use pvfs2_sync::store::{Progress, Store};
use pvfs2_sync::tree::NodeId;
use rusqlite::Connection;
use std::collections::HashMap;
use std::sync::Arc;

/// The server without a net; `meanwhile` happens after the last byte of a download.
struct Direct {
    mem: Mem,
    store: Store,
    uploads: HashMap<String, Progress>,
    meanwhile: Option<Box<dyn FnOnce()>>,
}

impl Remote for Direct {
    fn changes(&mut self, epoch: &str, since: i64) -> Result<Changes> {
        self.store.changes(epoch, since)
    }
    fn run(&mut self, op: &BatchOp) -> Result<NodeInfo> {
        match op {
            BatchOp::Mkdir(r) => self.store.mkdir(r, "t"),
            BatchOp::Move(r) => self.store.move_node(r, "t"),
            BatchOp::Exchange(r) => self.store.exchange(r, "t"),
            BatchOp::Delete(r) => self.store.delete(r, "t"),
        }
    }
    fn outcome(&mut self, key: &str) -> Result<Option<NodeInfo>> {
        self.store.done_before(key)
    }
    fn upload_begin(&mut self, req: &UploadBegin) -> Result<UploadState> {
        let state = self.store.upload_begin(req)?;
        self.uploads.insert(req.id.clone(), Progress::resume(&self.mem, &req.id)?);
        Ok(state)
    }
    fn upload_append(&mut self, id: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        self.uploads.get_mut(id).unwrap().append(&self.mem, id, offset, bytes)
    }
    fn upload_commit(&mut self, id: &str) -> Result<NodeInfo> {
        self.store.upload_commit(id, &self.uploads[id], "t")
    }
    fn upload_drop(&mut self, id: &str) -> Result<()> {
        self.store.upload_drop(id)
    }
    fn content(
        &mut self,
        node: NodeId,
        rev: i64,
        from: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (_, path) = self.store.content_path(node, Some(rev))?;
        sink(&self.mem.read(At(Area::Tree, &path), from, 1 << 20)?)?;
        if let Some(f) = self.meanwhile.take() {
            f();
        }
        Ok(())
    }
}

struct Device {
    mem: Mem,
    engine: Engine,
}

fn server() -> Direct {
    let mem = Mem::new(1);
    let db = Connection::open_in_memory().unwrap();
    let clock = Arc::new(|| 1_700_000_000_000);
    let store = Store::open(db, Arc::new(mem.clone()), clock, "e", None).unwrap();
    Direct { mem, store, uploads: HashMap::new(), meanwhile: None }
}

fn device(name: &str) -> Device {
    let mem = Mem::new(2);
    let clock = mem.clone();
    let mut nonce = u64::from(name.as_bytes()[0]) << 32;
    let engine = Engine::new(
        Arc::new(mem.clone()),
        Base::open(Connection::open_in_memory().unwrap()).unwrap(),
        Names { device: name.into(), date: "2026-01-01".into() },
        Arc::new(move || clock.now_ns()),
        Box::new(move || {
            nonce += 1;
            nonce
        }),
    );
    Device { mem, engine }
}

impl Device {
    fn pass(&mut self, s: &mut Direct) -> Result<Report> {
        // Long enough for signatures to be trusted.
        self.mem.advance(10_000_000_000);
        self.engine.pass(s, false)
    }

    fn has(&self, path: &str, bytes: &[u8]) -> bool {
        self.mem.snapshot().get(path) == Some(&Some(bytes.to_vec()))
    }
}

#[test]
fn trap1_time_decides_nothing() {
    let (mut s, mut a, mut b) = (server(), device("a"), device("b"));
    a.mem.user_write("f", b"one", Some(9_000));
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    // The newer content has by far the older time.
    b.mem.user_write("f", b"newer, though of 1970", Some(1));
    b.pass(&mut s).unwrap();
    a.pass(&mut s).unwrap();
    assert!(a.has("f", b"newer, though of 1970"));
    // The time alone is no change.
    a.mem.user_write("f", b"newer, though of 1970", Some(77));
    assert_eq!(a.pass(&mut s).unwrap().up, 0);
}

#[test]
fn trap3_an_edit_just_before_the_swap_is_not_overwritten() {
    let (mut s, mut a, mut b) = (server(), device("a"), device("b"));
    a.mem.user_write("f", b"one", None);
    a.pass(&mut s).unwrap();
    b.pass(&mut s).unwrap();
    a.mem.user_write("f", b"from a", None);
    a.pass(&mut s).unwrap();
    let mem = b.mem.clone();
    s.meanwhile = Some(Box::new(move || mem.user_write("f", b"unseen edit", None)));
    let report = b.pass(&mut s).unwrap();
    assert!(b.has("f", b"from a") && s.meanwhile.is_none());
    assert!(b.has(&report.conflicts[0], b"unseen edit"), "{report:?}");
    // The same with the size, time and inode of the file that was scanned: only its hash tells.
    a.mem.user_write("f", b"again, a", None);
    a.pass(&mut s).unwrap();
    let mem = b.mem.clone();
    let time = mem.stat(At(Area::Tree, "f")).unwrap().unwrap().mtime_ns;
    s.meanwhile = Some(Box::new(move || mem.user_write("f", b"sneaky", Some(time))));
    let report = b.pass(&mut s).unwrap();
    assert!(b.has("f", b"again, a"));
    assert!(b.has(&report.conflicts[0], b"sneaky"), "{report:?}");
}

#[test]
fn trap6_a_listing_that_fails_deletes_nothing() {
    let (mut s, mut a) = (server(), device("a"));
    a.mem.user_mkdir("d");
    a.mem.user_write("d/f", b"one", None);
    a.pass(&mut s).unwrap();
    let before = s.mem.snapshot();
    a.mem.unreadable(Some("d"));
    assert!(matches!(a.pass(&mut s), Err(SyncError::Io { .. })));
    assert_eq!(s.mem.snapshot(), before);
    a.mem.unreadable(None);
    assert_eq!(a.pass(&mut s).unwrap(), Report::default());
}

#[test]
fn trap7_a_server_from_a_backup_deletes_nothing() {
    let (mut s, mut a) = (server(), device("a"));
    a.mem.user_write("old", b"old", None);
    a.pass(&mut s).unwrap();
    let mut backup = server();
    backup.store.new_epoch("e2").unwrap();
    let report = a.pass(&mut backup).unwrap();
    assert_eq!((report.up, report.down), (1, 0));
    assert!(a.has("old", b"old"));
    assert_eq!(backup.mem.snapshot(), a.mem.snapshot());
}

#[test]
fn trap12_what_shrank_while_its_time_stands_still_is_fetched_again() {
    let (mut s, mut a) = (server(), device("a"));
    a.mem.user_write("f", b"precious", None);
    a.pass(&mut s).unwrap();
    a.pass(&mut s).unwrap();
    a.mem.damage("f", 0);
    let report = a.pass(&mut s).unwrap();
    assert!(a.has("f", b"precious"), "{report:?}");
    assert_eq!((report.up, report.problems.len()), (0, 1), "{report:?}");
    // A user who empties it does so at a new time.
    a.mem.user_write("f", b"", None);
    assert_eq!(a.pass(&mut s).unwrap().up, 1);
}
