//! `pvfs2 bench mdtest`: rates of operations on names, in mdtest's words.
//!
//! - [`args`]: the command line, as mdtest's
//! - [`tree`]: which directories and items there are
//! - [`work`]: a client's side of a phase
//! - [`lead`]: the coordinator's side
//! - [`report`]: mdtest's table, percentiles, summary files
pub mod args;
pub mod lead;
pub mod report;
pub mod tree;
pub mod work;

pub use args::MdtestArgs;
pub use lead::{Results, measure, run};
pub use tree::{Phase, Spec, Step};
pub use work::Worker;
