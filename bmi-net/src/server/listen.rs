//! Listeners and how accepted connections are spread over loops.
//!
//! Clones of one listener form a group. Invariant: a connection is handed on only as a standard
//! socket (tokio sockets belong to the runtime that registered them).
use crate::addr::Address;
use crate::mem::MemStream;
use crate::stream::{Stream, set_up_tcp, set_up_unix};
use crate::unix::UnixConn;
use parking_lot::Mutex;
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use std::io;
use std::os::unix::net as unix;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;

/// Connections that the kernel keeps for us before we accept them.
const BACKLOG: i32 = 1024;

enum Socket {
    Tcp(std::net::TcpListener),
    Unix(unix::UnixListener),
    Mem(String, mpsc::UnboundedReceiver<MemStream>),
}

enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(unix::UnixStream),
}

struct Member {
    load: Arc<AtomicUsize>,
    hand: mpsc::UnboundedSender<Accepted>,
}

type Group = Arc<Mutex<Vec<Member>>>;

/// Listens at one address.
pub struct Listener {
    socket: Socket,
    group: Group,
}

impl Listener {
    /// Listens. The socket file of a server that is gone is replaced; one that somebody still
    /// listens at is not.
    ///
    /// # Errors
    /// `InUse` when somebody listens there already; `Invalid` when the address cannot be used.
    pub async fn bind(address: &Address) -> Result<Listener> {
        let fail = |e: io::Error| {
            let code = match e.kind() {
                io::ErrorKind::AddrInUse => ErrorCode::InUse,
                _ => ErrorCode::Invalid,
            };
            PvfsError::new(code, format!("cannot listen at {address}: {e}"))
        };
        let socket = match address {
            Address::Tcp(place) => Socket::Tcp(bind_tcp(place).await.map_err(fail)?),
            Address::Unix(path) => Socket::Unix(bind_unix(path).map_err(fail)?),
            Address::Mem(_) => {
                let e = io::Error::other("mem listeners are made by MemNetwork::listen");
                return Err(fail(e));
            }
        };
        Ok(Listener { socket, group: Group::default() })
    }

    pub(crate) fn mem(name: &str, streams: mpsc::UnboundedReceiver<MemStream>) -> Listener {
        Listener { socket: Socket::Mem(name.to_owned(), streams), group: Group::default() }
    }

    /// Another listener at the same socket, for another loop.
    ///
    /// # Errors
    /// `NotSupported` for mem, `Io` when the system refuses.
    pub fn try_clone(&self) -> Result<Listener> {
        let fail = |e: io::Error| {
            PvfsError::new(ErrorCode::Io, format!("cannot duplicate a listening socket: {e}"))
        };
        let socket = match &self.socket {
            Socket::Tcp(s) => Socket::Tcp(s.try_clone().map_err(fail)?),
            Socket::Unix(s) => Socket::Unix(s.try_clone().map_err(fail)?),
            Socket::Mem(..) => return Err(ErrorCode::NotSupported.into()),
        };
        Ok(Listener { socket, group: self.group.clone() })
    }

    /// Where it listens (with the port that the system chose).
    ///
    /// # Errors
    /// `Io` when the system does not tell.
    pub fn address(&self) -> Result<Address> {
        let fail = |e: io::Error| PvfsError::new(ErrorCode::Io, format!("a socket's address: {e}"));
        Ok(match &self.socket {
            Socket::Tcp(s) => Address::Tcp(s.local_addr().map_err(fail)?.to_string()),
            Socket::Unix(s) => {
                let at = s.local_addr().map_err(fail)?;
                Address::Unix(at.as_pathname().unwrap_or(Path::new("")).to_owned())
            }
            Socket::Mem(name, _) => Address::Mem(name.clone()),
        })
    }

    /// Registers with the calling runtime and joins the group.
    pub(crate) fn into_acceptor(self) -> io::Result<Acceptor> {
        let source = match self.socket {
            Socket::Tcp(s) => Source::Tcp(TcpListener::from_std(s)?),
            Socket::Unix(s) => Source::Unix(UnixListener::from_std(s)?),
            Socket::Mem(_, streams) => Source::Mem(streams),
        };
        let (hand, handed) = mpsc::unbounded_channel();
        let load = Arc::new(AtomicUsize::new(0));
        self.group.lock().push(Member { load: load.clone(), hand });
        Ok(Acceptor { source, handed, load, group: self.group })
    }
}

