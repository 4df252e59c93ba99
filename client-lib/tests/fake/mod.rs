//! A cluster in memory behind the `Net` trait: metadata and I/O servers as simple maps, sessions
//! with tickets and kept replies, counted requests, and faults on demand.
//!
//! The model follows the messages' documentation in `proto`; it is the other half of what these
//! tests hold `client-lib` to. Invariants it asserts itself: a request that needs a ticket has one,
//! that ticket is out, and a (slot, seq) never carries two different requests.
#![allow(dead_code)]
mod meta;
pub mod mount;

use bytes::Bytes;
use pvfs2_bmi::call::{Call, CallCx, Net, Reply, Ticket};
use pvfs2_client::{Client, ClientConfig};
use pvfs2_proto::dist::Dist;
use pvfs2_proto::env::{Clock, Env};
use pvfs2_proto::op::*;
use pvfs2_proto::{
    ClusterMap, ErrorCode, Handle, HandleRange, PvfsError, Result, ServerEntry, ServerId,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

pub use meta::Meta;

/// A clock that a test turns; every look moves it on by a microsecond.
pub struct TestClock(pub AtomicI64);
impl Clock for TestClock {
    fn now_ns(&self) -> i64 {
        self.0.fetch_add(1_000, Ordering::Relaxed)
    }
}

/// Bytes none of which is 0, so that none is taken for a hole.
pub fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

/// Requests since the last look, by name.
pub fn counts(cluster: &Cluster) -> Vec<(&'static str, u64)> {
    cluster.take_counts().into_iter().collect()
}

/// What happens to the next request of an operation.
#[derive(Clone, Debug)]
pub enum Fault {
    /// No answer; the server never saw it.
    StallBefore,
    /// No answer, but the server did it.
    StallAfter,
    /// This error instead.
    Error(ErrorCode),
    /// The bytes were lent, and overwritten before they came.
    Overwritten,
}

/// A datafile.
#[derive(Default, Clone)]
pub struct Datafile {
    pub bytes: Vec<u8>,
    /// Which bytes were written: the others are holes.
    pub written: Vec<bool>,
    pub mtime_ns: i64,
}

/// Servers, their state, counts and faults. Each client has its own [`FakeNet`] on it.
pub struct Cluster {
    pub map: Arc<ClusterMap>,
    pub clock: Arc<TestClock>,
    pub env: Env,
    pub meta: RefCell<Meta>,
    pub datafiles: RefCell<HashMap<u64, Datafile>>,
    pub counts: RefCell<BTreeMap<&'static str, u64>>,
    pub faults: RefCell<VecDeque<(Op, Fault)>>,
    pub io_requests: RefCell<Vec<(ServerId, Op)>>,
    /// What reads named as probably read soon.
    pub ahead: RefCell<Vec<(ServerId, Ahead)>>,
    /// On how many disks the I/O servers are, one after the other; `None`: they do not say.
    pub disks: Cell<Option<u64>>,
}

pub struct Shape {
    pub metas: u32,
    pub ios: u32,
    pub strip: u64,
    pub small: u64,
}
impl Default for Shape {
    fn default() -> Self {
        Shape { metas: 1, ios: 4, strip: 65_536, small: 16_384 }
    }
}

impl Cluster {
    pub fn new(shape: Shape) -> Rc<Cluster> {
        let range = |i: u64, kind: u64| {
            let first = (kind << 60) + (i << 48) + u64::from(kind == 0);
            Some(HandleRange { first, last: (kind << 60) + ((i + 1) << 48) - 1 })
        };
        let mut servers: Vec<ServerEntry> = (0..u64::from(shape.metas))
            .map(|i| ServerEntry {
                alias: format!("m{i}"),
                meta_range: range(i, 0),
                ..Default::default()
            })
            .collect();
        servers.extend((0..u64::from(shape.ios)).map(|i| ServerEntry {
            alias: format!("io{i}"),
            io_range: range(i, 1),
            ..Default::default()
        }));
        let map = Arc::new(ClusterMap {
            fs_name: "fake".into(),
            servers,
            default_dist: Some(Dist::simple_stripe(shape.strip)),
            small_file_bytes: shape.small,
            ..Default::default()
        });
        let clock = Arc::new(TestClock(AtomicI64::new(1_000_000_000_000)));
        let env = Env::seeded(7, clock.clone());
        Rc::new(Cluster {
            meta: RefCell::new(Meta::new(map.clone(), clock.clone())),
            map,
            clock,
            env,
            datafiles: RefCell::default(),
            counts: RefCell::default(),
            faults: RefCell::default(),
            io_requests: RefCell::default(),
            ahead: RefCell::default(),
            disks: Cell::default(),
        })
    }

    /// A client and its carrier.
    pub fn client(self: &Rc<Self>, cache_ms: u64) -> (Arc<Client>, Rc<FakeNet>) {
        self.client_with(cache_ms, |_| {})
    }

    pub fn client_with(
        self: &Rc<Self>,
        cache_ms: u64,
        f: impl FnOnce(&mut ClientConfig),
    ) -> (Arc<Client>, Rc<FakeNet>) {
        let mut config = ClientConfig::new(self.map.clone(), self.env.clone());
        (config.acache_ms, config.ncache_ms) = (cache_ms, cache_ms);
        f(&mut config);
        let session = self.meta.borrow_mut().new_session();
        (Client::new(config), Rc::new(FakeNet::new(self.clone(), session)))
    }

    pub fn advance_ms(&self, ms: i64) {
        self.clock.0.fetch_add(ms * 1_000_000, Ordering::Relaxed);
    }

    pub fn fault(&self, op: Op, fault: Fault) {
        self.faults.borrow_mut().push_back((op, fault));
    }

    /// Requests since the last call, by operation.
    pub fn take_counts(&self) -> BTreeMap<&'static str, u64> {
        self.io_requests.borrow_mut().clear();
        std::mem::take(&mut self.counts.borrow_mut())
    }

    fn io(&self, server: ServerId, op: &OpRequest, body: &[u8]) -> Result<(OpResponse, Vec<u8>)> {
        let mut all = self.datafiles.borrow_mut();
        Ok(match op {
            OpRequest::IoRead(r) => {
                self.ahead.borrow_mut().extend(r.ahead.iter().map(|a| (server, *a)));
                let mut out = Vec::new();
                let none = Datafile::default();
                let df = all.get(&r.datahandle).unwrap_or(&none);
                let mut got = Vec::new();
                for e in &r.extents {
                    let end = (e.physical_offset + e.len).min(df.bytes.len() as u64);
                    let from = e.physical_offset.min(end);
                    out.extend_from_slice(&df.bytes[from as usize..end as usize]);
                    got.push(end - from);
                }
                (IoReadRequest::wrap_response(IoReadResponse { got }), out)
            }
            OpRequest::IoWrite(r) => {
                let sum: u64 = r.extents.iter().map(|e| e.len).sum();
                assert_eq!(sum, body.len() as u64, "extents and body disagree");
                let df = all.entry(r.datahandle).or_default();
                let mut rest = body;
                for e in &r.extents {
                    let (from, len) = (e.physical_offset as usize, e.len as usize);
                    if df.bytes.len() < from + len {
                        df.bytes.resize(from + len, 0);
                        df.written.resize(from + len, false);
                    }
                    df.bytes[from..from + len].copy_from_slice(&rest[..len]);
                    df.written[from..from + len].fill(true);
                    rest = &rest[len..];
                }
                df.mtime_ns = self.env.now_ns();
                (IoWriteRequest::wrap_response(IoWriteResponse { mtime_ns: df.mtime_ns }), vec![])
            }
            OpRequest::DfStat(r) => {
                let stat = |h: &u64| {
                    all.get(h).map_or(DfStat::default(), |df| DfStat {
                        size: df.bytes.len() as u64,
                        mtime_ns: df.mtime_ns,
                        allocated: 0,
                    })
                };
                let stats = r.datahandles.iter().map(stat).collect();
                (DfStatRequest::wrap_response(DfStatResponse { stats }), vec![])
            }
            OpRequest::DfMap(r) => {
                let none = Datafile::default();
                let df = all.get(&r.datahandle).unwrap_or(&none);
                let mut data: Vec<PhysicalExtent> = Vec::new();
                for at in (r.physical_offset as usize..df.bytes.len()).filter(|&i| df.written[i]) {
                    match data.last_mut() {
                        Some(e) if e.physical_offset + e.len == at as u64 => e.len += 1,
                        _ => data.push(PhysicalExtent { physical_offset: at as u64, len: 1 }),
                    }
                }
                // A stingy server: two extents at a time.
                let more = data.len() > 2;
                data.truncate(2);
                let size = df.bytes.len() as u64;
                (DfMapRequest::wrap_response(DfMapResponse { data, size, more }), vec![])
            }
            OpRequest::DfSync(_) => (DfSyncRequest::wrap_response(DfSyncResponse {}), vec![]),
            OpRequest::IoStatfs(_) => {
                let r = IoStatfsResponse {
                    bytes_free: 1_000 + all.len() as u64,
                    bytes_total: 5_000,
                    datafiles: 2,
                    disk: self.disks.get().map_or(0, |disks| 1 + u64::from(server) % disks),
                };
                (IoStatfsRequest::wrap_response(r), vec![])
            }
            other => panic!("{} is no I/O operation", other.op().name()),
        })
    }
}

