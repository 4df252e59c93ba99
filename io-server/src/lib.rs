//! The I/O server: datafiles, and one file per operation on them.
//!
//! Place in the walks: read and write pass [`ops`] between `server-core`'s sessions and Trove's
//! bstreams. The server knows datahandles and physical offsets only; which byte of which file lies
//! there is the client's business (`proto::dist`).
//!
//! - [`server`]: [`IoServer`], what it owns, its background work, its end
//! - [`extents`]: lists of extents off the network, checked before anything else looks at them
//! - [`locks`]: exclusion of writers of one datafile
//! - [`ops`]: the operations
pub mod extents;
pub mod locks;
pub mod ops;
pub mod server;

pub use server::{IoConfig, IoServer};
