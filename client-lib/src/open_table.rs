//! What this client has open, and what it wrote and has not yet reported.
//!
//! One [`FileState`] per handle is shared by all [`OpenFile`]s of that handle; it lives from the
//! first open's answer to the last release's. From it come the reclaim after a server's restart
//! ([`OpenTable::opens_of`]), the size while this client is the only writer ([`FileState::own`]),
//! and the reports of size and mtime ([`FileState::begin_report`]).
//!
//! Invariants: the counts are what the server knows (raised by an answered open, lowered by an
//! answered release); a report under way still counts as this client's knowledge until it is
//! answered; a change of size or mtime and a report of the same file never travel at the same time
//! ([`Hold`]), so a late report never undoes a truncate or utimes that came after the write.
use crate::joining::Joined;
use parking_lot::{Condvar, Mutex};
use pvfs2_proto::attr::mode;
use pvfs2_proto::op::{OpenState, ReleaseItem};
use pvfs2_proto::{Attr, AttrFlags, ClusterMap, ErrorCode, FileLayout, Handle, PvfsError, Result};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const SHARDS: usize = 16;

/// What was written to datafiles since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Anything at all.
    pub wrote: bool,
    /// One past the last byte.
    pub end: u64,
    /// When, by the I/O servers' clocks; 0: keep the mtime (it was set explicitly since).
    pub mtime_ns: i64,
}

impl Pending {
    fn merge(&mut self, other: Pending) {
        self.wrote |= other.wrote;
        self.end = self.end.max(other.end);
        self.mtime_ns = self.mtime_ns.max(other.mtime_ns);
    }
}

/// What this client knows of size and mtime by its own writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// One past the last byte that it wrote; 0: none.
    pub end: u64,
    /// When; 0: never, or the mtime was set since.
    pub mtime_ns: i64,
}

#[derive(Default)]
struct Inner {
    readers: u32,
    writers: u32,
    own: Own,
    /// One past the last byte that is held back; 0: none is.
    joined_end: u64,
    /// The file may be written like that: since it is striped, or was opened.
    may_join: bool,
    pending: Pending,
    reports: u32,
    /// Highest end of the reports under way.
    reporting_end: u64,
    holds: u32,
    layout: Option<Arc<FileLayout>>,
    /// The file is under a quota: up to where it may be written without asking.
    room_end: Option<u64>,
    /// It has suid or sgid that a write takes away, as far as it was seen last.
    has_suidgid: bool,
    changes: u64,
    errors: Errors,
}

/// Errors that no program was waiting for. Each open of the file hears of the last one, once.
#[derive(Default)]
struct Errors {
    /// Counts them.
    count: u64,
    last: Option<PvfsError>,
    /// Some open has heard of the last one.
    is_told: bool,
    /// It is of a write, and the next write tells it.
    of_write: bool,
}

impl Inner {
    fn own(&self) -> Own {
        Own { end: self.own.end.max(self.joined_end), ..self.own }
    }

    fn failed(&mut self, e: PvfsError, of_write: bool) {
        let errors = &mut self.errors;
        errors.count += 1;
        if errors.last.is_none() || errors.is_told {
            errors.last = Some(e);
            errors.of_write = of_write;
        }
        errors.is_told = false;
    }
}

/// What all opens of one file share.
pub struct FileState {
    /// The file.
    pub handle: Handle,
    inner: Mutex<Inner>,
    quiet: Condvar,
    /// Writes that are held back.
    pub(crate) joined: Joined,
}

impl FileState {
    fn new(handle: Handle) -> Arc<FileState> {
        Arc::new(FileState {
            handle,
            inner: Mutex::default(),
            quiet: Condvar::new(),
            joined: Joined::default(),
        })
    }

    /// The layout, once the file is striped. It never changes after.
    pub fn layout(&self) -> Option<Arc<FileLayout>> {
        self.inner.lock().layout.clone()
    }

    /// Whether a write takes suid or sgid away, as far as it was seen last.
    pub fn has_suidgid(&self) -> bool {
        self.inner.lock().has_suidgid
    }

    /// Takes the layout, and what else writers need, out of attributes that came from the server.
    pub fn learn(&self, attr: &Attr) {
        let has_suidgid = mode::without_suidgid(attr.mode) != attr.mode;
        let mut inner = self.inner.lock();
        inner.has_suidgid = has_suidgid;
        inner.may_join |= attr.has(AttrFlags::MAY_JOIN);
        if attr.has(AttrFlags::QUOTA) {
            inner.room_end = Some(inner.room_end.unwrap_or(0).max(attr.size));
        }
        if let Some(layout) = &attr.layout
            && !attr.has(AttrFlags::STUFFED)
            && !layout.datahandles.is_empty()
            && inner.layout.is_none()
        {
            inner.layout = Some(Arc::new(layout.clone()));
        }
    }

