//! From the network to an operation: sessions, the slot rule, tracing, metrics, then the handler.
//!
//! [`SessionService`] implements BMI's `Service` for any [`OpHandler`] (metadata server, I/O server,
//! or both). Place in the walks: second room of every request on a server.
//!
//! Invariants:
//! - an operation with a ticket runs to its end once begun, whatever becomes of the connection: if
//!   it does not finish at its first poll, it goes on as a task of its own;
//! - its reply is kept before it is sent;
//! - operations between servers are taken only from sessions of servers.
pub use crate::combined::CombinedHandler;
use crate::metrics::Metrics;
use crate::session::{Admission, DurableSessions, SessionTable};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use pvfs2_bmi::service::{Body, Conn, Incoming, OutBody, Outgoing, Service};
use pvfs2_proto::env::Env;
use pvfs2_proto::limits::SESSION_SLOTS;
use pvfs2_proto::op::{
    Cred, GetConfigResponse, GoodbyeResponse, HelloRequest, HelloResponse, LockState, Notice, Op,
    OpRequest, OpResponse, OpenState, PingResponse, ReclaimRequest, ReclaimResponse, RenewResponse,
    Repeat, RequestHead, ResponseHead,
};
use pvfs2_proto::{ClusterMap, ErrorCode, PvfsError, Result, ServerId, frame};
use pvfs2_trove::Txn;
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;

/// The number of the first operation between servers.
pub(crate) const FIRST_PEER_OP: u16 = 70;
/// The number of the first operation behind those: clients ask a metadata server for it again.
pub(crate) const FIRST_LATER_OP: u16 = 85;

/// What an operation knows of its request.
pub struct OpCx {
    /// The operation id for traces.
    pub op_id: u64,
    /// Who asks.
    pub cred: Cred,
    /// The session; 0: none (tools that only read).
    pub session: u64,
    /// The server that asks, if a server does.
    pub peer_server: Option<ServerId>,
    /// The slot and sequence number of a request with a ticket.
    pub ticket: Option<(u32, u64)>,
    /// The server waits for reclaims: opens that it does not know of may exist.
    pub in_grace: bool,
    durable: Option<DurableSessions>,
    kept: RefCell<Option<Bytes>>,
}

impl OpCx {
    /// A context for an operation that this server begins itself, or for tests.
    pub fn internal(cred: Cred) -> OpCx {
        OpCx {
            op_id: 0,
            cred,
            session: 0,
            peer_server: None,
            ticket: None,
            in_grace: false,
            durable: None,
            kept: RefCell::new(None),
        }
    }

    /// Adds the reply record to the operation's own transaction, so that a repeat is recognised even
    /// after a restart. To be called once per operation with the response that will be returned;
    /// does nothing for requests without a ticket and for servers without durable sessions.
    pub fn reply_record(&self, txn: &mut Txn, response: &OpResponse) {
        let (Some((slot, seq)), Some(durable)) = (self.ticket, &self.durable) else { return };
        let mut value = Vec::with_capacity(8 + response.encoded_len());
        value.extend_from_slice(&seq.to_le_bytes());
        // A good ResponseHead is its `op` field alone: status 0 and no detail take no bytes.
        response.encode(&mut value);
        let value = Bytes::from(value);
        *self.kept.borrow_mut() = Some(value.slice(8..));
        txn.put(durable.keys.reply_key(self.session, slot).to_vec(), value);
    }
}

/// An operation's good answer, or a refusal that brings something along.
pub struct Answer {
    /// The response.
    pub op: OpResponse,
    /// Its body.
    pub body: OutBody,
    /// The error that this response accompanies (`NotStuffed` with attributes).
    pub error: Option<PvfsError>,
}

impl Answer {
    /// An answer without body.
    pub fn new(op: OpResponse) -> Answer {
        Answer { op, body: OutBody::Empty, error: None }
    }
    /// An answer with a body.
    pub fn with_body(op: OpResponse, body: OutBody) -> Answer {
        Answer { op, body, error: None }
    }
    /// An error that brings a response along.
    pub fn refused(error: PvfsError, op: OpResponse) -> Answer {
        Answer { op, body: OutBody::Empty, error: Some(error) }
    }
}

/// Sends a notice to a session, wherever it listens.
pub type Notifier = Box<dyn Fn(u64, Notice)>;

