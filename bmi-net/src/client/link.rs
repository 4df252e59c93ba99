//! One async connection that carries one exchange at a time: hello, reclaim, bulk.
//!
//! Invariant: a link whose future was dropped in the middle is busy and must be dropped too.
use super::SessionEvents;
use super::blocking::to_error;
use super::greet::{Greeter, Reclaim};
use super::pump::{Pump, Stamp, take_reply};
use super::shared::{ClientShared, Standing};
use crate::addr::Address;
use crate::call::{Call, CallCx};
use crate::stream::{PollIo, Stream};
use crate::wire::FrameReader;
use pvfs2_proto::op::{Cred, HelloRequest, HelloResponse, OpMessage, ReclaimRequest};
use pvfs2_proto::{ErrorCode, PvfsError, Result, ServerId};
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

pub(super) struct Link {
    pub(super) stream: Stream,
    pub(super) pump: Pump,
}

impl Link {
    /// Connects to `server` and says hello; returns with its session in order.
    ///
    /// # Errors
    /// `Unreachable` when trying again may help; others are final.
    pub(super) async fn open(
        shared: &ClientShared,
        server: ServerId,
        no_notices: bool,
    ) -> Result<Link> {
        let time = Duration::from_millis(u64::from(shared.opts.connect_ms));
        let alias = shared.opts.map.alias(server);
        match tokio::time::timeout(time, Link::open_now(shared, server, no_notices)).await {
            Ok(Err(e)) if e.is_retryable() => {
                Err(PvfsError::new(ErrorCode::Unreachable, format!("server {alias}: {}", e.detail)))
            }
            Ok(result) => result,
            Err(_) => Err(PvfsError::new(
                ErrorCode::Unreachable,
                format!("server {alias} does not answer a hello within {} ms", time.as_millis()),
            )),
        }
    }

    async fn open_now(shared: &ClientShared, server: ServerId, no_notices: bool) -> Result<Link> {
        let entry = shared.opts.map.server(server).ok_or_else(|| {
            PvfsError::new(ErrorCode::Invalid, format!("the cluster map has no server {server}"))
        })?;
        let mut why = String::from("it has no address that this client can use");
        for address in Address::of_entry(entry) {
            match Stream::connect(&address, shared.opts.mem.as_ref()).await {
                Ok(stream) => {
                    let mut link = Link { stream, pump: Pump::new(server) };
                    link.greet(shared, server, no_notices).await?;
                    shared.counts.connects.fetch_add(1, Ordering::Relaxed);
                    return Ok(link);
                }
                Err(e) => why = format!("{address}: {e}"),
            }
        }
        Err(PvfsError::new(ErrorCode::Unreachable, why))
    }

    async fn greet(
        &mut self,
        shared: &ClientShared,
        server: ServerId,
        no_notices: bool,
    ) -> Result<()> {
        let peer = self.stream.peer().map_err(|_| PvfsError::from(ErrorCode::Unreachable))?;
        let greeter = Greeter::session(shared, server, peer, no_notices);
        let events = &*shared.events;
        let hello = self.hello(greeter, events).await?;
        if shared.standing(server, &hello) == Standing::Same {
            return Ok(());
        }
        let _guard = shared.guard(server)?.lock().await;
        let Some(mut reclaim) = Reclaim::begin(shared, server, &hello) else { return Ok(()) };
        while let Some(part) = reclaim.next() {
            let response = self.one::<ReclaimRequest>(part, hello.session, events).await?;
            reclaim.answered(response);
        }
        reclaim.end(shared, server, &hello);
        Ok(())
    }

    /// Says hello, proving the key if asked.
    pub(super) async fn hello(
        &mut self,
        mut greeter: Greeter,
        events: &dyn SessionEvents,
    ) -> Result<HelloResponse> {
        let mut request = greeter.first();
        loop {
            let response = self.one::<HelloRequest>(request, 0, events).await?;
            match greeter.next(&response)? {
                Some(next) => request = next,
                None => return Ok(response),
            }
        }
    }

    /// One call of the carrier's own.
    pub(super) async fn one<M: OpMessage>(
        &mut self,
        request: M,
        session: u64,
        events: &dyn SessionEvents,
    ) -> Result<M::Response> {
        let cx = CallCx { op_id: 0, cred: Cred::root(), caller_tid: 0 };
        let mut calls = [Call::new(self.pump.server(), request.into_request())];
        self.pump.add(0, &calls[0], Stamp { session, slot: 0, seq: 0 });
        self.drive(&cx, &mut calls, events).await;
        let [call] = calls;
        take_reply::<M>(call.result)
    }

    /// Drives the calls that were added to the pump until each has its result.
    pub(super) async fn drive(
        &mut self,
        cx: &CallCx,
        calls: &mut [Call<'_>],
        events: &dyn SessionEvents,
    ) {
        std::future::poll_fn(|task| {
            let mut io = PollIo { stream: &mut self.stream, cx: task };
            match self.pump.go(&mut io, cx, calls, events) {
                Ok(true) => Poll::Ready(()),
                Ok(false) => Poll::Pending,
                Err(error) => {
                    self.pump.fail(calls, &to_error(&error));
                    Poll::Ready(())
                }
            }
        })
        .await;
    }

    /// The parts, for a multiplexed connection: what was read already stays read.
    pub(super) fn into_parts(self) -> (Stream, FrameReader) {
        (self.stream, self.pump.into_reader())
    }
}
