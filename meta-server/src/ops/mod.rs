//! One operation, one file. Each begins with its states, what is durable when the reply leaves, what
//! is rolled back, and its errors. Trove's errors (`Io`, `NoSpace`, `Damaged`) can come from any of
//! them and are not repeated there.
pub(crate) mod append;
pub(crate) mod crdir;
pub(crate) mod create;
pub(crate) mod fallocate;
pub(crate) mod fsck_scan;
pub(crate) mod fsync;
pub(crate) mod getattr;
pub(crate) mod getxattr;
pub(crate) mod intent_status;
pub(crate) mod link;
pub(crate) mod link_count;
pub(crate) mod listxattr;
pub(crate) mod lookup;
pub(crate) mod mkdir;
pub(crate) mod mknod;
pub(crate) mod open;
pub(crate) mod read_small;
pub(crate) mod readdir;
pub(crate) mod readlink;
pub(crate) mod release;
pub(crate) mod removexattr;
pub(crate) mod rename;
pub(crate) mod rename_far;
pub(crate) mod rename_peer;
pub(crate) mod report;
pub(crate) mod rmdir;
pub(crate) mod rmdir_peer;
pub(crate) mod setattr;
pub(crate) mod setxattr;
pub(crate) mod statfs;
pub(crate) mod symlink;
pub(crate) mod tree_lock;
pub(crate) mod unlink;
pub(crate) mod unstuff;
pub(crate) mod write_small;
