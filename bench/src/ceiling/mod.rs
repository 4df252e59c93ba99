//! `pvfs2 bench ceiling`: what this machine can do, in the terms of `ior` and `mdtest`, so that their
//! results can be told as shares of it.
//!
//! - [`memfs`]: a FUSE file system with nothing behind it
//! - [`net`]: sockets, checksums, copies
//! - [`limits`]: which figure limits which result
//! - [`figures`]: the measuring
pub mod figures;
pub mod limits;
pub mod memfs;
pub mod net;

pub use figures::{CeilingArgs, for_ior, for_mdtest, run};
pub use limits::Ceiling;
