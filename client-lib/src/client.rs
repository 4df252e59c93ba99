//! The client: one per mount, tool or test; what all its operations share.
//!
//! Owns the caches, the open table, the metrics, and (through `bmi-net`) the sessions with the
//! servers, whose questions and notices it answers. Place in the walks: handed to every machine.
//!
//! Invariant: nothing here waits; every lock is held for a look-up only.
use crate::acache::Acache;
use crate::dirmaps::DirMaps;
use crate::fileahead::Fileahead;
use crate::joining::{Job, Joins};
use crate::locks::LockTable;
use crate::metrics::Metrics;
use crate::name_rights::NameRights;
use crate::ncache::Ncache;
use crate::open_table::OpenTable;
use crate::statahead::Statahead;
use pvfs2_bmi::auth::ClusterKey;
use pvfs2_bmi::client::{ClientOptions, ClientShared, SessionEvents};
use pvfs2_bmi::mem::MemNetwork;
use pvfs2_proto::env::Env;
use pvfs2_proto::op::{LockState, Notice, OpenState};
use pvfs2_proto::{ClusterMap, ErrorCode, Handle, PvfsError, ServerId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Default timeout of ncache and acache, in milliseconds.
pub const CACHE_MS: u64 = 1_000;

/// Looks up the supplementary groups of a thread; `None` when it is gone.
pub type GroupsOf = Arc<dyn Fn(u32) -> Option<Vec<u32>> + Send + Sync>;

/// How a client behaves.
#[derive(Clone)]
pub struct ClientConfig {
    /// The servers.
    pub map: Arc<ClusterMap>,
    /// Clock and chance.
    pub env: Env,
    /// The cluster's key, for servers off loopback.
    pub key: Option<ClusterKey>,
    /// For messages and tools: host name, pid, mount point.
    pub name: String,
    /// How long attributes are believed; 0: not at all.
    pub acache_ms: u64,
    /// How long names are believed, also those that do not exist; 0: not at all.
    pub ncache_ms: u64,
    /// Wait for servers for ever.
    pub hard: bool,
    /// Retries after the first attempt at a server that does not answer; `None`: the map's.
    pub retry_limit: Option<u32>,
    /// Longest pause between retries; `None`: the map's.
    pub retry_delay_ms: Option<u32>,
    /// How long a blocking carrier waits for an answer before the operation moves to the background;
    /// `None`: the network's default.
    pub stall_ms: Option<u32>,
    /// How long a blocking carrier polls a socket before it sleeps on it; `None`: the default.
    pub spin_us: Option<u32>,
    /// What is to be written is shared with I/O servers of the same machine, where it lies in memory that
    /// can be, instead of sent.
    pub share_memory: bool,
    /// Tell the servers when files were read.
    pub atime: bool,
    /// Tell it of every open that read, not only of the first after a change and then once a day.
    pub strict_atime: bool,
    /// The in-process network, for `mem://` addresses.
    pub mem: Option<Arc<MemNetwork>>,
    /// Small sequential writes are held back and sent as one, where the server gives the right.
    pub join: bool,
    /// The kernel above holds writes back and keeps sizes and times of files: no write sets a time, and
    /// what is open for writing may be read (a page that is written in part is read first).
    pub kernel_writes_back: bool,
    /// Names that are not there are known without asking, in directories that this client has filled.
    pub name_rights: bool,
    /// A directory whose names are looked up one after another is listed instead.
    pub statahead: bool,
    /// Servers are told which files of a directory will probably be read next.
    pub fileahead: bool,
    /// Asked when a server refuses a caller whose groups it does not know.
    pub groups_of: Option<GroupsOf>,
}

impl ClientConfig {
    /// The defaults.
    pub fn new(map: Arc<ClusterMap>, env: Env) -> ClientConfig {
        ClientConfig {
            map,
            env,
            key: None,
            name: String::new(),
            acache_ms: CACHE_MS,
            ncache_ms: CACHE_MS,
            hard: false,
            retry_limit: None,
            retry_delay_ms: None,
            stall_ms: None,
            spin_us: None,
            share_memory: true,
            atime: false,
            strict_atime: false,
            mem: None,
            join: false,
            kernel_writes_back: false,
            name_rights: false,
            statahead: true,
            fileahead: true,
            groups_of: None,
        }
    }

    fn network(&self) -> ClientOptions {
        let mut options = ClientOptions::new(self.map.clone(), self.env.clone());
        options.key = self.key.clone();
        options.client_name = self.name.clone();
        options.mem = self.mem.clone();
        if let Some(limit) = self.retry_limit {
            options.retry_limit = Some(limit);
        }
        if self.hard {
            options.retry_limit = None;
        }
        if let Some(delay_ms) = self.retry_delay_ms {
            options.retry_delay_ms = delay_ms;
        }
        options.stall_ms = self.stall_ms.unwrap_or(options.stall_ms);
        options.spin_us = self.spin_us.unwrap_or(options.spin_us);
        options.share_memory = self.share_memory;
        options
    }
}

/// What sessions ask and tell: apart from [`Client`], because the sessions are part of it.
struct Known {
    map: Arc<ClusterMap>,
    ncache: Ncache,
    acache: Acache,
    opens: OpenTable,
    locks: Arc<LockTable>,
    joins: Joins,
    name_rights: Arc<NameRights>,
    restarts: AtomicU64,
}

impl SessionEvents for Known {
    fn opens_of(&self, server: ServerId) -> Vec<OpenState> {
        self.opens.opens_of(&self.map, server)
    }
    fn locks_of(&self, server: ServerId) -> Vec<LockState> {
        self.locks.locks_of(&self.map, server)
    }
    fn locks_lost(&self, server: ServerId, locks: Vec<LockState>) {
        tracing::warn!(
            server = self.map.alias(server),
            locks = locks.len(),
            "locks were lost: the server had not heard of this client for longer than its lease, and \
             others may have had them; whoever held one gets EIO at its next flush or fsync"
        );
        self.locks.lost(&locks);
        for lock in locks {
            if let Some(file) = self.opens.get(Handle(lock.handle)) {
                file.set_error(PvfsError::new(
                    ErrorCode::Io,
                    format!("a lock on file {} was lost", Handle(lock.handle)),
                ));
            }
        }
    }
    fn lost(&self, server: ServerId, handles: Vec<u64>) {
        if !handles.is_empty() {
            tracing::warn!(
                server = self.map.alias(server),
                files = handles.len(),
                "open files were lost in the server's restart: they were removed meanwhile, or the \
                 server's grace time had passed"
            );
        }
        self.opens.lost(&handles);
    }
    fn restarted(&self, server: ServerId) {
        tracing::info!(server = self.map.alias(server), "the server has restarted");
        self.restarts.fetch_add(1, Ordering::AcqRel);
        self.ncache.clear();
        self.acache.clear();
        self.locks.wake_all();
        self.cut(server);
    }
    fn cut(&self, server: ServerId) {
        self.name_rights.cut(&self.map, server);
        self.joins.cut(server, self.opens.files_of(&self.map, server));
    }
    fn notice(&self, server: ServerId, notice: Notice) {
        if notice.draining {
            tracing::info!(server = self.map.alias(server), "the server is about to stop");
        }
        self.locks.wake(&notice.lock_ids);
        for &handle in notice.invalidate.iter().chain(&notice.recall) {
            self.acache.drop_handle(Handle(handle));
            if let Some(file) = self.opens.get(Handle(handle)) {
                file.invalidated();
            }
        }
        for (&handle, &right) in notice.recall.iter().zip(&notice.recall_rights) {
            let handle = Handle(handle);
            self.joins.recall(server, handle, right, || self.opens.get(handle));
        }
        for names in &notice.recall_names {
            self.name_rights.recalled(Handle(names.dir));
            self.joins.push(Job::Refuse(Handle(names.dir), names.right));
        }
        if !notice.invalidate.is_empty() {
            self.ncache.clear();
        }
    }
}

/// See the head of the file.
pub struct Client {
    config: ClientConfig,
    known: Arc<Known>,
    shared: Arc<ClientShared>,
    dirmaps: DirMaps,
    statahead: Arc<Statahead>,
    fileahead: Fileahead,
    metrics: Metrics,
    op_ids: AtomicU64,
}

impl Client {
    /// A client; it speaks to no server before its first operation.
    pub fn new(config: ClientConfig) -> Arc<Client> {
        let known = Arc::new(Known {
            map: config.map.clone(),
            ncache: Ncache::new(config.ncache_ms),
            acache: Acache::new(config.acache_ms),
            opens: OpenTable::default(),
            locks: Arc::default(),
            joins: Joins::new(config.join),
            name_rights: NameRights::new(config.name_rights),
            restarts: AtomicU64::new(0),
        });
        let shared = ClientShared::new(config.network(), known.clone());
        // Ids of one client follow each other; their upper half tells clients apart in traces.
        let ahead_ms = if config.statahead { config.ncache_ms.min(config.acache_ms) } else { 0 };
        let op_ids = AtomicU64::new(config.env.rand_u64() << 32 | 1);
        let fileahead = Fileahead::new(config.fileahead);
        Arc::new(Client {
            config,
            known,
            shared,
            dirmaps: DirMaps::default(),
            statahead: Statahead::new(ahead_ms),
            fileahead,
            metrics: Metrics::default(),
            op_ids,
        })
    }

    /// How it behaves.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }
    /// Its sessions, for carriers.
    pub fn shared(&self) -> &Arc<ClientShared> {
        &self.shared
    }
    /// The servers.
    pub fn map(&self) -> &Arc<ClusterMap> {
        &self.config.map
    }
    /// Clock and chance.
    pub fn env(&self) -> &Env {
        &self.config.env
    }
    /// The cache of names.
    pub fn ncache(&self) -> &Ncache {
        &self.known.ncache
    }
    /// The cache of attributes.
    pub fn acache(&self) -> &Acache {
        &self.known.acache
    }
    /// Maps of split directories.
    pub fn dirmaps(&self) -> &DirMaps {
        &self.dirmaps
    }
    /// What is open.
    pub fn opens(&self) -> &OpenTable {
        &self.known.opens
    }
    /// What is locked.
    pub fn locks(&self) -> &Arc<LockTable> {
        &self.known.locks
    }
    /// Writes that are held back.
    pub fn joins(&self) -> &Joins {
        &self.known.joins
    }
    /// Directories whose names are all known.
    pub fn name_rights(&self) -> &Arc<NameRights> {
        &self.known.name_rights
    }
    /// Directories that are being walked.
    pub fn statahead(&self) -> &Arc<Statahead> {
        &self.statahead
    }
    /// Directories whose files are being read.
    pub fn fileahead(&self) -> &Fileahead {
        &self.fileahead
    }
    /// Counts restarts of servers: after loss of power a server may count anew from an older state.
    pub fn restarts(&self) -> u64 {
        self.known.restarts.load(Ordering::Acquire)
    }
    /// Counters and latencies.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn next_op_id(&self) -> u64 {
        self.op_ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn groups_of(&self, tid: u32) -> Option<Vec<u32>> {
        self.config.groups_of.as_ref().filter(|_| tid != 0).and_then(|f| f(tid))
    }

    /// Whether a server that is busy (starting, in its grace time) is asked once more. It answers,
    /// so it is worth more patience than one that does not: at least a lease's time.
    pub(crate) fn may_retry(&self, attempts: u32) -> bool {
        const BUSY_RETRIES_MAX: u32 = 600;
        self.config.hard || attempts < BUSY_RETRIES_MAX
    }

    pub(crate) fn busy_pause_ms(&self, attempts: u32) -> u64 {
        (5u64 << attempts.min(5)).min(100)
    }
}

/// The supplementary groups of a thread, as /proc tells. For [`ClientConfig::groups_of`].
pub fn groups_from_proc(tid: u32) -> Option<Vec<u32>> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    parse_groups(&status)
}

fn parse_groups(status: &str) -> Option<Vec<u32>> {
    let line = status.lines().find_map(|l| l.strip_prefix("Groups:"))?;
    line.split_whitespace().map(|g| g.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_parsed() {
        assert_eq!(
            parse_groups("Name:\tx\nGroups:\t4 24 1000 \nNStgid:\t1"),
            Some(vec![4, 24, 1000])
        );
        assert_eq!(parse_groups("Groups:\t\n"), Some(vec![]));
        assert_eq!(parse_groups("Name: x"), None);
    }
}
