//! Trove: one server's storage space on a local disk, or in memory for simulations.
//!
//! Place in the walks: the last room of read and write ([`bstreams`]) and of create and every other
//! metadata operation ([`collection`]). Only this crate knows sled, fjall and local files.
//!
//! - [`space`]: one folder: `FORMAT`, lock, `keyval/`, `journal/`, `bstreams/`; opening and closing
//! - [`mod@format`]: the `FORMAT` file, the lock file and the clean-stop marker
//! - [`collection`]: transactions over keys and values; the journal is the truth
//! - [`journal`]: the append-only redo journal
//! - [`keyval`]: the narrow trait behind the collection, with methods `sled`, `fjall` and `memory`
//! - [`handles`]: handles out of a server's range
//! - [`bstreams`]: datafiles with their checksums
//! - [`scrub`]: verifies every strip at a bounded rate
//! - [`error`]: this crate's errors, converted once into `PvfsError`
//!
//! # Example
//! ```
//! use pvfs2_proto::env::Env;
//! use pvfs2_trove::collection::{Collection, Txn};
//! let c = Collection::memory(Env::real());
//! let mut t = Txn::new();
//! t.put(&b"\x01key"[..], &b"value"[..]);
//! let index = c.commit(t)?;
//! assert_eq!(c.get(b"\x01key")?.as_deref(), Some(&b"value"[..]));
//! c.sync_now(index)?;
//! # Ok::<(), pvfs2_proto::PvfsError>(())
//! ```
pub mod bstreams;
pub mod collection;
pub mod error;
pub mod format;
pub mod handles;
pub mod journal;
pub mod keyval;
pub mod scrub;
pub mod space;

pub use bstreams::Bstreams;
pub use collection::{Collection, Txn};
pub use format::FormatInfo;
pub use handles::HandleAllocator;
pub use space::{MemSpace, StorageSpace, TroveOptions};
