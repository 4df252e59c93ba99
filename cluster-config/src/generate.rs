//! New clusters: ranges by rule, and the file's text with comments that explain each field.
//!
//! Ranges: metadata server k owns 2^40 handles from k * 2^40 on (the first one from 1: the root);
//! I/O server k owns 2^48 handles from 2^56 + k * 2^48 on, so that `proto::handle::datahandle` has
//! room for 256 metadata servers.
use crate::error::ConfigError;
use crate::model::{
    Cluster, Defaults, IO_RANGE_FIRST, IO_RANGE_HANDLES, META_MEMORY_BYTES, META_RANGE_HANDLES,
    Server, Timeouts, VERSION,
};
use crate::validate::{Place, show_range, validate};
use pvfs2_proto::{HandleRange, KeyvalMethod};
use std::fmt::Write as _;
use std::path::PathBuf;

/// One server of a new cluster.
#[derive(Clone, Debug)]
pub struct NewServer {
    /// Its alias.
    pub alias: String,
    /// Metadata server.
    pub meta: bool,
    /// I/O server.
    pub io: bool,
    /// Where it listens, best first.
    pub addresses: Vec<String>,
    /// Its storage space.
    pub storage: PathBuf,
    /// Its management service.
    pub management: Option<String>,
}

/// A new cluster.
#[derive(Clone, Debug)]
pub struct Generate {
    /// The file system's name.
    pub fs_name: String,
    /// The file system's id, random and not 0.
    pub fs_id: u64,
    /// Its servers, in the order of their ids.
    pub servers: Vec<NewServer>,
    /// What new files get.
    pub defaults: Defaults,
    /// Retries, leases, reuse.
    pub timeouts: Timeouts,
    /// File with the cluster's key.
    pub key_file: Option<PathBuf>,
    /// Every metadata reply waits for the disk.
    pub sync_meta: bool,
    /// Folder that relative paths start from.
    pub dir: PathBuf,
}

/// The range of the metadata server with this index (among metadata servers).
pub fn meta_range(index: u64) -> HandleRange {
    HandleRange {
        first: (index * META_RANGE_HANDLES).max(1),
        last: (index + 1) * META_RANGE_HANDLES - 1,
    }
}

/// The range of the I/O server with this index (among I/O servers).
pub fn io_range(index: u64) -> HandleRange {
    let first = IO_RANGE_FIRST + index * IO_RANGE_HANDLES;
    HandleRange { first, last: first + IO_RANGE_HANDLES - 1 }
}

impl Generate {
    /// The cluster, with ranges for every server.
    ///
    /// # Errors
    /// `Invalid` when the parts do not fit together.
    pub fn build(self) -> Result<Cluster, ConfigError> {
        let (mut metas, mut ios) = (0u64, 0u64);
        let next = |count: &mut u64, range: fn(u64) -> HandleRange| {
            *count += 1;
            range(*count - 1)
        };
        let mut servers = Vec::with_capacity(self.servers.len());
        for s in self.servers.into_iter().take(crate::model::SERVERS_MAX + 1) {
            servers.push(Server {
                meta_range: s.meta.then(|| next(&mut metas, meta_range)),
                io_range: s.io.then(|| next(&mut ios, io_range)),
                alias: s.alias,
                addresses: s.addresses,
                storage: s.storage,
                management: s.management,
                keyval: KeyvalMethod::default(),
                meta_memory_bytes: META_MEMORY_BYTES,
            });
        }
        let cluster = Cluster {
            fs_name: self.fs_name,
            fs_id: self.fs_id,
            servers,
            defaults: self.defaults,
            timeouts: self.timeouts,
            key_file: self.key_file,
            sync_meta: self.sync_meta,
            dir: self.dir,
        };
        cluster.check("the new cluster")?;
        Ok(cluster)
    }
}

