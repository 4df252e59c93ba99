//! A cluster in one thread: metadata servers with their services, one fake I/O server per I/O entry
//! of the map, users with sessions and tickets.
use super::crashes::point;
use super::fake_io::FakeIo;
use crate::{MetaConfig, MetaServer};
use bytes::Bytes;
use pvfs2_bmi::buf::PooledBuf;
use pvfs2_bmi::service::{Body, Conn, Incoming, OutBody, Service};
use pvfs2_proto::env::{Clock, Env};
use pvfs2_proto::op::*;
use pvfs2_proto::{
    Attr, ClusterMap, Dist, ErrorCode, Handle, HandleRange, PvfsError, Result, ServerEntry,
    ServerId,
};
use pvfs2_server_core::peer::{LocalFuture, PeerCall, PeerReply, Peers};
use pvfs2_server_core::service::{ServiceConfig, SessionService};
use pvfs2_trove::Collection;
use pvfs2_trove::collection::MemCollection;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

pub type MetaService = SessionService<MetaServer>;
pub const SMALL: u64 = 100;
pub const STRIP: u64 = 64;
pub const LEASE_MS: u32 = 10_000;

/// A clock that ticks when it is read, so that no two times are equal.
pub struct Ticking(AtomicI64);
impl Clock for Ticking {
    fn now_ns(&self) -> i64 {
        self.0.fetch_add(1_000, Ordering::Relaxed)
    }
}

pub struct Cluster {
    pub map: Arc<ClusterMap>,
    pub env: Env,
    pub io: RefCell<FakeIo>,
    /// Servers that do not answer.
    pub down: RefCell<HashSet<ServerId>>,
    /// Metadata requests between servers to be refused before they run: (op, how often).
    pub refuse: RefCell<HashMap<Op, u32>>,
    /// Metadata requests between servers whose answers get lost after they ran.
    pub lose: RefCell<HashMap<Op, u32>>,
    /// A kill at a fault point to come.
    pub kill: Cell<Option<super::crashes::Kill>>,
    /// Longest time that a request between servers, and its answer, travel; drawn for each.
    pub travel_ms_max: Cell<u64>,
    pub backings: Vec<MemCollection>,
    services: RefCell<Vec<Option<Rc<MetaService>>>>,
    lives: RefCell<Vec<u32>>,
    next_client: Cell<u64>,
}

struct FakePeers {
    me: ServerId,
    /// Which run of the server this is: a killed one gets no answer any more.
    life: u32,
    cluster: Weak<Cluster>,
    sessions: RefCell<HashMap<ServerId, u64>>,
}

/// Runs a test over a cluster of `metas` metadata and four I/O servers.
pub fn with_cluster<F: Future>(metas: u32, test: impl FnOnce(Rc<Cluster>) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async { test(Cluster::new(metas)).await })
}

pub fn map(metas: u32) -> ClusterMap {
    let range = |first: u64, len: u64| Some(HandleRange { first, last: first + len - 1 });
    let meta = (0..metas).map(|i| ServerEntry {
        alias: format!("m{i}"),
        meta_range: range(1 + u64::from(i) * 1_000_000, 1_000_000),
        ..Default::default()
    });
    let io = (0..4).map(|i| ServerEntry {
        alias: format!("io{i}"),
        io_range: range((1 << 60) + (i << 50), 1 << 50),
        ..Default::default()
    });
    ClusterMap {
        fs_name: "fs".into(),
        fs_id: 77,
        servers: meta.chain(io).collect(),
        default_dist: Some(Dist::simple_stripe(STRIP)),
        default_layout: "round_robin".into(),
        small_file_bytes: SMALL,
        lease_ms: LEASE_MS,
        ..Default::default()
    }
}

impl Cluster {
    fn new(metas: u32) -> Rc<Cluster> {
        let clock = Arc::new(Ticking(AtomicI64::new(1_700_000_000_000_000_000)));
        let cluster = Rc::new(Cluster {
            map: Arc::new(map(metas)),
            env: Env::seeded(42, clock),
            io: RefCell::default(),
            down: RefCell::default(),
            refuse: RefCell::default(),
            lose: RefCell::default(),
            kill: Cell::default(),
            travel_ms_max: Cell::new(0),
            backings: (0..metas).map(|_| MemCollection::default()).collect(),
            services: RefCell::new((0..metas).map(|_| None).collect()),
            lives: RefCell::new(vec![0; metas as usize]),
            next_client: Cell::new(1),
        });
        for id in 0..metas {
            cluster.start(id);
        }
        cluster
    }

