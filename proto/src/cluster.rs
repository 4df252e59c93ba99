//! The map of servers: what a client needs of the cluster file, fetched by `get_config`.
use crate::dist::Dist;
use crate::handle::{Handle, HandleRange};

/// A server by its position in [`ClusterMap::servers`].
pub type ServerId = u32;

/// One server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerEntry {
    /// Its alias in the cluster file.
    #[prost(string, tag = "1")]
    pub alias: String,
    /// Where it listens, best first: `unix:///path`, `tcp://host:port`, `mem://name`.
    #[prost(string, repeated, tag = "2")]
    pub addresses: Vec<String>,
    /// Range of metafile and directory handles, if it is a metadata server.
    #[prost(message, optional, tag = "3")]
    pub meta_range: Option<HandleRange>,
    /// Range of datahandles, if it is an I/O server.
    #[prost(message, optional, tag = "4")]
    pub io_range: Option<HandleRange>,
    /// `http://host:port` of its management service, if any.
    #[prost(string, tag = "5")]
    pub management: String,
}

/// The whole file system's servers and defaults.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterMap {
    /// The file system's name, as in `tcp://host:port/NAME`.
    #[prost(string, tag = "1")]
    pub fs_name: String,
    /// The file system's id, drawn at `genconfig`.
    #[prost(uint64, tag = "2")]
    pub fs_id: u64,
    /// All servers; a server's [`ServerId`] is its position here, for ever.
    #[prost(message, repeated, tag = "3")]
    pub servers: Vec<ServerEntry>,
    /// Distribution of new files where the directory names none.
    #[prost(message, optional, tag = "4")]
    pub default_dist: Option<Dist>,
    /// Datafiles of a new file; 0 means one on every I/O server.
    #[prost(uint32, tag = "5")]
    pub default_num_datafiles: u32,
    /// Layout of new files (see `layout.rs`).
    #[prost(string, tag = "6")]
    pub default_layout: String,
    /// Files up to this many bytes live with their metafile.
    #[prost(uint64, tag = "7")]
    pub small_file_bytes: u64,
    /// Retries after the first attempt at a server that does not answer.
    #[prost(uint32, tag = "8")]
    pub retry_limit: u32,
    /// Pause between retries.
    #[prost(uint32, tag = "9")]
    pub retry_delay_ms: u32,
    /// Lease of a session; the client renews at a third of it.
    #[prost(uint32, tag = "10")]
    pub lease_ms: u32,
    /// Metadata servers over which a directory spreads at most; 0 and 1: none splits.
    #[prost(uint32, tag = "21")]
    pub dir_servers_max: u32,
    /// Names that a directory has at least when it splits.
    #[prost(uint64, tag = "22")]
    pub dir_split_entries: u64,
}

impl ClusterMap {
    /// The metadata server that owns `handle`.
    pub fn meta_server_of(&self, handle: Handle) -> Option<ServerId> {
        self.find(|s| s.meta_range.as_ref().is_some_and(|r| r.contains(handle)))
    }
    /// The I/O server that owns datahandle `handle`.
    pub fn io_server_of(&self, handle: Handle) -> Option<ServerId> {
        self.find(|s| s.io_range.as_ref().is_some_and(|r| r.contains(handle)))
    }
    /// All metadata servers, in order.
    pub fn meta_servers(&self) -> impl Iterator<Item = ServerId> + '_ {
        self.ids(|s| s.meta_range.is_some())
    }
    /// All I/O servers, in order.
    pub fn io_servers(&self) -> impl Iterator<Item = ServerId> + '_ {
        self.ids(|s| s.io_range.is_some())
    }
    /// A server by its id.
    pub fn server(&self, id: ServerId) -> Option<&ServerEntry> {
        self.servers.get(id as usize)
    }
    /// A server by its alias.
    pub fn by_alias(&self, alias: &str) -> Option<ServerId> {
        self.find(|s| s.alias == alias)
    }
    /// The alias of a server, for messages.
    pub fn alias(&self, id: ServerId) -> &str {
        self.server(id).map_or("?", |s| s.alias.as_str())
    }
    fn find(&self, f: impl Fn(&ServerEntry) -> bool) -> Option<ServerId> {
        self.servers.iter().position(f).map(|i| i as ServerId)
    }
    fn ids(&self, f: impl Fn(&ServerEntry) -> bool) -> impl Iterator<Item = ServerId> {
        self.servers.iter().enumerate().filter(move |(_, s)| f(s)).map(|(i, _)| i as ServerId)
    }
}