    /// Whether the metadata server is to be asked for room before bytes up to `end` are written.
    pub fn needs_room(&self, end: u64) -> bool {
        self.inner.lock().room_end.is_some_and(|room_end| end > room_end)
    }

    /// It gave room up to `end`.
    pub fn got_room(&self, end: u64) {
        let mut inner = self.inner.lock();
        inner.room_end = inner.room_end.map(|room_end| room_end.max(end));
    }

    /// Bytes of datafiles up to `end` were written at `mtime_ns`.
    pub fn wrote(&self, end: u64, mtime_ns: i64) {
        let mut inner = self.inner.lock();
        inner.changes += 1;
        inner.pending.merge(Pending { wrote: true, end, mtime_ns });
        inner.own.end = inner.own.end.max(end);
        inner.own.mtime_ns = inner.own.mtime_ns.max(mtime_ns);
    }

    /// Whether writes may be held back: of a striped file without a quota that could refuse them.
    pub(crate) fn may_join(&self) -> bool {
        let inner = self.inner.lock();
        inner.may_join && inner.layout.is_some() && inner.room_end.is_none()
    }

    /// Bytes up to `end` are held back.
    pub(crate) fn joined_up_to(&self, end: u64) {
        let mut inner = self.inner.lock();
        inner.changes += 1;
        inner.joined_end = inner.joined_end.max(end);
    }

    /// One past the last byte that is held back; 0: none is. Nobody else has the file open then.
    pub(crate) fn joined_end(&self) -> u64 {
        self.inner.lock().joined_end
    }

    /// Nothing is held back any more: what was has been written, or is lost.
    pub(crate) fn nothing_joined(&self) {
        self.inner.lock().joined_end = 0;
    }

    /// The metadata server wrote for us (stuffed write, append, fallocate): it knows size and mtime.
    pub fn changed_at_server(&self, end: u64) {
        let mut inner = self.inner.lock();
        inner.changes += 1;
        inner.own.end = inner.own.end.max(end);
    }

    /// This client has set the size.
    pub fn truncated(&self, size: u64) {
        let mut inner = self.inner.lock();
        inner.changes += 1;
        inner.own.end = inner.own.end.min(size);
        inner.joined_end = inner.joined_end.min(size);
        inner.pending.end = inner.pending.end.min(size);
        inner.room_end = inner.room_end.map(|_| size);
        // The truncation set the mtime, and later than the writes did.
        inner.own.mtime_ns = 0;
        inner.pending.mtime_ns = 0;
    }

    /// This client has set the mtime: writes before do not count any more.
    pub fn mtime_was_set(&self) {
        let mut inner = self.inner.lock();
        inner.own.mtime_ns = 0;
        inner.pending.mtime_ns = 0;
    }

    /// Counts this client's changes of the bytes: what was read at another count may be old.
    pub fn changes(&self) -> u64 {
        self.inner.lock().changes
    }

    /// What this client knows by its own writes.
    pub fn own(&self) -> Own {
        self.inner.lock().own()
    }

    /// The same, if the file is open here for writing.
    pub fn own_as_writer(&self) -> Option<Own> {
        let inner = self.inner.lock();
        (inner.writers > 0).then(|| inner.own())
    }

    /// What it has not reported yet.
    pub fn pending(&self) -> Pending {
        self.inner.lock().pending
    }

    /// One past the last byte that was written and that the server may not know of.
    pub fn unreported_end(&self) -> u64 {
        let inner = self.inner.lock();
        inner.pending.end.max(inner.reporting_end)
    }

    /// Somebody else changes the file: what was read of it may be old.
    pub fn invalidated(&self) {
        self.inner.lock().changes += 1;
    }

    /// Takes what is to be reported, unless a change of size or mtime is under way.
    pub fn begin_report(self: &Arc<Self>) -> Option<Report> {
        let mut inner = self.inner.lock();
        if inner.holds > 0 {
            return None;
        }
        inner.reports += 1;
        let pending = std::mem::take(&mut inner.pending);
        inner.reporting_end = inner.reporting_end.max(pending.end);
        Some(Report { file: self.clone(), pending, answered: false })
    }

    /// Bars reports while size or mtime is being changed; `None` while one is under way.
    pub fn try_hold(self: &Arc<Self>) -> Option<Hold> {
        let mut inner = self.inner.lock();
        (inner.reports == 0).then(|| {
            inner.holds += 1;
            Hold { file: self.clone() }
        })
    }

    /// Blocks this thread until no report is under way, at most for `time`.
    pub fn wait_quiet(&self, time: Duration) {
        let mut inner = self.inner.lock();
        if inner.reports > 0 {
            self.quiet.wait_for(&mut inner, time);
        }
    }

