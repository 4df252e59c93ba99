//! A small server for the tests of BMI: sessions, a reply cache by slot and sequence number, a
//! store that writes replace and reads return, and operations that are slow or never answer.
#![allow(dead_code, clippy::unwrap_used)]
use bytes::Bytes;
use pvfs2_bmi::addr::Address;
use pvfs2_bmi::auth::ClusterKey;
use pvfs2_bmi::buf::Pools;
use pvfs2_bmi::call::{Call, CallCx, Net, Reply};
use pvfs2_bmi::client::{ClientOptions, ClientShared, NoEvents, SessionEvents};
use pvfs2_bmi::lent::Lent;
use pvfs2_bmi::mem::MemNetwork;
use pvfs2_bmi::server::{Listener, ServerOptions, serve};
use pvfs2_bmi::service::{Body, Conn, Incoming, OutBody, Outgoing, Service};
use pvfs2_proto::env::Env;
use pvfs2_proto::op::*;
use pvfs2_proto::{ClusterMap, ErrorCode, PvfsError, Result, ServerEntry, ServerId};
use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::watch;

/// What the server remembers; survives a "restart" of the server when handed to the next one.
#[derive(Default)]
pub struct Memory {
    pub sessions: HashMap<u64, u64>,
    /// The last reply of a slot; none while it is in progress.
    pub replies: HashMap<(u64, u32), (u64, Option<OpResponse>)>,
    /// Executions by (session, slot, seq).
    pub executed: HashMap<(u64, u32, u64), u32>,
    pub stored: HashMap<u64, Vec<u8>>,
    pub reclaimed: Vec<(u64, Vec<OpenState>, bool)>,
}

pub struct TestService {
    pub id: ServerId,
    pub boot_id: AtomicU64,
    pub memory: Arc<Mutex<Memory>>,
    pub pools: Pools,
    pub open: AtomicUsize,
    pub hellos: AtomicUsize,
    pub flow_pieces: AtomicUsize,
    /// Milliseconds between pieces that a slow receiver takes.
    pub piece_ms: AtomicU64,
    pub conns: Mutex<Vec<Arc<Conn>>>,
    pub lost: Mutex<Vec<u64>>,
    /// Requests whose handling was dropped in the middle.
    pub dropped: Arc<AtomicUsize>,
    /// Writes wait, before they look at their bodies.
    pub hold: AtomicBool,
}

