//! `BlockingNet`: the carrier of a FUSE thread. Blocking sockets of its own, one connection per
//! server, opened when first used; its futures never pend.
//!
//! All calls are sent first, then all answers gathered. The thread first looks for an answer for a
//! few microseconds (a cross-core wake-up costs more than most answers), then sleeps in poll(2) in
//! ticks, looking whether its caller is being killed. Invariants: a call is never waited for longer
//! than `stall_ms` without a byte moving; a connection with an unanswered request is closed, not
//! used again.
use super::greet::{Greeter, Reclaim};
use super::killed::{LOOK_MS, is_being_killed};
use super::lender::Lender;
use super::pump::{Pump, Stamp, take_reply};
use super::shared::ClientShared;
use super::socket::{Wire, open_socket};
use super::spin::Spin;
use crate::addr::Address;
use crate::auth::Peer;
use crate::call::{Call, CallCx, Net, Ticket};
use crate::region::{REGION_BYTES_MAX, Region};
use crate::wire::RxError;
use pvfs2_proto::op::{Cred, HelloRequest, OpMessage, ReclaimRequest, Repeat};
use pvfs2_proto::{ErrorCode, PvfsError, Result, ServerId};
use smallvec::SmallVec;
use socket2::Socket;
use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The carrier of one thread.
pub struct BlockingNet {
    shared: Arc<ClientShared>,
    conns: RefCell<Vec<Option<Conn>>>,
    spin: Spin,
    before_sleep: Option<Box<dyn Fn() + Send>>,
    region: Option<Arc<Region>>,
}

struct Conn {
    socket: Socket,
    /// Of a unix socket.
    lender: Option<Lender>,
    /// Goes with the first bytes.
    passes: Option<Arc<OwnedFd>>,
    pump: Pump,
}

impl Conn {
    fn parts<'a>(&'a mut self, shared: &'a ClientShared) -> (&'a mut Pump, Wire<'a>) {
        let lent = &shared.counts.bytes_lent;
        let (lender, passes) = (self.lender.as_mut(), &mut self.passes);
        (&mut self.pump, Wire { socket: &self.socket, lender, passes, lent })
    }
}

/// How far one exchange may go.
struct Limits<'a> {
    cx: &'a CallCx,
    stall: Duration,
}

impl BlockingNet {
    /// A carrier for the calling thread.
    pub fn new(shared: Arc<ClientShared>) -> BlockingNet {
        let conns = shared.opts.map.servers.iter().map(|_| None).collect();
        let spin = Spin::new(shared.opts.spin_us);
        let conns = RefCell::new(conns);
        BlockingNet { shared, conns, spin, before_sleep: None, region: None }
    }

    /// Shares `region` with servers of the same machine, where they let it: what is written from there is
    /// not sent. Only this carrier's thread writes to it.
    pub fn share(&mut self, region: Arc<Region>) {
        self.region = Some(region).filter(|_| self.shared.opts.share_memory);
        // What there is was made without it.
        self.conns.get_mut().iter_mut().for_each(|place| *place = None);
    }

    /// What to share with `server`, if it is an I/O server that is reached by a unix socket.
    fn to_share(&self, server: ServerId, peer: Peer) -> Option<(Arc<Region>, Arc<OwnedFd>, u64)> {
        let region = self.region.as_ref().filter(|_| matches!(peer, Peer::Unix(_)))?;
        self.shared.opts.map.server(server)?.io_range?;
        let (file, len) = region.file()?;
        (len <= REGION_BYTES_MAX as u64).then(|| (region.clone(), file, len))
    }

    /// After calls that were given up: whatever a server may still read of the region stays as it is.
    fn leave_region(&self, conns: &mut [Option<Conn>]) {
        if let Some(region) = &self.region {
            region.renew();
            // What all servers have mapped is the one before.
            conns.iter_mut().for_each(|place| *place = None);
        }
    }

    /// With something to be done each time before the thread sleeps over an answer.
    pub fn before_sleep(mut self, f: Box<dyn Fn() + Send>) -> BlockingNet {
        self.before_sleep = Some(f);
        self
    }

