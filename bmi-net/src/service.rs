//! What a server gives the network: a [`Service`] that says hello and handles requests.
//!
//! The connection's task calls [`Service::handle`] for each request and polls it at once in the same
//! task; only what does not finish immediately is kept beside. Responses are written in the order
//! in which they are ready, many in one vectored write.
use crate::buf::PooledBuf;
use crate::flow::FlowBody;
use crate::lent::Lent;
use crate::region::SharedBody;
use bytes::Bytes;
use pvfs2_proto::Result;
use pvfs2_proto::op::{HelloRequest, HelloResponse, Notice, RequestHead, ResponseHead};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A connection as a service sees it.
pub struct Conn {
    /// Unique in this process.
    pub id: u64,
    /// The peer's address, for messages.
    pub peer: String,
    /// Unix socket or loopback.
    pub is_local: bool,
    /// The peer's user id, where the socket tells (unix).
    pub peer_uid: Option<u32>,
    /// The session that its hello made or joined (0 before).
    pub session: AtomicU64,
    /// Sends a notice to the peer.
    pub notifier: Arc<dyn Fn(Notice) + Send + Sync>,
}

/// The request's body.
pub enum Body {
    /// None.
    Empty,
    /// All of it, its CRC-32 checked.
    Whole(PooledBuf),
    /// As a flow: take it piece by piece.
    Flow(FlowBody),
    /// In the client's memory, which stays as it is until the request is answered. The request carries
    /// its checksums; nobody has compared them.
    Shared(SharedBody),
}

/// A request as it came in.
pub struct Incoming {
    /// On which connection.
    pub conn: Arc<Conn>,
    /// Its head.
    pub head: RequestHead,
    /// Its body.
    pub body: Body,
}

/// The response's body.
pub enum OutBody {
    /// None.
    Empty,
    /// From memory.
    Bytes(Bytes),
    /// From a pooled buffer, which goes back to its pool after sending.
    Pooled(PooledBuf),
    /// Several buffers, one after the other. Together above `BODY_MAX`: sent as a flow.
    Pieces(Vec<PooledBuf>),
    /// Straight from a file's pages; at most `BODY_MAX`. Only where the request allows it.
    Lent(Lent),
    /// No response at all (the head is ignored): a late duplicate that nobody waits for.
    Silent,
}

impl OutBody {
    /// Its bytes.
    pub fn len(&self) -> usize {
        match self {
            OutBody::Empty | OutBody::Silent => 0,
            OutBody::Bytes(bytes) => bytes.len(),
            OutBody::Pooled(buf) => buf.len(),
            OutBody::Pieces(pieces) => pieces.iter().map(|p| p.len()).sum(),
            OutBody::Lent(lent) => lent.len(),
        }
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A response.
pub struct Outgoing {
    /// Its head.
    pub head: ResponseHead,
    /// Its body.
    pub body: OutBody,
}

impl Outgoing {
    /// A response without body.
    pub fn head(head: ResponseHead) -> Outgoing {
        Outgoing { head, body: OutBody::Empty }
    }
    /// Nothing is answered: a late duplicate whose sender has had its answer.
    pub fn silent() -> Outgoing {
        Outgoing { head: ResponseHead::default(), body: OutBody::Silent }
    }
}

/// A server's logic.
pub trait Service: 'static {
    /// A peer introduces itself; versions and the cluster's key have been checked already.
    ///
    /// # Errors
    /// `WrongFileSystem` and others: answered, then the connection is cut.
    fn hello(&self, conn: &Arc<Conn>, hello: &HelloRequest) -> Result<HelloResponse>;
    /// Handles one request.
    fn handle(&self, request: Incoming) -> impl Future<Output = Outgoing>;
    /// The connection has ended.
    fn closed(&self, conn: &Arc<Conn>);
}
