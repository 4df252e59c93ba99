//! The metadata server: metafiles, directories and the lists of datahandles.
//!
//! Place in the walks: create ends here (`ops/create.rs`), read and write begin here (open, layout,
//! size); see `ARCHITECTURE.md`.
//!
//! - [`server`]: state, start and stop, from an operation's number to its file
//! - `ops`: one operation, one file
//! - [`keys`]: every key and value of the keyval
//! - [`store`]: typed access to them; changes; handles to give out
//! - [`change`]: what one operation alters
//! - [`opens`]: who has which file open
//! - [`locks`]: who has locked which bytes
//! - `acl`: setting POSIX ACLs
//! - `names`: what every operation on a name begins with
//! - [`layouts`]: distribution and I/O servers of a new file
//! - [`datafiles`]: this server as a client of the I/O servers
//! - [`intents`], [`peer_steps`]: operations over several metadata servers, from both sides
//! - `linger`: what a rename replaced stays for a moment
//! - [`split`]: directories that grow over several servers
//! - `rights`: who may hold back what it writes; `name_rights`: who knows all names of a directory
//! - `reaper`: removes what has lost its last name and its last open
mod acl;
pub mod change;
pub mod datafiles;
pub mod intents;
pub mod keys;
pub mod layouts;
mod linger;
pub mod locks;
mod name_rights;
mod names;
pub mod opens;
mod ops;
pub mod peer_steps;
mod quota;
mod reaper;
mod rights;
pub mod server;
pub mod split;
pub mod store;

pub use server::{MetaConfig, MetaServer, PeerConfig};

#[cfg(test)]
mod tests;