    /// Keeps an error that no program was waiting for, for the next flush or fsync of each open.
    pub fn set_error(&self, e: PvfsError) {
        self.inner.lock().failed(e, false);
    }

    /// Bytes that were answered are lost: keeps the error for the next write, flush or fsync of each
    /// open.
    pub(crate) fn set_write_error(&self, e: PvfsError) {
        let mut inner = self.inner.lock();
        inner.changes += 1;
        inner.failed(e, true);
    }

    /// Where an open begins to hear of errors: behind those that somebody has been told.
    fn errors_told(&self) -> u64 {
        let errors = &self.inner.lock().errors;
        errors.count - u64::from(errors.last.is_some() && !errors.is_told)
    }
}

/// A report of size and mtime that is under way. Dropped without [`Report::answered`], what it
/// carried waits for the next one.
pub struct Report {
    file: Arc<FileState>,
    /// What it carries.
    pub pending: Pending,
    answered: bool,
}

impl Report {
    /// The server has it.
    pub fn answered(mut self) {
        self.answered = true;
    }
    /// As an item of the request.
    pub fn item(&self, write: bool, atime_ns: i64) -> ReleaseItem {
        ReleaseItem {
            handle: self.file.handle.0,
            write,
            wrote: self.pending.wrote,
            end: self.pending.end,
            mtime_ns: self.pending.mtime_ns,
            atime_ns,
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let mut inner = self.file.inner.lock();
        inner.reports -= 1;
        if !self.answered {
            inner.pending.merge(self.pending);
        }
        if inner.reports == 0 {
            inner.reporting_end = 0;
            self.file.quiet.notify_all();
        }
    }
}

/// Bars reports of a file until dropped.
pub struct Hold {
    file: Arc<FileState>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.file.inner.lock().holds -= 1;
    }
}

/// All files that this client has open.
pub struct OpenTable {
    shards: Vec<Mutex<HashMap<u64, Arc<FileState>>>>,
    closes: AtomicU64,
}

impl Default for OpenTable {
    fn default() -> Self {
        OpenTable {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            closes: AtomicU64::new(0),
        }
    }
}

impl OpenTable {
    fn shard(&self, handle: Handle) -> &Mutex<HashMap<u64, Arc<FileState>>> {
        &self.shards[(handle.0 % SHARDS as u64) as usize]
    }

    /// An open was answered.
    pub fn opened(&self, attr: &Attr, write: bool) -> Arc<FileState> {
        let handle = attr.handle();
        let mut shard = self.shard(handle).lock();
        let file = shard.entry(handle.0).or_insert_with(|| FileState::new(handle)).clone();
        let mut inner = file.inner.lock();
        *(if write { &mut inner.writers } else { &mut inner.readers }) += 1;
        drop(inner);
        drop(shard);
        file.learn(attr);
        file
    }

    /// Counts closes of files that were open for writing. Attributes asked for at another count may
    /// be older than a close that took this client's knowledge of the size with it.
    pub fn closes(&self) -> u64 {
        self.closes.load(Ordering::Acquire)
    }

    /// A release was answered, or is given up.
    pub fn closed(&self, file: &FileState, write: bool) {
        let mut shard = self.shard(file.handle).lock();
        let mut inner = file.inner.lock();
        if write {
            self.closes.fetch_add(1, Ordering::AcqRel);
        }
        let count = if write { &mut inner.writers } else { &mut inner.readers };
        *count = count.saturating_sub(1);
        if inner.writers == 0 && !inner.pending.wrote {
            // The server knows it all now, and others may change the size from here on.
            inner.own = Own::default();
        }
        let gone = inner.readers == 0 && inner.writers == 0;
        let unwritable = inner.writers == 0;
        drop(inner);
        if unwritable {
            file.joined.closed();
        }
        if gone {
            shard.remove(&file.handle.0);
        }
    }

    /// The state of a file that is open.
    pub fn get(&self, handle: Handle) -> Option<Arc<FileState>> {
        self.shard(handle).lock().get(&handle.0).cloned()
    }

    /// Files open, releases under way included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is open at one metadata server, for its reclaim, in order of the handles.
    pub fn opens_of(&self, map: &ClusterMap, server: u32) -> Vec<OpenState> {
        let mut out = BTreeMap::new();
        for shard in &self.shards {
            for (&handle, file) in shard.lock().iter() {
                if map.meta_server_of(Handle(handle)) == Some(server) {
                    let inner = file.inner.lock();
                    let (readers, writers) = (inner.readers, inner.writers);
                    out.insert(handle, OpenState { handle, readers, writers });
                }
            }
        }
        out.into_values().collect()
    }

