//! What metadata servers and I/O servers share.
//!
//! - [`acl`]: POSIX ACLs
//! - [`fsck`]: the checker of `pvfs2 fsck` and the tests
//! - [`management`]: status, counters, parameters and drain for tools and Prometheus
//! - [`metrics`]: counters and latency histograms per operation
//! - [`peer`]: a server as a client of others
//! - [`prelude`]: access checks
//! - [`scheduler`]: readers share, writers exclude, per handle
//! - [`combined`]: both servers in one process
//! - [`service`]: from the network to an operation
//! - [`session`]: the session table with slots and kept replies
pub mod acl;
pub mod combined;
pub mod fsck;
pub mod management;
pub mod metrics;
pub mod peer;
pub mod prelude;
pub mod scheduler;
pub mod service;
pub mod session;
