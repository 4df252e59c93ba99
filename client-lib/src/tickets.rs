//! Exchanges with servers on behalf of an operation, with the tickets that make them exactly-once.
//!
//! Place in the walks: every machine of `sys/` sends through [`Cx::exchange`] or [`Cx::ask`].
//!
//! Invariants: within one step an operation sends at most one ticketed request to a server, so the
//! server names the ticket; a ticket stays with the operation while its request's fate is open
//! (`Stalled`) and is used again when the step runs again, by whichever carrier; it goes back when
//! the request was answered or given up. Tickets are taken in the order of the servers' ids, so
//! that two operations never wait for each other's slots.
use crate::machine::Cx;
use bytes::Bytes;
use pvfs2_bmi::call::{Call, Net, Ticket};
use pvfs2_proto::op::{OpMessage, Repeat};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result, ServerId};
use smallvec::SmallVec;
use std::sync::atomic::Ordering;

/// The tickets that an operation holds.
#[derive(Default, Debug)]
pub struct Tickets {
    held: SmallVec<[Ticket; 4]>,
}

impl Tickets {
    /// How many are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }
    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
    /// Gives every ticket back: nobody will send these requests again.
    pub fn give_back<N: Net>(&mut self, net: &N) {
        for ticket in self.held.drain(..) {
            net.done(ticket);
        }
    }
    fn find(&self, server: ServerId) -> Option<usize> {
        self.held.iter().position(|t| t.server == server)
    }
}

impl<N: Net> Cx<'_, N> {
    /// Sends every call at once and gathers the answers into each call's `result`.
    ///
    /// # Errors
    /// Only when a ticket could not be had; then nothing was sent.
    pub async fn exchange(&mut self, calls: &mut [Call<'_>]) -> Result<()> {
        let mut order: SmallVec<[usize; 16]> =
            (0..calls.len()).filter(|&i| calls[i].op.op().repeat() != Repeat::Harmless).collect();
        order.sort_unstable_by_key(|&i| calls[i].server);
        for i in order {
            let server = calls[i].server;
            let held = self.op.tickets.find(server).map(|at| self.op.tickets.held[at]);
            let ticket = match held {
                Some(ticket) => ticket,
                None => {
                    let ticket = self.net.ticket(&self.op.cx, server).await?;
                    self.op.tickets.held.push(ticket);
                    ticket
                }
            };
            calls[i].ticket = Some(ticket);
        }
        self.client.metrics().requests.fetch_add(calls.len() as u64, Ordering::Relaxed);
        self.net.exchange(&self.op.cx, calls).await;
        for call in calls {
            self.settle(call);
        }
        Ok(())
    }

    /// Decides what becomes of a call's ticket. A request whose session ended is the network's
    /// matter: it has sent it again if that was safe, and else answered `Io`.
    fn settle(&mut self, call: &mut Call<'_>) {
        let result = call.result.get_or_insert_with(|| {
            Err(PvfsError::new(
                ErrorCode::Io,
                "the network gave no result for a request (a fault of this program)",
            ))
        });
        if matches!(result, Err(e) if e.code == ErrorCode::Stalled) {
            return;
        }
        if let Some(at) = call.ticket.and_then(|t| self.op.tickets.find(t.server)) {
            let ticket = self.op.tickets.held.swap_remove(at);
            self.net.done(ticket);
        }
    }

    /// One request without body.
    ///
    /// # Errors
    /// The server's, or the network's.
    pub async fn ask<R: OpMessage>(&mut self, server: ServerId, request: R) -> Result<R::Response> {
        Ok(self.ask_body(server, request, &[]).await?.0)
    }

    /// One request with a body lent by slices; the answer's body comes along.
    ///
    /// # Errors
    /// The server's, or the network's.
    pub async fn ask_body<R: OpMessage>(
        &mut self,
        server: ServerId,
        request: R,
        body: &[&[u8]],
    ) -> Result<(R::Response, Bytes)> {
        let mut calls = [Call::new(server, request.into_request())];
        calls[0].body.extend_from_slice(body);
        self.exchange(&mut calls).await?;
        let [call] = calls;
        let reply = take(call.result)?;
        Ok((R::take_response(reply.op)?, reply.body))
    }

    /// The metadata server of an object.
    ///
    /// # Errors
    /// `Stale` when no server owns the handle.
    pub fn meta_server(&self, handle: Handle) -> Result<ServerId> {
        self.client.map().meta_server_of(handle).ok_or_else(|| {
            PvfsError::new(
                ErrorCode::Stale,
                format!("handle {handle} belongs to no metadata server of this file system"),
            )
        })
    }
}

/// A call's outcome.
///
/// # Errors
/// The call's.
pub fn take(result: Option<Result<pvfs2_bmi::call::Reply>>) -> Result<pvfs2_bmi::call::Reply> {
    result.unwrap_or_else(|| Err(PvfsError::new(ErrorCode::Io, "a request was never answered")))
}

/// An optional message field that the protocol requires.
///
/// # Errors
/// `Protocol` when it is missing.
pub fn need<T>(field: Option<T>, what: &'static str) -> Result<T> {
    field.ok_or_else(|| PvfsError::new(ErrorCode::Protocol, what))
}
