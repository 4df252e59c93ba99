//! `AsyncNet`: the carrier of background work, tools, servers and simulations. Needs a current-thread
//! tokio runtime and a `LocalSet`.
//!
//! Small requests to one server share a connection; bulk has connections of its own, so that a
//! `getattr` never waits behind a gigabyte. What fails for want of a server is tried again, with the
//! same ticket, until it is answered, the limit of the options is reached, or the caller is being
//! killed. Invariant: a call never takes effect twice, whatever is retried here (its ticket sees to
//! that, or it is harmless).
use super::blocking::{after_bad_session, no_session, stamp};
use super::killed::{LOOK_MS, is_being_killed};
use super::link::Link;
use super::mux::Mux;
use super::pump::BULK_BYTES;
use super::shared::ClientShared;
use crate::call::{Call, CallCx, Net, Reply, Ticket};
use pvfs2_proto::op::{Cred, GoodbyeRequest, OpMessage, PingRequest, RenewRequest};
use pvfs2_proto::{ErrorCode, PvfsError, Result, ServerId};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Idle bulk connections kept per server.
const BULK_IDLE_MAX: usize = 8;
/// An idle bulk connection is closed after this long.
const BULK_IDLE_MS: u64 = 30_000;
/// First pause between retries; it doubles up to `retry_delay_ms`.
const RETRY_FIRST_MS: u64 = 20;
/// How often a lost connection of a session is looked after.
const KEEP_MS: u64 = 1000;
/// How long a goodbye may take.
const GOODBYE_MS: u64 = 1000;

/// The async carrier. One per runtime; not `Send`.
pub struct AsyncNet {
    shared: Arc<ClientShared>,
    places: Vec<Place>,
}

/// The connections to one server.
#[derive(Default)]
struct Place {
    mux: RefCell<Option<Rc<Mux>>>,
    connecting: tokio::sync::Mutex<()>,
    last_failure: RefCell<Option<(Instant, PvfsError)>>,
    bulk: RefCell<Vec<(Instant, Link)>>,
}

impl AsyncNet {
    /// A carrier for this runtime.
    pub fn new(shared: Arc<ClientShared>) -> Rc<AsyncNet> {
        let places = shared.opts.map.servers.iter().map(|_| Place::default()).collect();
        Rc::new(AsyncNet { shared, places })
    }

    /// What it shares with the client's other carriers.
    pub fn shared(&self) -> &Arc<ClientShared> {
        &self.shared
    }

    fn place(&self, server: ServerId) -> Result<&Place> {
        self.places.get(server as usize).ok_or_else(|| {
            let detail = format!("the cluster map has no server number {server}");
            PvfsError::new(ErrorCode::Invalid, detail)
        })
    }