/// A server's operations.
pub trait OpHandler: 'static {
    /// Executes one operation.
    fn op(&self, cx: &OpCx, op: OpRequest, body: Body) -> impl Future<Output = Result<Answer>>;
    /// Called once, before anything else: how to tell a session something unasked.
    fn attach(&self, _notifier: Notifier) {}
    /// A session has ended: its opens are closed.
    fn session_ended(&self, _session: u64) {}
    /// A session says what it has open; returns what is gone for good.
    fn reclaim(&self, _session: u64, _opens: &[OpenState]) -> Vec<u64> {
        Vec::new()
    }
    /// A session says what it has locked; `allowed`: the session goes back to before the restart, and
    /// the grace time has not ended, so that no other can have had these locks since. Returns what is
    /// lost.
    fn reclaim_locks(&self, _session: u64, _locks: &[LockState], _allowed: bool) -> Vec<LockState> {
        Vec::new()
    }
    /// An earlier run of the server did this, and the client learns of it only now: what else that
    /// run kept in memory for the operation (an open) is to be made again.
    fn answered_before(&self, _session: u64, _op: &OpRequest, _response: &OpResponse) {}
    /// Grace time is over: what nobody reclaimed may go.
    fn grace_ended(&self) {}
    /// Objects or datafiles and other numbers for the management service, by name.
    fn gauges(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// What a [`SessionService`] is made of.
pub struct ServiceConfig {
    /// This server.
    pub server: ServerId,
    /// The cluster.
    pub map: Arc<ClusterMap>,
    /// Clock and chance.
    pub env: Env,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where sessions outlive a restart (metadata servers); `None`: in memory only.
    pub durable: Option<DurableSessions>,
}

struct Inner<H> {
    handler: Arc<H>,
    config: ServiceConfig,
    sessions: Mutex<SessionTable>,
    conns: Mutex<HashMap<u64, Arc<Conn>>>,
    boot_id: u64,
    started: Instant,
    draining: AtomicBool,
}

/// Sessions and slots around a server's operations.
pub struct SessionService<H> {
    inner: Arc<Inner<H>>,
}

impl<H: OpHandler> SessionService<H> {
    /// A service for `handler`; reads back the sessions of earlier runs.
    ///
    /// # Errors
    /// Those of [`SessionTable::open`].
    pub fn new(handler: Arc<H>, config: ServiceConfig) -> Result<SessionService<H>> {
        let lease = u64::from(config.map.lease_ms);
        let sessions = SessionTable::open(config.durable.clone(), lease, 0)?;
        let in_grace = sessions.in_grace();
        let boot_id = config.env.rand_u64();
        let inner = Arc::new(Inner {
            handler,
            config,
            sessions: Mutex::new(sessions),
            conns: Mutex::new(HashMap::new()),
            boot_id,
            started: Instant::now(),
            draining: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&inner);
        inner.handler.attach(Box::new(move |session, notice| {
            if let Some(inner) = weak.upgrade() {
                inner.notify(session, &notice);
            }
        }));
        if !in_grace {
            inner.handler.grace_ended();
        }
        Ok(SessionService { inner })
    }

    /// The handler.
    pub fn handler(&self) -> &Arc<H> {
        &self.inner.handler
    }
    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.config.metrics
    }
    /// Number of sessions.
    pub fn session_count(&self) -> usize {
        self.inner.sessions.lock().len()
    }
    /// Sessions with the names of their clients.
    pub fn clients(&self) -> Vec<(u64, String)> {
        self.inner.sessions.lock().clients()
    }
    /// Whether the server waits for reclaims.
    pub fn in_grace(&self) -> bool {
        self.inner.sessions.lock().in_grace()
    }
    /// Whether [`SessionService::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Relaxed)
    }
    /// Tells every client that the server is about to stop cleanly.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::Relaxed);
        self.notify_all(&Notice { draining: true, ..Default::default() });
    }
    /// Sends a notice on every connection on which somebody listens.
    pub fn notify_all(&self, notice: &Notice) {
        for conn in self.inner.conns.lock().values() {
            (conn.notifier)(notice.clone());
        }
    }

    /// Ends the sessions whose lease has run out, until the future is dropped.
    pub async fn expire_sessions(&self) {
        // Others may wait for the end of a session: what it takes is the lease, and little more.
        let pause = Duration::from_millis((u64::from(self.inner.config.map.lease_ms) / 32).max(10));
        loop {
            tokio::time::sleep(pause).await;
            self.inner.tick();
        }
    }

    /// Runs [`SessionService::expire_sessions`] on the current `LocalSet`.
    pub fn spawn_background(&self) -> tokio::task::JoinHandle<()> {
        let service = SessionService { inner: self.inner.clone() };
        tokio::task::spawn_local(async move { service.expire_sessions().await })
    }
}

