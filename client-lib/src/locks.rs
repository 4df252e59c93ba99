//! What this client has locked, per file and owner, and what it must still give back.
//!
//! Filled by [`crate::sys::Lock`]; from it come the locks that a reclaim says again, the answer to
//! "must this close unlock anything?" (so that a file never locked costs no request), and the jobs of
//! the background thread: requests whose fate is unknown, and locks whose unlock was not answered,
//! are taken back there until the server has heard of it.
//!
//! Invariants: what is recorded as held, and not being given back, is held at the server: answers
//! are applied in the order of their stamps, once no request of the owner for the file is under way;
//! an owner with a job on a file asks for nothing there before the job is done, so that a late
//! unlock never takes a newer lock. `seen` of a file moves on only when everything cached of it is
//! as new as that stamp.
use parking_lot::Mutex;
use pvfs2_proto::op::{LockState, lock_kind};
use pvfs2_proto::{ClusterMap, Handle, Held, HeldList, LockRange, ServerId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Files of which it is remembered up to where their caches are good.
const SEEN_MAX: usize = 65_536;

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The bytes.
    pub range: LockRange,
    /// A kind of [`lock_kind`].
    pub kind: u32,
    /// The process that asks.
    pub pid: u32,
    /// The open file through which it asks.
    pub mark: u64,
}

impl Want {
    /// To unlock everything.
    pub const NOTHING: Want =
        Want { range: LockRange::ALL, kind: lock_kind::UNLOCK, pid: 0, mark: 0 };

    fn apply(&self, list: &mut HeldList) {
        match self.kind {
            lock_kind::UNLOCK => list.clear(self.range),
            kind => list.set(Held {
                range: self.range,
                write: kind == lock_kind::WRITE,
                pid: self.pid,
                mark: self.mark,
            }),
        }
    }
}

/// Something to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The file.
    pub handle: Handle,
    /// The owner.
    pub owner: u64,
    /// A lock request whose fate is unknown: to be cancelled first. 0: just unlock.
    pub id: u64,
    /// What it wanted; what to unlock.
    pub want: Want,
}

#[derive(Default)]
struct OwnerLocks {
    held: HeldList,
    in_flight: u32,
    /// Answered while others were under way.
    answered: Vec<(u64, Want)>,
    jobs: u32,
}

impl OwnerLocks {
    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.jobs == 0 && self.held.is_empty()
    }
    /// Takes in the answers, once none is missing.
    fn settle(&mut self) {
        if self.in_flight == 0 {
            self.held = self.now();
            self.answered.clear();
        }
    }
    /// What is held, with what was answered meanwhile.
    fn now(&self) -> HeldList {
        let mut held = self.held.clone();
        let mut answered = self.answered.clone();
        answered.sort_by_key(|(stamp, _)| *stamp);
        answered.iter().for_each(|(_, want)| want.apply(&mut held));
        held
    }
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<u64, BTreeMap<u64, OwnerLocks>>,
    seen: HashMap<u64, u64>,
    waiting: HashMap<u64, Arc<Notify>>,
    jobs: VecDeque<Job>,
}

impl Inner {
    fn owner(&mut self, handle: Handle, owner: u64) -> &mut OwnerLocks {
        self.files.entry(handle.0).or_default().entry(owner).or_default()
    }

    fn tidy(&mut self, handle: Handle, owner: u64) {
        let Some(file) = self.files.get_mut(&handle.0) else { return };
        if file.get(&owner).is_some_and(OwnerLocks::is_idle) {
            file.remove(&owner);
        }
        if file.is_empty() {
            self.files.remove(&handle.0);
        }
    }

    /// A request is not under way any more.
    fn landed(&mut self, handle: Handle, owner: u64, answer: Option<(u64, Want)>) {
        let locks = self.owner(handle, owner);
        locks.in_flight = locks.in_flight.saturating_sub(1);
        locks.answered.extend(answer);
        locks.settle();
        self.tidy(handle, owner);
    }

