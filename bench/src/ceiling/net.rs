//! What sockets, checksums and memory of this machine can do: threads that do nothing else.
//!
//! Every figure is a rate over a fixed time; the threads of a figure begin and end together.
use anyhow::{Context, Result};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a message that only asks: about a request's head.
pub const SMALL: usize = 64;
/// Memory that copies and checksums go round in: larger than a core's caches.
const REGION: usize = 64 << 20;

/// Which kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// TCP over loopback.
    Tcp,
    /// A unix socket.
    Unix,
}

enum End {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl End {
    fn read_exact(&mut self, buf: &mut [u8]) -> std::io::Result<()> {
        match self {
            End::Tcp(s) => s.read_exact(buf),
            End::Unix(s) => s.read_exact(buf),
        }
    }
    fn write_all(&mut self, buf: &[u8]) -> std::io::Result<()> {
        match self {
            End::Tcp(s) => s.write_all(buf),
            End::Unix(s) => s.write_all(buf),
        }
    }
    fn shut(&self) {
        let _ = match self {
            End::Tcp(s) => s.shutdown(std::net::Shutdown::Both),
            End::Unix(s) => s.shutdown(std::net::Shutdown::Both),
        };
    }
}

fn pair(socket: Socket) -> Result<(End, End)> {
    match socket {
        Socket::Unix => {
            let (a, b) = UnixStream::pair().context("a pair of unix sockets")?;
            Ok((End::Unix(a), End::Unix(b)))
        }
        Socket::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
            let a = TcpStream::connect(listener.local_addr()?)?;
            let (b, _) = listener.accept()?;
            a.set_nodelay(true)?;
            b.set_nodelay(true)?;
            Ok((End::Tcp(a), End::Tcp(b)))
        }
    }
}

/// Round trips a second: `ask` bytes there, `answer` bytes back, one at a time on each stream.
///
/// # Errors
/// When the system gives no sockets.
pub fn round_trips(
    socket: Socket,
    (ask, answer): (usize, usize),
    streams: u32,
    time: Duration,
) -> Result<f64> {
    let pairs = (0..streams).map(|_| pair(socket)).collect::<Result<Vec<_>>>()?;
    let (count, start) = (AtomicU64::new(0), Barrier::new(streams as usize));
    let longest = AtomicU64::new(1);
    std::thread::scope(|scope| {
        for (mut near, mut far) in pairs {
            scope.spawn(move || {
                let (mut buf, reply) = (vec![0; ask], vec![1; answer]);
                while far.read_exact(&mut buf).is_ok() && far.write_all(&reply).is_ok() {}
            });
            let (count, start, longest) = (&count, &start, &longest);
            scope.spawn(move || {
                let (question, mut buf) = (vec![2; ask], vec![0; answer]);
                start.wait();
                let (began, mut n) = (Instant::now(), 0);
                while began.elapsed() < time {
                    let sent = near.write_all(&question);
                    if sent.and_then(|()| near.read_exact(&mut buf)).is_err() {
                        break;
                    }
                    n += 1;
                }
                longest.fetch_max(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
                count.fetch_add(n, Ordering::Relaxed);
                near.shut();
            });
        }
    });
    Ok(count.into_inner() as f64 / (longest.into_inner() as f64 / 1e9))
}

/// Bytes a second one way in messages of `size`, without waiting for answers.
///
/// # Errors
/// When the system gives no sockets.
pub fn bandwidth(socket: Socket, size: usize, streams: u32, time: Duration) -> Result<f64> {
    let pairs = (0..streams).map(|_| pair(socket)).collect::<Result<Vec<_>>>()?;
    let (bytes, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut seconds, mut got) = (0.0, 0);
    std::thread::scope(|scope| {
        for (mut near, mut far) in pairs {
            let (bytes, ended) = (&bytes, &ended);
            scope.spawn(move || {
                let mut buf = vec![0; size];
                while far.read_exact(&mut buf).is_ok() {
                    bytes.fetch_add(size as u64, Ordering::Relaxed);
                }
            });
            scope.spawn(move || {
                let data = vec![3; size];
                while !ended.load(Ordering::Relaxed) && near.write_all(&data).is_ok() {}
                near.shut();
            });
        }
        let began = Instant::now();
        std::thread::sleep(time);
        got = bytes.load(Ordering::Relaxed);
        seconds = began.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
    });
    Ok(got as f64 / seconds.max(1e-9))
}

/// Bytes a second through `work`, piece after piece of a region larger than the caches.
fn through(
    size: usize,
    streams: u32,
    time: Duration,
    work: impl Fn(&[u8], &mut [u8]) + Sync,
) -> f64 {
    let (bytes, longest) = (AtomicU64::new(0), AtomicU64::new(1));
    let start = Barrier::new(streams as usize);
    std::thread::scope(|scope| {
        for _ in 0..streams {
            scope.spawn(|| {
                let (from, mut to) = (vec![7; REGION.max(size)], vec![0; size]);
                start.wait();
                let (began, mut at, mut done) = (Instant::now(), 0, 0u64);
                while began.elapsed() < time {
                    work(&from[at..at + size], &mut to);
                    done += size as u64;
                    at = if at + 2 * size > from.len() { 0 } else { at + size };
                }
                longest.fetch_max(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
                bytes.fetch_add(done, Ordering::Relaxed);
            });
        }
    });
    bytes.into_inner() as f64 / (longest.into_inner() as f64 / 1e9)
}

/// Bytes a second that CRC-32 goes over.
pub fn crc(size: usize, streams: u32, time: Duration) -> f64 {
    through(size, streams, time, |from, _| {
        black_box(crc32fast::hash(black_box(from)));
    })
}

/// Bytes a second that are copied from memory that is not in the caches.
pub fn copy(size: usize, streams: u32, time: Duration) -> f64 {
    through(size, streams, time, |from, to| {
        to.copy_from_slice(black_box(from));
        black_box(to);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_moves() {
        let time = Duration::from_millis(20);
        for socket in [Socket::Tcp, Socket::Unix] {
            let one = round_trips(socket, (SMALL, SMALL), 1, time).unwrap();
            assert!(one > 50.0 && one < 1e7, "{socket:?}: {one}");
            assert!(round_trips(socket, (65_536, SMALL), 3, time).unwrap() > 50.0);
            assert!(bandwidth(socket, 65_536, 2, time).unwrap() > 1e6);
        }
        assert!(crc(4_096, 2, time) > 1e7);
        assert!(copy(1 << 20, 1, time) > 1e7);
    }
}
