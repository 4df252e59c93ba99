//! `mem`: the in-process method for simulations and tests. Byte streams, so that the very code that
//! serves sockets runs over it; faults drawn from the seed of its [`Env`].
//!
//! It works in a current-thread runtime with a paused clock: delays are tokio sleeps. Invariants:
//! a stream's bytes arrive in order or not at all; which faults happen follows from the seed and
//! the order of writes and connects alone.
use crate::server::Listener;
use parking_lot::Mutex;
use pvfs2_proto::env::Env;
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

/// Bytes that one direction of a stream holds before its writer waits.
const WINDOW_BYTES: usize = 1 << 20;

/// Which faults happen, by chance.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    /// Every write arrives after a random delay up to this one.
    pub delay_us_max: u64,
    /// Chance of a write to cut its connection, in parts per million: a random part of its bytes
    /// still arrives.
    pub cut_per_million: u32,
    /// Chance of a connect to be refused, in parts per million.
    pub refuse_per_million: u32,
}

/// Listeners by name and the streams between them and their clients.
pub struct MemNetwork {
    env: Env,
    plan: Mutex<FaultPlan>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listeners: HashMap<String, mpsc::UnboundedSender<MemStream>>,
    blocked: HashMap<String, Arc<AtomicBool>>,
    links: Vec<(String, Weak<Mutex<Pipe>>)>,
}

impl MemNetwork {
    /// A network whose faults are drawn from `env`.
    pub fn new(env: Env, plan: FaultPlan) -> Arc<MemNetwork> {
        Arc::new(MemNetwork { env, plan: Mutex::new(plan), state: Mutex::default() })
    }

    /// Changes the faults from now on.
    pub fn set_plan(&self, plan: FaultPlan) {
        *self.plan.lock() = plan;
    }

    /// Listens at `mem://name`, in place of any earlier listener of that name.
    pub fn listen(&self, name: &str) -> Listener {
        let (tx, rx) = mpsc::unbounded_channel();
        self.state.lock().listeners.insert(name.to_owned(), tx);
        Listener::mem(name, rx)
    }

    /// What `kill -9` does to a server's sockets: nobody listens at `name` any more, and its
    /// connections are reset.
    pub fn kill(&self, name: &str) {
        self.state.lock().listeners.remove(name);
        self.cut(name);
    }

    /// Resets every connection to `name`; it goes on listening.
    pub fn cut(&self, name: &str) {
        let mut state = self.state.lock();
        state.links.retain(|(to, pipe)| match pipe.upgrade() {
            Some(pipe) if to == name => {
                pipe.lock().reset();
                false
            }
            Some(_) => true,
            None => false,
        });
    }

    /// Separates `name` from everybody (`on`), without a word to either side, or heals it.
    pub fn partition(&self, name: &str, on: bool) {
        let mut state = self.state.lock();
        state.blocked.entry(name.to_owned()).or_default().store(on, Ordering::Relaxed);
        for (_, pipe) in state.links.iter().filter(|(to, _)| to == name) {
            if let Some(pipe) = pipe.upgrade() {
                pipe.lock().wake();
            }
        }
    }

    fn chance(&self, per_million: u32) -> bool {
        per_million > 0 && self.env.rand_u64() % 1_000_000 < u64::from(per_million)
    }

