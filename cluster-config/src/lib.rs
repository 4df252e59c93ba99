//! The cluster file: one TOML file that names the file system, its servers with addresses, roles,
//! storage and handle ranges, the defaults of new files, timeouts and security.
//!
//! Servers read it; clients get what they need of it (a `ClusterMap`) from any server. Place in the
//! walks: mount (cli -> cluster-config -> client-lib -> fuse-mount).
//!
//! - [`model`]: the cluster as typed values, and its `ClusterMap`
//! - [`parse`]: text to [`Cluster`], with the line and the remedy in every complaint
//! - [`validate`]: what must hold between the parts
//! - [`generate`]: a new cluster (`genconfig`, `quickstart`) and its text with comments
//! - [`spec`]: what a mount names: `tcp://host:3334/pvfs2-fs[/sub/dir]`
//! - [`error`]: what can be wrong with it
pub mod error;
pub mod generate;
pub mod model;
pub mod parse;
pub mod spec;
pub mod validate;

pub use error::ConfigError;
pub use generate::{Generate, NewServer};
pub use model::{Cluster, Defaults, META_MEMORY_BYTES, Server, Timeouts};
pub use spec::MountSpec;