impl<H: OpHandler> Inner<H> {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Sends a notice to one session, where it listens.
    fn notify(&self, session: u64, notice: &Notice) {
        for conn in self.conns.lock().values() {
            if conn.session.load(Ordering::Relaxed) == session {
                (conn.notifier)(notice.clone());
            }
        }
    }

    fn tick(&self) {
        let (expired, grace_ended) = self.sessions.lock().tick(self.now_ms());
        for session in expired {
            let name = self.sessions.lock().client_name(session).to_owned();
            tracing::info!(session, client = name, "lease has run out: session ended");
            self.end(session);
        }
        if grace_ended {
            self.handler.grace_ended();
        }
    }

    fn end(&self, session: u64) {
        match self.sessions.lock().end(session) {
            Ok(false) => return,
            Ok(true) => {}
            Err(e) => tracing::error!(session, "cannot remove the records of a session: {e}"),
        }
        self.handler.session_ended(session);
    }

    /// Operations that the service answers itself.
    fn own_op(&self, session: u64, op: &OpRequest) -> Option<Result<OpResponse>> {
        let entry = self.config.map.server(self.config.server);
        Some(Ok(match op {
            OpRequest::Renew(_) => {
                OpResponse::Renew(RenewResponse { lease_ms: self.config.map.lease_ms })
            }
            OpRequest::Reclaim(request) => self.reclaim(session, request),
            OpRequest::Goodbye(_) => {
                self.end(session);
                OpResponse::Goodbye(GoodbyeResponse {})
            }
            OpRequest::GetConfig(_) => {
                OpResponse::GetConfig(GetConfigResponse { map: Some((*self.config.map).clone()) })
            }
            OpRequest::Ping(_) => {
                let is_meta = entry.is_some_and(|e| e.meta_range.is_some());
                let is_io = entry.is_some_and(|e| e.io_range.is_some());
                let roles = match (is_meta, is_io) {
                    (true, true) => "meta,io",
                    (true, false) => "meta",
                    _ => "io",
                };
                OpResponse::Ping(PingResponse {
                    alias: self.config.map.alias(self.config.server).to_owned(),
                    roles: roles.to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    uptime_s: self.started.elapsed().as_secs(),
                    sessions: self.sessions.lock().len() as u32,
                })
            }
            OpRequest::Hello(_) => {
                return Some(Err(PvfsError::new(
                    ErrorCode::Protocol,
                    "hello came twice on one connection",
                )));
            }
            _ => return None,
        }))
    }

    fn reclaim(&self, session: u64, request: &ReclaimRequest) -> OpResponse {
        let lost = self.handler.reclaim(session, &request.opens);
        let allowed = self.sessions.lock().may_reclaim_locks(session);
        let lost_locks = self.handler.reclaim_locks(session, &request.locks, allowed);
        if request.done && self.sessions.lock().reclaimed(session) {
            self.handler.grace_ended();
        }
        OpResponse::Reclaim(ReclaimResponse { lost, lost_locks })
    }

    fn cx(&self, head: &mut RequestHead, ticket: Option<(u32, u64)>) -> Result<OpCx> {
        let (in_grace, peer_server) = {
            let mut sessions = self.sessions.lock();
            if head.session != 0 && ticket.is_none() && !sessions.touch(head.session, self.now_ms())
            {
                return Err(bad_session());
            }
            (sessions.in_grace(), sessions.peer_server(head.session))
        };
        Ok(OpCx {
            op_id: head.op_id,
            cred: head.cred.take().unwrap_or(Cred {
                uid: u32::MAX,
                gid: u32::MAX,
                groups: Vec::new(),
                groups_known: true,
            }),
            session: head.session,
            peer_server,
            ticket,
            in_grace,
            durable: ticket.and_then(|_| self.config.durable.clone()),
            kept: RefCell::new(None),
        })
    }

