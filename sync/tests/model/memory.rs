//! The real store and the real engine over files in memory, without a net.
use pvfs2_sync::api::{BatchOp, Changes, NodeInfo, UploadBegin, UploadState};
use pvfs2_sync::delta::{Part, Piece, Range};
use pvfs2_sync::device::base::Base;
use pvfs2_sync::device::engine::{Engine, Report};
use pvfs2_sync::device::{Ask, Remote, Told};
use pvfs2_sync::error::Result;
use pvfs2_sync::files::mem::Mem;
use pvfs2_sync::files::{self, Area, At, Files};
use pvfs2_sync::plan::Names;
use pvfs2_sync::store::{Progress, Store};
use pvfs2_sync::tree::NodeId;
use rusqlite::Connection;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The server without a net; `meanwhile` happens after the last byte of a download.
pub struct Direct {
    pub mem: Mem,
    pub store: Store,
    uploads: HashMap<String, Progress>,
    pub meanwhile: Option<Box<dyn FnOnce()>>,
    told: VecDeque<Result<Told>>,
}

impl Remote for Direct {
    fn submit(&mut self, ask: Ask) {
        let told = match ask {
            Ask::Put(files) => self.store.put_many(&files, "t").map(Told::Replies),
            Ask::Run(ops) => Ok(Told::Replies(self.store.batch(&ops, "t"))),
            Ask::Get(wanted) => {
                let one = |(node, rev): (NodeId, i64)| {
                    let (_, path) = self.store.content_path(node, Some(rev))?;
                    self.mem.read(At(Area::Tree, &path), 0, 1 << 20)
                };
                Ok(Told::Files(wanted.into_iter().map(one).collect()))
            }
        };
        self.told.push_back(told);
    }
    fn collect(&mut self) -> Option<Result<Told>> {
        self.told.pop_front()
    }
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
        self.store.upload_begin(req)
    }
    fn upload_append(&mut self, id: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let mem = self.mem.clone();
        self.progress(id)?.append(&mem, id, offset, bytes)
    }
    fn upload_parts(&mut self, id: &str, offset: u64, parts: &[(Part, Vec<u8>)]) -> Result<()> {
        let (_, path) = self.store.upload_source(id)?;
        let (size, mem) = (self.store.upload_size(id)?, self.mem.clone());
        let mut old = |from: u64, len: usize| mem.read(At(Area::Tree, &path), from, len);
        let p = self.progress(id)?;
        p.append_parts(&mem, id, offset, size, parts, &mut old)
    }
    fn signature(
        &mut self,
        node: NodeId,
        rev: i64,
        average: u32,
        ranges: &[Range],
    ) -> Result<Vec<Vec<Piece>>> {
        let (_, path) = self.store.content_path(node, Some(rev))?;
        files::pieces(&self.mem, At(Area::Tree, &path), average, ranges)
    }
    fn ranges(
        &mut self,
        node: NodeId,
        rev: i64,
        ranges: &[Range],
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (_, path) = self.store.content_path(node, Some(rev))?;
        for (from, len) in ranges {
            let len = usize::try_from(*len).unwrap();
            sink(&self.mem.read(At(Area::Tree, &path), *from, len)?)?;
        }
        if let Some(f) = self.meanwhile.take() {
            f();
        }
        Ok(())
    }
    fn upload_commit(&mut self, id: &str) -> Result<NodeInfo> {
        self.progress(id)?;
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

/// A device.
pub struct Device {
    pub mem: Mem,
    pub engine: Engine,
}

impl Direct {
    /// An empty one.
    pub fn new() -> Self {
        let mem = Mem::new(1);
        let store = open(&mem, Connection::open_in_memory().unwrap());
        Self { mem, store, uploads: HashMap::new(), meanwhile: None, told: VecDeque::new() }
    }

    /// Ends and starts again, as after a crash.
    pub fn restart(&mut self) {
        let spare = open(&Mem::new(9), Connection::open_in_memory().unwrap());
        let db = std::mem::replace(&mut self.store, spare).into_db();
        self.store = open(&self.mem, db);
        self.uploads.clear();
        self.told.clear();
    }

    fn progress(&mut self, id: &str) -> Result<&mut Progress> {
        if !self.uploads.contains_key(id) {
            self.uploads.insert(id.to_owned(), Progress::resume(&self.mem, id)?);
        }
        Ok(self.uploads.get_mut(id).unwrap())
    }
}

fn open(mem: &Mem, db: Connection) -> Store {
    Store::open(db, Arc::new(mem.clone()), Arc::new(|| 1_700_000_000_000), "e", None).unwrap()
}

impl Device {
    /// One with an empty folder.
    pub fn new(name: &str) -> Self {
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
        Self { mem, engine }
    }

    /// One pass.
    pub fn pass(&mut self, s: &mut Direct) -> Result<Report> {
        // Long enough for signatures to be trusted.
        self.mem.advance(10_000_000_000);
        self.engine.pass(s, false)
    }

    /// Whether a file holds this.
    pub fn has(&self, path: &str, bytes: &[u8]) -> bool {
        self.mem.snapshot().get(path) == Some(&Some(bytes.to_vec()))
    }
}
