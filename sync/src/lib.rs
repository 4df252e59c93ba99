//! The thin sync service.
pub mod names;
pub mod plan;
pub mod rng;
pub mod tree;