    async fn handle(self: &Arc<Self>, request: Incoming) -> Outgoing {
        let Incoming { mut head, body, .. } = request;
        let Some(op) = head.op.take() else {
            return refuse(ErrorCode::Protocol, "the request names no operation of this version");
        };
        let (kind, began) = (op.op(), Instant::now());
        // A flow's bytes are counted by the operation that takes them.
        let bytes_in = match &body {
            Body::Whole(bytes) => bytes.len(),
            Body::Shared(shared) => shared.len(),
            Body::Empty | Body::Flow(_) => 0,
        };
        let out = match kind.repeat() {
            Repeat::Harmless => self.harmless(kind, head, op, body).await,
            repeat => self.ticketed(repeat, head, op, body).await,
        };
        let metrics = &self.config.metrics;
        metrics.record(kind, began.elapsed().as_nanos() as u64, out.head.status == 0);
        if out.head.status == 0 && bytes_in > 0 {
            metrics.add_bytes_in(kind, bytes_in as u64);
        }
        if let bytes_out @ 1.. = out.body.len() {
            metrics.add_bytes_out(kind, bytes_out as u64);
        }
        out
    }

    async fn harmless(
        &self,
        kind: Op,
        mut head: RequestHead,
        op: OpRequest,
        body: Body,
    ) -> Outgoing {
        let cx = match self.cx(&mut head, None) {
            Ok(cx) => cx,
            // A goodbye for a session that has ended already has reached its aim.
            Err(_) if kind == Op::Goodbye => {
                return Outgoing::head(ResponseHead::ok(OpResponse::Goodbye(GoodbyeResponse {})));
            }
            Err(e) => return Outgoing::head(ResponseHead::error(e)),
        };
        if let Some(own) = self.own_op(cx.session, &op) {
            return Outgoing::head(own.map_or_else(ResponseHead::error, ResponseHead::ok));
        }
        if (FIRST_PEER_OP..FIRST_LATER_OP).contains(&(kind as u16)) && cx.peer_server.is_none() {
            return refuse(ErrorCode::NotPermitted, "only servers of the cluster may ask this");
        }
        let span = tracing::debug_span!("op", op = kind.name(), op_id = cx.op_id);
        outgoing(self.handler.op(&cx, op, body).instrument(span).await)
    }

    async fn ticketed(
        self: &Arc<Self>,
        repeat: Repeat,
        mut head: RequestHead,
        op: OpRequest,
        body: Body,
    ) -> Outgoing {
        let Some(slot) = head.slot.checked_sub(1) else {
            return refuse(ErrorCode::Protocol, "this operation needs a session slot");
        };
        let seq = head.seq;
        let admission = self.sessions.lock().admit(head.session, slot, seq, self.now_ms());
        match admission {
            Admission::Execute => {}
            Admission::Kept(reply) => return kept(&reply),
            Admission::Stored(reply) => {
                let out = kept(&reply);
                if let Some(response) = &out.head.op {
                    self.handler.answered_before(head.session, &op, response);
                }
                return out;
            }
            Admission::Wait(rx) => {
                return match rx.await {
                    Ok(reply) => kept(&reply),
                    Err(_) => Outgoing::head(ResponseHead::error(bad_session())),
                };
            }
            // Nobody waits for this answer: the connection's end drops it.
            Admission::Drop => return std::future::pending().await,
            Admission::Unknown => return Outgoing::head(ResponseHead::error(bad_session())),
            Admission::BadSlot => {
                return refuse(ErrorCode::Protocol, "slot or sequence number out of range");
            }
        }
        let mut cx = match self.cx(&mut head, Some((slot, seq))) {
            Ok(cx) => cx,
            Err(e) => return Outgoing::head(ResponseHead::error(e)),
        };
        if repeat != Repeat::Durable {
            cx.durable = None;
        }
        let span = tracing::debug_span!("op", op = op.op().name(), op_id = cx.op_id);
        let this = self.clone();
        let run = async move {
            let out = outgoing(this.handler.op(&cx, op, body).await);
            let recorded = cx.kept.take().filter(|_| out.head.status == 0);
            let reply = recorded.unwrap_or_else(|| out.head.encode_to_vec().into());
            let mut sessions = this.sessions.lock();
            sessions.complete(cx.session, slot, seq, reply);
            if out.head.as_error().is_some_and(|e| e.is_retryable()) {
                sessions.reopen(cx.session, slot, seq);
            }
            drop(sessions);
            out
        };
        finish(Box::pin(run.instrument(span))).await
    }
}

