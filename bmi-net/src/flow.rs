//! Flows: bodies above `BODY_MAX` travel as pieces of `FLOW_BUFFER_BYTES`, `FLOW_BUFFERS` in flight.
//!
//! A sender starts with `FLOW_BUFFERS` credits and spends one per piece; the receiver grants one
//! back for each piece that was taken, so a slow receiver holds at most `FLOW_BUFFERS` pieces.
//! The last piece carries `FLAG_FLOW_END` (and may be empty). A response that comes before the
//! request's flow has ended makes the client end the flow at once.
//!
//! Place in the walks: between a connection and an operation that takes or gives a long body.
use crate::buf::PooledBuf;
use parking_lot::Mutex;
use pvfs2_proto::limits::FLOW_BUFFERS;
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// The state of a flow that comes in, as a window of credits.
#[derive(Default)]
struct State {
    pieces: VecDeque<PooledBuf>,
    /// Pieces in the sender's hands: sent ones not yet granted again.
    in_flight: usize,
    /// Credits to grant.
    owed: u16,
    ended: bool,
    failed: Option<PvfsError>,
    /// Nobody takes the pieces any more: they are thrown away as they come.
    abandoned: bool,
    taker: Option<Waker>,
    connection: Option<Waker>,
}

/// The connection's half of a flow that comes in.
#[derive(Clone, Default)]
pub(crate) struct FlowIn(Arc<Mutex<State>>);

impl FlowIn {
    /// Both halves of a new flow.
    pub(crate) fn new() -> (FlowIn, FlowBody) {
        let flow = FlowIn::default();
        (flow.clone(), FlowBody { flow })
    }

    /// A piece has come.
    ///
    /// # Errors
    /// When the sender had no credit for it, or the flow has ended.
    pub(crate) fn push(&self, piece: PooledBuf, end: bool) -> Result<(), &'static str> {
        let mut state = self.0.lock();
        if state.ended {
            return Err("a piece of a flow that has ended");
        }
        state.ended = end;
        if !end {
            state.in_flight += 1;
            if state.in_flight > FLOW_BUFFERS {
                return Err("a piece of a flow without credit");
            }
        }
        if state.abandoned {
            state.owed += u16::from(!end);
        } else if !piece.is_empty() || !end {
            state.pieces.push_back(piece);
        }
        if let Some(taker) = state.taker.take() {
            taker.wake();
        }
        Ok(())
    }

    /// Credits to grant now, and whether the flow is over for the connection. `waker` is told when
    /// there are more.
    pub(crate) fn take_owed(&self, waker: &Waker) -> (u16, bool) {
        let mut state = self.0.lock();
        let owed = std::mem::take(&mut state.owed);
        state.in_flight -= usize::from(owed).min(state.in_flight);
        let changed = state.connection.as_ref().is_none_or(|w| !w.will_wake(waker));
        if changed {
            state.connection = Some(waker.clone());
        }
        (owed, state.ended)
    }

    /// The connection has ended before the flow.
    pub(crate) fn fail(&self, error: PvfsError) {
        let mut state = self.0.lock();
        if !state.ended {
            state.failed = Some(error);
            if let Some(taker) = state.taker.take() {
                taker.wake();
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.0.lock().pieces.len()
    }
}

/// A body that comes as a flow.
pub struct FlowBody {
    flow: FlowIn,
}

impl FlowBody {
    /// A flow that has come already, for operations asked without a network: its pieces, and the
    /// error that cuts it off after them, if any.
    pub fn of_pieces(pieces: Vec<PooledBuf>, failed: Option<PvfsError>) -> FlowBody {
        let (flow, body) = FlowIn::new();
        let mut state = flow.0.lock();
        state.ended = failed.is_none();
        state.failed = failed;
        state.pieces = pieces.into();
        drop(state);
        body
    }

    /// The next piece, its CRC-32 checked; `None` after the last. Taking a piece grants the sender
    /// another one.
    ///
    /// # Errors
    /// `Unreachable` when the connection ended before the flow did.
    ///
    /// # Cancel safety
    /// Safe: a piece is either returned or still there.
    pub async fn next(&mut self) -> Result<Option<PooledBuf>> {
        std::future::poll_fn(|cx| {
            let mut state = self.flow.0.lock();
            if let Some(piece) = state.pieces.pop_front() {
                // The end carries no credit: nothing follows it.
                let last = state.ended && state.pieces.is_empty();
                if !last {
                    state.owed += 1;
                    if let Some(connection) = state.connection.take() {
                        connection.wake();
                    }
                }
                return Poll::Ready(Ok(Some(piece)));
            }
            if let Some(error) = &state.failed {
                return Poll::Ready(Err(error.clone()));
            }
            if state.ended {
                return Poll::Ready(Ok(None));
            }
            state.taker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for FlowBody {
    fn drop(&mut self) {
        let mut state = self.flow.0.lock();
        state.abandoned = true;
        state.owed += state.pieces.len() as u16;
        state.pieces.clear();
        if let Some(connection) = state.connection.take() {
            connection.wake();
        }
    }
}

/// Credits of a flow that goes out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credits(usize);

impl Credits {
    pub(crate) fn new() -> Credits {
        Credits(FLOW_BUFFERS)
    }
    pub(crate) fn has(self) -> bool {
        self.0 > 0
    }
    pub(crate) fn spend(&mut self) {
        self.0 -= 1;
    }
    /// # Errors
    /// When the receiver grants more than there ever were.
    pub(crate) fn grant(&mut self, n: u16) -> Result<(), &'static str> {
        self.0 += usize::from(n);
        if self.0 > FLOW_BUFFERS { Err("credits for pieces never sent") } else { Ok(()) }
    }
}

/// What a flow's receiver learns when its connection ends too early.
pub(crate) fn cut_off() -> PvfsError {
    PvfsError::new(ErrorCode::Unreachable, "the connection ended in the middle of a flow")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece() -> PooledBuf {
        PooledBuf::from_vec(vec![1])
    }

    #[test]
    fn credits_bound_what_is_held() {
        let (flow, body) = FlowIn::new();
        for _ in 0..FLOW_BUFFERS {
            flow.push(piece(), false).unwrap();
        }
        assert_eq!(flow.queued(), FLOW_BUFFERS);
        assert!(flow.push(piece(), false).is_err());
        drop(body);
        assert_eq!(flow.take_owed(Waker::noop()).0 as usize, FLOW_BUFFERS);
        flow.push(piece(), true).unwrap();
        assert!(flow.push(piece(), true).is_err());
        assert_eq!(flow.queued(), 0);
    }

    #[test]
    fn grants_beyond_the_window_are_refused() {
        let mut credits = Credits::new();
        credits.spend();
        credits.grant(1).unwrap();
        assert!(credits.grant(1).is_err());
    }
}
