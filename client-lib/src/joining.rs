//! Small sequential writes, joined before they travel.
//!
//! While this client alone has a striped file open for writing, its metadata server says so with the
//! open (a *right*, by number), and small writes that follow each other are gathered here, in blocks of
//! [`JOINED_BYTES_MAX`] (`blocks.rs`), and sent as one: when a block is full, after [`JOINED_NS_MAX`],
//! and before anything that must see them ([`Machine::touches`]: reading, attributes, truncation, fsync,
//! close, ...). Blocks that are not full go together, as many as come to no more than a full one. The
//! background thread sends them (`Joins::next_job`); meanwhile the next ones gather.
//! Several writers of one file, each with its own stride or its own part of it, gather side by side.
//!
//! | event | what happens |
//! |---|---|
//! | the server recalls the right, or the connection to it is cut | no more is joined, what is here is written out, the right is given back (not after a cut: the server gave it up) |
//! | a write that is not joined meets bytes that are held back | it waits until they are written |
//! | a block has come to little more than one write to each place | from then on sixteen writes more must follow others than do not before any is joined, until a block is full again |
//! | somebody waits for what is held back | no more is joined until all is written |
//! | a write-out fails | its bytes and those that have gathered behind them are lost; they count in no size any more; the next write, flush or fsync of each open tells it, once |
//! | the client was stopped (SIGSTOP, a suspended machine) for so long that its session may have ended | before anything is written out the server is asked whether the right is still held; if not, others may have written since, and the bytes are lost |
//! | the client stops | everything is written out first |
//!
//! Owner of: joined bytes, from the write's answer until the I/O servers have them. Invariants: one
//! write-out of a file at a time; writes of the same bytes reach the servers in their order (others as
//! from a page cache, in any); a right's number that was given up is never taken up again, nor one that
//! was recalled before it came.
//!
//! [`Machine::touches`]: crate::machine::Machine::touches
use crate::machine::pause;
use crate::open_table::{FileState, OpenFile};
use crate::sys::write::must_clear_suidgid;
use blocks::{Block, Blocks};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use pvfs2_bmi::client::{Signal, signalled};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result, ServerId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

mod blocks;

/// Most bytes that are joined into one write; joined writes end at multiples of it.
pub const JOINED_BYTES_MAX: usize = 1 << 20;
/// Longest write that is joined: a longer one costs less than the copy.
pub const WRITE_BYTES_MAX: usize = 128 << 10;
/// Longest time that joined bytes wait.
pub const JOINED_NS_MAX: i64 = 500_000_000;
/// Most bytes that are held back, of all files together.
pub const ALL_BYTES_MAX: usize = 64 << 20;
/// How many writes must follow others before they are joined, after some were that lay scattered;
/// each that does not takes one away.
const STREAK_AFTER_BREAK: u32 = 16;
/// How many places are remembered where a write ended.
const ENDS_MAX: usize = 8;
/// How often the age of what is held back is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long a FUSE thread waits for a write-out: before its operation moves elsewhere, or before a
/// write is sent by itself.
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
    blocks: Blocks,
    flying: Option<Flying>,
    out: Option<WriteOut>,
    /// Somebody waits for everything.
    wanted: bool,
    /// What was answered up to this time is to be sent.
    due_ns: Option<i64>,
    /// Where the last writes ended: what goes on there follows them.
    ends: VecDeque<u64>,
    /// How many writes have followed others, and how many must before any is joined.
    streak: u32,
    streak_needed: u32,
}

/// What is on its way.
struct Flying {
    runs: Vec<(u64, usize)>,
    buffered: usize,
    written: usize,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.flying.is_none()
    }

    /// A write of `range` comes; whether it goes on where one of the last ended, or where others
    /// gather, and enough have.
    fn goes_on(&mut self, range: &Range<u64>) -> bool {
        let follows = match self.ends.iter().position(|end| *end == range.start) {
            Some(of) => self.ends.remove(of).is_some(),
            // The first one of a file.
            None => self.ends.is_empty() && range.start == 0,
        };
        self.ends.push_back(range.end);
        if self.ends.len() > ENDS_MAX {
            self.ends.pop_front();
        }
        let near = follows || self.is_near(range.start);
        if follows {
            self.streak = (self.streak + 1).min(STREAK_AFTER_BREAK);
        } else if !near {
            self.streak = self.streak.saturating_sub(1);
        }
        near && self.streak >= self.streak_needed.max(1)
    }

    fn is_near(&self, at: u64) -> bool {
        let flies = |f: &Flying| f.runs.iter().any(|(run, _)| blocks::is_near(*run, at));
        self.flying.as_ref().is_some_and(flies) || self.blocks.are_near(at)
    }

    fn may_go(&self, block: &Block) -> bool {
        self.wanted || self.due_ns.is_some_and(|due_ns| block.since_ns <= due_ns)
    }

    fn takes(&self, range: &Range<u64>) -> bool {
        !self.wanted && self.blocks.have_room(range.clone())
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

    /// Whether bytes of `range` are held back.
    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        let held = self.held.lock();
        let flies = |f: &Flying| blocks::overlap(f.runs.iter().copied(), range);
        held.flying.as_ref().is_some_and(flies) || held.blocks.overlap(range)
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
    /// Under this right; and when the first of them was answered.
    pub(crate) right: u64,
    pub(crate) since_ns: i64,
    pub(crate) file: Arc<OpenFile>,
    /// Ranges of the file (offset, length), and their bytes behind each other.
    pub(crate) runs: Vec<(u64, usize)>,
    pub(crate) bytes: Bytes,
}

