//! The cluster as typed values. A [`Cluster`] that came out of `parse` or `generate` has been
//! validated; its servers' order is their `ServerId`, for ever.
use pvfs2_proto::{ClusterMap, Dist, HandleRange, KeyvalMethod, ServerEntry, ServerId};
use std::path::{Path, PathBuf};

/// The version of the cluster file that this code writes, and the newest that it reads.
pub const VERSION: i64 = 1;

/// Port of the first server, as in PVFS2.
pub const DEFAULT_PORT: u16 = 3334;

/// Handles of a metadata server's range (see `proto::handle::DATAHANDLE_META_SHIFT`).
pub const META_RANGE_HANDLES: u64 = 1 << 40;
/// First handle of the first I/O server's range.
pub const IO_RANGE_FIRST: u64 = 1 << 56;
/// Handles of an I/O server's range.
pub const IO_RANGE_HANDLES: u64 = 1 << 48;
/// Metadata servers that the datahandles of one I/O server's range have room for.
pub const META_SERVERS_MAX: usize = 256;
/// Memory of a server's metadata where the cluster file says nothing.
pub const META_MEMORY_BYTES: u64 = 512 << 20;
/// The least that it may say.
pub const META_MEMORY_BYTES_MIN: u64 = 96 << 20;
/// Servers of one cluster.
pub const SERVERS_MAX: usize = 4_096;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name in this file and in messages.
    pub alias: String,
    /// Where it listens, best first: `unix:///path`, `tcp://host:port`.
    pub addresses: Vec<String>,
    /// Folder of its storage space; relative: below the cluster file's folder.
    pub storage: PathBuf,
    /// Handles of its metafiles and directories, if it is a metadata server.
    pub meta_range: Option<HandleRange>,
    /// Its datahandles, if it is an I/O server.
    pub io_range: Option<HandleRange>,
    /// `http://host:port` of its management service.
    pub management: Option<String>,
    /// What holds its keys and values; decided when its storage space is made.
    pub keyval: KeyvalMethod,
    /// Memory that its metadata may take, whatever the number of files.
    pub meta_memory_bytes: u64,
}

impl Server {
    /// Its roles as `ping` shows them.
    pub fn roles(&self) -> &'static str {
        match (self.meta_range.is_some(), self.io_range.is_some()) {
            (true, true) => "meta,io",
            (true, false) => "meta",
            (false, true) => "io",
            (false, false) => "",
        }
    }
}

/// What new files get where their directory says nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Distribution.
    pub dist: Dist,
    /// Datafiles of a file; 0: one on every I/O server.
    pub num_datafiles: u32,
    /// Layout (see `proto::layout`).
    pub layout: String,
    /// Files up to this many bytes live with their metafile.
    pub small_file_bytes: u64,
    /// Metadata servers over which a directory spreads at most; 1: none splits.
    pub dir_servers_max: u32,
    /// Names with which a directory splits.
    pub dir_split_entries: u64,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            dist: Dist::simple_stripe(pvfs2_proto::limits::STRIP_SIZE_BYTES),
            num_datafiles: 0,
            layout: "round_robin".into(),
            small_file_bytes: pvfs2_proto::limits::SMALL_FILE_BYTES,
            dir_servers_max: pvfs2_proto::limits::DIR_SERVERS_MAX,
            dir_split_entries: pvfs2_proto::limits::DIR_SPLIT_ENTRIES,
        }
    }
}

/// Retries, leases, reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Retries after the first attempt at a server that does not answer.
    pub retry_limit: u32,
    /// Pause between retries.
    pub retry_delay_ms: u32,
    /// Lease of a session.
    pub lease_ms: u32,
    /// A handle is not used again before this many seconds.
    pub handle_recycle_secs: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            retry_limit: 5,
            retry_delay_ms: 2000,
            lease_ms: 30_000,
            handle_recycle_secs: 360,
        }
    }
}

/// The whole cluster file.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The file system's name.
    pub fs_name: String,
    /// The file system's id.
    pub fs_id: u64,
    /// All servers; the position is the `ServerId`.
    pub servers: Vec<Server>,
    /// What new files get.
    pub defaults: Defaults,
    /// Retries, leases, reuse.
    pub timeouts: Timeouts,
    /// File with the cluster's key; none: only loopback and unix sockets.
    pub key_file: Option<PathBuf>,
    /// Every metadata reply waits for the disk.
    pub sync_meta: bool,
    /// Folder that relative paths start from (the cluster file's).
    pub dir: PathBuf,
}

impl Cluster {
    /// A server and its id by alias.
    pub fn by_alias(&self, alias: &str) -> Option<(ServerId, &Server)> {
        let i = self.servers.iter().position(|s| s.alias == alias)?;
        Some((i as ServerId, &self.servers[i]))
    }

    /// All aliases, for messages.
    pub fn aliases(&self) -> String {
        self.servers.iter().map(|s| s.alias.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Folder of a server's storage space.
    pub fn storage_of(&self, server: &Server) -> PathBuf {
        self.dir.join(&server.storage)
    }

    /// The key's file, resolved.
    pub fn key_path(&self) -> Option<PathBuf> {
        self.key_file.as_deref().map(|p: &Path| self.dir.join(p))
    }

    /// What clients need of it.
    pub fn to_map(&self) -> ClusterMap {
        ClusterMap {
            fs_name: self.fs_name.clone(),
            fs_id: self.fs_id,
            servers: self
                .servers
                .iter()
                .map(|s| ServerEntry {
                    alias: s.alias.clone(),
                    addresses: s.addresses.clone(),
                    meta_range: s.meta_range,
                    io_range: s.io_range,
                    management: s.management.clone().unwrap_or_default(),
                })
                .collect(),
            default_dist: Some(self.defaults.dist.clone()),
            default_num_datafiles: self.defaults.num_datafiles,
            default_layout: self.defaults.layout.clone(),
            small_file_bytes: self.defaults.small_file_bytes,
            retry_limit: self.timeouts.retry_limit,
            retry_delay_ms: self.timeouts.retry_delay_ms,
            lease_ms: self.timeouts.lease_ms,
            dir_servers_max: self.defaults.dir_servers_max,
            dir_split_entries: self.defaults.dir_split_entries,
        }
    }

    /// The mount specs of this file system, best first: every address of the metadata servers, then
    /// of the others (any server hands out the map).
    pub fn specs(&self) -> Vec<String> {
        let meta = self.servers.iter().filter(|s| s.meta_range.is_some());
        let rest = self.servers.iter().filter(|s| s.meta_range.is_none());
        meta.chain(rest)
            .flat_map(|s| &s.addresses)
            .map(|a| format!("{a}/{}", self.fs_name))
            .collect()
    }
}
