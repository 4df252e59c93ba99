//! State machines, the state of an operation, and the one runner that drives them.
//!
//! Place in the walks: FUSE threads, the background thread and tools all call [`run`] with a
//! machine of `sys/` and the carrier that they have. One step is one state: it sends at most one
//! exchange, then moves on.
//!
//! Invariants: a step that fails leaves the machine in the same state, so that running it again
//! repeats just that step; with `Stalled` the operation keeps its tickets, and [`run`] with another
//! carrier goes on where it stopped; with any other outcome no ticket is held any more.
use crate::client::Client;
use crate::name_rights::{Adding, Removing};
use crate::tickets::Tickets;
use bytes::Bytes;
use pvfs2_bmi::call::{CallCx, Net};
use pvfs2_proto::op::{Cred, GetattrRequest};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use smallvec::SmallVec;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Times that one step may be repeated because its session had ended.
const SESSION_RETRIES_MAX: u32 = 3;
/// Times that one operation may ask anew where its names lie.
const MOVES_MAX: u32 = 1_000;

/// What a step came to.
#[derive(Debug)]
pub enum Step<O> {
    /// The machine is in another state: go on.
    Next,
    /// The operation has succeeded.
    Done(O),
}

/// An operation of the system interface as a state machine.
pub trait Machine: Send {
    /// What it results in.
    type Out: Send;
    /// The operation's name: file, span and metric are called the same.
    const NAME: &'static str;
    /// The present state's name, for traces and hooks.
    fn state(&self) -> &'static str;
    /// Files about whose bytes, size or times it asks, or whose bytes it changes: what is held back of
    /// them (see [`crate::joining`]) is written out first.
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        SmallVec::new()
    }
    /// Of what it touches only these bytes, where it neither asks for nor changes anything else.
    fn touches_only(&self) -> Option<Range<u64>> {
        None
    }
    /// The name that it may add to a directory (see [`crate::name_rights`]).
    fn adds(&self) -> Option<(Handle, &[u8])> {
        None
    }
    /// The name that it removes from a directory if it succeeds; `None` afterwards: it did not.
    fn removes(&self) -> Option<(Handle, &[u8])> {
        None
    }
    /// Does the present state's work.
    ///
    /// # Errors
    /// Leaves the machine in the same state; see the head of the file.
    fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>)
    -> impl Future<Output = Result<Step<Self::Out>>>;
}

/// What a step works with.
pub struct Cx<'a, N: Net> {
    /// The client.
    pub client: &'a Client,
    /// The carrier.
    pub net: &'a N,
    /// The operation.
    pub op: &'a mut OpState,
}

impl<N: Net> Cx<'_, N> {
    /// The object to be asked for `name` of `dir`: the directory, or a part of one that has split.
    /// While this step repeats, the answer stays: a request whose fate is open goes to the server
    /// that may have done it.
    pub fn part_of(&mut self, dir: Handle, name: &Bytes) -> Handle {
        if let Some(route) = self.op.routes.iter().find(|r| r.dir == dir && r.name == *name) {
            return route.part;
        }
        let part = self.client.dirmaps().part_of(dir, name);
        self.op.routes.push(Route { dir, name: name.clone(), part });
        part
    }

    /// This step asks `dir` or a part of it, chosen otherwise than by a name.
    pub fn asks_part_of(&mut self, dir: Handle) {
        if self.op.routes.is_empty() {
            self.op.routes.push(Route { dir, name: Bytes::new(), part: dir });
        }
    }

    /// Learns anew where the names of this step's directories lie.
    async fn refresh_routes(&mut self) -> Result<()> {
        let dirs: SmallVec<[Handle; 2]> = self.op.routes.iter().map(|r| r.dir).collect();
        for dir in dirs {
            let server = self.meta_server(dir)?;
            let attr = self.ask(server, GetattrRequest { handle: dir.0 }).await?.attr;
            if let Some(map) = attr.and_then(|a| a.dir_map) {
                self.client.dirmaps().learn(&map);
            }
        }
        self.op.routes.clear();
        Ok(())
    }

    /// Nanoseconds since 1970-01-01 UTC.
    pub fn now_ns(&self) -> i64 {
        self.client.env().now_ns()
    }
}

/// A transition, as a test's hook sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The operation.
    pub machine: &'static str,
    /// The state that was left; "start" before the first.
    pub from: &'static str,
    /// The state that comes; "done" after the last.
    pub to: &'static str,
}

