//! The system interface: every operation of the file system as a state machine, the runner that
//! drives them, the caches, and the background thread.
//!
//! Place in the walks: between `fuse-mount` (or a tool) and `bmi-net`. All behaviour of a mount
//! sits here and is tested without a kernel; nothing here reads a clock, draws random numbers or
//! opens a socket except through [`pvfs2_proto::env::Env`] and [`pvfs2_bmi::call::Net`]. The one
//! thread is [`background`]'s.
//!
//! - [`client`][]: the shared client object and its configuration
//! - [`machine`][]: state machines, the state of an operation, the runner
//! - [`tickets`][]: exchanges with servers, exactly once
//! - [`sys`][]: one file per operation
//! - [`attrs`][]: attributes with the size made exact
//! - [`io_plan`][]: a range of a file as extents of datafiles
//! - [`open_table`][]: what is open, and what this client wrote and has not yet reported
//! - [`joining`][]: small writes that are held back and sent as one
//! - [`locks`][]: what is locked, and what is still to be given back
//! - [`ncache`], [`acache`][]: names and attributes
//! - [`name_rights`][]: directories whose names are all known
//! - [`statahead`][]: directories whose names are looked up one after another are listed
//! - [`fileahead`][]: files that are read one after another: servers are told which come next
//! - [`dirmaps`][]: which part of a split directory to ask for a name
//! - [`timed_map`][]: the bounded map with timeouts under both caches
//! - [`background`][]: the thread for what no program waits for
//! - [`metrics`][]: counters and latency histograms per operation
pub mod acache;
pub mod attrs;
pub mod background;
pub mod client;
pub mod dirmaps;
pub mod fileahead;
pub mod io_plan;
pub mod joining;
pub mod locks;
pub mod machine;
pub mod metrics;
pub mod name_rights;
pub mod ncache;
pub mod open_table;
pub mod statahead;
pub mod sys;
pub mod tickets;
pub mod timed_map;

pub use background::Background;
pub use client::{Client, ClientConfig};
pub use machine::{Cx, Machine, OpState, Step, drive_now, run};
pub use open_table::OpenFile;