    /// Starts a metadata server over what its backing holds.
    pub fn start(self: &Rc<Self>, id: ServerId) {
        let backing = &self.backings[id as usize];
        let collection = Arc::new(Collection::open_memory(backing, self.env.clone()));
        let config = MetaConfig {
            server: id,
            map: self.map.clone(),
            collection,
            bstreams: None,
            clean_stop: false,
            sync_meta: false,
            env: self.env.clone(),
        };
        let life = self.lives.borrow()[id as usize];
        let cluster = Rc::downgrade(self);
        let peers = FakePeers { me: id, life, cluster, sessions: RefCell::default() };
        let meta = MetaServer::open_with(config, Box::new(peers)).unwrap();
        let durable = Some(meta.durable_sessions());
        let config = ServiceConfig {
            server: id,
            map: self.map.clone(),
            env: self.env.clone(),
            metrics: Arc::default(),
            durable,
        };
        let service = Rc::new(SessionService::new(meta.clone(), config).unwrap());
        service.spawn_background();
        meta.spawn_background();
        self.services.borrow_mut()[id as usize] = Some(service);
        self.down.borrow_mut().remove(&id);
    }

    /// `kill -9`: nothing that was committed is lost.
    pub fn kill(&self, id: ServerId) {
        self.lives.borrow_mut()[id as usize] += 1;
        self.services.borrow_mut()[id as usize] = None;
        self.backings[id as usize].crash();
        self.down.borrow_mut().insert(id);
    }

    pub fn is_down(&self, id: ServerId) -> bool {
        self.down.borrow().contains(&id)
    }

    pub fn restart(self: &Rc<Self>, id: ServerId) {
        self.kill(id);
        self.start(id);
    }

    pub fn service(&self, id: ServerId) -> Result<Rc<MetaService>> {
        let down = self.down.borrow().contains(&id);
        self.services.borrow()[id as usize].clone().filter(|_| !down).ok_or_else(unreachable)
    }

    pub fn meta(&self, id: ServerId) -> Arc<MetaServer> {
        self.service(id).unwrap().handler().clone()
    }

    pub fn owner(&self, handle: u64) -> ServerId {
        self.map.meta_server_of(Handle(handle)).unwrap()
    }

    /// A user with sessions of its own.
    pub fn user(self: &Rc<Self>, uid: u32, gid: u32) -> User {
        let client_id = self.next_client.get();
        self.next_client.set(client_id + 1);
        let cred = Cred { uid, gid, groups: vec![gid], groups_known: true };
        User {
            cluster: self.clone(),
            cred,
            client_id,
            sessions: RefCell::default(),
            seq: Cell::new(0),
        }
    }

    pub fn root(self: &Rc<Self>) -> User {
        self.user(0, 0)
    }

    pub fn hello(&self, server: ServerId, client_id: u64, peer: u32) -> Result<u64> {
        let service = self.service(server)?;
        let hello = HelloRequest { client_id, peer_server: peer, ..Default::default() };
        Ok(service.hello(&conn(), &hello)?.session)
    }

    /// A request as it comes off the wire.
    pub async fn send_head(&self, server: ServerId, head: RequestHead) -> ResponseHead {
        let service = self.service(server).unwrap();
        service.handle(Incoming { conn: conn(), head, body: Body::Empty }).await.head
    }

    pub fn io_requests(&self) -> usize {
        self.io.borrow().requests.len()
    }
}

fn conn() -> Arc<Conn> {
    Arc::new(Conn {
        id: 0,
        peer: "test".into(),
        is_local: true,
        peer_uid: None,
        session: Default::default(),
        notifier: Arc::new(|_| {}),
    })
}

fn unreachable() -> PvfsError {
    PvfsError::new(ErrorCode::Unreachable, "the test says it is down")
}

fn take(faults: &RefCell<HashMap<Op, u32>>, op: Op) -> bool {
    let mut faults = faults.borrow_mut();
    match faults.get_mut(&op) {
        Some(n) if *n > 0 => {
            *n -= 1;
            true
        }
        _ => false,
    }
}

