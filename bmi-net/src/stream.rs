//! One async byte stream over three methods, and how its sockets are set up.
//!
//! Place in the walks: below every connection of `AsyncNet` and of a server. Invariant: a stream is
//! polled by one task only.
use crate::addr::Address;
use crate::auth::Peer;
use crate::mem::{MemNetwork, MemStream};
use crate::unix::UnixConn;
use crate::wire::{RawIo, send_by_copy};
use socket2::{SockRef, TcpKeepalive};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Socket buffers of unix connections, which bound how much one system call moves.
const UNIX_BUF_BYTES: i32 = 2 << 20;
/// A TCP peer whose machine is gone is noticed after this long.
const TCP_DEAD_MS: u64 = 20_000;

/// A byte stream.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixConn),
    Mem(MemStream),
}

impl Stream {
    /// Connects.
    pub(crate) async fn connect(
        address: &Address,
        mem: Option<&Arc<MemNetwork>>,
    ) -> io::Result<Stream> {
        match address {
            Address::Tcp(place) => {
                let stream = TcpStream::connect(place.as_str()).await?;
                set_up_tcp(&stream)?;
                Ok(Stream::Tcp(stream))
            }
            Address::Unix(path) => {
                let stream = UnixConn::new(UnixStream::connect(path).await?.into_std()?)?;
                set_up_unix(&stream);
                Ok(Stream::Unix(stream))
            }
            Address::Mem(name) => match mem {
                Some(net) => net.connect(name).await.map(Stream::Mem),
                None => Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("mem://{name} cannot be reached from here"),
                )),
            },
        }
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> io::Result<Peer> {
        Ok(match self {
            Stream::Tcp(s) => Peer::Tcp(s.peer_addr()?.ip()),
            Stream::Unix(s) => Peer::Unix(s.peer().map(|(uid, _)| uid)),
            Stream::Mem(_) => Peer::Mem,
        })
    }

    /// The peer's address, for messages.
    pub(crate) fn peer_name(&self) -> String {
        match self {
            Stream::Tcp(s) => {
                s.peer_addr().map_or_else(|_| "tcp://?".into(), |a| format!("tcp://{a}"))
            }
            Stream::Unix(s) => match s.peer() {
                Some((uid, pid)) => format!("unix:uid={uid},pid={pid}"),
                None => "unix:?".into(),
            },
            Stream::Mem(s) => format!("mem://{}", s.name()),
        }
    }

    /// Says that nothing more will be written.
    pub(crate) fn shutdown_write(&mut self) {
        let how = std::net::Shutdown::Write;
        // A failure means that the peer is gone already.
        let _ = match self {
            Stream::Tcp(s) => SockRef::from(&*s).shutdown(how),
            Stream::Unix(s) => SockRef::from(&*s).shutdown(how),
            Stream::Mem(s) => {
                s.shutdown_write();
                Ok(())
            }
        };
    }

    fn poll_readv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let tcp = match self {
            Stream::Tcp(s) => s,
            Stream::Unix(s) => return s.poll_readv(cx, bufs),
            Stream::Mem(s) => return s.poll_readv(cx, bufs),
        };
        if let [one] = bufs {
            // Tokio's own read spares the extra system call after a short read.
            let mut buf = ReadBuf::new(one);
            ready!(Pin::new(tcp).poll_read(cx, &mut buf))?;
            return Poll::Ready(Ok(buf.filled().len()));
        }
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            match tcp.try_read_vectored(bufs) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                got => return Poll::Ready(got),
            }
        }
    }

    /// As [`Stream::poll_readv`]; what the peer passes along goes to `passed`.
    fn poll_readv_passed(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        passed: &mut Option<OwnedFd>,
    ) -> Poll<io::Result<usize>> {
        let Stream::Unix(s) = self else { return self.poll_readv(cx, bufs) };
        s.poll_receive(cx, |s| receive_with(s, bufs, passed))
    }

    fn poll_writev(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Unix(s) => s.poll_writev(cx, bufs),
            Stream::Mem(s) => s.poll_writev(cx, bufs),
        }
    }
}