struct CountDrop(Arc<AtomicUsize>);
impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl TestService {
    pub fn new(id: ServerId, memory: Arc<Mutex<Memory>>) -> Arc<TestService> {
        static BOOT: AtomicU64 = AtomicU64::new(1);
        Arc::new(TestService {
            id,
            boot_id: AtomicU64::new(BOOT.fetch_add(1, Ordering::Relaxed)),
            memory,
            pools: Pools::new(),
            open: AtomicUsize::new(0),
            hellos: AtomicUsize::new(0),
            flow_pieces: AtomicUsize::new(0),
            piece_ms: AtomicU64::new(0),
            conns: Mutex::default(),
            lost: Mutex::default(),
            dropped: Arc::default(),
            hold: AtomicBool::new(false),
        })
    }

    /// Forgets every session, as an expired lease does.
    pub fn expire(&self) {
        self.memory.lock().unwrap().sessions.clear();
    }

    async fn run(&self, incoming: Incoming) -> Result<(OpResponse, OutBody)> {
        let Incoming { conn, head, body } = incoming;
        if head.session != 0 {
            let known = self.memory.lock().unwrap().sessions.values().any(|s| *s == head.session);
            if !known {
                return Err(ErrorCode::BadSession.into());
            }
        }
        let key = (head.session, head.slot);
        loop {
            if head.slot == 0 {
                break;
            }
            let found = self.memory.lock().unwrap().replies.get(&key).cloned();
            match found {
                Some((seq, _)) if head.seq < seq => {
                    return Ok((OpResponse::Ping(PingResponse::default()), OutBody::Silent));
                }
                Some((seq, Some(reply))) if head.seq == seq => return Ok((reply, OutBody::Empty)),
                Some((seq, None)) if head.seq == seq => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                _ => {
                    self.memory.lock().unwrap().replies.insert(key, (head.seq, None));
                    break;
                }
            }
        }
        let mut out = OutBody::Empty;
        let response = match head.op.unwrap() {
            OpRequest::Ping(_) => OpResponse::Ping(PingResponse {
                alias: format!("s{}", self.id),
                ..Default::default()
            }),
            OpRequest::Renew(_) => OpResponse::Renew(RenewResponse { lease_ms: 600 }),
            OpRequest::Goodbye(_) => {
                self.memory.lock().unwrap().sessions.retain(|_, s| *s != head.session);
                OpResponse::Goodbye(GoodbyeResponse {})
            }
            OpRequest::Reclaim(r) => {
                let entry = (head.session, r.opens, r.done);
                self.memory.lock().unwrap().reclaimed.push(entry);
                OpResponse::Reclaim(ReclaimResponse {
                    lost: self.lost.lock().unwrap().clone(),
                    ..Default::default()
                })
            }
            OpRequest::GetConfig(_) => OpResponse::GetConfig(GetConfigResponse {
                map: Some(ClusterMap { fs_name: "fs".into(), fs_id: 9, ..Default::default() }),
            }),
            OpRequest::Lookup(l) => return self.lookup(&conn, l).await,
            OpRequest::IoRead(r) => {
                let stored = self.memory.lock().unwrap();
                let data = stored.stored.get(&r.datahandle).cloned().unwrap_or_default();
                out = match r.may_lend {
                    true => lent(&data, r.extents.is_empty()),
                    false => self.pieces(&data),
                };
                OpResponse::IoRead(IoReadResponse { got: vec![data.len() as u64] })
            }
            OpRequest::IoWrite(w) => {
                while self.hold.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                let data = match self.collect(body).await {
                    Ok(data) => data,
                    Err(error) => {
                        // Not executed: a repeat shall be.
                        self.memory.lock().unwrap().replies.remove(&key);
                        return Err(error);
                    }
                };
                let mut memory = self.memory.lock().unwrap();
                *memory.executed.entry((head.session, head.slot, head.seq)).or_default() += 1;
                memory.stored.insert(w.datahandle, data);
                OpResponse::IoWrite(IoWriteResponse { mtime_ns: head.seq as i64 })
            }
            OpRequest::Mkdir(m) => {
                {
                    let mut memory = self.memory.lock().unwrap();
                    *memory.executed.entry((head.session, head.slot, head.seq)).or_default() += 1;
                }
                if m.name.starts_with(b"slow") {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                OpResponse::Mkdir(MkdirResponse::default())
            }
            op => panic!("unexpected {op:?}"),
        };
        if head.slot > 0 {
            self.memory.lock().unwrap().replies.insert(key, (head.seq, Some(response.clone())));
        }
        Ok((response, out))
    }

    async fn lookup(&self, conn: &Arc<Conn>, l: LookupRequest) -> Result<(OpResponse, OutBody)> {
        match &*l.path[0] {
            b"hang" => {
                let _guard = CountDrop(self.dropped.clone());
                std::future::pending().await
            }
            b"slow" => tokio::time::sleep(Duration::from_millis(50)).await,
            b"notice" => {
                (conn.notifier)(Notice { invalidate: vec![7], ..Default::default() });
            }
            b"missing" => {
                return Err(PvfsError::new(ErrorCode::NotFound, "no 'missing' here"));
            }
            _ => {}
        }
        Ok((OpResponse::Lookup(LookupResponse::default()), OutBody::Empty))
    }

    async fn collect(&self, body: Body) -> Result<Vec<u8>> {
        Ok(match body {
            Body::Empty => Vec::new(),
            Body::Whole(buf) => buf.to_vec(),
            Body::Shared(shared) => shared.slices().concat(),
            Body::Flow(mut flow) => {
                let mut all = Vec::new();
                while let Some(piece) = flow.next().await? {
                    self.flow_pieces.fetch_add(1, Ordering::Relaxed);
                    all.extend_from_slice(&piece);
                    drop(piece);
                    match self.piece_ms.load(Ordering::Relaxed) {
                        0 => {}
                        ms => tokio::time::sleep(Duration::from_millis(ms)).await,
                    }
                }
                all
            }
        })
    }

    fn pieces(&self, data: &[u8]) -> OutBody {
        let copy = |part: &[u8]| {
            let mut buf = self.pools.take(part.len());
            buf.copy_from_slice(part);
            buf
        };
        match data.len() {
            0 => OutBody::Empty,
            n if n <= 4096 => OutBody::Bytes(Bytes::copy_from_slice(data)),
            n if n <= 1 << 20 => OutBody::Pooled(copy(data)),
            _ => OutBody::Pieces(data.chunks(700_001).map(copy).collect()),
        }
    }
}

impl Service for TestService {
    fn hello(&self, conn: &Arc<Conn>, hello: &HelloRequest) -> Result<HelloResponse> {
        self.hellos.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        self.conns.lock().unwrap().push(conn.clone());
        let mut response = HelloResponse {
            fs_id: 9,
            server: self.id,
            boot_id: self.boot_id.load(Ordering::Relaxed),
            lease_ms: 600,
            slots: 4,
            ..Default::default()
        };
        if !hello.no_session {
            static NEXT: AtomicU64 = AtomicU64::new(100);
            let mut memory = self.memory.lock().unwrap();
            let session = memory.sessions.entry(hello.client_id).or_insert_with(|| {
                response.session_is_new = true;
                NEXT.fetch_add(1, Ordering::Relaxed)
            });
            response.session = *session;
        }
        Ok(response)
    }
    async fn handle(&self, request: Incoming) -> Outgoing {
        match self.run(request).await {
            Ok((op, body)) => Outgoing { head: ResponseHead::ok(op), body },
            Err(error) => Outgoing::head(ResponseHead::error(error)),
        }
    }
    fn closed(&self, _: &Arc<Conn>) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A server on a thread of its own; ends on drop.
pub struct TestServer {
    pub service: Arc<TestService>,
    pub address: Address,
    stop: watch::Sender<bool>,
    abort: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestServer {
    pub fn start(address: &Address, service: Arc<TestService>) -> TestServer {
        TestServer::start_with(address, service, ServerOptions { fs_id: 9, ..Default::default() })
    }

    pub fn start_with(
        address: &Address,
        service: Arc<TestService>,
        opts: ServerOptions,
    ) -> TestServer {
        let (stop, stopped) = watch::channel(false);
        let (ready, bound) = std::sync::mpsc::channel();
        let (abort, aborted) = tokio::sync::oneshot::channel::<()>();
        let (at, own) = (address.clone(), service.clone());
        let thread = std::thread::spawn(move || {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&rt, async move {
                let listener = Listener::bind(&at).await.unwrap();
                ready.send(listener.address().unwrap()).unwrap();
                tokio::select! {
                    () = serve(listener, own, Arc::new(opts), stopped) => {}
                    _ = aborted => {}
                }
            });
        });
        let address = bound.recv().unwrap();
        TestServer { service, address, stop, abort: Some(abort), thread: Some(thread) }
    }

    /// Ends at once, connections cut, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(abort) = self.abort.take() {
            abort.send(()).ok();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Ends in order.
    pub fn stop(&mut self) {
        self.stop.send(true).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn map_of(addresses: &[Vec<Address>]) -> ClusterMap {
    let servers = addresses
        .iter()
        .enumerate()
        .map(|(i, a)| ServerEntry {
            alias: format!("s{i}"),
            addresses: a.iter().map(Address::to_string).collect(),
            ..Default::default()
        })
        .collect();
    ClusterMap { fs_name: "fs".into(), fs_id: 9, servers, ..Default::default() }
}

pub fn options(addresses: &[Address]) -> ClientOptions {
    let lists: Vec<Vec<Address>> = addresses.iter().map(|a| vec![a.clone()]).collect();
    let mut opts = ClientOptions::new(Arc::new(map_of(&lists)), Env::real());
    opts.retry_limit = Some(3);
    opts.retry_delay_ms = 100;
    opts
}

pub fn client(addresses: &[Address]) -> Arc<ClientShared> {
    ClientShared::new(options(addresses), Arc::new(NoEvents))
}

pub fn client_with(opts: ClientOptions, events: Arc<dyn SessionEvents>) -> Arc<ClientShared> {
    ClientShared::new(opts, events)
}

pub fn cx() -> CallCx {
    CallCx { op_id: 1, cred: Cred::root(), caller_tid: 0 }
}

pub fn tcp() -> Address {
    "tcp://127.0.0.1:0".parse().unwrap()
}

pub fn unix(dir: &Path, name: &str) -> Address {
    Address::Unix(dir.join(name))
}

/// Polls a future that must never pend (`BlockingNet`'s).
pub fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(out) => out,
        Poll::Pending => panic!("a blocking carrier's future was pending"),
    }
}

/// Runs an async test body on a current-thread runtime with a `LocalSet`.
pub fn run_local<F: Future>(future: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, future)
}

pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

pub fn lookup<'a>(server: ServerId, name: &'static str) -> Call<'a> {
    let path = vec![Bytes::from_static(name.as_bytes())];
    Call::new(
        server,
        LookupRequest { dir: 1, path, want_bytes: false, ..Default::default() }.into_request(),
    )
}