impl Peers for FakePeers {
    fn call<'a>(
        &'a self,
        cred: &'a Cred,
        _op_id: u64,
        calls: Vec<PeerCall>,
    ) -> LocalFuture<'a, Vec<Result<PeerReply>>> {
        Box::pin(async move {
            let mut replies = Vec::new();
            for call in calls {
                // A request and its answer travel; others may run meanwhile.
                self.travel().await;
                replies.push(self.one(cred, call).await);
                self.travel().await;
            }
            replies
        })
    }
}

impl FakePeers {
    async fn travel(&self) {
        tokio::task::yield_now().await;
        let Some(cluster) = self.cluster.upgrade() else { return };
        let longest = cluster.travel_ms_max.get();
        if longest > 0 {
            let ms = cluster.env.rand_u64() % (longest + 1);
            tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
        }
        if cluster.lives.borrow()[self.me as usize] != self.life {
            // What a killed server had begun stands still for ever.
            std::future::pending::<()>().await;
        }
    }

    async fn one(&self, cred: &Cred, call: PeerCall) -> Result<PeerReply> {
        let cluster = self.cluster.upgrade().ok_or_else(unreachable)?;
        let (op, server) = (call.op.op(), call.server);
        if cluster.down.borrow().contains(&server) || take(&cluster.refuse, op) {
            return Err(unreachable());
        }
        if cluster.map.server(server).unwrap().io_range.is_some() {
            let mut io = cluster.io.borrow_mut();
            io.requests.push((server, op));
            let op = Some(io.run(call.op, &call.body, cluster.env.now_ns()));
            return Ok(PeerReply { op, body: Bytes::new() });
        }
        if point(&cluster, self.me, server) {
            self.travel().await;
            return Err(unreachable());
        }
        let service = cluster.service(server)?;
        for _ in 0..2 {
            let known = self.sessions.borrow().get(&server).copied();
            let session = match known {
                Some(session) => session,
                None => cluster.hello(server, 1_000 + u64::from(self.me), self.me + 1)?,
            };
            self.sessions.borrow_mut().insert(server, session);
            let head = RequestHead {
                session,
                cred: Some(cred.clone()),
                op: Some(call.op.clone()),
                ..Default::default()
            };
            let out = service.handle(Incoming { conn: conn(), head, body: Body::Empty }).await;
            if out.head.status == ErrorCode::BadSession as u32 {
                self.sessions.borrow_mut().remove(&server);
                continue;
            }
            if point(&cluster, self.me, server) || take(&cluster.lose, op) {
                return Err(unreachable());
            }
            return match out.head.as_error() {
                Some(e) => Err(e),
                None => Ok(PeerReply { op: out.head.op, body: Bytes::new() }),
            };
        }
        Err(ErrorCode::BadSession.into())
    }
}

/// A user: credentials, a session with each server, tickets.
pub struct User {
    pub cluster: Rc<Cluster>,
    pub cred: Cred,
    client_id: u64,
    sessions: RefCell<HashMap<ServerId, u64>>,
    seq: Cell<u64>,
}

pub struct Sent {
    pub result: Result<OpResponse>,
    pub body: Bytes,
    pub bring: Option<OpResponse>,
}

impl User {
    /// The same client with other credentials.
    pub fn with(&self, uid: u32, gid: u32, groups: &[u32]) -> User {
        User {
            cluster: self.cluster.clone(),
            cred: Cred { uid, gid, groups: groups.to_vec(), groups_known: true },
            client_id: self.client_id,
            sessions: RefCell::new(self.sessions.borrow().clone()),
            seq: Cell::new(self.seq.get() + 1_000),
        }
    }

    pub fn session(&self, server: ServerId) -> Result<u64> {
        if let Some(session) = self.sessions.borrow().get(&server) {
            return Ok(*session);
        }
        let session = self.cluster.hello(server, self.client_id, 0)?;
        self.sessions.borrow_mut().insert(server, session);
        Ok(session)
    }

    pub fn next_ticket(&self) -> u64 {
        self.seq.set(self.seq.get() + 1);
        self.seq.get()
    }