    /// The shared connection to `server`, made if need be; whether it was there before.
    async fn mux(&self, server: ServerId) -> Result<(Rc<Mux>, bool)> {
        let place = self.place(server)?;
        let open = || place.mux.borrow().clone().filter(|m| m.is_open());
        if let Some(mux) = open() {
            return Ok((mux, true));
        }
        let since = Instant::now();
        let _one_at_a_time = place.connecting.lock().await;
        if let Some(mux) = open() {
            return Ok((mux, false));
        }
        // Whoever waited with us for an attempt that failed shares its failure.
        if let Some((at, error)) = &*place.last_failure.borrow()
            && *at > since
        {
            return Err(error.clone());
        }
        match Link::open(&self.shared, server, false).await {
            Ok(link) => {
                let events = self.shared.events.clone();
                let silence_ms = self.shared.opts.silence_ms;
                let mux = Rc::new(Mux::start(server, link.into_parts(), events, silence_ms));
                *place.mux.borrow_mut() = Some(mux.clone());
                Ok((mux, false))
            }
            Err(error) => {
                *place.last_failure.borrow_mut() = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn drop_connections(&self, server: ServerId) {
        if let Ok(place) = self.place(server) {
            if let Some(mux) = place.mux.borrow_mut().take() {
                mux.close("the connection was given up");
            }
            place.bulk.borrow_mut().clear();
        }
    }

    /// Carries one call to its end.
    async fn carry(&self, cx: &CallCx, call: &mut Call<'_>) {
        call.result = None;
        call.ticket = call.ticket.map(|t| self.shared.resolve(t));
        let mut retries = Retries::new(&self.shared);
        let mut sessions = 0;
        loop {
            let mut may_have_been_sent = false;
            let fresh = self.attempt(cx, call, &mut may_have_been_sent).await;
            let Some(Err(error)) = &call.result else { return };
            match error.code {
                ErrorCode::Unreachable => {
                    if let Ok(place) = self.place(call.server) {
                        place.bulk.borrow_mut().clear();
                    }
                    let goes_on = !fresh || retries.pause().await;
                    if !goes_on {
                        let error = retries.given_up(call.server, &error.detail);
                        call.result = Some(Err(error));
                        return;
                    }
                    self.shared.counts.resends.fetch_add(1, Ordering::Relaxed);
                    call.result = None;
                }
                ErrorCode::BadSession if sessions < 3 => {
                    sessions += 1;
                    if !self.renew(call, may_have_been_sent).await {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// After `BadSession`: whether the call is to be sent again.
    async fn renew(&self, call: &mut Call<'_>, may_have_been_sent: bool) -> bool {
        let stale = match call.ticket {
            Some(t) => t.session,
            None => self.shared.session(call.server),
        };
        // Another call may have renewed it already.
        if stale == self.shared.session(call.server) {
            self.drop_connections(call.server);
        }
        if let Err(error) = self.mux(call.server).await
            && error.code != ErrorCode::Unreachable
        {
            call.result = Some(Err(error));
            return false;
        }
        match after_bad_session(&self.shared, call, may_have_been_sent) {
            Ok(again) => again,
            Err(error) => {
                call.result = Some(Err(error));
                false
            }
        }
    }

    /// One attempt; sets the result. Returns whether it was on a connection made for it.
    async fn attempt(&self, cx: &CallCx, call: &mut Call<'_>, resent: &mut bool) -> bool {
        let body: usize = call.body.iter().map(|b| b.len()).sum();
        let room: usize = call.into.iter().map(|b| b.len()).sum();
        let bulk = body > BULK_BYTES || room > BULK_BYTES;
        let done = match bulk {
            true => self.attempt_bulk(cx, call, resent).await,
            false => self.attempt_small(cx, call, resent).await,
        };
        match done {
            Ok(fresh) => fresh,
            Err(error) => {
                call.result = Some(Err(error));
                true
            }
        }
    }

    async fn attempt_small(
        &self,
        cx: &CallCx,
        call: &mut Call<'_>,
        resent: &mut bool,
    ) -> Result<bool> {
        let (mux, was_there) = self.mux(call.server).await?;
        let stamp = stamp(&self.shared, call, resent);
        let answer = mux.call(cx, call, stamp).await;
        call.result = Some(match answer {
            Ok((head, body)) => match head.as_error() {
                Some(error) => {
                    call.error_op = head.op;
                    Err(error)
                }
                None if call.into.is_empty() => {
                    let body_len = body.len();
                    Ok(Reply { op: head.op, body, body_len, is_changed: false })
                }
                None => scatter(&body, &mut call.into).map(|body_len| Reply {
                    op: head.op,
                    body: Default::default(),
                    body_len,
                    is_changed: false,
                }),
            },
            Err(error) => Err(error),
        });
        Ok(!was_there)
    }

    async fn attempt_bulk(
        &self,
        cx: &CallCx,
        call: &mut Call<'_>,
        resent: &mut bool,
    ) -> Result<bool> {
        let server = call.server;
        let place = self.place(server)?;
        let idle = place.bulk.borrow_mut().pop();
        let fresh = idle.is_none();
        let mut link = match idle {
            Some((_, link)) => link,
            None => Link::open(&self.shared, server, true).await?,
        };
        let stamp = stamp(&self.shared, call, resent);
        link.pump.add(0, call, stamp);
        let calls = std::slice::from_mut(call);
        let silence = Duration::from_millis(u64::from(self.shared.opts.silence_ms.max(1)));
        let mut moved = link.pump.moved;
        while link.pump.is_busy() {
            let driven = link.drive(cx, calls, &*self.shared.events);
            if tokio::time::timeout(silence, driven).await.is_ok() {
                break;
            }
            if link.pump.moved == moved && !self.is_alive(server, silence).await {
                let why = "the server is silent and does not answer a ping";
                return Err(PvfsError::new(ErrorCode::Unreachable, why));
            }
            moved = link.pump.moved;
        }
        let mut bulk = place.bulk.borrow_mut();
        if !link.pump.is_broken() && bulk.len() < BULK_IDLE_MAX {
            bulk.push((Instant::now(), link));
        }
        Ok(fresh)
    }

    async fn is_alive(&self, server: ServerId, time: Duration) -> bool {
        let cx = CallCx { op_id: 0, cred: Cred::root(), caller_tid: 0 };
        let ping = async {
            let (mux, _) = self.mux(server).await?;
            let call = Call::new(server, PingRequest {}.into_request());
            mux.call(&cx, &call, Default::default()).await
        };
        matches!(tokio::time::timeout(time, ping).await, Ok(Ok(_)))
    }

    async fn get_ticket(&self, server: ServerId) -> Result<Ticket> {
        let mut retries = Retries::new(&self.shared);
        loop {
            match self.shared.try_ticket(server) {
                Ok(Some(ticket)) => return Ok(ticket),
                Ok(None) => self.shared.wait_slot_async(server).await,
                Err(e) if e.code == ErrorCode::BadSession => match self.mux(server).await {
                    Ok(_) if self.shared.session(server) != 0 => {}
                    Ok((_, true)) => self.drop_connections(server),
                    Ok((_, false)) => return Err(no_session(&self.shared, server)),
                    Err(e) if e.code == ErrorCode::Unreachable => {
                        if !retries.pause().await {
                            return Err(retries.given_up(server, &e.detail));
                        }
                    }
                    Err(e) => return Err(e),
                },
                Err(e) => return Err(e),
            }
        }
    }

    /// Keeps the sessions alive: renews each lease at a third of it, makes lost connections again
    /// (so that opens are reclaimed soon after a server's restart, and notices have a way), closes
    /// idle bulk connections. Runs until dropped.
    pub async fn keepalive(self: Rc<Self>) {
        let all = (0..self.places.len() as ServerId).map(|server| self.keep_one(server));
        futures_util::future::join_all(all).await;
    }

    async fn keep_one(&self, server: ServerId) {
        let mut renewed = Instant::now();
        loop {
            let lease = u64::from(self.shared.lease_ms(server));
            let third = if lease == 0 { KEEP_MS } else { (lease / 3).max(1) };
            tokio::time::sleep(Duration::from_millis(third.min(KEEP_MS))).await;
            if let Ok(place) = self.place(server) {
                let old = Duration::from_millis(BULK_IDLE_MS);
                place.bulk.borrow_mut().retain(|(since, _)| since.elapsed() < old);
            }
            if self.shared.session(server) == 0 {
                continue;
            }
            match self.mux(server).await {
                // A hello renews as well.
                Ok((_, false)) => renewed = Instant::now(),
                Ok((mux, true)) if renewed.elapsed() >= Duration::from_millis(third) => {
                    renewed = Instant::now();
                    self.renew_lease(server, &mux).await;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a session's server is out of reach"),
            }
        }
    }

    async fn renew_lease(&self, server: ServerId, mux: &Mux) {
        let cx = CallCx { op_id: 0, cred: Cred::root(), caller_tid: 0 };
        let call = Call::new(server, RenewRequest {}.into_request());
        let stamp = super::pump::Stamp { session: self.shared.session(server), slot: 0, seq: 0 };
        let answer = mux.call(&cx, &call, stamp);
        tokio::pin!(answer);
        let third = Duration::from_millis((u64::from(self.shared.lease_ms(server)) / 3).max(1));
        let answer = match tokio::time::timeout(third, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                // What is only good for the lease is to be given up before the lease ends.
                self.shared.events.cut(server);
                answer.await
            }
        };
        if let Ok((head, _)) = answer
            && head.as_error().is_some_and(|e| e.code == ErrorCode::BadSession)
        {
            // The next round makes a new session and reclaims.
            self.drop_connections(server);
        }
    }

    /// Ends every session, as far as its server answers soon, and closes all connections.
    pub async fn goodbye(&self) {
        let all = (0..self.places.len() as ServerId).map(|server| async move {
            let session = self.shared.session(server);
            if session != 0 {
                let cx = CallCx { op_id: 0, cred: Cred::root(), caller_tid: 0 };
                let bye = async {
                    let (mux, _) = self.mux(server).await?;
                    let call = Call::new(server, GoodbyeRequest {}.into_request());
                    let stamp = super::pump::Stamp { session, slot: 0, seq: 0 };
                    mux.call(&cx, &call, stamp).await
                };
                // A server that is gone will let the session expire.
                let _ = tokio::time::timeout(Duration::from_millis(GOODBYE_MS), bye).await;
                self.shared.forget(server);
            }
            self.drop_connections(server);
        });
        futures_util::future::join_all(all).await;
    }
}

impl Net for AsyncNet {
    async fn exchange(&self, cx: &CallCx, calls: &mut [Call<'_>]) {
        let interrupted = {
            let all = async {
                match &mut *calls {
                    [one] => self.carry(cx, one).await,
                    many => {
                        let all = many.iter_mut().map(|call| self.carry(cx, call));
                        futures_util::future::join_all(all).await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = all => false,
                () = until_killed(cx.caller_tid) => true,
            }
        };
        calls.iter().for_each(|call| self.shared.count_reply(call));
        if interrupted {
            let error = PvfsError::new(ErrorCode::Interrupted, "the caller is being killed");
            for call in calls.iter_mut().filter(|c| c.result.is_none()) {
                call.result = Some(Err(error.clone()));
            }
        }
    }

    async fn ticket(&self, cx: &CallCx, server: ServerId) -> Result<Ticket> {
        tokio::select! {
            biased;
            ticket = self.get_ticket(server) => ticket,
            () = until_killed(cx.caller_tid) => Err(PvfsError::new(
                ErrorCode::Interrupted,
                "the caller is being killed",
            )),
        }
    }

    fn done(&self, ticket: Ticket) {
        self.shared.done(ticket);
    }
}

async fn until_killed(tid: u32) {
    if tid == 0 {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        if is_being_killed(tid) {
            return;
        }
    }
}

fn scatter(body: &[u8], into: &mut [&mut [u8]]) -> Result<usize> {
    let mut rest = body;
    for piece in into {
        let n = piece.len().min(rest.len());
        piece[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
    }
    match rest.is_empty() {
        true => Ok(body.len()),
        false => {
            Err(PvfsError::new(ErrorCode::Protocol, "the answer is longer than was asked for"))
        }
    }
}

/// Pauses between attempts, and the end of patience.
struct Retries {
    limit: Option<u32>,
    delay_ms: u64,
    next_ms: u64,
    tries: u32,
    since: Instant,
}

impl Retries {
    fn new(shared: &ClientShared) -> Retries {
        let delay_ms = u64::from(shared.opts.retry_delay_ms);
        Retries {
            limit: shared.opts.retry_limit,
            delay_ms,
            next_ms: RETRY_FIRST_MS.min(delay_ms),
            tries: 0,
            since: Instant::now(),
        }
    }

    /// Waits before the next attempt; false: no more.
    async fn pause(&mut self) -> bool {
        self.tries += 1;
        if let Some(limit) = self.limit {
            let patience = Duration::from_millis(u64::from(limit) * self.delay_ms);
            if self.tries > limit && self.since.elapsed() >= patience {
                return false;
            }
        }
        tokio::time::sleep(Duration::from_millis(self.next_ms)).await;
        self.next_ms = (2 * self.next_ms).min(self.delay_ms).max(1);
        true
    }

    fn given_up(&self, server: ServerId, why: &str) -> PvfsError {
        let detail = format!(
            "server number {server} is out of reach, given up after {} tries in {} ms ({why}); \
             is it running?",
            self.tries,
            self.since.elapsed().as_millis()
        );
        PvfsError::new(ErrorCode::Unreachable, detail)
    }
}
