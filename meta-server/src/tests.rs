//! Tests of the metadata server without a network: real services around it, a fake I/O server in
//! memory, faults on demand, a clock that the test moves.
mod acls;
mod across;
mod basics;
mod crashes;
mod fake_io;
mod fsck;
mod harness;
mod model;
mod name_rights;
mod names;
mod once;
mod opening;
mod quotas;
mod renames;
mod rights;
mod sizes;
mod splits;
mod tree_lock;
mod xattrs;