    fn push(&mut self, job: Job) {
        let locks = self.owner(job.handle, job.owner);
        locks.jobs += 1;
        if job.id == 0 {
            // Whatever happens to the server, this is not to be reclaimed.
            locks.held.clear(job.want.range);
        }
        self.jobs.push_back(job);
    }
}

/// See the head of the file.
#[derive(Default)]
pub struct LockTable {
    inner: Mutex<Inner>,
    /// Whether anything was ever locked: a mount that locks nothing takes no mutex at a close.
    used: AtomicBool,
    last_id: AtomicU64,
    reclaims: AtomicU64,
    more_jobs: Notify,
}

impl LockTable {
    /// A request of `owner` begins; `None` while something of this owner is being given back.
    pub fn begin(self: &Arc<Self>, handle: Handle, owner: u64, want: Want) -> Option<Attempt> {
        self.used.store(true, Ordering::Release);
        let mut inner = self.inner.lock();
        let locks = inner.owner(handle, owner);
        if locks.jobs > 0 {
            return None;
        }
        locks.in_flight += 1;
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let woken = Arc::new(Notify::new());
        inner.waiting.insert(id, woken.clone());
        drop(inner);
        Some(Attempt { table: self.clone(), handle, owner, want, id, woken, landed: false })
    }

    /// Whether an owner may have anything locked in a file.
    pub fn may_hold(&self, handle: Handle, owner: u64) -> bool {
        let is_held = |l: &OwnerLocks| l.in_flight > 0 || !l.held.is_empty();
        self.is_used()
            && self
                .inner
                .lock()
                .files
                .get(&handle.0)
                .and_then(|f| f.get(&owner))
                .is_some_and(is_held)
    }

    /// Whether this client has locked anything in a file lately.
    pub fn was_locked(&self, handle: Handle) -> bool {
        self.is_used() && {
            let inner = self.inner.lock();
            inner.seen.contains_key(&handle.0) || inner.files.contains_key(&handle.0)
        }
    }

    fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// Unlocks all of an owner's bytes of a file in the background.
    pub fn give_back(&self, handle: Handle, owner: u64) {
        self.inner.lock().push(Job { handle, owner, id: 0, want: Want::NOTHING });
        self.more_jobs.notify_one();
    }

    /// The open file `mark` is closed for good: what was locked through it is unlocked in the
    /// background.
    pub fn closed(&self, handle: Handle, mark: u64) {
        if !self.is_used() {
            return;
        }
        let mut inner = self.inner.lock();
        let Some(file) = inner.files.get(&handle.0) else { return };
        let mut jobs = Vec::new();
        for (&owner, locks) in file {
            for held in locks.now().iter().filter(|h| h.mark == mark) {
                let want = Want { range: held.range, ..Want::NOTHING };
                jobs.push(Job { handle, owner, id: 0, want });
            }
        }
        for job in jobs {
            inner.push(job);
            self.more_jobs.notify_one();
        }
    }

    /// The next job, when there is one.
    pub async fn next_job(&self) -> Job {
        loop {
            let more = self.more_jobs.notified();
            if let Some(job) = self.inner.lock().jobs.pop_front() {
                return job;
            }
            more.await;
        }
    }

    /// A job is done; with the stamp of its unlock, if there was something to unlock.
    pub fn job_done(&self, job: &Job, stamp: Option<u64>) {
        let mut inner = self.inner.lock();
        let locks = inner.owner(job.handle, job.owner);
        locks.jobs = locks.jobs.saturating_sub(1);
        let unlock = Want { kind: lock_kind::UNLOCK, ..job.want };
        locks.answered.extend(stamp.map(|stamp| (stamp, unlock)));
        locks.settle();
        inner.tidy(job.handle, job.owner);
    }

    /// Up to which stamp everything cached of a file is good; 0: not known.
    pub fn seen(&self, handle: Handle) -> u64 {
        self.inner.lock().seen.get(&handle.0).copied().unwrap_or(0)
    }

