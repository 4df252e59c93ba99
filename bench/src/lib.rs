//! Benchmarks of single parts; what a whole cluster does is measured by
//! `bench/compare.sh`.
//!
//! - `benches/proto.rs`: distributions, frame headers, message heads, CRC-32
//! - `benches/trove.rs`: transactions, lookups, datafiles
//!
//! Run all with `cargo bench -p pvfs2-bench`, one with `cargo bench -p pvfs2-bench -- NAME`. The
//! data for a benchmark comes from here, so that numbers stay comparable.
pub mod noise;

pub use noise::noise;
