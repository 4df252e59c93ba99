//! The thin sync service.
pub mod api;
pub mod device;
pub mod error;
pub mod files;
pub mod names;
pub mod plan;
pub mod rng;
pub mod server;
pub mod store;
pub mod tree;
