//! The thin sync service: each user has a folder, and devices keep a chosen folder in step with it.
//! Files stay plain files on the mount (or on any POSIX directory); what is heavy is the file system's.
//!
//! Both sides decide by revision, hash and the state that both last agreed on, never by time. The two
//! halves meet in [`api`]; what each may rely on is in `docs/SYNC.md`.
//!
//! | module | holds |
//! |---|---|
//! | [`tree`], [`plan`] | the three trees, and the pure planner over them |
//! | [`delta`] | what of a new content the other side already has |
//! | [`files`] | files behind a trait: real ones beneath a root, simulated ones that fail |
//! | [`store`] | a user's table and files on the server, kept in step through crashes |
//! | [`server`] | accounts, API, pages, TLS |
//! | [`device`] | scan, engine, daemon, connection |
//! | [`vault`] | encrypted folders: names, contents, the key file |
//! | [`api`], [`error`], [`names`], [`rng`], [`secret`] | what travels; what can go wrong; names; chance; what no log shows |
//!
//! A change here reaches another device thus: `device/daemon` (a hint) -> `device/scan` -> [`plan`] ->
//! `device/remote_ops` -> `device/http` -> `server/api`, `server/content` -> [`store`] -> [`files`]; there,
//! the long poll of `server/api` wakes `device/daemon`, and `device/local_ops` puts the file in place.
pub mod api;
pub mod delta;
pub mod device;
pub mod error;
pub mod files;
pub mod names;
pub mod plan;
pub mod rng;
pub mod secret;
pub mod server;
pub mod store;
pub mod tree;
pub mod vault;
