//! The operations of the system interface, one file each.
//!
//! Each file opens with the operation's state table, what is durable when it has succeeded, and its
//! errors. Besides those named there, every operation can fail with `Io` or `Unreachable` (a server
//! is out of reach after all retries), `Interrupted` (the caller is being killed, or cancelled) and
//! `Stalled` (go on with another carrier).
//!
//! What many share stands here: keeping the caches right after an answer.
pub mod append;
pub mod copy_range;
pub mod create;
pub mod fallocate;
pub mod flush;
pub mod fsync;
pub mod fsync_many;
pub mod getattr;
pub mod getlk;
pub mod getxattr;
pub mod give_back;
pub mod link;
pub mod listxattr;
pub mod lock;
pub mod lookup;
pub mod lookup_path;
pub mod lseek;
pub mod mkdir;
pub mod mknod;
pub mod open;
pub mod parent;
pub mod quota;
pub mod read;
pub mod readdir;
pub mod readlink;
pub mod release;
pub mod removexattr;
pub mod rename;
pub mod rmdir;
pub mod setattr;
pub mod setxattr;
pub mod statfs;
pub mod symlink;
pub mod unlink;
pub mod write;

pub use append::Append;
pub use copy_range::CopyRange;
pub use create::{Create, Created};
pub use fallocate::Fallocate;
pub use flush::Flush;
pub use fsync::Fsync;
pub use fsync_many::FsyncMany;
pub use getattr::Getattr;
pub use getlk::Getlk;
pub use getxattr::Getxattr;
pub use give_back::GiveBackRight;
pub use link::Link;
pub use listxattr::Listxattr;
pub use lock::{GiveBack, Lock, Locked};
pub use lookup::Lookup;
pub use lookup_path::LookupPath;
pub use lseek::{Lseek, Whence};
pub use mkdir::Mkdir;
pub use mknod::Mknod;
pub use open::Open;
pub use parent::Parent;
pub use quota::{QuotaGet, QuotaMark, QuotaSet};
pub use read::{Read, read_into};
pub use readdir::{DirHandle, Readdir, ReaddirPage};
pub use readlink::Readlink;
pub use release::{Release, ReleaseBatch};
pub use removexattr::Removexattr;
pub use rename::Rename;
pub use rmdir::Rmdir;
pub use setattr::Setattr;
pub use setxattr::Setxattr;
pub use statfs::{Statfs, StatfsOut};
pub use symlink::Symlink;
pub use unlink::Unlink;
pub use write::{Write, write_from};

use crate::attrs::merge_own;
use crate::client::Client;
use crate::machine::{Cx, pause};
use crate::ncache::Cached;
use crate::open_table::{FileState, Hold, Report};
use bytes::Bytes;
use pvfs2_bmi::call::Net;
use pvfs2_proto::{Attr, ErrorCode, Handle, PvfsError, Result};
use std::sync::Arc;
use std::time::Duration;

/// An operation that was begun with memory lent by its caller.
pub enum Lent<T, M> {
    /// It succeeded.
    Done(T),
    /// No answer in time: drive this machine, which owns its memory, with the same [`OpState`]
    /// and another carrier.
    ///
    /// [`OpState`]: crate::machine::OpState
    Stalled(M),
}

/// Takes in the attributes of an answered change; whether their size is exact.
pub(crate) fn keep(client: &Client, attr: &mut Attr) -> bool {
    if let Some(file) = client.opens().get(attr.handle()) {
        file.learn(attr);
    }
    let exact = merge_own(client, client.opens().closes(), attr);
    if exact {
        client.acache().fill(attr, client.env().now_ns());
    } else {
        client.acache().drop_handle(attr.handle());
    }
    exact
}

/// When a question was sent, as far as its answer can be overtaken.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    moment: u64,
    closes: u64,
}

/// To be called before a question is sent whose answer goes to [`keep_since`].
pub(crate) fn asked(client: &Client) -> Asked {
    Asked { moment: client.acache().moment(), closes: client.opens().closes() }
}