type Kept = (OpRequest, std::result::Result<(OpResponse, Vec<u8>), PvfsError>);

/// One client's carrier.
pub struct FakeNet {
    pub cluster: Rc<Cluster>,
    pub session: u64,
    /// Answers `Stalled` to everything.
    pub dead: Cell<bool>,
    /// Lets other tasks run inside every exchange.
    pub yields: Cell<bool>,
    next_seq: Cell<u64>,
    out: RefCell<HashSet<(ServerId, u64)>>,
    replies: RefCell<HashMap<(ServerId, u64), Kept>>,
    pub creds: RefCell<Vec<Cred>>,
}

impl FakeNet {
    fn new(cluster: Rc<Cluster>, session: u64) -> FakeNet {
        FakeNet {
            cluster,
            session,
            dead: Cell::new(false),
            yields: Cell::new(false),
            next_seq: Cell::new(0),
            out: RefCell::default(),
            replies: RefCell::default(),
            creds: RefCell::default(),
        }
    }

    /// Tickets that are out.
    pub fn tickets_out(&self) -> usize {
        self.out.borrow().len()
    }

    fn execute(&self, cx: &CallCx, call: &Call<'_>) -> Result<(OpResponse, Vec<u8>), PvfsError> {
        let body: Vec<u8> = call.body.concat();
        let is_io = self.cluster.map.server(call.server).unwrap().io_range.is_some();
        if is_io {
            self.cluster.io(call.server, &call.op, &body)
        } else {
            let mut meta = self.cluster.meta.borrow_mut();
            meta.handle(&self.cluster, self.session, call.server, cx, &call.op, &body)
        }
    }