    pub(crate) async fn connect(self: &Arc<Self>, name: &str) -> io::Result<MemStream> {
        let plan = self.plan.lock().clone();
        if plan.delay_us_max > 0 {
            let delay = self.env.rand_u64() % (plan.delay_us_max + 1);
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        if self.chance(plan.refuse_per_million) {
            return Err(refused());
        }
        let mut state = self.state.lock();
        let blocked = state.blocked.entry(name.to_owned()).or_default().clone();
        let listener = state.listeners.get(name).cloned().ok_or_else(refused)?;
        let (up, down) = (Arc::<Mutex<Pipe>>::default(), Arc::<Mutex<Pipe>>::default());
        let end = |read: &Arc<Mutex<Pipe>>, write: &Arc<Mutex<Pipe>>| MemStream {
            name: name.to_owned(),
            net: self.clone(),
            read: read.clone(),
            write: write.clone(),
            blocked: blocked.clone(),
            sleep: None,
        };
        listener.send(end(&up, &down)).map_err(|_| refused())?;
        state.links.retain(|(_, pipe)| pipe.strong_count() > 0);
        for pipe in [&up, &down] {
            state.links.push((name.to_owned(), Arc::downgrade(pipe)));
        }
        Ok(end(&down, &up))
    }
}

/// One direction of a stream.
#[derive(Default)]
struct Pipe {
    chunks: VecDeque<(Instant, Vec<u8>, usize)>,
    bytes: usize,
    closed: bool,
    is_reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
    fn reset(&mut self) {
        self.is_reset = true;
        self.chunks.clear();
        self.wake();
    }
    fn take(&mut self, now: Instant, bufs: &mut [IoSliceMut<'_>]) -> usize {
        let mut got = 0;
        for buf in bufs {
            let mut at = 0;
            while at < buf.len() {
                let Some((ready_at, bytes, used)) = self.chunks.front_mut() else { break };
                if *ready_at > now {
                    break;
                }
                let n = (bytes.len() - *used).min(buf.len() - at);
                buf[at..at + n].copy_from_slice(&bytes[*used..*used + n]);
                (at, *used) = (at + n, *used + n);
                if *used == bytes.len() {
                    self.chunks.pop_front();
                }
            }
            got += at;
        }
        self.bytes -= got;
        got
    }
}

/// One end of a stream.
pub(crate) struct MemStream {
    name: String,
    net: Arc<MemNetwork>,
    read: Arc<Mutex<Pipe>>,
    write: Arc<Mutex<Pipe>>,
    blocked: Arc<AtomicBool>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl MemStream {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shutdown_write(&mut self) {
        let mut pipe = self.write.lock();
        pipe.closed = true;
        pipe.wake();
    }

    pub(crate) fn poll_readv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut pipe = self.read.lock();
            if pipe.is_reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            pipe.reader = Some(cx.waker().clone());
            if self.blocked.load(Ordering::Relaxed) {
                return Poll::Pending;
            }
            let Some((ready_at, ..)) = pipe.chunks.front() else {
                return if pipe.closed { Poll::Ready(Ok(0)) } else { Poll::Pending };
            };
            let (ready_at, now) = (*ready_at, Instant::now());
            if ready_at <= now {
                let got = pipe.take(now, bufs);
                if let Some(writer) = pipe.writer.take() {
                    writer.wake();
                }
                return Poll::Ready(Ok(got));
            }
            drop(pipe);
            let sleep =
                self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(ready_at)));
            if sleep.deadline() != ready_at {
                sleep.as_mut().reset(ready_at);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    pub(crate) fn poll_writev(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let plan = self.net.plan.lock().clone();
        let mut pipe = self.write.lock();
        if pipe.is_reset || pipe.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW_BYTES.saturating_sub(pipe.bytes);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut bytes = Vec::with_capacity(room.min(bufs.iter().map(|b| b.len()).sum()));
        for buf in bufs {
            bytes.extend_from_slice(&buf[..buf.len().min(room - bytes.len())]);
        }
        let cut = self.net.chance(plan.cut_per_million);
        if cut {
            bytes.truncate(self.net.env.rand_u64() as usize % (bytes.len() + 1));
        }
        let delay = match plan.delay_us_max {
            0 => 0,
            max => self.net.env.rand_u64() % (max + 1),
        };
        let earliest = Instant::now() + Duration::from_micros(delay);
        // In order: never before what was written earlier.
        let ready_at = pipe.chunks.back().map_or(earliest, |(last, ..)| earliest.max(*last));
        let n = bytes.len();
        if n > 0 {
            pipe.bytes += n;
            pipe.chunks.push_back((ready_at, bytes, 0));
        }
        pipe.closed = cut;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        drop(pipe);
        if cut {
            self.read.lock().reset();
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(n))
    }
}

impl Drop for MemStream {
    fn drop(&mut self) {
        self.shutdown_write();
        // Whoever still writes to us shall notice.
        self.read.lock().reset();
    }
}