    /// Sends a request with a given sequence number on slot 0 (none: no ticket).
    pub async fn send(
        &self,
        server: ServerId,
        seq: Option<u64>,
        op: OpRequest,
        body: &[u8],
    ) -> Sent {
        let failed = |e| Sent { result: Err(e), body: Bytes::new(), bring: None };
        let session = match self.session(server) {
            Ok(session) => session,
            Err(e) => return failed(e),
        };
        let head = RequestHead {
            session,
            slot: u32::from(seq.is_some()),
            seq: seq.unwrap_or(0),
            op_id: 1,
            cred: Some(self.cred.clone()),
            op: Some(op),
        };
        let body = match body {
            [] => Body::Empty,
            bytes => Body::Whole(PooledBuf::from_vec(bytes.to_vec())),
        };
        let service = match self.cluster.service(server) {
            Ok(service) => service,
            Err(e) => return failed(e),
        };
        let out = service.handle(Incoming { conn: conn(), head, body }).await;
        let body = match out.body {
            OutBody::Bytes(bytes) => bytes,
            _ => Bytes::new(),
        };
        match out.head.as_error() {
            Some(e) => Sent { result: Err(e), body, bring: out.head.op },
            None => Sent { result: Ok(out.head.op.unwrap()), body, bring: None },
        }
    }

    pub async fn ask<M: OpMessage>(&self, server: ServerId, m: M) -> Result<M::Response> {
        let seq = (M::OP.repeat() != Repeat::Harmless).then(|| self.next_ticket());
        M::take_response(Some(self.send(server, seq, m.into_request(), b"").await.result?))
    }

    fn of(&self, handle: u64) -> ServerId {
        self.cluster.owner(handle)
    }

