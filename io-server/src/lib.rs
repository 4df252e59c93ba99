//! The I/O server: datafiles, and one file per operation on them.
//!
//! Place in the walks: read and write pass [`ops`] between `server-core`'s sessions and Trove's
//! bstreams. The server knows datahandles and physical offsets only; which byte of which file lies
//! there is the client's business (`proto::dist`).
//!
//! - [`server`]: [`IoServer`], its life and its background work
//! - [`state`]: what the operations share
//! - [`ahead`]: what will probably be read soon is read by the disk now
//! - [`extents`]: lists of extents off the network, checked before anything else looks at them
//! - [`locks`]: exclusion of writers of one datafile
//! - [`ops`]: the operations
//! - [`scrub`]: finds damage before somebody reads it
pub mod ahead;
pub mod extents;
pub mod locks;
pub mod ops;
pub mod scrub;
pub mod server;
pub mod state;

pub use server::{IoConfig, IoServer};