    /// Everything cached of a file is as new as `stamp`.
    pub fn set_seen(&self, handle: Handle, stamp: u64) {
        let mut inner = self.inner.lock();
        if inner.seen.len() >= SEEN_MAX && !inner.seen.contains_key(&handle.0) {
            inner.seen.clear();
        }
        let seen = inner.seen.entry(handle.0).or_default();
        *seen = stamp.max(*seen);
    }

    /// Counts reclaims: a grant that was asked for at another count may not have been reclaimed.
    pub fn reclaims(&self) -> u64 {
        self.reclaims.load(Ordering::Acquire)
    }

    /// These requests wait no longer.
    pub fn wake(&self, ids: &[u64]) {
        let inner = self.inner.lock();
        ids.iter().filter_map(|id| inner.waiting.get(id)).for_each(|n| n.notify_one());
    }

    /// Everybody who waits asks again: a server has restarted.
    pub fn wake_all(&self) {
        self.inner.lock().waiting.values().for_each(|n| n.notify_one());
    }

    /// What is locked on files of a metadata server, for its reclaim.
    pub fn locks_of(&self, map: &ClusterMap, server: ServerId) -> Vec<LockState> {
        let inner = self.inner.lock();
        self.reclaims.fetch_add(1, Ordering::AcqRel);
        let mut out = Vec::new();
        for (&handle, file) in &inner.files {
            if map.meta_server_of(Handle(handle)) != Some(server) {
                continue;
            }
            for (&owner, locks) in file {
                out.extend(locks.now().iter().map(|h| LockState {
                    handle,
                    owner,
                    first: h.range.first,
                    last: h.range.last,
                    write: h.write,
                    pid: h.pid,
                }));
            }
        }
        out
    }

    /// These locks are not held any more.
    pub fn lost(&self, locks: &[LockState]) {
        let mut inner = self.inner.lock();
        for lock in locks {
            let Some(range) = LockRange::new(lock.first, lock.last) else { continue };
            let handle = Handle(lock.handle);
            inner.owner(handle, lock.owner).held.clear(range);
            inner.seen.remove(&lock.handle);
            inner.tidy(handle, lock.owner);
        }
    }

    /// Files with locks, or with requests or jobs under way.
    pub fn len(&self) -> usize {
        self.inner.lock().files.len()
    }