    pub async fn lookup(&self, dir: u64, name: &str) -> Result<u64> {
        let path = vec![Bytes::copy_from_slice(name.as_bytes())];
        let r = self
            .ask(self.of(dir), LookupRequest { dir, path, want_bytes: false, ..Default::default() })
            .await?;
        match r.steps.first() {
            Some(step) if step.handle != 0 => Ok(step.handle),
            _ => Err(ErrorCode::NotFound.into()),
        }
    }
    pub async fn getattr(&self, handle: u64) -> Result<Attr> {
        Ok(self.ask(self.of(handle), GetattrRequest { handle }).await?.attr.unwrap())
    }
    pub async fn setattr(&self, handle: u64, set: pvfs2_proto::SetAttr) -> Result<Attr> {
        let r = SetattrRequest { handle, set: Some(set) };
        Ok(self.ask(self.of(handle), r).await?.attr.unwrap())
    }
    pub async fn create(&self, dir: u64, name: &str) -> Result<u64> {
        let r = CreateRequest { no_open: true, exclusive: true, ..self.creating(dir, name) };
        Ok(self.ask(self.of(dir), r).await?.attr.unwrap().handle)
    }
    /// Made and open for writing.
    pub async fn create_open(&self, dir: u64, name: &str) -> Result<u64> {
        let r = CreateRequest { write: true, ..self.creating(dir, name) };
        Ok(self.ask(self.of(dir), r).await?.attr.unwrap().handle)
    }
    pub fn creating(&self, dir: u64, name: &str) -> CreateRequest {
        CreateRequest { dir, name: name.to_owned().into(), mode: 0o644, ..Default::default() }
    }
    pub async fn mkdir(&self, dir: u64, name: &str) -> Result<u64> {
        self.mkdir_mode(dir, name, 0o755).await
    }
    pub async fn mkdir_mode(&self, dir: u64, name: &str, mode: u32) -> Result<u64> {
        let r = MkdirRequest { dir, name: name.to_owned().into(), mode, umask: 0 };
        Ok(self.ask(self.of(dir), r).await?.attr.unwrap().handle)
    }
    pub async fn unlink(&self, dir: u64, name: &str) -> Result<UnlinkResponse> {
        self.ask(self.of(dir), UnlinkRequest { dir, name: name.to_owned().into() }).await
    }
    pub async fn rmdir(&self, dir: u64, name: &str) -> Result<RmdirResponse> {
        self.ask(self.of(dir), RmdirRequest { dir, name: name.to_owned().into() }).await
    }
    pub async fn link(&self, handle: u64, dir: u64, name: &str) -> Result<Attr> {
        let r = LinkRequest { handle, dir, name: name.to_owned().into() };
        Ok(self.ask(self.of(dir), r).await?.attr.unwrap())
    }
    pub async fn rename(&self, dir: u64, name: &str, to: u64, new: &str) -> Result<RenameResponse> {
        self.rename_with(dir, name, to, new, false, false).await
    }
    pub async fn rename_with(
        &self,
        dir: u64,
        name: &str,
        to: u64,
        new: &str,
        no_replace: bool,
        exchange: bool,
    ) -> Result<RenameResponse> {
        let r = RenameRequest {
            dir,
            name: name.to_owned().into(),
            new_dir: to,
            new_name: new.to_owned().into(),
            no_replace,
            exchange,
        };
        self.ask(self.of(to), r).await
    }
    pub async fn names(&self, dir: u64) -> Vec<String> {
        let mut names = Vec::new();
        let mut cursor = 0;
        loop {
            let r = ReaddirRequest { dir, cursor, max: 7, ..Default::default() };
            let r = self.ask(self.of(dir), r).await.unwrap();
            for entry in r.entries {
                assert!(entry.cursor > cursor);
                cursor = entry.cursor;
                names.push(String::from_utf8(entry.name.to_vec()).unwrap());
            }
            if r.end {
                names.sort();
                return names;
            }
        }
    }
    pub async fn write_small(&self, handle: u64, at: u64, bytes: &[u8]) -> Sent {
        let r = WriteSmallRequest {
            handle,
            logical_offset: at,
            kill_suidgid: false,
            keep_times: false,
        };
        self.send(self.of(handle), Some(self.next_ticket()), r.into_request(), bytes).await
    }
    pub async fn read_small(&self, handle: u64) -> Sent {
        let r = ReadSmallRequest { handle, logical_offset: 0, len: u64::MAX };
        self.send(self.of(handle), None, r.into_request(), b"").await
    }
    pub async fn append(&self, handle: u64, bytes: &[u8]) -> Result<AppendResponse> {
        let r = AppendRequest { handle, known_end: 0, kill_suidgid: false };
        let seq = Some(self.next_ticket());
        let sent = self.send(self.of(handle), seq, r.into_request(), bytes).await;
        AppendRequest::take_response(Some(sent.result?))
    }
    pub async fn open(&self, handle: u64, write: bool) -> Result<Attr> {
        let r = OpenRequest { handle, read: !write, write, ..Default::default() };
        Ok(self.ask(self.of(handle), r).await?.attr.unwrap())
    }
    pub async fn unstuff(&self, handle: u64) -> Result<Attr> {
        Ok(self
            .ask(self.of(handle), UnstuffRequest { handle, ..Default::default() })
            .await?
            .attr
            .unwrap())
    }
    pub async fn close(&self, handle: u64, write: bool, end: u64) -> Result<()> {
        let mtime_ns = if end > 0 { self.cluster.env.now_ns() } else { 0 };
        let item = ReleaseItem { handle, write, wrote: end > 0, end, mtime_ns, atime_ns: 0 };
        self.ask(self.of(handle), ReleaseRequest { items: vec![item] }).await.map(|_| ())
    }
    /// Writes datafiles as a client does, without telling the metadata server.
    pub fn write_datafiles(&self, attr: &Attr, at: u64, bytes: &[u8]) {
        let layout = attr.layout.as_ref().unwrap();
        for (i, byte) in bytes.iter().enumerate() {
            let p = layout.dist.locate(layout.datahandles.len() as u32, at + i as u64);
            let mut io = self.cluster.io.borrow_mut();
            let file = io.files.entry(layout.datahandles[p.datafile as usize]).or_default();
            let place = p.physical_offset as usize;
            file.0.resize(file.0.len().max(place + 1), 0);
            file.0[place] = *byte;
            file.1 = self.cluster.env.now_ns();
        }
    }
}

pub fn code<T>(r: Result<T>) -> ErrorCode {
    match r {
        Ok(_) => panic!("it should have failed"),
        Err(e) => e.code,
    }
}

/// Lets background tasks run.
pub async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

/// Time enough for every background task: reaper, retries, leases, pruning of marks.
pub async fn long_rest() {
    tokio::time::sleep(std::time::Duration::from_secs(200)).await;
}
