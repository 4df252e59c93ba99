//! The blocking carrier's sockets: how they are opened, and how bytes and files leave by them.
//!
//! Place in the walks: below [`super::BlockingNet`]. Invariant: no call on a socket waits, but for connecting
//! by TCP.
use super::lender::Lender;
use crate::addr::Address;
use crate::auth::Peer;
use crate::stream::{set_up_tcp, set_up_unix};
use crate::wire::RawIo;
use socket2::Socket;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::ToSocketAddrs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A connection's socket with what lends to it.
pub(super) struct Wire<'a> {
    pub(super) socket: &'a Socket,
    pub(super) lender: Option<&'a mut Lender>,
    /// Goes with the first bytes.
    pub(super) passes: &'a mut Option<Arc<OwnedFd>>,
    pub(super) lent: &'a AtomicU64,
}

impl RawIo for Wire<'_> {
    fn readv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut socket = self.socket;
        retry_interrupted(|| socket.read_vectored(bufs))
    }
    fn writev(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Some(file) = &self.passes {
            let n = retry_interrupted(|| send_with(self.socket, bufs, file))?;
            *self.passes = None;
            return Ok(n);
        }
        let send = || self.socket.send_vectored_with_flags(bufs, libc::MSG_NOSIGNAL);
        retry_interrupted(send)
    }
    fn lends(&self) -> bool {
        self.lender.as_ref().is_some_and(|l| l.is_able())
    }
    fn lend(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = self.socket;
        let Some(lender) = &mut self.lender else { return self.writev(bufs) };
        loop {
            match lender.lend(socket, bufs) {
                Ok(Some(n)) => {
                    self.lent.fetch_add(n as u64, Ordering::Relaxed);
                    return Ok(n);
                }
                Ok(None) => return self.writev(bufs),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn retry_interrupted(mut f: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match f() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sends, passing a file along.
fn send_with(socket: &Socket, bufs: &[IoSlice<'_>], file: &OwnedFd) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room to pass a file"));
    }
    Ok(sendmsg(socket, bufs, &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Connects, without blocking from then on.
///
/// # Errors
/// The system's.
pub(super) fn open_socket(address: &Address, at_most: Duration) -> io::Result<(Socket, Peer)> {
    let stream = socket2::Type::STREAM.cloexec();
    match address {
        Address::Unix(path) => {
            // Non-blocking: a server that hangs with a full backlog must not hold this thread.
            let socket = Socket::new(socket2::Domain::UNIX, stream.nonblocking(), None)?;
            socket.connect(&socket2::SockAddr::unix(path)?)?;
            set_up_unix(&socket);
            let uid = rustix::net::sockopt::socket_peercred(&socket).ok().map(|c| c.uid.as_raw());
            Ok((socket, Peer::Unix(uid)))
        }
        Address::Tcp(place) => {
            let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for at in place.to_socket_addrs()? {
                let socket = Socket::new(socket2::Domain::for_address(at), stream, None)?;
                match socket.connect_timeout(&at.into(), at_most) {
                    Ok(()) => {
                        set_up_tcp(&socket)?;
                        socket.set_nonblocking(true)?;
                        return Ok((socket, Peer::Tcp(at.ip())));
                    }
                    Err(e) => last = e,
                }
            }
            Err(last)
        }
        Address::Mem(_) => Err(io::Error::other("mem is only for async carriers")),
    }
}
