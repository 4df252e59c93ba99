//! Lending a program's memory to a unix socket instead of copying it into buffers of the kernel.
//!
//! Place in the walks: the way of a write's body from a FUSE thread to a server on the same machine.
//! The pages go into a pipe (vmsplice) and from there into the socket (splice); the server copies them
//! out straight from where they lie. So the memory has to stay as it is until the server has read it,
//! which its answer tells. Where a call is given up before, its connection is closed; if the memory is
//! used anew while the server still reads, the body's CRC-32 does not match and the request has no effect.
//!
//! Invariant: what is in the pipe are the next bytes of the stream; nothing else is sent before them.
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// What a pipe is asked to hold: a stripe's part for one of two servers, whatever its place in memory.
const PIPE_BYTES: usize = 512 << 10;

/// One connection's pipe.
#[derive(Default)]
pub(super) struct Lender {
    /// For reading, for writing.
    pipe: Option<(OwnedFd, OwnedFd)>,
    inside: usize,
    is_refused: bool,
}

impl Lender {
    /// Whether there is sense in asking.
    pub(super) fn is_able(&self) -> bool {
        !self.is_refused
    }

    /// Sends from `bufs`, which after `WouldBlock` have to begin with the same bytes again. `None`:
    /// the system lends nothing; send by a copy.
    ///
    /// # Errors
    /// The socket's.
    pub(super) fn lend(
        &mut self,
        socket: &impl AsFd,
        bufs: &[IoSlice<'_>],
    ) -> io::Result<Option<usize>> {
        if self.inside == 0 {
            match self.fill(bufs) {
                Ok(n) if n > 0 => self.inside = n,
                _ => {
                    tracing::debug!("this system lends no memory to sockets");
                    self.is_refused = true;
                    return Ok(None);
                }
            }
        }
        let Some((from, _)) = &self.pipe else { return Ok(None) };
        let n = splice(from, None, socket, None, self.inside, SpliceFlags::NONBLOCK)?;
        self.inside -= n;
        Ok(Some(n))
    }

    /// Puts pages of `bufs` into the pipe; how many bytes.
    fn fill(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let (_, into) = match &mut self.pipe {
            Some(pipe) => pipe,
            place => {
                let pipe = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                // Where a user may have no larger one, it takes more turns.
                let _ = fcntl_setpipe_size(&pipe.1, PIPE_BYTES);
                place.insert(pipe)
            }
        };
        // SAFETY: an open pipe; `IoSlice` is an iovec, and pointer and length describe live ones. Only
        // reads go through these pages. They are the caller's until the server has answered.
        let n = unsafe {
            let at = bufs.as_ptr().cast::<libc::iovec>();
            libc::vmsplice(into.as_raw_fd(), at, bufs.len(), libc::SPLICE_F_NONBLOCK)
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_come_in_order_through_a_full_socket() {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let data: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(7) >> 3) as u8).collect();
        let mut lender = Lender::default();
        let (mut sent, mut got, mut full) = (0, Vec::new(), 0);
        while sent < data.len() {
            // Pieces that begin and end anywhere in their pages.
            let ends = [sent, sent + 5_001, sent + 70_002, data.len()].map(|e| e.min(data.len()));
            let bufs: Vec<IoSlice<'_>> =
                ends.windows(2).map(|w| IoSlice::new(&data[w[0]..w[1]])).collect();
            match lender.lend(&near, &bufs) {
                Ok(n) => sent += n.unwrap(),
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    full += 1;
                    let mut some = vec![0; 60_000];
                    let n = far.read(&mut some).unwrap();
                    got.extend_from_slice(&some[..n]);
                }
            }
        }
        drop((near, lender));
        far.read_to_end(&mut got).unwrap();
        assert!(full > 3, "the socket was never full");
        assert!(got == data);
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        let mut lender = Lender::default();
        let e = lender.lend(&near, &[IoSlice::new(&[1; 100_000])]).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::BrokenPipe);
        assert!(lender.is_able());
    }
}
