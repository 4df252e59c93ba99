//! Errors as they cross the wire: a numbered code (never reused) and a sentence that says what
//! happened, to which file or server, and what to do.
//!
//! The table code -> errno stands in `fuse-mount`, the only place that knows errnos of a mount;
//! tools use the same table through it.
use std::borrow::Cow;
use std::fmt;

/// Result of everything that can fail across the wire.
pub type Result<T, E = PvfsError> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $num:literal),* $(,)?) => {
        /// Error codes of the wire. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum ErrorCode { $($(#[$doc])* $name = $num),* }
        impl ErrorCode {
            /// Every code, in order of its number.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name),*];
            /// The code for a number off the wire; an unknown number is [`ErrorCode::Io`].
            pub fn from_wire(raw: u32) -> ErrorCode {
                match raw { $($num => ErrorCode::$name,)* _ => ErrorCode::Io }
            }
            /// The code's name in messages, logs and `perror`.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$name => stringify!($name)),* }
            }
        }
    };
}

codes! {
    /// No such name or object (ENOENT).
    NotFound = 1,
    /// The name exists already (EEXIST).
    Exists = 2,
    /// Permission denied by mode bits or ACL (EACCES).
    Access = 3,
    /// Not the owner, or an operation only root may do (EPERM).
    NotPermitted = 4,
    /// A path component is not a directory (ENOTDIR).
    NotDirectory = 5,
    /// The object is a directory (EISDIR).
    IsDirectory = 6,
    /// The directory is not empty (ENOTEMPTY).
    NotEmpty = 7,
    /// A value out of its range (EINVAL).
    Invalid = 8,
    /// The name is longer than 255 bytes (ENAMETOOLONG).
    NameTooLong = 9,
    /// No space on a server (ENOSPC).
    NoSpace = 10,
    /// Quota used up (EDQUOT).
    Quota = 11,
    /// Too many links (EMLINK).
    TooManyLinks = 12,
    /// Input/output error on a server's disk, or a server out of reach after all retries (EIO).
    Io = 13,
    /// Bytes do not match their checksum (EIO); the detail names the file and the server.
    Damaged = 14,
    /// The handle names nothing any more (ESTALE).
    Stale = 15,
    /// No such extended attribute (ENODATA).
    NoAttribute = 16,
    /// The value does not fit (ERANGE).
    Range = 17,
    /// The operation or the option is not supported (EOPNOTSUPP).
    NotSupported = 18,
    /// The file would be too large (EFBIG).
    FileTooBig = 19,
    /// The server is busy or in its grace time: ask again (EAGAIN).
    Busy = 20,
    /// Interrupted because the caller is being killed (EINTR).
    Interrupted = 21,
    /// The peer broke the protocol (EPROTO).
    Protocol = 22,
    /// The peer speaks no version that this one speaks (EPROTONOSUPPORT).
    Version = 23,
    /// The peer did not prove the cluster's key (EACCES on mount).
    Unauthenticated = 24,
    /// Another file system, or another server, answers at this address (EINVAL on mount).
    WrongFileSystem = 25,
    /// The session has expired or is unknown: say hello again (retried by the client).
    BadSession = 26,
    /// The file's bytes have moved to datafiles: take the layout that comes along (retried).
    NotStuffed = 27,
    /// A cross-device or cross-file-system operation (EXDEV).
    CrossDevice = 28,
    /// Read-only file system (EROFS).
    ReadOnly = 29,
    /// Out of reach: the connection failed before an answer came (retried, then EIO).
    Unreachable = 30,
    /// Text file busy or object in use (EBUSY).
    InUse = 31,
    /// No data or hole beyond this offset (ENXIO).
    NoData = 32,
    /// A symlink loop, or a symlink where none may be (ELOOP).
    Loop = 33,
    /// The argument list is too large (E2BIG).
    TooBig = 34,
    /// A lock would deadlock (EDEADLK).
    Deadlock = 35,
    /// The answer did not come while the caller's thread could wait; the operation goes on
    /// elsewhere. Never crosses the wire.
    Stalled = 36,
    /// Another owner holds a lock on these bytes (EAGAIN).
    Locked = 40,
    /// Too many locks (ENOLCK).
    NoLocks = 41,
    /// The name lies on another part of the split directory: take its map anew (retried).
    Moved = 37,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error with its sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct PvfsError {
    /// What kind of error.
    pub code: ErrorCode,
    /// What happened, where, what to do.
    pub detail: Cow<'static, str>,
}

impl PvfsError {
    /// An error with its sentence.
    pub fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        PvfsError { code, detail: detail.into() }
    }
    /// Whether a client may send the same request again.
    pub fn is_retryable(&self) -> bool {
        matches!(self.code, ErrorCode::Unreachable | ErrorCode::Busy | ErrorCode::BadSession)
    }
}

impl From<ErrorCode> for PvfsError {
    fn from(code: ErrorCode) -> Self {
        PvfsError { code, detail: Cow::Borrowed("") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn codes_round_trip_and_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for &c in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_wire(c as u32), c);
            assert!(seen.insert(c as u32));
        }
        assert_eq!(ErrorCode::from_wire(60_000), ErrorCode::Io);
    }
}
