//! The simulated server and the net before it: requests are lost, doubled, late, and the server ends
//! anywhere in between.
use pvfs2_sync::api::{BatchOp, BatchReply, Changes, NodeInfo, UploadBegin, UploadState};
use pvfs2_sync::delta::{Part, Piece, Range};
use pvfs2_sync::device::{Ask, Remote, Told};
use pvfs2_sync::error::{Result, SyncError};
use pvfs2_sync::files::mem::Mem;
use pvfs2_sync::files::{self, Area, At, Files};
use pvfs2_sync::rng::Rng;
use pvfs2_sync::store::{Progress, Store};
use pvfs2_sync::tree::NodeId;
use rusqlite::Connection;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A content.
pub type Bytes = Vec<u8>;

/// A request that is still somewhere in the net.
#[derive(Clone)]
pub enum Request {
    Run(BatchOp),
    Begin(UploadBegin),
    Commit(String),
    Put(Vec<(UploadBegin, Bytes)>),
}

/// The server, which ends at any call and starts again.
pub struct Server {
    pub mem: Mem,
    pub store: Option<Store>,
    pub uploads: HashMap<String, Progress>,
    pub epochs: u32,
    pub crashes: u32,
}

impl Server {
    /// Runs something on the server; a crash there looks like silence to the device.
    fn call<T>(
        &mut self,
        f: impl FnOnce(&mut Store, &mut HashMap<String, Progress>, &Mem) -> Result<T>,
    ) -> Result<T> {
        let mut store = self.store.take().unwrap();
        let result = f(&mut store, &mut self.uploads, &self.mem);
        if matches!(result, Err(SyncError::Crash)) {
            self.crashes += 1;
            self.mem.crash_after(None);
            self.mem.lose_power();
            self.uploads.clear();
            self.store = Some(self.open(store.into_db()));
            return Err(SyncError::Net("the server crashed".into()));
        }
        self.store = Some(store);
        result
    }

    pub fn open(&self, db: Connection) -> Store {
        let mem = self.mem.clone();
        let clock = Arc::new(move || mem.now_ns() / 1_000_000);
        Store::open(db, Arc::new(self.mem.clone()), clock, "epoch0", None).unwrap()
    }

    pub fn handle(&mut self, request: &Request) -> Result<Option<NodeInfo>> {
        self.call(|store, uploads, mem| match request {
            Request::Run(op) => match op {
                BatchOp::Mkdir(r) => store.mkdir(r, "sim").map(Some),
                BatchOp::Move(r) => store.move_node(r, "sim").map(Some),
                BatchOp::Exchange(r) => store.exchange(r, "sim").map(Some),
                BatchOp::Delete(r) => store.delete(r, "sim").map(Some),
            },
            Request::Put(files) => store.put_many(files, "sim").map(|_| None),
            Request::Begin(r) => store.upload_begin(r).map(|_| None),
            Request::Commit(id) => {
                if !uploads.contains_key(id) {
                    uploads.insert(id.clone(), Progress::resume(mem, id)?);
                }
                let done = store.upload_commit(id, uploads.get(id).unwrap(), "sim");
                if !matches!(done, Err(SyncError::Crash)) {
                    uploads.remove(id);
                }
                done.map(Some)
            }
        })
    }
}

/// What lies between a device and it.
pub struct Net<'a> {
    pub server: &'a mut Server,
    pub rng: &'a mut Rng,
    pub late: &'a mut Vec<Request>,
    pub faults: bool,
    pub asked: VecDeque<Ask>,
}

impl Net<'_> {
    fn lost(&mut self, what: &str) -> Result<()> {
        if self.faults && self.rng.one_in(25) { Err(SyncError::Net(what.into())) } else { Ok(()) }
    }

    fn send(&mut self, request: Request) -> Result<Option<NodeInfo>> {
        if self.faults && self.rng.one_in(20) {
            self.late.push(request.clone());
        }
        self.lost("request")?;
        let mut answer = self.server.handle(&request);
        if self.faults && self.rng.one_in(12) {
            answer = self.server.handle(&request);
        }
        self.lost("answer")?;
        answer
    }
}

