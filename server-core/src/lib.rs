//! What metadata servers and I/O servers share.
//!
//! - [`metrics`]: counters and latency histograms per operation
pub mod metrics;