impl Stream {
    /// By sendfile(2): pages go into the socket as they are.
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        len: usize,
    ) -> Option<Poll<io::Result<usize>>> {
        fn send(socket: &impl AsFd, file: &File, offset: u64, len: usize) -> io::Result<usize> {
            let mut at = offset;
            loop {
                match rustix::fs::sendfile(socket, file, Some(&mut at), len) {
                    Err(rustix::io::Errno::INTR) => {}
                    result => return Ok(result?),
                }
            }
        }
        let tcp = match self {
            Stream::Tcp(s) => s,
            Stream::Unix(s) => return Some(s.poll_send(cx, |s| send(s, file, offset, len))),
            Stream::Mem(_) => return None,
        };
        loop {
            let sent = match tcp.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {
                    tcp.try_io(Interest::WRITABLE, || send(&*tcp, file, offset, len))
                }
                other => return Some(other.map_ok(|()| 0)),
            };
            match sent {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Some(Poll::Ready(sent)),
            }
        }
    }
}

/// A stream as [`RawIo`] within one poll: `WouldBlock` means that the task will be woken.
pub(crate) struct PollIo<'a, 'c> {
    pub(crate) stream: &'a mut Stream,
    pub(crate) cx: &'a mut Context<'c>,
}

/// The same of a peer that has not said hello: it may pass a file along.
pub(crate) struct HelloIo<'a, 'c> {
    pub(crate) stream: &'a mut Stream,
    pub(crate) cx: &'a mut Context<'c>,
    pub(crate) passed: &'a mut Option<OwnedFd>,
}

impl RawIo for HelloIo<'_, '_> {
    fn readv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        or_would_block(self.stream.poll_readv_passed(self.cx, bufs, self.passed))
    }
    fn writev(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        PollIo { stream: self.stream, cx: self.cx }.writev(bufs)
    }
}

/// Receives, keeping the first file that comes along; all others are closed.
fn receive_with(
    socket: &impl AsFd,
    bufs: &mut [IoSliceMut<'_>],
    passed: &mut Option<OwnedFd>,
) -> io::Result<usize> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, bufs, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            files.for_each(|file| *passed = passed.take().or(Some(file)));
        }
    }
    Ok(got.bytes)
}

fn or_would_block(poll: Poll<io::Result<usize>>) -> io::Result<usize> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl RawIo for PollIo<'_, '_> {
    fn readv(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        or_would_block(self.stream.poll_readv(self.cx, bufs))
    }
    fn writev(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        or_would_block(self.stream.poll_writev(self.cx, bufs))
    }
    fn send_file(&mut self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        match self.stream.poll_send_file(self.cx, file, offset, len) {
            Some(poll) => or_would_block(poll),
            None => send_by_copy(self, file, offset, len),
        }
    }
}

/// Options of a TCP connection: no delay, and a dead peer is noticed.
pub(crate) fn set_up_tcp(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_millis(TCP_DEAD_MS)))
}

/// Options of a unix connection: large buffers, as far as the system lets us.
pub(crate) fn set_up_unix(socket: &impl AsFd) {
    let fd = socket.as_fd().as_raw_fd();
    for (force, plain) in
        [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)]
    {
        for option in [force, plain] {
            let value = UNIX_BUF_BYTES;
            // SAFETY: a valid descriptor, and pointer and length of a live i32.
            let failed = unsafe {
                let at = (&raw const value).cast();
                let len = size_of::<i32>() as libc::socklen_t;
                libc::setsockopt(fd, libc::SOL_SOCKET, option, at, len)
            };
            // Without the right to force, the plain option takes what the system's limit allows.
            if failed == 0 {
                break;
            }
        }
    }
}