impl Net<'_> {
    fn run_all(&mut self, ops: &[BatchOp]) -> Result<Vec<BatchReply>> {
        self.server.call(|s, _, _| {
            // A crash between two of them is one of the whole request.
            let told = s.batch(ops, "sim");
            let cut = told.iter().any(|r| r.error == SyncError::Crash.to_string());
            if cut { Err(SyncError::Crash) } else { Ok(told) }
        })
    }

    /// A question about much, with the faults of any other request.
    fn answer(&mut self, ask: Ask) -> Result<Told> {
        match ask {
            Ask::Put(files) => {
                if self.faults && self.rng.one_in(20) {
                    self.late.push(Request::Put(files.clone()));
                }
                self.lost("request")?;
                if self.faults && self.rng.one_in(12) {
                    self.server.handle(&Request::Put(files.clone()))?;
                }
                let told = self.server.call(|s, _, _| s.put_many(&files, "sim"))?;
                self.lost("answer")?;
                Ok(Told::Replies(told))
            }
            Ask::Run(ops) => {
                self.lost("request")?;
                if self.faults && self.rng.one_in(12) {
                    self.run_all(&ops)?;
                }
                let told = self.run_all(&ops)?;
                self.lost("answer")?;
                Ok(Told::Replies(told))
            }
            Ask::Get(wanted) => {
                self.lost("request")?;
                let one = |store: &Store, mem: &Mem, (node, rev)| {
                    let (info, path) = store.content_path(node, Some(rev))?;
                    mem.read(At(Area::Tree, &path), 0, usize::try_from(info.size).unwrap())
                };
                let told: Vec<Result<Bytes>> = self.server.call(|s, _, mem| {
                    let all: Vec<_> = wanted.iter().map(|w| one(s, mem, *w)).collect();
                    let cut = all.iter().any(|r| matches!(r, Err(SyncError::Crash)));
                    if cut { Err(SyncError::Crash) } else { Ok(all) }
                })?;
                self.lost("answer")?;
                Ok(Told::Files(told))
            }
        }
    }
}

impl Remote for Net<'_> {
    fn submit(&mut self, ask: Ask) {
        self.asked.push_back(ask);
    }

    fn collect(&mut self) -> Option<Result<Told>> {
        let ask = self.asked.pop_front()?;
        Some(self.answer(ask))
    }

    fn changes(&mut self, epoch: &str, since: i64) -> Result<Changes> {
        self.lost("request")?;
        self.server.call(|s, _, _| s.changes(epoch, since))
    }

    fn run(&mut self, op: &BatchOp) -> Result<NodeInfo> {
        Ok(self.send(Request::Run(op.clone()))?.unwrap())
    }

    fn outcome(&mut self, key: &str) -> Result<Option<NodeInfo>> {
        self.lost("request")?;
        self.server.call(|s, _, _| s.done_before(key))
    }

    fn upload_begin(&mut self, req: &UploadBegin) -> Result<UploadState> {
        self.send(Request::Begin(req.clone()))?;
        self.server.call(|s, _, _| s.upload_begin(req))
    }

    fn upload_append(&mut self, id: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        self.lost("request")?;
        self.server.call(|store, uploads, mem| {
            store.upload_size(id)?;
            if !uploads.contains_key(id) {
                uploads.insert(id.to_owned(), Progress::resume(mem, id)?);
            }
            uploads.get_mut(id).unwrap().append(mem, id, offset, bytes)
        })?;
        self.lost("answer")
    }

    fn upload_parts(&mut self, id: &str, offset: u64, parts: &[(Part, Vec<u8>)]) -> Result<()> {
        self.lost("request")?;
        self.server.call(|store, uploads, mem| {
            let (_, path) = store.upload_source(id)?;
            let size = store.upload_size(id)?;
            if !uploads.contains_key(id) {
                uploads.insert(id.to_owned(), Progress::resume(mem, id)?);
            }
            let mut old = |from: u64, len: usize| mem.read(At(Area::Tree, &path), from, len);
            let p = uploads.get_mut(id).unwrap();
            p.append_parts(mem, id, offset, size, parts, &mut old)
        })?;
        self.lost("answer")
    }

    fn signature(
        &mut self,
        node: NodeId,
        rev: i64,
        average: u32,
        ranges: &[Range],
    ) -> Result<Vec<Vec<Piece>>> {
        self.lost("request")?;
        self.server.call(|store, _, mem| {
            let (_, path) = store.content_path(node, Some(rev))?;
            files::pieces(mem, At(Area::Tree, &path), average, ranges)
        })
    }

    fn ranges(
        &mut self,
        node: NodeId,
        rev: i64,
        ranges: &[Range],
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.lost("request")?;
        let all = self.server.call(|store, _, mem| {
            let (_, path) = store.content_path(node, Some(rev))?;
            let one =
                |r: &Range| mem.read(At(Area::Tree, &path), r.0, usize::try_from(r.1).unwrap());
            ranges.iter().map(one).collect::<Result<Vec<_>>>()
        })?;
        all.iter().try_for_each(|bytes| sink(bytes))
    }

    fn upload_commit(&mut self, id: &str) -> Result<NodeInfo> {
        Ok(self.send(Request::Commit(id.to_owned()))?.unwrap())
    }

    fn upload_drop(&mut self, id: &str) -> Result<()> {
        self.lost("request")?;
        self.server.call(|store, uploads, _| {
            uploads.remove(id);
            store.upload_drop(id)
        })
    }

    fn content(
        &mut self,
        node: NodeId,
        rev: i64,
        from: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.lost("request")?;
        let bytes = self.server.call(|store, _, mem| {
            let (info, path) = store.content_path(node, Some(rev))?;
            mem.read(At(Area::Tree, &path), from, usize::try_from(info.size).unwrap())
        })?;
        // In two pieces, with the line cut between them now and then.
        let (one, two) = bytes.split_at(bytes.len() / 2);
        sink(one)?;
        self.lost("line cut")?;
        sink(two)
    }
}