async fn bind_tcp(place: &str) -> io::Result<std::net::TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for at in tokio::net::lookup_host(place).await? {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(at),
            socket2::Type::STREAM.cloexec().nonblocking(),
            Some(socket2::Protocol::TCP),
        )?;
        // A restarted server shall not wait for its predecessor's closed connections.
        socket.set_reuse_address(true)?;
        match socket.bind(&at.into()).and_then(|()| socket.listen(BACKLOG)) {
            Ok(()) => return Ok(socket.into()),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn bind_unix(path: &Path) -> io::Result<unix::UnixListener> {
    let bind = || -> io::Result<unix::UnixListener> {
        let kind = socket2::Type::STREAM.cloexec().nonblocking();
        let socket = socket2::Socket::new(socket2::Domain::UNIX, kind, None)?;
        socket.bind(&socket2::SockAddr::unix(path)?)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    match bind() {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            match unix::UnixStream::connect(path) {
                // Only a socket that nobody listens at is a leftover.
                Err(c) if c.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                    bind()
                }
                _ => Err(e),
            }
        }
        bound => bound,
    }
}

enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
    Mem(mpsc::UnboundedReceiver<MemStream>),
}

/// A listener in its runtime.
pub(crate) struct Acceptor {
    source: Source,
    handed: mpsc::UnboundedReceiver<Accepted>,
    load: Arc<AtomicUsize>,
    group: Group,
}

/// Counts a connection as long as it lives.
pub(crate) struct CountGuard(Arc<AtomicUsize>);
impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Acceptor {
    /// The next connection for this loop, counted as long as its guard lives.
    ///
    /// # Cancel safety
    /// Safe: a connection is either returned or still queued.
    pub(crate) async fn accept(&mut self) -> io::Result<(Stream, CountGuard)> {
        loop {
            let accepted = match &mut self.source {
                Source::Tcp(listener) => tokio::select! {
                    Some(accepted) = self.handed.recv() => return self.register(accepted),
                    next = listener.accept() => Accepted::Tcp(next?.0.into_std()?),
                },
                Source::Unix(listener) => tokio::select! {
                    Some(accepted) = self.handed.recv() => return self.register(accepted),
                    next = listener.accept() => Accepted::Unix(next?.0.into_std()?),
                },
                Source::Mem(streams) => match streams.recv().await {
                    Some(stream) => {
                        self.load.fetch_add(1, Ordering::Relaxed);
                        return Ok((Stream::Mem(stream), CountGuard(self.load.clone())));
                    }
                    // Killed: nothing will come any more.
                    None => std::future::pending().await,
                },
            };
            if let Some(mine) = self.spread(accepted) {
                return self.register(mine);
            }
        }
    }

    /// Gives a connection to the loop with the fewest; `Some` when that is this one.
    fn spread(&self, mut accepted: Accepted) -> Option<Accepted> {
        let mut group = self.group.lock();
        loop {
            let least = group
                .iter()
                .enumerate()
                .min_by_key(|(_, m)| m.load.load(Ordering::Relaxed))
                .map(|(i, m)| (i, m.load.clone(), m.hand.clone()));
            let Some((index, load, hand)) = least else { return Some(accepted) };
            load.fetch_add(1, Ordering::Relaxed);
            if Arc::ptr_eq(&load, &self.load) {
                return Some(accepted);
            }
            match hand.send(accepted) {
                Ok(()) => return None,
                Err(back) => {
                    // That loop has ended.
                    accepted = back.0;
                    group.remove(index);
                }
            }
        }
    }

    /// Registers a connection that [`Acceptor::spread`] has counted.
    fn register(&self, accepted: Accepted) -> io::Result<(Stream, CountGuard)> {
        let guard = CountGuard(self.load.clone());
        Ok((register(accepted)?, guard))
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.group.lock().retain(|m| !Arc::ptr_eq(&m.load, &self.load));
    }
}

fn register(accepted: Accepted) -> io::Result<Stream> {
    Ok(match accepted {
        Accepted::Tcp(s) => {
            let s = TcpStream::from_std(s)?;
            set_up_tcp(&s)?;
            Stream::Tcp(s)
        }
        Accepted::Unix(s) => {
            let s = UnixConn::new(s)?;
            set_up_unix(&s);
            Stream::Unix(s)
        }
    })
}
