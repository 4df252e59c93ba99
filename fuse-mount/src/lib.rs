//! The FUSE side of the file system: a thin adapter between fuser 0.18 and `client-lib`.
//!
//! Nothing here decides what an operation means: a callback turns the kernel's request into one
//! machine of `client-lib`, runs it on the thread that took the request from the kernel, and turns
//! the outcome into the kernel's reply. This is the only crate that knows FUSE and errnos, and the
//! only place where the word inode is at home (an inode number is a handle).
//!
//! Place in the walks: read, write and create begin in [`fuse_ops`]; mount ends in [`mount`].
//!
//! - [`options`]: mount options (`-o`)
//! - [`mount`]: mounting, unmounting, stale mounts, the kernel's limits
//! - [`fuse_ops`]: one short function per callback of the kernel
//! - [`dispatch`]: runs a machine on this thread, or hands it to the background when it stalls
//! - [`loop_memory`]: memory of the event loops that servers of the same machine may read
//! - [`attrs`]: attributes as FUSE wants them
//! - [`inodes`]: what the kernel knows, with its lookup counts
//! - [`open_files`]: what the kernel has open
//! - [`dirs`]: open directories and their offsets
//! - [`errno`]: the one table from error codes to errnos
pub mod attrs;
pub mod dirs;
pub mod dispatch;
pub mod errno;
pub mod fuse_ops;
pub mod inodes;
mod linger;
pub mod loop_memory;
pub mod mount;
pub mod open_files;
pub mod options;
pub mod pages;
mod sys_mount;