    fn once(&self, cx: &CallCx, call: &Call<'_>) -> Result<(OpResponse, Vec<u8>), PvfsError> {
        let Some(t) = call.ticket else {
            assert_eq!(
                call.op.op().repeat(),
                Repeat::Harmless,
                "{:?} without ticket",
                call.op.op()
            );
            return self.execute(cx, call);
        };
        assert_eq!((t.server, t.session), (call.server, self.session));
        let key = (t.server, t.seq);
        assert!(self.out.borrow().contains(&key), "a ticket that is not out");
        if let Some((request, reply)) = self.replies.borrow().get(&key) {
            assert_eq!(*request, call.op, "one ticket carries two requests");
            return reply.clone();
        }
        let reply = self.execute(cx, call);
        self.replies.borrow_mut().insert(key, (call.op.clone(), reply.clone()));
        reply
    }

    fn one(&self, cx: &CallCx, call: &mut Call<'_>) {
        let op = call.op.op();
        let stalled = || PvfsError::new(ErrorCode::Stalled, "fake");
        if self.dead.get() {
            call.result = Some(Err(stalled()));
            return;
        }
        *self.cluster.counts.borrow_mut().entry(op.name()).or_default() += 1;
        self.cluster.io_requests.borrow_mut().push((call.server, op));
        self.creds.borrow_mut().push(cx.cred.clone());
        let may_lend = matches!(&call.op, OpRequest::IoRead(r) if r.may_lend);
        if op == Op::IoRead && !may_lend {
            *self.cluster.counts.borrow_mut().entry("io_read, not lent").or_default() += 1;
        }
        let fault = {
            let mut faults = self.cluster.faults.borrow_mut();
            let at = faults.iter().position(|(o, _)| *o == op);
            at.and_then(|at| faults.remove(at)).map(|f| f.1)
        };
        let result = match &fault {
            Some(Fault::StallBefore) => Err(stalled()),
            Some(Fault::Error(code)) => Err(PvfsError::new(*code, "fake")),
            Some(Fault::StallAfter) => self.once(cx, call).and_then(|_| Err(stalled())),
            Some(Fault::Overwritten) | None => self.once(cx, call),
        };
        call.result = Some(result.map(|(op, body)| {
            let body_len = body.len();
            if call.into.is_empty() {
                return Reply {
                    op: Some(op),
                    body: Bytes::from(body),
                    body_len,
                    is_changed: false,
                };
            }
            let mut rest = body.as_slice();
            for piece in call.into.iter_mut() {
                let n = piece.len().min(rest.len());
                piece[..n].copy_from_slice(&rest[..n]);
                rest = &rest[n..];
            }
            assert!(rest.is_empty(), "more bytes than room");
            let is_changed = matches!(fault, Some(Fault::Overwritten));
            assert!(!is_changed || may_lend, "only what may be lent is overwritten on the way");
            if is_changed {
                call.into.iter_mut().for_each(|piece| piece.fill(0xee));
            }
            Reply { op: Some(op), body: Bytes::new(), body_len, is_changed }
        }));
    }
}

impl Net for FakeNet {
    async fn exchange(&self, cx: &CallCx, calls: &mut [Call<'_>]) {
        if self.yields.get() {
            tokio::task::yield_now().await;
        }
        for call in calls.iter_mut() {
            self.one(cx, call);
        }
        if self.yields.get() {
            tokio::task::yield_now().await;
        }
    }
    async fn ticket(&self, _cx: &CallCx, server: ServerId) -> Result<Ticket> {
        if self.dead.get() {
            return Err(PvfsError::new(ErrorCode::Stalled, "fake"));
        }
        self.next_seq.set(self.next_seq.get() + 1);
        let seq = self.next_seq.get();
        self.out.borrow_mut().insert((server, seq));
        Ok(Ticket { server, session: self.session, slot: 0, seq })
    }
    fn done(&self, t: Ticket) {
        assert!(self.out.borrow_mut().remove(&(t.server, t.seq)), "a ticket came back twice");
    }
}

/// Bytes of a name.
pub fn name(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub const ROOT: Handle = Handle::ROOT;
