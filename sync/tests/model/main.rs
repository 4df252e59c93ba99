//! The sync service over files in memory and a net that is simulated: no clock, no socket, no disk.
#![allow(clippy::unwrap_used)] // all test: a panic is a verdict
mod delta;
mod memory;
mod net;
mod planner;
mod sealed;
mod traps;
mod vaults;
mod whole;