impl Cluster {
    /// Validates a cluster that was made or changed in memory.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check(&self, origin: &str) -> Result<(), ConfigError> {
        validate(self).map_err(|c| ConfigError::Invalid {
            origin: origin.into(),
            line: 0,
            field: match c.place {
                Place::Field("servers", _) => "servers".into(),
                Place::Field(table, field) => format!("{table}.{field}"),
                Place::Server(i, field) => {
                    format!("servers.{}.{field}", self.servers.get(i).map_or("?", |s| &s.alias))
                }
            },
            problem: c.problem,
            remedy: c.remedy,
        })
    }

    /// The text of the cluster file. Parsing it gives this cluster again.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_toml(&mut out);
        out
    }

    fn write_toml(&self, o: &mut String) -> std::fmt::Result {
        writeln!(
            o,
            "# Cluster file of the PVFS2 file system {}. The same file on every server.",
            quote(&self.fs_name)
        )?;
        writeln!(o, "# Clients need no copy: they fetch what they need from any server.")?;
        writeln!(o, "version = {VERSION}\n")?;
        writeln!(o, "[filesystem]")?;
        writeln!(o, "# as in: pvfs2 mount tcp://HOST:PORT/NAME DIR")?;
        writeln!(o, "name = {}", quote(&self.fs_name))?;
        writeln!(o, "# drawn when this file was made; never change it")?;
        writeln!(o, "id = \"{:#018x}\"\n", self.fs_id)?;
        let d = &self.defaults;
        writeln!(o, "[defaults]")?;
        writeln!(
            o,
            "# what new files get where their directory's user.pvfs2.* xattrs say nothing"
        )?;
        writeln!(o, "# simple_stripe, basic_dist, varstrip_dist, twod_stripe")?;
        writeln!(o, "distribution = {}", quote(d.dist.name()))?;
        writeln!(o, "distribution_params = {}", quote(&d.dist.params()))?;
        writeln!(o, "# datafiles of a file; 0: one on every I/O server")?;
        writeln!(o, "num_datafiles = {}", d.num_datafiles)?;
        writeln!(o, "# round_robin, random, local, none")?;
        writeln!(o, "layout = {}", quote(&d.layout))?;
        writeln!(o, "# files up to this size live with their metafile")?;
        writeln!(o, "small_file_bytes = {}", d.small_file_bytes)?;
        writeln!(o, "# metadata servers over which a directory spreads at most; 1: none splits")?;
        writeln!(o, "dir_servers_max = {}", d.dir_servers_max)?;
        writeln!(o, "# names with which a directory splits")?;
        writeln!(o, "dir_split_entries = {}\n", d.dir_split_entries)?;
        let t = &self.timeouts;
        writeln!(o, "[timeouts]")?;
        writeln!(
            o,
            "# a server that does not answer is asked again this often, then EIO (mount -o hard: for ever)"
        )?;
        writeln!(o, "retry_limit = {}", t.retry_limit)?;
        writeln!(o, "retry_delay_ms = {}", t.retry_delay_ms)?;
        writeln!(o, "# a client that is silent for so long loses its opens")?;
        writeln!(o, "lease_ms = {}", t.lease_ms)?;
        writeln!(o, "handle_recycle_secs = {}\n", t.handle_recycle_secs)?;
        writeln!(o, "[security]")?;
        writeln!(
            o,
            "# 32 random bytes, the same file on every host; needed as soon as one address is not loopback"
        )?;
        match &self.key_file {
            Some(k) => writeln!(o, "key_file = {}\n", quote(&k.to_string_lossy()))?,
            None => writeln!(o, "# key_file = \"/etc/pvfs2/key\"\n")?,
        }
        writeln!(o, "[durability]")?;
        writeln!(o, "# true: every metadata reply waits for the disk (PVFS2's TroveSyncMeta)")?;
        writeln!(o, "sync_meta = {}", self.sync_meta)?;
        writeln!(
            o,
            "\n# Servers. Their order is their number: add new ones at the end, never reorder."
        )?;
        writeln!(
            o,
            "# keyval = \"fjall\" in one keeps its keys and values by that method instead of sled (set it\n\
             # before mkfs); meta_memory_bytes bounds the memory of its metadata ({META_MEMORY_BYTES})"
        )?;
        for s in &self.servers {
            let roles: Vec<&str> = s.roles().split(',').collect();
            writeln!(o, "\n[[servers]]")?;
            writeln!(o, "alias = {}", quote(&s.alias))?;
            writeln!(o, "roles = {}", list(roles.iter()))?;
            writeln!(o, "addresses = {}", list(s.addresses.iter()))?;
            writeln!(o, "storage = {}", quote(&s.storage.to_string_lossy()))?;
            if let Some(m) = &s.management {
                writeln!(o, "management = {}", quote(m))?;
            }
            if s.keyval != KeyvalMethod::default() {
                writeln!(o, "keyval = {}", quote(s.keyval.name()))?;
            }
            if s.meta_memory_bytes != META_MEMORY_BYTES {
                writeln!(o, "meta_memory_bytes = {}", s.meta_memory_bytes)?;
            }
            if let Some(r) = &s.meta_range {
                writeln!(o, "meta_range = \"{}\"", show_range(r))?;
            }
            if let Some(r) = &s.io_range {
                writeln!(o, "io_range = \"{}\"", show_range(r))?;
            }
        }
        Ok(())
    }
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list<T: AsRef<str>>(items: impl Iterator<Item = T>) -> String {
    format!("[{}]", items.map(|i| quote(i.as_ref())).collect::<Vec<_>>().join(", "))
}
