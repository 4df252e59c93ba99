//! A server's half of BMI: accepts connections and gives each a task on this runtime.
//!
//! `serve` may run on several current-thread runtimes with clones of one listener: whichever loop
//! accepts a connection hands it to the loop that has the fewest. Place in the walks: between the
//! sockets and `Service::handle`. Invariant: when `serve` returns, its connections have ended and
//! `Service::closed` was called for each that had said hello.
mod conn;
mod hello;
mod listen;
mod writes;

pub use listen::Listener;

use crate::auth::ClusterKey;
use crate::buf::Pools;
use crate::service::Service;
use crate::stream::Stream;
use pvfs2_proto::env::Env;
use pvfs2_proto::frame::FrameError;
use pvfs2_proto::{ErrorCode, PvfsError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How a server treats its peers.
#[derive(Clone)]
pub struct ServerOptions {
    /// The cluster's key; without it only local peers are served.
    pub key: Option<ClusterKey>,
    /// Local peers must prove the key too.
    pub key_from_all: bool,
    /// The file system that this server belongs to, part of the proofs.
    pub fs_id: u64,
    /// Clock and chance.
    pub env: Env,
    /// Buffers for bodies.
    pub pools: Pools,
    /// Requests of one connection that may be under way; more wait in its socket.
    pub in_flight_max: usize,
    /// Connections of one loop; more are closed at once.
    pub connections_max: usize,
    /// A peer must say hello, and finish a frame that it began or take one that we began, within
    /// this time.
    pub progress_ms: u64,
    /// After the order to stop, requests under way may take this long.
    pub drain_ms: u64,
}

impl ServerOptions {
    /// The defaults.
    pub fn new(env: Env) -> ServerOptions {
        ServerOptions {
            key: None,
            key_from_all: false,
            fs_id: 0,
            env,
            pools: Pools::new(),
            in_flight_max: 128,
            connections_max: 16_384,
            progress_ms: 30_000,
            drain_ms: 3_000,
        }
    }
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions::new(Env::real())
    }
}

/// Serves until `shutdown` turns true (or its sender is dropped): then no connection is accepted
/// and no request read any more, what is under way is finished and answered, and every connection
/// is closed. Runs on the calling current-thread runtime and needs a `LocalSet`.
///
/// # Cancel safety
/// Dropping it ends every connection at once; requests under way are abandoned.
pub async fn serve<S: Service>(
    listener: Listener,
    service: Arc<S>,
    opts: Arc<ServerOptions>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let mut acceptor = match listener.into_acceptor() {
        Ok(acceptor) => acceptor,
        Err(e) => {
            tracing::error!(error = %e, "cannot listen; this server loop ends");
            return;
        }
    };
    let conn_shutdown = shutdown.clone();
    loop {
        let stream = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            Some(_) = tasks.join_next() => continue,
            stream = acceptor.accept() => stream,
        };
        match stream {
            Ok((stream, guard)) if tasks.len() < opts.connections_max => {
                let service = service.clone();
                let (opts, shutdown) = (opts.clone(), conn_shutdown.clone());
                tasks.spawn_local(async move {
                    let _guard = guard;
                    conn::run(stream, service, opts, shutdown).await;
                });
            }
            Ok((stream, _)) => {
                tracing::warn!(peer = stream.peer_name(), "too many connections; closing one");
            }
            Err(e) => {
                // Out of descriptors, or the peer has gone already: others may go on.
                tracing::warn!(error = %e, "accept failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    drop(acceptor);
    while tasks.join_next().await.is_some() {}
}

/// What is wrong with a frame, in words for the peer.
fn frame_error(e: FrameError) -> PvfsError {
    let code = match e {
        FrameError::Version(_) => ErrorCode::Version,
        FrameError::HeadCrc | FrameError::BodyCrc => ErrorCode::Damaged,
        _ => ErrorCode::Protocol,
    };
    PvfsError::new(code, e.to_string())
}

impl Stream {
    /// A unique number for a connection in this process.
    pub(crate) fn next_id() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}