    /// Whether nothing is locked and nothing under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A request that is under way. Dropped before it has landed, it is taken back in the background.
pub struct Attempt {
    table: Arc<LockTable>,
    /// The file.
    pub handle: Handle,
    /// The owner.
    pub owner: u64,
    /// What is wanted.
    pub want: Want,
    /// The request's number.
    pub id: u64,
    /// Rings when it is worth asking again.
    pub woken: Arc<Notify>,
    landed: bool,
}

impl Attempt {
    /// It was done, as the change `stamp`.
    pub fn done(mut self, stamp: u64) {
        self.landed = true;
        self.table.inner.lock().landed(self.handle, self.owner, Some((stamp, self.want)));
    }
    /// It changed nothing, and will not.
    pub fn changed_nothing(mut self) {
        self.landed = true;
        self.table.inner.lock().landed(self.handle, self.owner, None);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut inner = self.table.inner.lock();
        inner.waiting.remove(&self.id);
        if self.landed {
            return;
        }
        let (handle, owner, want) = (self.handle, self.owner, self.want);
        let id = if want.kind == lock_kind::UNLOCK { 0 } else { self.id };
        inner.push(Job { handle, owner, id, want });
        inner.landed(handle, owner, None);
        drop(inner);
        self.table.more_jobs.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: Handle = Handle(9);
    const ME: u64 = 5;

    fn want(first: u64, last: u64, kind: u32) -> Want {
        Want { range: LockRange { first, last }, kind, pid: 1, mark: 3 }
    }

    fn table() -> (Arc<LockTable>, ClusterMap) {
        let range = Some(pvfs2_proto::HandleRange { first: 1, last: 1_000 });
        let entry = pvfs2_proto::ServerEntry { meta_range: range, ..Default::default() };
        (Arc::default(), ClusterMap { servers: vec![entry], ..Default::default() })
    }

    fn held(t: &LockTable, map: &ClusterMap) -> Vec<(u64, u64, bool)> {
        t.locks_of(map, 0).iter().map(|l| (l.first, l.last, l.write)).collect()
    }

    fn jobs(t: &LockTable) -> Vec<Job> {
        t.inner.lock().jobs.drain(..).collect()
    }

    #[test]
    fn answers_count_in_the_order_of_their_stamps() {
        let (t, map) = table();
        assert!(!t.may_hold(F, ME) && !t.was_locked(F));
        let lock = t.begin(F, ME, want(0, 9, lock_kind::WRITE)).unwrap();
        let unlock = t.begin(F, ME, want(0, 4, lock_kind::UNLOCK)).unwrap();
        unlock.done(8);
        assert_eq!(held(&t, &map), []);
        lock.done(7);
        assert_eq!(held(&t, &map), [(5, 9, true)], "the unlock came after the lock");
        assert!(t.may_hold(F, ME) && t.was_locked(F) && !t.may_hold(F, 6));
        t.begin(F, ME, Want::NOTHING).unwrap().done(9);
        assert!(t.is_empty() && jobs(&t).is_empty());
    }

    #[test]
    fn what_is_unknown_is_taken_back_before_anything_else() {
        let (t, map) = table();
        t.begin(F, ME, want(0, 9, lock_kind::READ)).unwrap().done(1);
        let lost = t.begin(F, ME, want(0, 9, lock_kind::WRITE)).unwrap();
        let id = lost.id;
        drop(lost);
        assert!(t.begin(F, ME, want(0, 9, lock_kind::READ)).is_none());
        let all = jobs(&t);
        assert_eq!((all.len(), all[0].id), (1, id));
        assert_eq!(held(&t, &map), [(0, 9, false)], "until it is unlocked");
        t.job_done(&all[0], None);
        drop(t.begin(F, ME, want(3, 4, lock_kind::UNLOCK)).unwrap());
        assert_eq!(held(&t, &map), [(0, 2, false), (5, 9, false)], "never reclaimed again");
        let all = jobs(&t);
        assert_eq!((all.len(), all[0].id), (1, 0));
        t.job_done(&all[0], Some(9));
        drop(t.begin(F, ME, want(7, 8, lock_kind::WRITE)).unwrap());
        t.job_done(&jobs(&t)[0], Some(10));
        assert_eq!(held(&t, &map), [(0, 2, false), (5, 6, false), (9, 9, false)], "unlocked");
        t.give_back(F, ME);
        assert!(held(&t, &map).is_empty() && !t.may_hold(F, ME));
        t.job_done(&jobs(&t)[0], None);
        assert!(t.is_empty());
    }

    #[test]
    fn a_closed_file_gives_back_what_was_locked_through_it() {
        let (t, map) = table();
        t.begin(F, ME, want(0, 9, lock_kind::READ)).unwrap().done(1);
        let other = Want { mark: 4, ..want(5, 20, lock_kind::READ) };
        t.begin(F, ME, other).unwrap().done(2);
        t.closed(F, 3);
        assert_eq!(held(&t, &map), [(5, 20, false)]);
        assert_eq!(jobs(&t)[0].want.range, LockRange { first: 0, last: 4 });
    }

    #[test]
    fn lost_locks_are_forgotten() {
        let (t, map) = table();
        t.begin(F, ME, want(0, 9, lock_kind::READ)).unwrap().done(1);
        t.set_seen(F, 1);
        t.lost(&t.locks_of(&map, 0));
        assert!(t.is_empty());
        assert_eq!(t.seen(F), 0);
    }
}