    fn sleeps(&self) {
        if let Some(f) = &self.before_sleep {
            f();
        }
    }

    fn limits<'a>(&self, cx: &'a CallCx) -> Limits<'a> {
        Limits { cx, stall: Duration::from_millis(u64::from(self.shared.opts.stall_ms)) }
    }

    fn stalled(&self, server: ServerId, why: &str) -> PvfsError {
        self.shared.counts.stalls.fetch_add(1, Ordering::Relaxed);
        let alias = self.shared.opts.map.alias(server);
        PvfsError::new(ErrorCode::Stalled, format!("server {alias}: {why}"))
    }

    /// Makes sure that there is a connection to `server`; whether it was there before.
    fn connect(
        &self,
        limits: &Limits<'_>,
        conns: &mut [Option<Conn>],
        server: ServerId,
    ) -> Result<bool> {
        let missing = || PvfsError::new(ErrorCode::Invalid, "no such server in the cluster map");
        let place = conns.get_mut(server as usize).ok_or_else(missing)?;
        if place.is_some() {
            return Ok(true);
        }
        self.sleeps();
        let (socket, peer) = self.open(limits, server)?;
        let lender = matches!(peer, Peer::Unix(_)).then(Lender::default);
        let mut conn = Conn { socket, lender, passes: None, pump: Pump::new(server) };
        self.greet(limits, &mut conn, server, peer)?;
        self.shared.counts.connects.fetch_add(1, Ordering::Relaxed);
        *place = Some(conn);
        Ok(false)
    }

    fn open(&self, limits: &Limits<'_>, server: ServerId) -> Result<(Socket, Peer)> {
        let Some(entry) = self.shared.opts.map.server(server) else {
            return Err(ErrorCode::Invalid.into());
        };
        let mut why = String::from("it has no address that this client can use");
        for address in Address::of_entry(entry) {
            match open_socket(&address, limits.stall) {
                Ok(found) => return Ok(found),
                Err(e) => why = format!("{address}: {e}"),
            }
        }
        Err(self.stalled(server, &why))
    }

    fn greet(
        &self,
        limits: &Limits<'_>,
        conn: &mut Conn,
        server: ServerId,
        peer: Peer,
    ) -> Result<()> {
        let mut greeter = Greeter::session(&self.shared, server, peer, true);
        let to_share = self.to_share(server, peer);
        if let Some((_, file, len)) = &to_share {
            greeter.passes_region(*len);
            conn.passes = Some(file.clone());
        }
        let mut request = greeter.first();
        let hello = loop {
            let response = self.one::<HelloRequest>(limits, conn, 0, request)?;
            match greeter.next(&response)? {
                Some(next) => request = next,
                None => break response,
            }
        };
        if let Some((region, ..)) = to_share.filter(|_| hello.takes_region) {
            conn.pump.share(region);
        }
        if self.shared.standing(server, &hello) == super::shared::Standing::Same {
            return Ok(());
        }
        let guard = self.shared.guard(server)?;
        let give_up = Instant::now() + limits.stall;
        let _guard = loop {
            match guard.try_lock() {
                Ok(guard) => break guard,
                Err(_) if Instant::now() > give_up => {
                    return Err(self.stalled(server, "its session is being set up"));
                }
                Err(_) => {
                    self.sleeps();
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        };
        let Some(mut reclaim) = Reclaim::begin(&self.shared, server, &hello) else { return Ok(()) };
        while let Some(part) = reclaim.next() {
            let response = self.one::<ReclaimRequest>(limits, conn, hello.session, part)?;
            reclaim.answered(response);
        }
        reclaim.end(&self.shared, server, &hello);
        Ok(())
    }

    /// One call of the carrier's own.
    fn one<M: OpMessage>(
        &self,
        limits: &Limits<'_>,
        conn: &mut Conn,
        session: u64,
        request: M,
    ) -> Result<M::Response> {
        let cx =
            CallCx { op_id: limits.cx.op_id, cred: Cred::root(), caller_tid: limits.cx.caller_tid };
        let limits = Limits { cx: &cx, stall: limits.stall };
        let mut calls = [Call::new(conn.pump.server(), request.into_request())];
        conn.pump.add(0, &calls[0], Stamp { session, slot: 0, seq: 0 });
        self.gather(&limits, &mut [conn], &mut calls);
        let [call] = calls;
        take_reply::<M>(call.result)
    }

    /// Drives the connections until each of their calls has a result.
    fn gather(&self, limits: &Limits<'_>, conns: &mut [&mut Conn], calls: &mut [Call<'_>]) {
        let mut idle_since = Instant::now();
        let mut look_at = idle_since + Duration::from_millis(LOOK_MS);
        self.send_all(limits, conns, calls);
        // No answer can be there before the server has had the processor.
        let (mut look, mut spun) = (false, false);
        loop {
            let moved = look && self.go_all(limits, conns, calls);
            look = true;
            if !conns.iter().any(|c| c.pump.is_busy()) {
                return;
            }
            if moved {
                idle_since = Instant::now();
                spun = false;
                continue;
            }
            if !spun {
                spun = true;
                if self.spin.wait(|| self.go_all(limits, conns, calls).then_some(true)) {
                    idle_since = Instant::now();
                    continue;
                }
            }
            let now = Instant::now();
            if now >= look_at {
                look_at = now + Duration::from_millis(LOOK_MS);
                if is_being_killed(limits.cx.caller_tid) {
                    let error =
                        PvfsError::new(ErrorCode::Interrupted, "the caller is being killed");
                    fail_busy(conns, calls, |_| error.clone());
                    return;
                }
            }
            let stall_at = idle_since + limits.stall;
            if now >= stall_at {
                fail_busy(conns, calls, |s| {
                    self.stalled(s, "no answer within the time a thread waits")
                });
                return;
            }
            self.sleeps();
            wait_for(conns, stall_at.min(look_at).saturating_duration_since(now));
        }
    }

    /// Sends on all connections what they take at once. A connection that fails has its calls failed
    /// with `Unreachable`.
    fn send_all(&self, limits: &Limits<'_>, conns: &mut [&mut Conn], calls: &mut [Call<'_>]) {
        for conn in conns {
            let (pump, mut io) = conn.parts(&self.shared);
            if let Err(error) = pump.begin(&mut io, limits.cx, calls) {
                pump.fail(calls, &to_error(&error));
            }
        }
    }

    /// One round over all connections; whether any byte moved. A connection that fails has its
    /// calls failed with `Unreachable`.
    fn go_all(&self, limits: &Limits<'_>, conns: &mut [&mut Conn], calls: &mut [Call<'_>]) -> bool {
        let mut moved = false;
        for conn in conns.iter_mut().filter(|c| c.pump.is_busy()) {
            let (pump, mut io) = conn.parts(&self.shared);
            let before = pump.moved;
            let result = pump.go(&mut io, limits.cx, calls, &*self.shared.events);
            moved |= pump.moved != before;
            if let Err(error) = result {
                moved = true;
                pump.fail(calls, &to_error(&error));
            }
        }
        moved
    }

    /// One attempt at the calls that have no result; connections that failed are dropped.
    fn attempt(&self, limits: &Limits<'_>, calls: &mut [Call<'_>]) -> Attempted {
        let mut conns = self.conns.borrow_mut();
        let mut attempted = Attempted::default();
        let mut used = SmallVec::<[ServerId; 8]>::new();
        for (index, call) in calls.iter_mut().enumerate() {
            if call.result.is_some() {
                continue;
            }
            match self.connect(limits, &mut conns, call.server) {
                Ok(was_there) => attempted.old_conns |= was_there,
                Err(error) => {
                    call.result = Some(Err(error));
                    continue;
                }
            }
            if !used.contains(&call.server) {
                used.push(call.server);
            }
            let mut resent = false;
            let stamp = stamp(&self.shared, call, &mut resent);
            if resent {
                attempted.resent.push(index);
            }
            if let Some(conn) = conns.get_mut(call.server as usize).and_then(Option::as_mut) {
                let shared = conn.pump.add(index, call, stamp) as u64;
                self.shared.counts.bytes_shared.fetch_add(shared, Ordering::Relaxed);
            }
        }
        let mut busy: SmallVec<[&mut Conn; 8]> = conns
            .iter_mut()
            .enumerate()
            .filter(|(s, _)| used.contains(&(*s as ServerId)))
            .filter_map(|(_, c)| c.as_mut())
            .collect();
        self.gather(limits, &mut busy, calls);
        drop(busy);
        if conns.iter().flatten().any(|c| c.pump.has_left_shared()) {
            self.leave_region(&mut conns);
        }
        for (index, place) in conns.iter_mut().enumerate() {
            let failed = |c: &Call<'_>| {
                c.server as usize == index
                    && matches!(&c.result, Some(Err(e)) if is_conn_failure(e.code))
            };
            if place.as_ref().is_some_and(|c| c.pump.is_broken()) || calls.iter().any(failed) {
                *place = None;
            }
        }
        attempted
    }

    fn exchange_now(&self, cx: &CallCx, calls: &mut [Call<'_>]) {
        let limits = self.limits(cx);
        for call in calls.iter_mut() {
            call.result = None;
            call.ticket = call.ticket.map(|t| self.shared.resolve(t));
        }
        for round in 0..3 {
            let attempted = self.attempt(&limits, calls);
            let mut again = false;
            for (index, call) in calls.iter_mut().enumerate() {
                let Some(Err(error)) = &call.result else { continue };
                match error.code {
                    // A connection that a restarted server has closed: once more on a new one.
                    ErrorCode::Unreachable if attempted.old_conns && round == 0 => {
                        self.shared.counts.resends.fetch_add(1, Ordering::Relaxed);
                        call.result = None;
                        again = true;
                    }
                    ErrorCode::Unreachable => {
                        let why = error.detail.clone();
                        call.result = Some(Err(self.stalled(call.server, &why)));
                    }
                    ErrorCode::BadSession if round < 2 => {
                        let was_sent = attempted.resent.contains(&index);
                        again |= self.renew(&limits, call, was_sent);
                    }
                    _ => {}
                }
            }
            if !again {
                return;
            }
        }
    }

    /// After `BadSession`: a new session, and a new ticket if the request cannot have taken effect.
    fn renew(&self, limits: &Limits<'_>, call: &mut Call<'_>, was_sent: bool) -> bool {
        let mut conns = self.conns.borrow_mut();
        if let Err(error) = self.connect(limits, &mut conns, call.server) {
            call.result = Some(Err(error));
            return false;
        }
        match after_bad_session(&self.shared, call, was_sent) {
            Ok(again) => again,
            Err(error) => {
                call.result = Some(Err(error));
                false
            }
        }
    }

    fn ticket_now(&self, cx: &CallCx, server: ServerId) -> Result<Ticket> {
        let limits = self.limits(cx);
        let give_up = Instant::now() + limits.stall;
        loop {
            match self.shared.try_ticket(server) {
                Ok(Some(ticket)) => return Ok(ticket),
                Ok(None) if Instant::now() > give_up => {
                    return Err(self.stalled(server, "all slots of its session are in use"));
                }
                Ok(None) => {
                    self.sleeps();
                    self.shared.wait_slot(server, Duration::from_millis(20));
                }
                Err(e) if e.code == ErrorCode::BadSession => {
                    let mut conns = self.conns.borrow_mut();
                    // A connection from before a goodbye has no session any more.
                    if let Some(place) = conns.get_mut(server as usize) {
                        *place = None;
                    }
                    self.connect(&limits, &mut conns, server).map_err(|e| match e.code {
                        ErrorCode::Unreachable => self.stalled(server, &e.detail),
                        _ => e,
                    })?;
                    if self.shared.session(server) == 0 {
                        return Err(no_session(&self.shared, server));
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }
}

impl Net for BlockingNet {
    async fn exchange(&self, cx: &CallCx, calls: &mut [Call<'_>]) {
        self.exchange_now(cx, calls);
        calls.iter().for_each(|call| self.shared.count_reply(call));
    }
    async fn ticket(&self, cx: &CallCx, server: ServerId) -> Result<Ticket> {
        self.ticket_now(cx, server)
    }
    fn done(&self, ticket: Ticket) {
        self.shared.done(ticket);
    }
}

/// What one attempt found.
#[derive(Default)]
struct Attempted {
    /// A connection was used that had been there before.
    old_conns: bool,
    /// Calls that may have been sent before this attempt.
    resent: SmallVec<[usize; 4]>,
}

/// The session part of a call's head; `resent`: it may have been sent before.
pub(super) fn stamp(shared: &ClientShared, call: &Call<'_>, resent: &mut bool) -> Stamp {
    let body: usize = call.body.iter().map(|b| b.len()).sum();
    shared.counts.requests.fetch_add(1, Ordering::Relaxed);
    shared.counts.bytes_out.fetch_add(body as u64, Ordering::Relaxed);
    match call.ticket {
        Some(t) => {
            *resent = shared.mark_sent(t);
            Stamp { session: t.session, slot: t.slot + 1, seq: t.seq }
        }
        None => Stamp { session: shared.session(call.server), slot: 0, seq: 0 },
    }
}

/// What becomes of a call whose session had ended, now that there is a new one: `Ok(true)` send it
/// again, `Ok(false)` its error stands.
///
/// # Errors
/// `Io` when it may or may not have taken effect.
pub(super) fn after_bad_session(
    shared: &ClientShared,
    call: &mut Call<'_>,
    was_sent: bool,
) -> Result<bool> {
    let Some(old) = call.ticket else {
        call.result = None;
        return Ok(true);
    };
    if was_sent && call.op.op().repeat() == Repeat::Durable {
        let detail = format!(
            "the session with server {} ended while a {} was under way; it may or may not have \
             taken effect",
            shared.opts.map.alias(call.server),
            call.op.op().name()
        );
        return Err(PvfsError::new(ErrorCode::Io, detail));
    }
    match shared.replace(old) {
        Some(new) => {
            call.ticket = Some(new);
            call.result = None;
            Ok(true)
        }
        None => Ok(false),
    }
}

pub(super) fn no_session(shared: &ClientShared, server: ServerId) -> PvfsError {
    let detail = format!("server {} gave no session", shared.opts.map.alias(server));
    PvfsError::new(ErrorCode::Protocol, detail)
}

/// Errors after which a connection is not used again.
fn is_conn_failure(code: ErrorCode) -> bool {
    use ErrorCode::{BadSession, Interrupted, Stalled, Unreachable};
    matches!(code, Stalled | Unreachable | Interrupted | BadSession)
}

/// What a failed connection means for its calls.
pub(super) fn to_error(error: &RxError) -> PvfsError {
    let code = match error {
        RxError::Frame(pvfs2_proto::frame::FrameError::Version(_)) => ErrorCode::Version,
        RxError::Protocol(_) => ErrorCode::Protocol,
        // Damage on the way is cured by sending again, as is a server cut off in the middle.
        _ => ErrorCode::Unreachable,
    };
    PvfsError::new(code, error.to_string())
}

fn fail_busy(
    conns: &mut [&mut Conn],
    calls: &mut [Call<'_>],
    error: impl Fn(ServerId) -> PvfsError,
) {
    for conn in conns.iter_mut().filter(|c| c.pump.is_busy()) {
        let error = error(conn.pump.server());
        conn.pump.fail(calls, &error);
    }
}

fn wait_for(conns: &[&mut Conn], at_most: Duration) {
    let mut fds: SmallVec<[libc::pollfd; 8]> = conns
        .iter()
        .filter(|c| c.pump.is_busy())
        .map(|c| libc::pollfd {
            fd: c.socket.as_raw_fd(),
            events: libc::POLLIN | if c.pump.wants_write() { libc::POLLOUT } else { 0 },
            revents: 0,
        })
        .collect();
    // Rounded up: a wait of zero would burn the processor until the time is there.
    let ms = at_most.as_millis() as libc::c_int + 1;
    // SAFETY: pointer and length describe `fds`. Errors (a signal) just mean to look again.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, ms) };
}