/// Polls once; what is not ready then goes on as a task, so that a lost connection stops nothing.
async fn finish(mut run: std::pin::Pin<Box<dyn Future<Output = Outgoing>>>) -> Outgoing {
    let first = std::future::poll_fn(|task| Poll::Ready(run.as_mut().poll(task))).await;
    if let Poll::Ready(out) = first {
        return out;
    }
    match tokio::task::spawn_local(run).await {
        Ok(out) => out,
        Err(e) => {
            tracing::error!("an operation ended abnormally: {e}");
            refuse(ErrorCode::Io, "the operation ended abnormally; see the server's log")
        }
    }
}

fn kept(reply: &Bytes) -> Outgoing {
    Outgoing::head(ResponseHead::decode(reply.as_ref()).unwrap_or_else(|e| {
        ResponseHead::error(PvfsError::new(
            ErrorCode::Damaged,
            format!("the kept reply of this request does not parse: {e}"),
        ))
    }))
}

fn outgoing(result: Result<Answer>) -> Outgoing {
    match result {
        Ok(Answer { op, body, error: None }) => Outgoing { head: ResponseHead::ok(op), body },
        Ok(Answer { op, body, error: Some(e) }) => {
            let mut head = ResponseHead::error(e);
            head.op = Some(op);
            Outgoing { head, body }
        }
        Err(e) => Outgoing::head(ResponseHead::error(e)),
    }
}

fn refuse(code: ErrorCode, detail: &'static str) -> Outgoing {
    Outgoing::head(ResponseHead::error(PvfsError::new(code, detail)))
}

fn bad_session() -> PvfsError {
    PvfsError::new(ErrorCode::BadSession, "the session has expired or is unknown: say hello again")
}

impl<H: OpHandler> Service for SessionService<H> {
    fn hello(&self, conn: &Arc<Conn>, hello: &HelloRequest) -> Result<HelloResponse> {
        let inner = &self.inner;
        let (map, me) = (&inner.config.map, inner.config.server);
        let wrong = |what: String| Err(PvfsError::new(ErrorCode::WrongFileSystem, what));
        if hello.fs_id != 0 && hello.fs_id != map.fs_id {
            return wrong(format!(
                "server {} serves file system {:x} ('{}'), not {:x}: check the address",
                map.alias(me),
                map.fs_id,
                map.fs_name,
                hello.fs_id
            ));
        }
        if !hello.fs_name.is_empty() && hello.fs_name != map.fs_name {
            return wrong(format!(
                "server {} serves file system '{}', not '{}': check the address",
                map.alias(me),
                map.fs_name,
                hello.fs_name
            ));
        }
        if hello.expect_server != 0 && hello.expect_server - 1 != me {
            return wrong(format!(
                "this is server {}, not {}: check the addresses in the cluster file",
                map.alias(me),
                map.alias(hello.expect_server - 1)
            ));
        }
        let mut response = HelloResponse {
            version: u32::from(frame::VERSION),
            fs_id: map.fs_id,
            server: me,
            boot_id: inner.boot_id,
            lease_ms: map.lease_ms,
            slots: SESSION_SLOTS,
            ..Default::default()
        };
        let mut sessions = inner.sessions.lock();
        if !hello.no_session {
            let joined = sessions.hello(hello, inner.config.env.rand_u64(), inner.now_ms())?;
            (response.session, response.session_is_new) = (joined.session, joined.is_new);
            conn.session.store(joined.session, Ordering::Relaxed);
        }
        response.in_grace = sessions.in_grace();
        drop(sessions);
        if !hello.no_notices {
            inner.conns.lock().insert(conn.id, conn.clone());
        }
        Ok(response)
    }

    async fn handle(&self, request: Incoming) -> Outgoing {
        self.inner.handle(request).await
    }

    fn closed(&self, conn: &Arc<Conn>) {
        self.inner.conns.lock().remove(&conn.id);
    }
}

#[cfg(test)]
mod tests;