/// What a hook wants.
#[derive(Debug)]
pub enum HookAction {
    /// Go on.
    Continue,
    /// Stop here as if no answer came: [`run`] returns `Stalled` and can be called again.
    Stop,
    /// Fail with this error.
    Fail(PvfsError),
}

/// Called at every transition.
pub type Hook = Box<dyn FnMut(Transition) -> HookAction + Send>;

/// Whom a step asked for a name.
struct Route {
    dir: Handle,
    name: Bytes,
    part: Handle,
}

/// What belongs to one running operation, whoever drives it.
pub struct OpState {
    /// Operation id, credentials and caller, as the servers and the network see them.
    pub cx: CallCx,
    /// Tickets of requests whose fate is open.
    pub tickets: Tickets,
    /// Times that a step failed and was repeated.
    pub attempts: u32,
    /// No more steps after this time (of the client's clock): `Interrupted`. 0: none.
    pub deadline_ns: i64,
    /// Set by somebody else to end the operation at its next step with `Interrupted`.
    pub cancel: Option<Arc<AtomicBool>>,
    /// A test's hook.
    pub hook: Option<Hook>,
    left: &'static str,
    started_ns: i64,
    session_retries: u32,
    routes: SmallVec<[Route; 2]>,
    moves: u32,
    entered: bool,
    adding: Option<Adding>,
    removing: Option<Removing>,
}

impl OpState {
    /// A new operation asked for by `cred`, from the thread `caller_tid` (0: nobody waits).
    pub fn new(client: &Client, cred: Cred, caller_tid: u32) -> OpState {
        OpState {
            cx: CallCx { op_id: client.next_op_id(), cred, caller_tid },
            tickets: Tickets::default(),
            attempts: 0,
            deadline_ns: 0,
            cancel: None,
            hook: None,
            left: "start",
            started_ns: client.env().now_ns(),
            session_retries: 0,
            routes: SmallVec::new(),
            moves: 0,
            entered: false,
            adding: None,
            removing: None,
        }
    }

    /// An operation of the client itself, as root.
    pub fn own(client: &Client) -> OpState {
        OpState::new(client, Cred::root(), 0)
    }

    /// With a hook.
    pub fn hooked(mut self, hook: Hook) -> OpState {
        self.hook = Some(hook);
        self
    }

    /// The operation id.
    pub fn id(&self) -> u64 {
        self.cx.op_id
    }

    /// Whether the runner would repeat a step that failed so.
    pub fn will_retry(&self, client: &Client, e: &PvfsError) -> bool {
        match e.code {
            ErrorCode::Stalled => true,
            ErrorCode::BadSession => self.session_retries < SESSION_RETRIES_MAX,
            ErrorCode::Busy => client.may_retry(self.attempts),
            ErrorCode::Moved => self.moves < MOVES_MAX,
            _ => false,
        }
    }

    fn transition(&mut self, machine: &'static str, to: &'static str) -> Result<()> {
        let from = std::mem::replace(&mut self.left, to);
        tracing::trace!(op_id = self.cx.op_id, op = machine, from, to, "transition");
        match self.hook.as_mut().map(|hook| hook(Transition { machine, from, to })) {
            None | Some(HookAction::Continue) => Ok(()),
            // What has succeeded cannot be stopped: going on would do it again.
            Some(HookAction::Stop) if to == "done" => Ok(()),
            Some(HookAction::Stop) => Err(PvfsError::new(ErrorCode::Stalled, "stopped by a hook")),
            Some(HookAction::Fail(e)) => Err(e),
        }
    }

    fn check_time(&self, client: &Client) -> Result<()> {
        let cancelled = self.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed));
        let late = self.deadline_ns != 0 && client.env().now_ns() >= self.deadline_ns;
        if cancelled || late {
            let why = if late { "the operation's deadline has passed" } else { "cancelled" };
            return Err(PvfsError::new(ErrorCode::Interrupted, why));
        }
        Ok(())
    }
}