pub fn mkdir<'a>(server: ServerId, name: &'static str) -> Call<'a> {
    let name = Bytes::from_static(name.as_bytes());
    Call::new(server, MkdirRequest { dir: 1, name, mode: 0o755, umask: 0 }.into_request())
}

/// From a file, under a checksum that is right or that of other bytes.
fn lent(data: &[u8], right: bool) -> OutBody {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(data).unwrap();
    let (half, crc) = (data.len() / 2, crc32fast::hash(data) ^ u32::from(!right));
    OutBody::Lent(Lent::new(Arc::new(file), [(0, half), (half as u64, data.len() - half)], crc))
}

/// Reads what may be lent; it comes under a wrong checksum unless `right`.
pub fn read_lent<'a>(server: ServerId, datahandle: u64, right: bool) -> Call<'a> {
    let extents = if right { vec![] } else { vec![PhysicalExtent::default()] };
    Call::new(
        server,
        IoReadRequest { datahandle, extents, may_lend: true, ..Default::default() }.into_request(),
    )
}

pub fn read<'a>(server: ServerId, datahandle: u64) -> Call<'a> {
    Call::new(
        server,
        IoReadRequest { datahandle, extents: vec![], may_lend: false, ..Default::default() }
            .into_request(),
    )
}

pub async fn write<N: Net>(
    net: &N,
    server: ServerId,
    datahandle: u64,
    data: &[u8],
) -> Result<Reply> {
    let cx = cx();
    let request = IoWriteRequest { datahandle, ..Default::default() };
    let mut call = Call::new(server, request.into_request());
    // Uneven slices: a body is scattered memory.
    let (a, rest) = data.split_at(data.len() / 3);
    let (b, c) = rest.split_at(rest.len() / 2);
    call.body.extend([a, b, c]);
    call.ticket = Some(net.ticket(&cx, server).await?);
    let mut calls = [call];
    net.exchange(&cx, &mut calls).await;
    let [call] = calls;
    net.done(call.ticket.unwrap());
    call.result.unwrap()
}

/// One call.
pub async fn one<N: Net>(net: &N, call: Call<'_>) -> Result<Reply> {
    let mut calls = [call];
    net.exchange(&cx(), &mut calls).await;
    let [call] = calls;
    call.result.unwrap()
}

/// Waits until `f` holds, for at most ten seconds.
pub fn wait_until(what: &str, mut f: impl FnMut() -> bool) {
    let give_up = std::time::Instant::now() + Duration::from_secs(10);
    while !f() {
        assert!(std::time::Instant::now() < give_up, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn key(byte: u8) -> ClusterKey {
    ClusterKey::from_bytes([byte; 32])
}

pub fn mem_options(net: &Arc<MemNetwork>, names: &[&str]) -> ClientOptions {
    let addresses: Vec<Address> = names.iter().map(|n| Address::Mem((*n).into())).collect();
    ClientOptions { mem: Some(net.clone()), ..options(&addresses) }
}
