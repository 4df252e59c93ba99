//! `pvfs2 bench ior`: bandwidth of one shared file or a file per client, in IOR's words.
//!
//! - [`args`]: the command line, as IOR's
//! - [`pattern`]: which transfers a client makes, in which order
//! - [`work`]: a client's side of a phase
//! - [`lead`]: the coordinator's: repetitions, phases, results
//! - [`report`]: IOR's tables, percentiles, summary files
pub mod args;
pub mod lead;
pub mod pattern;
pub mod report;
pub mod work;

pub use args::IorArgs;
pub use lead::{Results, measure, run};
pub use pattern::{Kind, Phase, Spec};
pub use work::Worker;