/// Drives a machine to its end: traces every transition, repeats what is retryable, counts.
///
/// # Errors
/// The operation's. `Stalled`: call again with the same machine and state and a carrier that can
/// wait (`AsyncNet`).
///
/// # Cancel safety
/// A dropped run may have taken effect on the servers, and holds its slots until the session ends.
pub async fn run<M: Machine, N: Net>(
    machine: &mut M,
    op: &mut OpState,
    client: &Client,
    net: &N,
) -> Result<M::Out> {
    let result = drive(machine, op, client, net).await;
    if let Err(e) = &result
        && e.code == ErrorCode::Stalled
    {
        client.metrics().stalled.fetch_add(1, Ordering::Relaxed);
        return result;
    }
    op.tickets.give_back(net);
    if let Some(removing) = op.removing.take()
        && result.is_ok()
        && machine.removes().is_some()
    {
        client.name_rights().removed(removing);
    }
    if let Some(adding) = op.adding.take()
        && result.as_ref().map_or_else(is_answer, |_| true)
    {
        adding.answered();
    }
    let elapsed_ns = client.env().now_ns().saturating_sub(op.started_ns).max(0) as u64;
    client.metrics().ended(M::NAME, elapsed_ns, result.is_ok());
    if let Err(e) = &result {
        tracing::trace!(op_id = op.cx.op_id, op = M::NAME, state = machine.state(), error = %e, "ended");
    }
    result
}

/// Whether an error says that the request has had its effect, or never will.
fn is_answer(e: &PvfsError) -> bool {
    use ErrorCode::{Interrupted, Io, Protocol, Unreachable};
    !matches!(e.code, Interrupted | Io | Protocol | Unreachable)
}

async fn drive<M: Machine, N: Net>(
    machine: &mut M,
    op: &mut OpState,
    client: &Client,
    net: &N,
) -> Result<M::Out> {
    if client.joins().any() {
        for handle in machine.touches() {
            let only = machine.touches_only();
            if let Some(file) = client.opens().get(handle)
                && only.is_none_or(|range| file.joined.overlaps(&range))
            {
                client.joins().settle(&file, op.cx.caller_tid).await?;
            }
        }
    }
    if !op.entered {
        let rights = client.name_rights();
        let adds = machine.adds();
        if let Some((dir, name)) = adds {
            op.adding = rights.adding(dir, name, client.env().now_ns());
        }
        if let Some((dir, name)) = machine.removes() {
            op.removing = rights.removing(dir, name, adds.is_some_and(|(to, _)| to == dir));
        }
    }
    loop {
        if !std::mem::replace(&mut op.entered, true) {
            let to = machine.state();
            op.transition(M::NAME, to)?;
        }
        op.check_time(client)?;
        match machine.step(&mut Cx { client, net, op }).await {
            Ok(Step::Next) => {
                op.session_retries = 0;
                op.routes.clear();
                let to = machine.state();
                op.transition(M::NAME, to)?;
            }
            Ok(Step::Done(out)) => {
                op.transition(M::NAME, "done")?;
                return Ok(out);
            }
            Err(e) => {
                let e = match e.code {
                    ErrorCode::Moved if op.will_retry(client, &e) => {
                        op.moves += 1;
                        Cx { client, net, op }.refresh_routes().await.err()
                    }
                    _ => Some(e),
                };
                if let Some(e) = e {
                    retry(op, client, e).await?;
                }
                op.attempts += 1;
                tracing::trace!(op_id = op.cx.op_id, op = M::NAME, attempts = op.attempts, "again");
            }
        }
    }
}

/// Decides whether a failed step is repeated, and waits until then.
async fn retry(op: &mut OpState, client: &Client, e: PvfsError) -> Result<()> {
    match e.code {
        ErrorCode::BadSession if op.will_retry(client, &e) => {
            op.session_retries += 1;
            Ok(())
        }
        ErrorCode::Access | ErrorCode::NotPermitted if !op.cx.cred.groups_known => {
            match client.groups_of(op.cx.caller_tid) {
                Some(groups) => {
                    op.cx.cred.groups = groups;
                    op.cx.cred.groups_known = true;
                    Ok(())
                }
                None => Err(e),
            }
        }
        ErrorCode::Busy if op.will_retry(client, &e) => {
            pause(Duration::from_millis(client.busy_pause_ms(op.attempts))).await
        }
        _ => Err(e),
    }
}

/// Waits on a thread that can; on one that cannot (a FUSE thread drives blocking sockets without a
/// runtime), the operation moves to one that can.
///
/// # Errors
/// `Stalled` outside a tokio runtime.
pub async fn pause(time: Duration) -> Result<()> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(PvfsError::new(ErrorCode::Stalled, "the server asks to wait"));
    }
    tokio::time::sleep(time).await;
    Ok(())
}

/// Drives a future that never waits (everything over `BlockingNet`) to its end on this thread.
///
/// # Errors
/// `Io` when it waits all the same: a fault of this program.
pub fn drive_now<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(PvfsError::new(
            ErrorCode::Io,
            "an operation waited on a thread that cannot wait (a fault of this program)",
        )),
    }
}