/// As [`keep`] for the answer to a question: it may be older than what was dropped or closed since,
/// so then it is not cached.
pub(crate) fn keep_since(client: &Client, asked: Asked, attr: &mut Attr) -> bool {
    let overtaken = client.acache().is_dropped_since(asked.moment, attr.handle());
    if client.opens().closes() == asked.closes && !overtaken {
        return keep(client, attr);
    }
    merge_own(client, asked.closes, attr)
}

/// Takes in attributes where the answer may bring none.
pub(crate) fn keep_or_drop(client: &Client, handle: Handle, attr: Option<Attr>) {
    match attr {
        Some(mut attr) => {
            keep(client, &mut attr);
        }
        None => client.acache().drop_handle(handle),
    }
}

/// A name was made in `dir`, whose attributes the answer may have brought; whether the size in its
/// object's attributes is exact.
pub(crate) fn named(
    client: &Client,
    dir: Handle,
    name: &Bytes,
    attr: &mut Attr,
    dir_attr: Option<Attr>,
) -> bool {
    let now_ns = client.env().now_ns();
    client.ncache().set(dir, name, Cached::Handle(attr.handle()), now_ns);
    dir_changed(client, dir, dir_attr);
    keep(client, attr)
}

/// A name of `dir` is gone.
pub(crate) fn unnamed(client: &Client, dir: Handle, name: &Bytes, dir_attr: Option<Attr>) {
    client.ncache().set(dir, name, Cached::Absent, client.env().now_ns());
    dir_changed(client, dir, dir_attr);
}

/// A directory changed. The kernel asks for its attributes after every change: those that came with
/// the answer save a request. A part's (of a split directory) say nothing of the whole.
pub(crate) fn dir_changed(client: &Client, dir: Handle, dir_attr: Option<Attr>) {
    keep_or_drop(client, dir, dir_attr.filter(|attr| attr.handle() == dir));
}

/// A change of `name` in `dir` failed: drops what the caches say against it.
pub(crate) fn name_failed(client: &Client, dir: Handle, name: &Bytes, e: &PvfsError) {
    client.ncache().drop_name(dir, name);
    if matches!(e.code, ErrorCode::Stale) {
        client.acache().drop_handle(dir);
    }
}

/// An operation on `handle` failed: drops what the caches say against it.
pub(crate) fn object_failed(client: &Client, handle: Handle, e: &PvfsError) {
    if matches!(e.code, ErrorCode::Stale | ErrorCode::NotFound | ErrorCode::NotStuffed) {
        client.acache().drop_handle(handle);
    }
}

/// How long a FUSE thread waits for a report under way before its operation moves elsewhere.
const QUIET_WAIT: Duration = Duration::from_millis(100);
/// How often a waiting operation looks again.
const QUIET_POLL: Duration = Duration::from_millis(1);

/// Bars reports of a file while its size or mtime is changed; see `open_table.rs`.
///
/// # Errors
/// `Stalled` where the thread cannot wait any longer.
pub(crate) async fn hold<N: Net>(_cx: &mut Cx<'_, N>, file: &Arc<FileState>) -> Result<Hold> {
    if let Some(hold) = file.try_hold() {
        return Ok(hold);
    }
    if tokio::runtime::Handle::try_current().is_err() {
        file.wait_quiet(QUIET_WAIT);
    }
    loop {
        match file.try_hold() {
            Some(hold) => return Ok(hold),
            None => pause(QUIET_POLL).await?,
        }
    }
}

/// Takes a file's report, waiting while its size or mtime is being changed.
///
/// # Errors
/// `Stalled` where the thread cannot wait.
pub(crate) async fn begin_report(file: &Arc<FileState>) -> Result<Report> {
    loop {
        match file.begin_report() {
            Some(report) => return Ok(report),
            None => pause(QUIET_POLL).await?,
        }
    }
}