    /// The files of one metadata server that are open for writing.
    pub(crate) fn files_of(&self, map: &ClusterMap, server: u32) -> Vec<Arc<FileState>> {
        let mut out = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let of_server = |h: u64| map.meta_server_of(Handle(h)) == Some(server);
            let files = shard.iter().filter(|(h, _)| of_server(**h)).map(|(_, f)| f.clone());
            out.extend(files.filter(|f| f.inner.lock().writers > 0));
        }
        out
    }

    /// The server has forgotten these opens and cannot bring them back.
    pub fn lost(&self, handles: &[u64]) {
        for &h in handles {
            if let Some(file) = self.get(Handle(h)) {
                file.set_error(PvfsError::new(
                    ErrorCode::Stale,
                    format!("the open of {} was lost in a server's restart", Handle(h)),
                ));
            }
        }
    }
}

/// Bytes of a small file that came with its open.
pub(crate) struct OpenBytes {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) until_ns: i64,
    pub(crate) changes: u64,
}

/// One open of a file, as a program holds it.
pub struct OpenFile {
    /// The file.
    pub handle: Handle,
    /// Opened for reading.
    pub read: bool,
    /// Opened for writing.
    pub write: bool,
    /// Its attributes when it was opened.
    pub attr: Attr,
    /// What it shares with other opens of the file in this client.
    pub state: Arc<FileState>,
    pub(crate) bytes: Mutex<Option<OpenBytes>>,
    pub(crate) read_at_ns: AtomicI64,
    pub(crate) suid_checked: AtomicBool,
    pub(crate) released: AtomicBool,
    pub(crate) no_atime: AtomicBool,
    /// How many of the file's errors it has heard of.
    errors_told: AtomicU64,
}

impl OpenFile {
    pub(crate) fn new(
        table: &OpenTable,
        attr: Attr,
        (read, write): (bool, bool),
        bytes: Option<(bytes::Bytes, i64)>,
    ) -> Arc<OpenFile> {
        let state = table.opened(&attr, write);
        let changes = state.changes();
        let errors_told = AtomicU64::new(state.errors_told());
        Arc::new(OpenFile {
            handle: attr.handle(),
            read,
            write,
            attr,
            state,
            bytes: Mutex::new(bytes.map(|(bytes, until_ns)| OpenBytes {
                bytes,
                until_ns,
                changes,
            })),
            read_at_ns: AtomicI64::new(0),
            suid_checked: AtomicBool::new(false),
            released: AtomicBool::new(false),
            no_atime: AtomicBool::new(false),
            errors_told,
        })
    }

    /// The error that no program was waiting for, if this open has not heard of it.
    pub fn take_error(&self) -> Option<PvfsError> {
        self.take_error_if(|_| true)
    }

    /// The same, as far as a write is to tell it: bytes of earlier ones are lost.
    pub(crate) fn take_write_error(&self) -> Option<PvfsError> {
        self.take_error_if(|errors| errors.of_write)
    }

    fn take_error_if(&self, tells: impl Fn(&Errors) -> bool) -> Option<PvfsError> {
        let errors = &mut self.state.inner.lock().errors;
        if self.errors_told.load(Ordering::Relaxed) >= errors.count || !tells(errors) {
            return None;
        }
        self.errors_told.store(errors.count, Ordering::Relaxed);
        errors.is_told = true;
        errors.last.clone()
    }

    /// O_NOATIME: reading through this open leaves no trace.
    pub fn set_no_atime(&self) {
        self.no_atime.store(true, Ordering::Relaxed);
    }

    /// Bytes that came with the open, as long as they may be used.
    pub(crate) fn bytes_at_hand(&self, now_ns: i64) -> Option<bytes::Bytes> {
        let mut held = self.bytes.lock();
        let usable =
            held.as_ref().is_some_and(|b| now_ns < b.until_ns && b.changes == self.state.changes());
        if !usable {
            *held = None;
        }
        held.as_ref().map(|b| b.bytes.clone())
    }

    /// Refuses what the open does not allow.
    ///
    /// # Errors
    /// `Invalid` (EBADF has no wire code: the kernel refuses such calls itself).
    pub(crate) fn check(&self, write: bool) -> Result<()> {
        if (write && self.write) || (!write && self.read) {
            return Ok(());
        }
        let what = if write { "writing" } else { "reading" };
        Err(PvfsError::new(
            ErrorCode::Invalid,
            format!("file {} is not open for {what}", self.handle),
        ))
    }

    /// Whether its close has more to tell than that it closed: an end and an mtime that the metadata
    /// server does not know. One without can wait for company ([`Background::release`]).
    ///
    /// [`Background::release`]: crate::background::Background::release
    pub fn has_news(&self) -> bool {
        self.write && (self.state.pending().wrote || !self.state.joined.is_empty())
    }

    /// Whether its release was asked for already; marks it.
    pub(crate) fn mark_released(&self) -> bool {
        self.released.swap(true, Ordering::AcqRel)
    }
}
