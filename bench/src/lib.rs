//! Measuring: the harness behind `pvfs2 bench ...`, and the data of the micro-benchmarks.
//!
//! The harness: a coordinator ([`fleet`]) starts clients as processes of their own ([`worker`], here
//! or through [`agent`]s on other hosts), leads them phase by phase from one barrier to the next, and
//! puts their answers together.
//!
//! - [`args`]: what all subcommands share on the command line, and their list
//! - [`host`]: what the program gives the harness: a client of a file system, its own executable
//! - [`api`]: POSIX calls or `client-lib`, behind one set of operations
//! - [`job`]: the messages between coordinator and worker
//! - [`fleet`], [`worker`]: the two ends; [`agent`], [`link`]: workers on other hosts
//! - [`ior`]: bandwidth in IOR's terms; [`mdtest`]: metadata in mdtest's terms
//! - [`ceiling`]: what this machine can do, and results as shares of it
//! - [`paper`]: the article's experiments, with [`chart`]s and a report
//! - [`stamp`]: bytes that know where they belong; [`hist`]: latencies; [`table`]: how results are
//!   printed and summed up; [`progress`]: the live line
//! - [`mod@noise`]: bytes for the micro-benchmarks in `bench/benches` (`cargo bench -p pvfs2-bench`)
//! - `benches/million.rs`: a million files in one directory; a program of its own, see its head
//!
//! Whole file systems side by side are measured by `bench/compare.sh`.
pub mod agent;
pub mod api;
pub mod args;
pub mod ceiling;
pub mod chart;
pub mod fleet;
pub mod hist;
pub mod host;
pub mod ior;
pub mod job;
pub mod link;
pub mod mdtest;
pub mod noise;
pub mod paper;
pub mod progress;
pub mod stamp;
pub mod table;
pub mod worker;

pub use args::{BenchArgs, run};
pub use host::Host;
pub use noise::noise;
