//! What every part of the file system shares: handles, attributes, distributions, the operations'
//! messages, the frame codec, errors, and the traits through which logic meets clock and chance.
//!
//! Nothing here touches a socket, a file or a clock. Place in the walks: every walk passes here.
//!
//! - [`handle`]: 64-bit handles and their ranges
//! - [`attr`]: attributes as stored and as sent
//! - [`dirmap`]: which names of a split directory lie where
//! - [`dist`][mod@dist]: distributions (logical to physical offsets)
//! - [`layout`]: which I/O servers a new file uses
//! - [`lock`]: byte-range locks of one owner
//! - [`op`]: the operations and their messages
//! - [`frame`]: the 32-byte header and its checks
//! - [`cluster`]: the map of servers that clients receive from `get_config`
//! - [`ioctl`][mod@ioctl]: what a mount can be asked by ioctl(2)
//! - [`keyval`]: the methods that can hold a server's keys and values
//! - [`error`]: error codes of the wire, numbered and never reused
//! - [`env`][mod@env]: clock and random numbers as traits
pub mod attr;
pub mod cluster;
pub mod crc;
pub mod dirmap;
pub mod dist;
pub mod env;
pub mod error;
pub mod frame;
pub mod handle;
pub mod ioctl;
pub mod keyval;
pub mod layout;
pub mod limits;
pub mod lock;
pub mod op;

pub use attr::{Attr, AttrFlags, FileLayout, SetAttr, TimeSpec};
pub use cluster::{ClusterMap, ServerEntry, ServerId};
pub use dirmap::DirMap;
pub use dist::Dist;
pub use error::{ErrorCode, PvfsError, Result};
pub use handle::{Handle, HandleRange};
pub use keyval::KeyvalMethod;
pub use lock::{Held, HeldList, LOCK_END, LockRange};
