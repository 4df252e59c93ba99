//! Whole-cluster tests: what they share.
//!
//! The tests themselves lie in `tests/tests`: `mounted` (real processes, real mounts, kill -9),
//! `sim` (client and servers in one thread, faults and order drawn from one seed) and `tidy` (rules of
//! the house). `tests/programs` holds the real programs that must run on a mount.
//!
//! - [`runner`]: runs cases one after the other and reports skipped ones as skipped
//! - [`coherence`]: what two mounts promise each other, as a judge of any two directories
//! - [`cluster`]: servers as processes, each of which can be killed, stopped and started again
//! - [`mount`]: mounts that end on drop
//! - [`metrics`]: the servers' own counters
//! - [`pattern`]: bytes that know where they belong
//! - [`tree`]: a real source tree of 5,000 files
//! - [`twin`]: random histories on two mounts, beside a local directory
//! - [`wait`]: polling instead of sleeping
#![allow(clippy::unwrap_used, clippy::expect_used)] // this crate is all test: a panic is a verdict
pub mod cluster;
pub mod coherence;
pub mod metrics;
pub mod mount;
pub mod pattern;
pub mod runner;
pub mod tree;
pub mod twin;
pub mod wait;

pub use cluster::{Cluster, Spec};
pub use mount::Mount;
