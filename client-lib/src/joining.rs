//! Small sequential writes, joined before they travel.
//!
//! While this client alone has a striped file open for writing, its metadata server says so with the
//! open (a *right*, by number), and small writes that follow each other are gathered here and sent as
//! one: when [`JOINED_BYTES_MAX`] have come, after [`JOINED_NS_MAX`], and before anything that must
//! see them ([`Machine::touches`]: reading, attributes, truncation, fsync, close, ...). The background
//! thread sends them ([`Joins::next_job`]); meanwhile the next ones gather.
//!
//! | event | what happens |
//! |---|---|
//! | the server recalls the right, or the connection to it is cut | no more is joined, what is here is written out, the right is given back (not after a cut: the server gave it up) |
//! | a write-out fails | the bytes are lost, the file's next flush or fsync tells it, once |
//! | the client stops | everything is written out first |
//!
//! Owner of: joined bytes, from the write's answer until the I/O servers have them. Invariants: one
//! write-out of a file at a time, in the order of the writes; a write that is not joined waits for
//! those before it; a right's number that was given up is never taken up again.
//!
//! [`Machine::touches`]: crate::machine::Machine::touches
use crate::machine::pause;
use crate::open_table::{FileState, OpenFile};
use crate::sys::write::must_clear_suidgid;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use pvfs2_bmi::client::{Signal, signalled};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result, ServerId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Most bytes that are joined into one write; writes end at multiples of it.
pub const JOINED_BYTES_MAX: usize = 1 << 20;
/// Longest write that is joined: a longer one costs less than the copy.
pub const WRITE_BYTES_MAX: usize = 128 << 10;
/// Longest time that joined bytes wait.
pub const JOINED_NS_MAX: i64 = 500_000_000;
/// Most bytes that are held back, of all files together.
pub const ALL_BYTES_MAX: usize = 64 << 20;
/// How often the age of what is held back is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long a FUSE thread waits for a write-out before its operation moves elsewhere.
const QUIET_WAIT: Duration = Duration::from_millis(100);
/// How often a waiting operation looks again.
const QUIET_POLL: Duration = Duration::from_millis(1);

/// What is held back of one file.
#[derive(Default)]
pub struct Held {
    right: u64,
    /// Rights up to this number were given up.
    given_up: u64,
    giving_back: bool,
    file: Option<Arc<OpenFile>>,
    logical_offset: u64,
    bytes: Vec<u8>,
    since_ns: i64,
    flying: bool,
    out: Option<WriteOut>,
    /// Somebody waits for everything.
    wanted: bool,
    /// Where the last write ended: only what goes on there is joined.
    last_end: u64,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.flying
    }
}

/// [`Held`] with what wakes those who wait for it.
#[derive(Default)]
pub struct Joined {
    held: Mutex<Held>,
    landed: Condvar,
}

impl Joined {
    /// Whether anything is held back.
    pub fn is_empty(&self) -> bool {
        self.held.lock().is_empty()
    }

    /// The last open for writing is closed, and the right with it.
    pub(crate) fn closed(&self) {
        let mut held = self.held.lock();
        held.given_up = held.given_up.max(held.right);
        held.right = 0;
    }

    /// An open was answered with a right.
    pub(crate) fn granted(&self, right: u64) {
        let mut held = self.held.lock();
        if right > held.given_up {
            held.right = right;
        }
    }
}

/// Joined bytes on their way.
pub struct WriteOut {
    pub(crate) file: Arc<OpenFile>,
    pub(crate) logical_offset: u64,
    pub(crate) bytes: Bytes,
}

/// What the background thread is to do.
pub enum Job {
    /// Write out; then call [`Joins::landed`].
    WriteOut(Arc<FileState>),
    /// Give a right back once nothing is held back.
    GiveBack(Arc<FileState>),
    /// Have a connection on which the server can call.
    Listen(ServerId),
}

/// What is held back of all files.
pub struct Joins {
    on: bool,
    bytes: AtomicUsize,
    count: AtomicUsize,
    files: Mutex<HashMap<u64, Arc<FileState>>>,
    jobs: Mutex<VecDeque<Job>>,
    more: Notify,
    listening: Mutex<HashSet<ServerId>>,
    cuts: AtomicU64,
}

