//! Quotas: what users, groups and directory trees take, and how much they may.
//!
//! Owner of: the tables in memory (`table.rs`, one per server) and the limits (`U` records, the same
//! on every metadata server; the first one's are the truth, and it tells the others). How room moves
//! between servers stands in `room.rs`, what is checked before which operation in `check.rs`.
//!
//! Where it is enforced: before every operation that makes objects or lets them grow
//! ([`crate::server::MetaServer::quota_check`]); a writer of datafiles asks for room in large steps
//! (`quota_reserve`). What has been written is always recorded, also beyond a limit.
mod check;
mod limits;
mod room;
mod table;

pub(crate) use limits::tell_others;
pub(crate) use table::{Amount, Charge, Id, Table, ids};
