//! BMI: addresses, connections, expected and unexpected messages, flows; methods tcp, unix, mem.
//!
//! - [`addr`] - addresses
//! - [`auth`] - the cluster's key, proofs, and who must prove it
//! - [`buf`] - pooled buffers
//! - [`call`] - what a client asks: calls, replies, the trait that carries them
//! - [`client`] - sessions and the two carriers, blocking and async
//! - [`flow`] - long bodies, piece by piece, bounded by credits
//! - [`mem`] - the in-process method with seeded faults
//! - [`region`] - memory that a client and a server of the same machine share
//! - [`server`] - accepting, greeting and serving connections
//! - [`service`] - what a server gives the network
pub mod addr;
pub mod auth;
pub mod buf;
pub mod call;
pub mod client;
pub mod flow;
pub mod lent;
pub mod mem;
mod out;
pub mod region;
pub mod server;
pub mod service;
mod stream;
mod unix;
mod wire;