/// What the background thread is to do.
pub enum Job {
    /// Write out; then call `Joins::landed`.
    WriteOut(Arc<FileState>),
    /// Give a right back once nothing is held back.
    GiveBack(Arc<FileState>),
    /// Give back a right, by object and number, that this client does not use.
    Refuse(Handle, u64),
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
    /// When ages were looked at.
    looked_ns: AtomicI64,
    listening: Mutex<HashSet<ServerId>>,
    /// Per server: rights up to this number were recalled before they came. They rise, so no later one
    /// is refused for it.
    recalled: Mutex<HashMap<ServerId, u64>>,
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
            looked_ns: AtomicI64::new(0),
            listening: Mutex::default(),
            recalled: Mutex::default(),
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
        self.listen(server);
        let recalled = self.recalled.lock().get(&server).copied().unwrap_or(0);
        if cuts == self.cuts() && right > recalled {
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

    /// Takes a write over, if it may be joined (true); else the caller sends it (and its machine waits
    /// for what was joined before). Waits for a moment where as much as may be is held back.
    ///
    /// # Errors
    /// That of an earlier write: the bytes of this one are not taken.
    pub fn add(
        &self,
        file: &Arc<OpenFile>,
        at: u64,
        data: &[u8],
        kill_suidgid: bool,
        now_ns: i64,
    ) -> Result<bool> {
        if !self.on {
            return Ok(false);
        }
        let state = &file.state;
        let Some(end) = at.checked_add(data.len() as u64).filter(|e| *e <= i64::MAX as u64) else {
            return Ok(false);
        };
        let may_be = (1..=WRITE_BYTES_MAX).contains(&data.len())
            && file.write
            && state.may_join()
            && !must_clear_suidgid(file, kill_suidgid);
        let range = at..end;
        let mut held = state.joined.held.lock();
        let goes_on = held.goes_on(&range);
        let may_be = may_be && goes_on && held.right != 0;
        if may_be && !held.wanted && !held.takes(&range) {
            if held.flying.is_some() {
                state.joined.landed.wait_for(&mut held, QUIET_WAIT);
            }
            if !held.takes(&range) {
                self.kick(&mut held, state, Some(&range));
            }
        }
        if let Some(e) = file.take_write_error() {
            return Err(e);
        }
        // The right may have gone meanwhile.
        if !may_be || held.right == 0 || !held.takes(&range) {
            return Ok(false);
        }
        if self.bytes.load(Ordering::Relaxed) + 2 * JOINED_BYTES_MAX > ALL_BYTES_MAX {
            return Ok(false);
        }
        if held.blocks.is_empty() {
            self.list(state);
        }
        let (more, full) = held.blocks.put(at, data, now_ns, file);
        self.bytes.fetch_add(more, Ordering::Relaxed);
        state.joined_up_to(end);
        if full {
            held.streak_needed = 1;
            self.kick(&mut held, state, None);
        }
        Ok(true)
    }

    fn list(&self, state: &Arc<FileState>) {
        if self.files.lock().insert(state.handle.0, state.clone()).is_none()
            && self.count.fetch_add(1, Ordering::AcqRel) == 0
        {
            // From now on there is something whose age matters.
            self.more.notify_one();
        }
    }

    /// Sees to it that the server can call.
    pub(crate) fn listen(&self, server: ServerId) {
        if self.listening.lock().insert(server) {
            self.push(Job::Listen(server));
        }
    }

    pub(crate) fn push(&self, job: Job) {
        self.jobs.lock().push_back(job);
        self.more.notify_one();
    }

    /// Sends a block that is full, or what is due, or else, where a write needs room, what makes it,
    /// unless something is on its way.
    fn kick(&self, held: &mut Held, state: &Arc<FileState>, room_for: Option<&Range<u64>>) {
        if held.flying.is_some() {
            return;
        }
        let mut blocks = std::mem::take(&mut held.blocks);
        let load = blocks.take(|b| held.may_go(b));
        let load = load.or_else(|| room_for.and_then(|range| blocks.take_farthest(range)));
        held.blocks = blocks;
        let Some((load, (since_ns, file))) = load.and_then(|l| l.first().map(|f| (l, f))) else {
            return;
        };
        if load.is_scattered() {
            // Holding back costs more than it saves.
            (held.streak, held.streak_needed) = (0, STREAK_AFTER_BREAK);
        }
        let (buffered, written) = (load.buffered(), load.written());
        let (runs, bytes) = load.into_runs();
        held.flying = Some(Flying { runs: runs.clone(), buffered, written });
        // A right that is being given up is held until that is told.
        let right = held.right.max(held.given_up);
        held.out = Some(WriteOut { right, since_ns, file, runs, bytes });
        self.push(Job::WriteOut(state.clone()));
    }

    /// What is to be written out for a [`Job::WriteOut`].
    pub(crate) fn take_out(&self, state: &FileState) -> Option<WriteOut> {
        state.joined.held.lock().out.take()
    }

    /// A write-out has ended; how many bytes are lost with it where it failed.
    pub(crate) fn landed(&self, state: &Arc<FileState>, failed: Option<PvfsError>) -> usize {
        let mut held = state.joined.held.lock();
        let (mut buffered, mut lost) = (0, 0);
        if let Some(flown) = held.flying.take() {
            buffered = flown.buffered;
            lost = flown.written;
        }
        match failed {
            Some(e) => {
                let (behind, written) = held.blocks.clear();
                buffered += behind;
                lost += written;
                state.set_write_error(e);
            }
            None => lost = 0,
        }
        self.bytes.fetch_sub(buffered, Ordering::Relaxed);
        self.kick(&mut held, state, None);
        if held.is_empty() {
            (held.wanted, held.due_ns) = (false, None);
            state.nothing_joined();
            if self.files.lock().remove(&state.handle.0).is_some() {
                self.count.fetch_sub(1, Ordering::AcqRel);
            }
        }
        drop(held);
        state.joined.landed.notify_all();
        lost
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
                self.kick(&mut held, state, None);
                if !can_wait && !state.joined.landed.wait_until(&mut held, until).timed_out() {
                    continue;
                }
            }
            pause(QUIET_POLL).await?;
        }
    }

    /// The server recalls its right of number `right` on a file. The answer that brings it may be still
    /// on its way, or lost.
    pub(crate) fn recall(
        &self,
        server: ServerId,
        handle: Handle,
        right: u64,
        find: impl Fn() -> Option<Arc<FileState>>,
    ) {
        {
            let mut recalled = self.recalled.lock();
            let last = recalled.entry(server).or_default();
            *last = right.max(*last);
        }
        // Only now: an open that is answered meanwhile is found here, or finds the number.
        match find() {
            Some(state) => self.recall_of(&state, right),
            None => self.push(Job::Refuse(handle, right)),
        }
    }

    fn recall_of(&self, state: &Arc<FileState>, right: u64) {
        let mut held = state.joined.held.lock();
        self.give_up(&mut held, state);
        held.given_up = held.given_up.max(right);
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
        self.kick(held, state, None);
    }

    /// The connection to a server was cut, and with it the way of its recalls.
    pub(crate) fn cut(&self, server: ServerId, files: Vec<Arc<FileState>>) {
        self.cuts.fetch_add(1, Ordering::AcqRel);
        self.listening.lock().remove(&server);
        for state in files {
            self.give_up(&mut state.joined.held.lock(), &state);
        }
    }

    /// Looks at the age of what is held back, where that is due.
    fn look(&self, now_ns: i64) {
        let due_ns = self.looked_ns.load(Ordering::Relaxed) + TICK.as_nanos() as i64;
        // Also where the clock was set back.
        if now_ns >= due_ns || now_ns < due_ns - 2 * TICK.as_nanos() as i64 {
            self.looked_ns.store(now_ns, Ordering::Relaxed);
            self.kick_old(now_ns.saturating_sub(JOINED_NS_MAX));
        }
    }

    /// Sends what has waited long enough.
    fn kick_old(&self, before_ns: i64) {
        let files: Vec<Arc<FileState>> = self.files.lock().values().cloned().collect();
        for state in files {
            let mut held = state.joined.held.lock();
            held.due_ns = Some(before_ns);
            self.kick(&mut held, &state, None);
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
            if self.any() {
                // Before the wait: it may be broken off again and again.
                self.look(now_ns());
            }
            if let Some(job) = self.pop() {
                return job;
            }
            if self.any() {
                let _ = tokio::time::timeout(TICK, self.more.notified()).await;
            } else {
                self.more.notified().await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
