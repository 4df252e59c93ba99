//! The redo journal: every transaction is first one record here; the journal is the truth about
//! order, and the keyval only follows it.
//!
//! Place in the walks: create and every other metadata operation, just before the reply.
//! Invariants: indices have no gaps; a record is appended by one `write(2)` and survives `kill -9`
//! from then on; after [`Journal::sync`] it survives loss of power; a failed append leaves the
//! journal as it was; what the checkpoint covers may be dropped, nothing else.
//!
//! - [`record`]: one record's bytes
//! - [`segment`]: segment files and the checkpoint file
//! - [`recovery`]: reading it all back after a stop of any kind
//! - [`disk`]: the journal on disk
//! - [`memory`]: the same in memory, with loss of power at any record
pub mod disk;
pub mod memory;
pub mod record;
pub mod recovery;
pub mod segment;

use crate::error::Result;
use record::Change;

/// A journal of some method.
pub trait Journal: Send + Sync {
    /// Appends a transaction and gives its index.
    ///
    /// # Errors
    /// `NoSpace` and others: the journal is as before. `Poisoned`: nothing works any more.
    fn append(&self, changes: &[Change]) -> Result<u64>;
    /// Makes everything appended so far durable against loss of power; gives the highest such index.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// The journal is poisoned from then on: what the disk kept is unknown.
    fn sync(&self) -> Result<u64>;
    /// The highest index appended.
    fn last_index(&self) -> u64;
    /// The highest index known durable.
    fn durable_index(&self) -> u64;
    /// Everything up to `index` is safe elsewhere: records that, then drops what it can.
    ///
    /// # Errors
    /// `Os`; nothing is lost.
    fn checkpoint(&self, index: u64) -> Result<()>;
    /// Forbids everything from now on.
    fn poison(&self, why: &str);
}

#[cfg(test)]
mod tests;