impl Joins {
    /// Nothing held back; `on`: whether anything will be.
    pub fn new(on: bool) -> Joins {
        Joins {
            on,
            bytes: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            files: Mutex::default(),
            jobs: Mutex::default(),
            more: Notify::new(),
            listening: Mutex::default(),
            cuts: AtomicU64::new(0),
        }
    }

    /// Whether rights are wanted.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Counts cut connections: a right that was asked for at another count is not to be used.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Acquire)
    }

    /// A file was opened for writing, asked for at `cuts`.
    pub(crate) fn opened(&self, file: &Arc<FileState>, server: ServerId, right: u64, cuts: u64) {
        if right == 0 {
            // The server knows of no right, whatever there was before.
            return self.give_up(&mut file.joined.held.lock(), file);
        }
        if self.listening.lock().insert(server) {
            self.push(Job::Listen(server));
        }
        if cuts == self.cuts() {
            file.joined.granted(right);
        }
    }

    /// Whether anything of `handle` is held back.
    pub fn is_joined(&self, handle: Handle) -> bool {
        self.any() && self.files.lock().contains_key(&handle.0)
    }

    /// Whether anything is held back.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Takes a write over, if it may be joined; else the caller sends it (and its machine waits for
    /// what was joined before).
    pub fn add(
        &self,
        file: &Arc<OpenFile>,
        at: u64,
        data: &[u8],
        kill_suidgid: bool,
        now_ns: i64,
    ) -> bool {
        if !self.on {
            return false;
        }
        let state = &file.state;
        let Some(end) = at.checked_add(data.len() as u64).filter(|e| *e <= i64::MAX as u64) else {
            return false;
        };
        let mut held = state.joined.held.lock();
        let goes_on = std::mem::replace(&mut held.last_end, end) == at;
        let may = held.right != 0
            && goes_on
            && (1..=WRITE_BYTES_MAX).contains(&data.len())
            && file.write
            && state.may_join()
            && !must_clear_suidgid(file, kill_suidgid);
        if !may {
            return false;
        }
        if !held.bytes.is_empty() && held.bytes.len() + data.len() > room(held.logical_offset) {
            self.kick(&mut held, state);
            if !held.bytes.is_empty() {
                // The last one is still on its way: this write waits for it.
                return false;
            }
        }
        if held.bytes.is_empty() {
            if self.bytes.load(Ordering::Relaxed) + JOINED_BYTES_MAX > ALL_BYTES_MAX {
                return false;
            }
            (held.logical_offset, held.since_ns) = (at, now_ns);
            held.file = Some(file.clone());
            self.list(state);
        }
        held.bytes.extend_from_slice(data);
        self.bytes.fetch_add(data.len(), Ordering::Relaxed);
        state.joined_up_to(end);
        if held.bytes.len() >= room(held.logical_offset) {
            self.kick(&mut held, state);
        }
        true
    }

    fn list(&self, state: &Arc<FileState>) {
        if self.files.lock().insert(state.handle.0, state.clone()).is_none()
            && self.count.fetch_add(1, Ordering::AcqRel) == 0
        {
            // From now on there is something whose age matters.
            self.more.notify_one();
        }
    }

    fn push(&self, job: Job) {
        self.jobs.lock().push_back(job);
        self.more.notify_one();
    }

    /// Sends what has gathered, unless a part of the file is on its way.
    fn kick(&self, held: &mut Held, state: &Arc<FileState>) {
        if held.flying || held.bytes.is_empty() {
            return;
        }
        let Some(file) = held.file.clone() else { return };
        let bytes = Bytes::from(std::mem::take(&mut held.bytes));
        held.out = Some(WriteOut { file, logical_offset: held.logical_offset, bytes });
        held.flying = true;
        self.push(Job::WriteOut(state.clone()));
    }

    /// What is to be written out for a [`Job::WriteOut`].
    pub(crate) fn take_out(&self, state: &FileState) -> Option<WriteOut> {
        state.joined.held.lock().out.take()
    }

    /// A write-out of `len` bytes has ended.
    pub(crate) fn landed(&self, state: &Arc<FileState>, len: usize) {
        self.bytes.fetch_sub(len, Ordering::Relaxed);
        let mut held = state.joined.held.lock();
        held.flying = false;
        if held.wanted || held.bytes.len() >= room(held.logical_offset) {
            self.kick(&mut held, state);
        }
        if held.is_empty() {
            held.wanted = false;
            held.file = None;
            if self.files.lock().remove(&state.handle.0).is_some() {
                self.count.fetch_sub(1, Ordering::AcqRel);
            }
        }
        drop(held);
        state.joined.landed.notify_all();
    }

    /// Returns when everything that was held back of the file has been written out, or is lost with
    /// an error kept for its next flush.
    ///
    /// # Errors
    /// `Stalled` where the thread cannot wait any longer; `Interrupted` when the caller is being
    /// killed (what is held back is written out all the same).
    pub(crate) async fn settle(&self, state: &Arc<FileState>, caller_tid: u32) -> Result<()> {
        let waits = self.until_empty(state);
        if caller_tid == 0 || tokio::runtime::Handle::try_current().is_err() {
            return waits.await;
        }
        let killed = async { while !matches!(signalled(caller_tid).await, Signal::Kill) {} };
        tokio::select! {
            biased;
            done = waits => done,
            () = killed => {
                Err(PvfsError::new(ErrorCode::Interrupted, "the caller is being killed"))
            }
        }
    }

    async fn until_empty(&self, state: &Arc<FileState>) -> Result<()> {
        let until = Instant::now() + QUIET_WAIT;
        let can_wait = tokio::runtime::Handle::try_current().is_ok();
        loop {
            {
                let mut held = state.joined.held.lock();
                if held.is_empty() {
                    return Ok(());
                }
                held.wanted = true;
                self.kick(&mut held, state);
                if !can_wait && !state.joined.landed.wait_until(&mut held, until).timed_out() {
                    continue;
                }
            }
            pause(QUIET_POLL).await?;
        }
    }

    /// The server recalls its right on a file.
    pub(crate) fn recall(&self, state: &Arc<FileState>) {
        let mut held = state.joined.held.lock();
        self.give_up(&mut held, state);
        if held.given_up != 0 && !std::mem::replace(&mut held.giving_back, true) {
            self.push(Job::GiveBack(state.clone()));
        }
    }

    /// The number of the right to give back.
    pub(crate) fn given_up(&self, state: &FileState) -> u64 {
        state.joined.held.lock().given_up
    }

    /// It was given back, or not: the server asks again.
    pub(crate) fn gave_back(&self, state: &FileState) {
        state.joined.held.lock().giving_back = false;
    }

    fn give_up(&self, held: &mut Held, state: &Arc<FileState>) {
        held.given_up = held.given_up.max(held.right);
        held.right = 0;
        held.wanted = !held.is_empty();
        self.kick(held, state);
    }

    /// The connection to a server was cut, and with it the way of its recalls.
    pub(crate) fn cut(&self, server: ServerId, files: Vec<Arc<FileState>>) {
        self.cuts.fetch_add(1, Ordering::AcqRel);
        self.listening.lock().remove(&server);
        for state in files {
            self.give_up(&mut state.joined.held.lock(), &state);
        }
    }

    /// Sends what has waited long enough.
    fn kick_old(&self, before_ns: i64) {
        let files: Vec<Arc<FileState>> = self.files.lock().values().cloned().collect();
        for state in files {
            let mut held = state.joined.held.lock();
            if held.since_ns <= before_ns {
                self.kick(&mut held, &state);
            }
        }
    }

    /// The next thing to do, if there is one.
    pub(crate) fn pop(&self) -> Option<Job> {
        self.jobs.lock().pop_front()
    }

    /// Sends everything, however young.
    pub(crate) fn kick_all(&self) {
        self.kick_old(i64::MAX);
    }

    /// The next thing to do.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next_job(&self, now_ns: impl Fn() -> i64) -> Job {
        loop {
            if let Some(job) = self.pop() {
                return job;
            }
            if !self.any() {
                self.more.notified().await;
                continue;
            }
            let _ = tokio::time::timeout(TICK, self.more.notified()).await;
            self.kick_old(now_ns().saturating_sub(JOINED_NS_MAX));
        }
    }
}

/// Bytes that are joined from an offset on: to the next multiple of [`JOINED_BYTES_MAX`].
fn room(logical_offset: u64) -> usize {
    JOINED_BYTES_MAX - (logical_offset % JOINED_BYTES_MAX as u64) as usize
}

#[cfg(test)]
mod tests;
