//! A unix socket in its runtime, which is woken for bytes that have come and, only while it waits for
//! room, for room.
//!
//! Place in the walks: below every unix connection of `AsyncNet` and of a server. Why not Tokio's: that
//! one always asks for both, and the kernel tells a unix socket of room each time the peer reads
//! something, so that a server would be woken a second time for each answer it gave (a fifth of what a
//! small request costs it, and a processor taken from the client that reads the answer).
//! Invariants: polled by one task only; a second descriptor is held only while something is unsent.
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// See the head of the file.
pub(crate) struct UnixConn {
    socket: AsyncFd<UnixStream>,
    /// While the socket is full: the same one again, asked for room.
    room: Option<AsyncFd<OwnedFd>>,
}

impl AsFd for UnixConn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

impl UnixConn {
    /// Registers a connected socket with the calling runtime.
    pub(crate) fn new(socket: UnixStream) -> io::Result<UnixConn> {
        socket.set_nonblocking(true)?;
        Ok(UnixConn { socket: register(socket, Interest::READABLE)?, room: None })
    }

    /// The peer's user and process (0 where it lives in another namespace), if the system tells.
    pub(crate) fn peer(&self) -> Option<(u32, i32)> {
        let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: a valid descriptor, and pointer and length of a live ucred.
        let failed = unsafe {
            let at = (&raw mut peer).cast();
            let fd = self.as_fd().as_raw_fd();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, at, &raw mut len)
        };
        (failed == 0).then_some((peer.uid, peer.pid))
    }

    /// Reads what is there; pending: the task is woken when something comes.
    pub(crate) fn poll_readv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let room: usize = bufs.iter().map(|b| b.len()).sum();
        // Less than there was room for: all of it.
        let is_dry = |n: usize| n > 0 && n < room;
        self.receive(cx, |mut socket| socket.read_vectored(bufs), is_dry)
    }

    /// Receives by `receive`; pending: the task is woken when something comes.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        receive: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        // What comes with descriptors ends a read, whatever follows.
        self.receive(cx, receive, |_| false)
    }

    /// `is_dry`: after so many bytes nothing is left, and what comes next will be told.
    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        mut receive: impl FnMut(&UnixStream) -> io::Result<usize>,
        is_dry: impl Fn(usize) -> bool,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.socket.poll_read_ready(cx))?;
            match receive(guard.get_inner()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(n) => {
                    if is_dry(n) {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                failed => return Poll::Ready(failed),
            }
        }
    }

    /// Sends as much as the socket takes; pending: the task is woken when there is room.
    pub(crate) fn poll_writev(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |mut socket| socket.write_vectored(bufs))
    }

    /// Sends by `send`, until that has sent something or failed; pending: the task is woken when there
    /// is room.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(room) = &self.room {
                ready!(room.poll_write_ready(cx))?.clear_ready();
            }
            match send(self.socket.get_ref()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.room.is_none() {
                        let again = self.socket.get_ref().as_fd().try_clone_to_owned()?;
                        self.room = Some(register(again, Interest::WRITABLE)?);
                    }
                }
                sent => {
                    self.room = None;
                    return Poll::Ready(sent);
                }
            }
        }
    }
}

fn register<T: Into<OwnedFd> + AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: `owner` owns its one descriptor, and is neither closed nor changed before the AsyncFd ends.
    Ok(unsafe { AsyncFd::register_with_interest(owner, interest) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    static PIECE: [u8; 64 << 10] = [7; 64 << 10];

    fn pair() -> (UnixConn, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (UnixConn::new(near).unwrap(), far)
    }

    async fn send(conn: &mut UnixConn) -> io::Result<usize> {
        poll_fn(|cx| conn.poll_writev(cx, &[IoSlice::new(&PIECE)])).await
    }

    async fn receive(conn: &mut UnixConn) -> io::Result<Vec<u8>> {
        let mut buf = [0; 16];
        let n = poll_fn(|cx| conn.poll_readv(cx, &mut [IoSliceMut::new(&mut buf)])).await?;
        Ok(buf[..n].to_vec())
    }

    /// What the runtime has asked the kernel to be woken for, by this descriptor.
    fn asked_for(fd: &impl AsFd) -> u32 {
        let wanted = format!("tfd:{:>9} events:", fd.as_fd().as_raw_fd());
        let mut all = std::fs::read_dir("/proc/self/fdinfo").unwrap();
        let found = all.find_map(|info| {
            let text = std::fs::read_to_string(info.unwrap().path()).ok()?;
            let events = text.split_once(&wanted)?.1.split_whitespace().next()?;
            u32::from_str_radix(events, 16).ok()
        });
        found.unwrap()
    }

    #[tokio::test]
    async fn who_waits_for_bytes_is_not_woken_when_the_peer_reads() {
        let (mut conn, mut far) = pair();
        assert_eq!(conn.peer().unwrap().1, std::process::id() as i32);
        send(&mut conn).await.unwrap();
        let events = asked_for(&conn) as i32;
        assert_eq!(events & (libc::EPOLLIN | libc::EPOLLOUT), libc::EPOLLIN);
        assert_ne!(events & libc::EPOLLRDHUP, 0);
        far.write_all(b"now").unwrap();
        assert_eq!(receive(&mut conn).await.unwrap(), b"now");
        drop(far);
        // It has left unread what was sent to it.
        let end = receive(&mut conn).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(receive(&mut conn).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn who_waits_for_room_is_woken_and_holds_no_second_descriptor_after() {
        let (mut conn, mut far) = pair();
        let mut sent = 0;
        while let Ok(n) = tokio::time::timeout(Duration::from_millis(50), send(&mut conn)).await {
            assert!(conn.room.is_none());
            sent += n.unwrap();
        }
        let events = asked_for(conn.room.as_ref().unwrap().get_ref()) as i32;
        assert_eq!(events & (libc::EPOLLIN | libc::EPOLLOUT), libc::EPOLLOUT);
        let reader = std::thread::spawn(move || {
            let mut got = 0;
            let mut buf = [0; 4096];
            while let n @ 1.. = far.read(&mut buf).unwrap() {
                got += n;
            }
            got
        });
        for _ in 0..100 {
            sent += send(&mut conn).await.unwrap();
            assert!(conn.room.is_none());
        }
        drop(conn);
        assert_eq!(reader.join().unwrap(), sent);
    }

    #[tokio::test]
    async fn who_waits_for_room_hears_of_the_end() {
        let (mut conn, far) = pair();
        while let Ok(n) = tokio::time::timeout(Duration::from_millis(50), send(&mut conn)).await {
            n.unwrap();
        }
        drop(far);
        let failed = tokio::time::timeout(Duration::from_secs(10), send(&mut conn)).await.unwrap();
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
