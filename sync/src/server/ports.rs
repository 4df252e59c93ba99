//! Where the server listens, changed while it runs. A new address is bound first; then both answer; the
//! old one is drained: it takes no more connections, and each that it has ends after the request that is
//! under way, however long that takes. The last address is never drained.
//!
//! What was set here is kept: the next start binds it, as long as it is started with the same `--listen`
//! as when it was set; another `--listen` wins and forgets it.
use super::serve::{Doors, serve};
use super::users::Users;
use crate::error::{Result, SyncError};
use axum::Router;
use parking_lot::Mutex;
use rustls::ServerConfig;
use serde::Serialize;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

const CONNECTIONS_MAX: usize = 2_000;
/// Requests that are under way get so long when the server ends.
const END: Duration = Duration::from_secs(10);

/// A port as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct PortState {
    /// The address.
    pub address: String,
    /// Takes no more connections.
    pub draining: bool,
    /// Connections that it has.
    pub connections: usize,
}

struct Port {
    addr: SocketAddr,
    drain: watch::Sender<bool>,
    open: Arc<AtomicUsize>,
}

/// All ports of a server.
pub struct Ports {
    runtime: Handle,
    tls: Arc<ServerConfig>,
    router: Router,
    room: Arc<Semaphore>,
    end: watch::Receiver<bool>,
    all: Mutex<Vec<Port>>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").field("all", &self.list()).finish_non_exhaustive()
    }
}

impl Ports {
    /// None yet.
    #[must_use]
    pub fn new(
        runtime: Handle,
        tls: Arc<ServerConfig>,
        router: Router,
        end: watch::Receiver<bool>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { runtime, tls, router, room, end, all: Mutex::default() }
    }

    /// Binds an address and answers there; the address with its port.
    ///
    /// # Errors
    /// I/O, with the address; then nothing has changed.
    pub fn open(&self, addr: SocketAddr) -> Result<SocketAddr> {
        let failed = |e| SyncError::io(format!("listen on {addr}"), e);
        let mut all = self.all.lock();
        if all.iter().any(|p| p.addr == addr && !*p.drain.borrow()) {
            return Err(SyncError::Taken(format!("{addr} is answered already")));
        }
        let listener = TcpListener::bind(addr).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let listener = {
            let _in = self.runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(failed)?
        };
        let (drain, drained) = watch::channel(false);
        let open = Arc::new(AtomicUsize::new(0));
        let doors = Doors {
            room: self.room.clone(),
            open: open.clone(),
            drain: drained,
            end: self.end.clone(),
        };
        self.runtime.spawn(serve(listener, self.tls.clone(), self.router.clone(), doors));
        all.push(Port { addr, drain, open });
        Ok(addr)
    }

    /// Takes no more connections there; those that it has end after the request that is under way.
    ///
    /// # Errors
    /// [`SyncError::NotFound`]; [`SyncError::Invalid`] for the last one.
    pub fn drain(&self, addr: SocketAddr) -> Result<()> {
        let all = self.all.lock();
        let answering = all.iter().filter(|p| !*p.drain.borrow()).count();
        let Some(port) = all.iter().find(|p| p.addr == addr && !*p.drain.borrow()) else {
            return Err(SyncError::NotFound(format!("a port at {addr}")));
        };
        if answering < 2 {
            let why = format!("{addr} is the only one: open the new one first");
            return Err(SyncError::Invalid(why));
        }
        port.drain.send_replace(true);
        Ok(())
    }

    /// The ports as they are; those that are drained to the last connection are forgotten.
    #[must_use]
    pub fn list(&self) -> Vec<PortState> {
        let mut all = self.all.lock();
        all.retain(|p| !*p.drain.borrow() || p.open.load(Ordering::Acquire) > 0);
        let one = |p: &Port| PortState {
            address: p.addr.to_string(),
            draining: *p.drain.borrow(),
            connections: p.open.load(Ordering::Acquire),
        };
        all.iter().map(one).collect()
    }

    /// Waits until every connection has ended, or for as long as they get when the server ends.
    pub async fn ended(&self) {
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(END, self.room.acquire_many(all)).await;
    }
}

impl Users {
    /// Where to listen: what was set, if it was set under the same `given`.
    pub(super) fn listen(&self, given: SocketAddr) -> Vec<SocketAddr> {
        let word = |key| self.local.word(key).ok().flatten();
        if word("listen.given").as_deref() != Some(&given.to_string()) {
            return vec![given];
        }
        let now = word("listen.now").unwrap_or_default();
        now.split(' ').filter_map(|a| a.parse().ok()).collect()
    }

    /// Opens or drains a port, and keeps that for the next start.
    ///
    /// # Errors
    /// As [`Ports::open`], [`Ports::drain`].
    pub fn change_port(&self, addr: SocketAddr, open: bool) -> Result<()> {
        let ports = self.ports.get().and_then(std::sync::Weak::upgrade);
        let ports = ports.ok_or_else(|| SyncError::Invalid("no server listens".into()))?;
        if open {
            ports.open(addr)?;
        } else {
            ports.drain(addr)?;
        }
        let now: Vec<String> =
            ports.list().into_iter().filter(|p| !p.draining).map(|p| p.address).collect();
        self.local.set_word("listen.now", &now.join(" "))
    }
}
