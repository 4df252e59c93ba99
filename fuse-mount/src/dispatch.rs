//! Runs a machine on the thread that took the request from the kernel, or hands it on.
//!
//! Place in the walks: between a callback of [`crate::fuse_ops`] and `client-lib`. Each FUSE thread
//! has blocking sockets of its own, over which a machine never waits in the sense of async Rust: one
//! poll drives it to its end. An answer that does not come in time (`Stalled`) moves the machine,
//! its state and the kernel's reply to the background thread, and this thread takes the next request
//! at once, so a dead server never starves the others.
//!
//! Invariants: a reply is given exactly once; whoever is killed while waiting is answered within a
//! second, because the operation knows its caller's thread.
use crate::errno::to_errno;
use crate::linger::Linger;
use crate::loop_memory;
use fuser::{Errno, Request};
use pvfs2_bmi::client::BlockingNet;
use pvfs2_client::{Background, Client, Machine, OpState, drive_now, run};
use pvfs2_proto::op::Cred;
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    /// This thread's sockets, and the mount to which they belong.
    static CARRIER: RefCell<Option<(u64, Rc<BlockingNet>)>> = const { RefCell::new(None) };
    /// This thread's buffer for reads: warm memory, grown to the largest read.
    static READ_BUF: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

static MOUNTS: AtomicU64 = AtomicU64::new(1);

/// Runs operations of one mount.
#[derive(Clone)]
pub struct Dispatch {
    client: Arc<Client>,
    background: Arc<Background>,
    linger: Arc<Linger>,
    mount: u64,
}

impl Dispatch {
    /// For one mount of `client`, whose background thread is `background`.
    pub fn new(client: Arc<Client>, background: Arc<Background>) -> Dispatch {
        let linger = Arc::new(Linger::new(client.shared().options().spin_us));
        Dispatch { client, background, linger, mount: MOUNTS.fetch_add(1, Ordering::Relaxed) }
    }

    /// The client.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// The background thread.
    pub fn background(&self) -> &Background {
        &self.background
    }

    /// How this mount's threads wait for requests.
    pub(crate) fn linger(&self) -> &Arc<Linger> {
        &self.linger
    }

    /// A new operation for the program behind `req`.
    pub fn op(&self, req: &Request) -> OpState {
        OpState::new(&self.client, cred(req), req.pid())
    }

    /// A new operation on a file that the program behind `req` has open: permissions were checked
    /// when it was opened.
    pub fn open_file_op(&self, req: &Request) -> OpState {
        OpState::new(&self.client, Cred::root(), req.pid())
    }

    /// A new operation for which nobody waits.
    pub fn own_op(&self) -> OpState {
        OpState::own(&self.client)
    }

    /// This thread's sockets for this mount.
    pub fn carrier(&self) -> Rc<BlockingNet> {
        CARRIER.with_borrow_mut(|held| match held {
            Some((mount, net)) if *mount == self.mount => net.clone(),
            _ => {
                let mut net = BlockingNet::new(self.client.shared().clone());
                if let Some(region) = loop_memory::of_this_thread() {
                    net.share(Arc::new(region));
                }
                let linger = self.linger.clone();
                let net = Rc::new(net.before_sleep(Box::new(move || linger.sleeps())));
                *held = Some((self.mount, net.clone()));
                net
            }
        })
    }

    /// Runs `machine` for the program behind `req` and gives its outcome to `reply`, from this
    /// thread or, when an answer is late, from the background thread.
    pub fn run<M: Machine + 'static>(
        &self,
        req: &Request,
        machine: M,
        reply: impl FnOnce(Result<M::Out>) + Send + 'static,
    ) {
        self.run_op(self.op(req), machine, reply);
    }

    /// As [`Dispatch::run`], with an operation that exists already.
    pub fn run_op<M: Machine + 'static>(
        &self,
        mut op: OpState,
        mut machine: M,
        reply: impl FnOnce(Result<M::Out>) + Send + 'static,
    ) {
        let caller = op.cx.caller_tid;
        self.linger.serve(caller, || match self.run_here(&mut op, &mut machine) {
            Err(e) if e.code == ErrorCode::Stalled => self.continue_later(op, machine, reply),
            result => reply(result),
        });
    }

    /// Runs `machine` on this thread and no other.
    ///
    /// # Errors
    /// The operation's; `Stalled` when an answer is late: [`Dispatch::continue_later`], or let it be.
    pub fn run_here<M: Machine>(&self, op: &mut OpState, machine: &mut M) -> Result<M::Out> {
        let net = self.carrier();
        drive_now(run(machine, op, &self.client, &*net))
    }

    /// Drives `machine` on, on the background thread.
    pub fn continue_later<M: Machine + 'static>(
        &self,
        op: OpState,
        machine: M,
        reply: impl FnOnce(Result<M::Out>) + Send + 'static,
    ) {
        tracing::debug!(op_id = op.id(), op = M::NAME, "the answer is late: on in the background");
        self.background.spawn_op(machine, op, reply);
    }

    /// Drives a fast path (lent memory) on this thread.
    ///
    /// # Errors
    /// The operation's.
    pub fn now<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        drive_now(future)
    }

    /// Lends this thread's read buffer, `len` bytes with arbitrary contents.
    pub fn with_buffer<T>(&self, len: usize, f: impl FnOnce(&mut [u8]) -> T) -> T {
        READ_BUF.with_borrow_mut(|buf| {
            if buf.len() < len {
                buf.resize(len, 0);
            }
            f(&mut buf[..len])
        })
    }
}

/// The credentials behind a request. Supplementary groups are looked up only when a server refuses
/// for want of one.
pub fn cred(req: &Request) -> Cred {
    Cred { uid: req.uid(), gid: req.gid(), groups: Vec::new(), groups_known: false }
}

/// The errno for an outcome; what a person should hear of is logged here, where it is consumed.
pub fn errno(op: &'static str, e: &PvfsError) -> Errno {
    match e.code {
        ErrorCode::Io
        | ErrorCode::Damaged
        | ErrorCode::Unreachable
        | ErrorCode::Protocol
        | ErrorCode::Version
        | ErrorCode::BadSession
        | ErrorCode::NotStuffed
        | ErrorCode::Stalled => tracing::warn!(op, "{e}"),
        _ => tracing::debug!(op, "{e}"),
    }
    Errno::from_i32(to_errno(e.code))
}
