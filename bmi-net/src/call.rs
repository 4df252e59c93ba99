//! What a client asks of the network: calls, replies, and the trait that carries them.
//!
//! Two carriers implement [`Net`]: `BlockingNet` (one per FUSE thread: blocking sockets, never
//! pending, so a request stays on the thread that took it from the kernel) and `AsyncNet` (tokio:
//! background work, tools, servers asking servers, and simulations over `mem`). Operations are
//! written once against the trait.
//!
//! Invariant: a ticket (slot and sequence number) is given out once, and goes back to its session
//! only when its request was answered or given up, so a repeat carries the same ticket.
use bytes::Bytes;
use pvfs2_proto::op::{Cred, OpRequest, OpResponse};
use pvfs2_proto::{Result, ServerId};
use smallvec::SmallVec;
use std::future::Future;

/// Standing of one request in its session: a repeat with the same ticket takes effect once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The server whose session this is.
    pub server: ServerId,
    /// The session that gave it; a ticket of an ended session is refused as `BadSession`.
    pub session: u64,
    /// Slot, from 0.
    pub slot: u32,
    /// Sequence number within the slot, from 1.
    pub seq: u64,
}

/// One request to one server.
pub struct Call<'a> {
    /// To whom.
    pub server: ServerId,
    /// What.
    pub op: OpRequest,
    /// The request's body, gathered from these slices.
    pub body: SmallVec<[&'a [u8]; 8]>,
    /// Where the response's body goes, piece after piece. Empty: it comes as [`Reply::body`].
    /// Pieces (or ends of pieces) that the body does not reach are left as they are.
    pub into: SmallVec<[&'a mut [u8]; 8]>,
    /// The request's standing, for operations that need one (see `Op::repeat`). An exchange may
    /// replace it (the session had ended and the request is known not to have taken effect);
    /// [`Net::done`] understands the replaced one as well.
    pub ticket: Option<Ticket>,
    /// The outcome, set by [`Net::exchange`].
    pub result: Option<Result<Reply>>,
    /// The operation's part that came along with an error, where the operation says so.
    pub error_op: Option<OpResponse>,
}

impl<'a> Call<'a> {
    /// A call without body.
    pub fn new(server: ServerId, op: OpRequest) -> Call<'a> {
        Call {
            server,
            op,
            body: SmallVec::new(),
            into: SmallVec::new(),
            ticket: None,
            result: None,
            error_op: None,
        }
    }
}

/// A good answer.
#[derive(Debug, Default)]
pub struct Reply {
    /// The operation's part.
    pub op: Option<OpResponse>,
    /// The body, unless [`Call::into`] took it.
    pub body: Bytes,
    /// Bytes of the body, wherever they went.
    pub body_len: usize,
    /// The body was lent and is not what its checksum says: ask again for one that is not lent.
    pub is_changed: bool,
}

/// Who asks, and for how long.
#[derive(Clone, Debug)]
pub struct CallCx {
    /// The operation id that crosses to the servers in traces.
    pub op_id: u64,
    /// Credentials.
    pub cred: Cred,
    /// Thread id of the waiting program, to notice that it is being killed; 0: nobody.
    pub caller_tid: u32,
}

/// Carries calls to servers.
pub trait Net {
    /// Sends every call, then gathers every answer; servers work at once. On return each call has
    /// its `result`. `BadSession`, reconnects and retries as far as this carrier does them are
    /// behind it; what is left is final for this carrier:
    /// - `Unreachable`: retries are used up (AsyncNet);
    /// - `Stalled`: no answer within the time that a FUSE thread may wait, or the server is down
    ///   (BlockingNet): go on with AsyncNet and the same tickets;
    /// - `Interrupted`: the caller is being killed.
    ///
    /// # Cancel safety
    /// A dropped exchange may have taken effect; its tickets tell (send again, or give up).
    fn exchange(&self, cx: &CallCx, calls: &mut [Call<'_>]) -> impl Future<Output = ()>;

    /// A ticket for one request to `server`, making the session if there is none.
    ///
    /// # Errors
    /// As [`Net::exchange`] when the session cannot be made.
    fn ticket(&self, cx: &CallCx, server: ServerId) -> impl Future<Output = Result<Ticket>>;

    /// Gives a ticket back: its request was answered, or nobody will send it again.
    fn done(&self, ticket: Ticket);
}
