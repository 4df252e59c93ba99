//! A server as a client of others: metadata servers drive I/O servers (truncate, append, reaping)
//! and each other (names and objects on different servers).
//!
//! Operations see the trait [`Peers`]; [`NetPeers`] carries it over BMI with tickets and the
//! carrier's retries, tests put a fake in its place. Cross-server work is rare beside local work, so
//! a boxed future per round of calls is cheap enough here.
use bytes::Bytes;
use pvfs2_bmi::call::{Call, CallCx, Net};
use pvfs2_proto::op::{Cred, OpMessage, OpRequest, OpResponse, Repeat};
use pvfs2_proto::{ErrorCode, PvfsError, Result, ServerId};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// A future that stays on its thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// One request to another server.
#[derive(Clone, Debug)]
pub struct PeerCall {
    /// To whom.
    pub server: ServerId,
    /// What.
    pub op: OpRequest,
    /// Its body.
    pub body: Bytes,
}

/// Another server's answer.
#[derive(Clone, Debug)]
pub struct PeerReply {
    /// The operation's part.
    pub op: Option<OpResponse>,
    /// The body.
    pub body: Bytes,
}

/// The other servers.
pub trait Peers {
    /// Sends all calls, then gathers all answers, in order. On whose behalf: `cred`, `op_id`.
    fn call<'a>(
        &'a self,
        cred: &'a Cred,
        op_id: u64,
        calls: Vec<PeerCall>,
    ) -> LocalFuture<'a, Vec<Result<PeerReply>>>;
}

/// One typed request without body.
///
/// # Errors
/// The peer's, or `Unreachable`.
pub async fn ask<M: OpMessage>(
    peers: &dyn Peers,
    cred: &Cred,
    op_id: u64,
    server: ServerId,
    message: M,
) -> Result<M::Response> {
    let call = PeerCall { server, op: message.into_request(), body: Bytes::new() };
    let reply = peers.call(cred, op_id, vec![call]).await.pop().unwrap_or_else(|| Err(no_answer()));
    M::take_response(reply?.op)
}

/// Several typed requests without body, at once; the first error if there is one.
///
/// # Errors
/// The peers', or `Unreachable`.
pub async fn ask_all<M: OpMessage>(
    peers: &dyn Peers,
    cred: &Cred,
    op_id: u64,
    messages: Vec<(ServerId, M)>,
) -> Result<Vec<M::Response>> {
    let calls = messages
        .into_iter()
        .map(|(server, m)| PeerCall { server, op: m.into_request(), body: Bytes::new() })
        .collect();
    let replies = peers.call(cred, op_id, calls).await;
    replies.into_iter().map(|reply| M::take_response(reply?.op)).collect()
}

fn no_answer() -> PvfsError {
    PvfsError::new(ErrorCode::Unreachable, "another server gave no answer")
}

/// [`Peers`] over the network.
pub struct NetPeers<N> {
    net: Rc<N>,
}

impl<N: Net> NetPeers<N> {
    /// Peers behind a carrier whose options name this server (`ClientOptions::peer_server`).
    pub fn new(net: Rc<N>) -> NetPeers<N> {
        NetPeers { net }
    }

    async fn exchange(&self, cx: CallCx, calls: Vec<PeerCall>) -> Vec<Result<PeerReply>> {
        let mut results: Vec<Option<Result<PeerReply>>> = calls.iter().map(|_| None).collect();
        // A session that the peer forgot is made anew by the carrier; the requests of the second
        // round carry new tickets. They all give the same result when they are done twice.
        for _round in 0..2 {
            let mut wire = Vec::with_capacity(calls.len());
            let mut places = Vec::with_capacity(calls.len());
            for (i, peer) in calls.iter().enumerate() {
                if results[i].is_some() {
                    continue;
                }
                let mut call = Call::new(peer.server, peer.op.clone());
                if !peer.body.is_empty() {
                    call.body.push(&peer.body);
                }
                if peer.op.op().repeat() != Repeat::Harmless {
                    match self.net.ticket(&cx, peer.server).await {
                        Ok(ticket) => call.ticket = Some(ticket),
                        Err(e) => {
                            results[i] = Some(Err(e));
                            continue;
                        }
                    }
                }
                wire.push(call);
                places.push(i);
            }
            self.net.exchange(&cx, &mut wire).await;
            let mut again = false;
            for (call, i) in wire.into_iter().zip(places) {
                if let Some(ticket) = call.ticket {
                    self.net.done(ticket);
                }
                let result = call.result.unwrap_or_else(|| Err(no_answer()));
                if matches!(&result, Err(e) if e.code == ErrorCode::BadSession) {
                    again = true;
                } else {
                    results[i] = Some(result.map(|r| PeerReply { op: r.op, body: r.body }));
                }
            }
            if !again {
                break;
            }
        }
        results.into_iter().map(|r| r.unwrap_or_else(|| Err(no_answer()))).collect()
    }
}

impl<N: Net> Peers for NetPeers<N> {
    fn call<'a>(
        &'a self,
        cred: &'a Cred,
        op_id: u64,
        calls: Vec<PeerCall>,
    ) -> LocalFuture<'a, Vec<Result<PeerReply>>> {
        let cx = CallCx { op_id, cred: cred.clone(), caller_tid: 0 };
        Box::pin(self.exchange(cx, calls))
    }
}

#[cfg(test)]
mod tests;
