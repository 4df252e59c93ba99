//! Limits in one place, so that prose and code can point at the same number.

/// Longest file name, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest path that a whole-path lookup takes, in bytes.
pub const PATH_MAX: usize = 4096;
/// Longest symlink target, in bytes.
pub const SYMLINK_MAX: usize = 4095;
/// Largest extended attribute value, in bytes.
pub const XATTR_VALUE_MAX: usize = 65_536;
/// Most bytes of the names of one object's extended attributes, each with the zero byte behind it
/// (the kernel lists no more).
pub const XATTR_LIST_MAX: usize = 65_536;
/// Largest POSIX ACL as an extended attribute, in bytes (the kernel of a client takes one page).
pub const ACL_BYTES_MAX: usize = 4_096;
/// Most hard links of one file.
pub const LINK_MAX: u32 = 65_000;
/// Largest file, in bytes (the kernel's own limit for a signed 64-bit offset).
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;
/// Default strip size: the piece on one datafile, in bytes.
pub const STRIP_SIZE_BYTES: u64 = 65_536;
/// Default for `small_file_bytes`: files up to this size live with their metafile.
pub const SMALL_FILE_BYTES: u64 = 16_384;
/// Largest head of a frame, in bytes.
pub const HEAD_MAX: usize = 4 << 20;
/// Largest body of one frame, in bytes; more travels as a flow.
pub const BODY_MAX: usize = 1 << 20;
/// Size of one flow buffer, in bytes (PVFS2's FlowBufferSizeBytes).
pub const FLOW_BUFFER_BYTES: usize = 256 << 10;
/// Flow buffers in flight (PVFS2's FlowBuffersPerFlow).
pub const FLOW_BUFFERS: usize = 8;
/// Slots of one session: requests that may be in flight with exactly-once standing.
pub const SESSION_SLOTS: u32 = 64;
/// Entries that one readdir reply holds at most.
pub const READDIR_MAX: u32 = 1_024;
/// Extents that one list I/O request holds at most.
pub const IO_EXTENTS_MAX: usize = 65_536;
/// Bytes that one io_read or io_write moves at most.
pub const IO_BYTES_MAX: u64 = 64 << 20;
/// Datafiles that one io_read names as probably read soon, at most.
pub const AHEAD_FILES_MAX: usize = 64;
/// Bytes of each of them that are read ahead at most.
pub const AHEAD_BYTES_MAX: u64 = 1 << 20;
/// Datahandles that one df_stat, df_sync, df_remove or df_list holds at most.
pub const DATAHANDLES_MAX: usize = 16_384;
/// Byte-range locks that one session may hold or wait for on one metadata server.
pub const LOCKS_PER_SESSION_MAX: usize = 65_536;

/// Default for `dir_servers_max`: metadata servers over which a directory spreads at most (PVFS2's
/// DistrDirServersMax).
pub const DIR_SERVERS_MAX: u32 = 4;
/// Default for `dir_split_entries`: names with which a directory splits (PVFS2's DistrDirSplitSize).
pub const DIR_SPLIT_ENTRIES: u64 = 10_000;
