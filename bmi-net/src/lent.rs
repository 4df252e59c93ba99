//! Bodies that leave straight from a file's pages, under the checksums stored beside them.
//!
//! Place in the walks: an I/O server's way back of a read. Nothing is copied and nothing is checked
//! on the server; the reader compares the checksum, which is the stored one, so the disk, the page
//! cache and the wire are behind one comparison. Whoever overwrites the bytes before the reader has
//! taken them makes it fail; the reader then asks for a body that is not lent.
//!
//! Invariant: a frame whose head is out gets exactly the bytes that it announced, come what may: of a
//! file that has become shorter or cannot be read, zeros.
use crate::wire::RawIo;
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A body in a file.
pub struct Lent {
    file: Arc<File>,
    /// Offset and length of what is left, in order.
    pieces: VecDeque<(u64, usize)>,
    crc: u32,
}

/// What became of one attempt to send.
pub(crate) enum Sent {
    /// So many bytes have left.
    Bytes(usize),
    /// The file can do no more: the bytes that are still owed.
    Rest(Bytes),
}

impl Lent {
    /// `pieces` of `file` (offset, length), one after the other; the CRC-32 of it all.
    pub fn new(file: Arc<File>, pieces: impl IntoIterator<Item = (u64, usize)>, crc: u32) -> Lent {
        Lent { file, pieces: pieces.into_iter().filter(|p| p.1 > 0).collect(), crc }
    }

    /// Bytes that are left.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|p| p.1).sum()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// CRC-32 of the whole body, as it was stored.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// The bytes that are left, read as far as they can be, else zeros.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = vec![0; self.len()];
        let mut rest = &mut out[..];
        for &(offset, len) in &self.pieces {
            let (mut now, later) = rest.split_at_mut(len);
            let mut at = offset;
            while !now.is_empty() {
                match self.file.read_at(now, at) {
                    Ok(n) if n > 0 => {
                        at += n as u64;
                        now = &mut now[n..];
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    _ => break,
                }
            }
            rest = later;
        }
        Bytes::from(out)
    }

    /// Sends some of it.
    ///
    /// # Errors
    /// The stream's: `WouldBlock`, or it is gone.
    pub(crate) fn send(&mut self, io: &mut impl RawIo) -> io::Result<Sent> {
        let Some(first) = self.pieces.front_mut() else { return Ok(Sent::Bytes(0)) };
        match io.send_file(&self.file, first.0, first.1) {
            Ok(n) if n > 0 => {
                first.0 += n as u64;
                first.1 -= n.min(first.1);
                if first.1 == 0 {
                    self.pieces.pop_front();
                }
                Ok(Sent::Bytes(n))
            }
            Err(e) if is_of_stream(&e) => Err(e),
            // The file became shorter, or cannot be sent like this.
            _ => Ok(Sent::Rest(self.to_bytes())),
        }
    }
}

/// Whether an error of sending a file is the stream's, not the file's.
pub(crate) fn is_of_stream(e: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut, WouldBlock,
    };
    let kinds =
        [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut, WouldBlock];
    kinds.contains(&e.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::out::OutQueue;
    use crate::wire::FrameMeta;
    use pvfs2_proto::frame::{FLAG_LENT, HEADER_LEN, Header, Kind};
    use std::io::{IoSlice, IoSliceMut, Write};

    /// Takes a few bytes at a time; a file in steps of 1,000, if at all.
    struct Slow {
        out: Vec<u8>,
        sends: bool,
        full: bool,
    }
    impl RawIo for Slow {
        fn readv(&mut self, _: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
        fn writev(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            self.full = !self.full;
            if self.full {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = bufs[0].len().min(777);
            self.out.extend_from_slice(&bufs[0][..n]);
            Ok(n)
        }
        fn send_file(&mut self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
            if !self.sends {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            let mut buf = vec![0; len.min(1_000)];
            let n = file.read_at(&mut buf, offset)?;
            if n == 0 { Ok(0) } else { self.writev(&[IoSlice::new(&buf[..n])]) }
        }
    }

    fn sent(file_len: usize, sends: bool) -> (Header, Vec<u8>, Vec<u8>) {
        let mut file = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8 + 1).collect();
        file.write_all(&data[..file_len]).unwrap();
        let want = [&data[4_000..9_000], &data[100..1_100]].concat();
        let crc = crc32fast::hash(&want);
        let lent = Lent::new(Arc::new(file), [(4_000, 5_000), (0, 0), (100, 1_000)], crc);
        let mut queue = OutQueue::default();
        queue.push(FrameMeta::new(Kind::Response, 1, 0, 6), |_| {}, &[Bytes::from(vec![5; 3_000])]);
        queue.push_lent(FrameMeta::new(Kind::Response, 1, 0, 7), |_| {}, lent);
        queue.push(FrameMeta::new(Kind::Response, 1, 0, 8), |_| {}, &[]);
        let mut io = Slow { out: Vec::new(), sends, full: false };
        while queue.bytes() > 0 {
            if let Err(e) = queue.flush(&mut io) {
                assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
            }
        }
        let out = io.out.split_off(HEADER_LEN + 3_000);
        assert_eq!(out.len(), HEADER_LEN + 6_000 + HEADER_LEN);
        let header =
            |at: usize| Header::decode(out[at..at + HEADER_LEN].try_into().unwrap()).unwrap();
        assert_eq!(header(HEADER_LEN + 6_000).tag, 8, "the next frame stands where it must");
        (header(0), out[HEADER_LEN..HEADER_LEN + 6_000].to_vec(), want)
    }

    #[test]
    fn leaves_in_full_and_in_order() {
        for sends in [true, false] {
            let (header, body, want) = sent(10_000, sends);
            assert_eq!((header.tag, header.flags, header.body_len), (7, FLAG_LENT, 6_000));
            assert_eq!(body, want);
            header.check_body_crc(crc32fast::hash(&body)).unwrap();
        }
    }

    #[test]
    fn a_file_that_became_shorter_gives_zeros_and_a_mismatch() {
        let (header, body, want) = sent(6_000, true);
        assert_eq!(body[..2_000], want[..2_000]);
        assert!(body[2_000..5_000].iter().all(|b| *b == 0));
        assert_eq!(body[5_000..], want[5_000..]);
        assert!(header.check_body_crc(crc32fast::hash(&body)).is_err());
    }

    #[test]
    fn whose_error_it_is() {
        let of_stream = |errno| is_of_stream(&io::Error::from_raw_os_error(errno));
        assert!(of_stream(libc::EPIPE) && of_stream(libc::ECONNRESET) && of_stream(libc::EAGAIN));
        assert!(!of_stream(libc::EIO) && !of_stream(libc::EINVAL) && !of_stream(libc::ENOMEM));
    }
}
