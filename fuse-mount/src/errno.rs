//! The one table from error codes of the wire to errnos, and its text for `pvfs2 perror`.
//!
//! Place in the walks: the last step of every operation that failed; nothing else in the project
//! knows errnos of a mount. Invariant: the match has no wildcard arm, so a new code does not
//! compile until somebody has decided what a program shall see.
use pvfs2_proto::ErrorCode;

/// The errno that a program on the mount sees for `code`.
pub fn to_errno(code: ErrorCode) -> i32 {
    match code {
        ErrorCode::NotFound => libc::ENOENT,
        ErrorCode::Exists => libc::EEXIST,
        ErrorCode::Access => libc::EACCES,
        ErrorCode::NotPermitted => libc::EPERM,
        ErrorCode::NotDirectory => libc::ENOTDIR,
        ErrorCode::IsDirectory => libc::EISDIR,
        ErrorCode::NotEmpty => libc::ENOTEMPTY,
        ErrorCode::Invalid => libc::EINVAL,
        ErrorCode::NameTooLong => libc::ENAMETOOLONG,
        ErrorCode::NoSpace => libc::ENOSPC,
        ErrorCode::Quota => libc::EDQUOT,
        ErrorCode::TooManyLinks => libc::EMLINK,
        ErrorCode::Io => libc::EIO,
        ErrorCode::Damaged => libc::EIO,
        ErrorCode::Stale => libc::ESTALE,
        ErrorCode::NoAttribute => libc::ENODATA,
        ErrorCode::Range => libc::ERANGE,
        ErrorCode::NotSupported => libc::EOPNOTSUPP,
        ErrorCode::FileTooBig => libc::EFBIG,
        ErrorCode::Busy => libc::EAGAIN,
        ErrorCode::Interrupted => libc::EINTR,
        ErrorCode::Protocol => libc::EPROTO,
        ErrorCode::Version => libc::EPROTONOSUPPORT,
        ErrorCode::Unauthenticated => libc::EACCES,
        ErrorCode::WrongFileSystem => libc::EINVAL,
        // The next three are settled by the client's retries; a program that still meets one has
        // met a fault of input or output.
        ErrorCode::BadSession => libc::EIO,
        ErrorCode::NotStuffed => libc::EIO,
        ErrorCode::Unreachable => libc::EIO,
        ErrorCode::CrossDevice => libc::EXDEV,
        ErrorCode::ReadOnly => libc::EROFS,
        ErrorCode::InUse => libc::EBUSY,
        ErrorCode::NoData => libc::ENXIO,
        ErrorCode::Loop => libc::ELOOP,
        ErrorCode::TooBig => libc::E2BIG,
        ErrorCode::Deadlock => libc::EDEADLK,
        ErrorCode::Locked => libc::EAGAIN,
        ErrorCode::NoLocks => libc::ENOLCK,
        // Settled by the client, which takes the directory's map anew.
        ErrorCode::Moved => libc::EIO,
        // Never leaves the dispatcher, which sends the operation to the background.
        ErrorCode::Stalled => libc::EIO,
    }
}

/// One sentence for people about `code`, for `pvfs2 perror`.
pub fn text(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::NotFound => "no such name or object",
        ErrorCode::Exists => "the name exists already",
        ErrorCode::Access => "permission denied by mode bits",
        ErrorCode::NotPermitted => "only the owner or root may do this",
        ErrorCode::NotDirectory => "a component of the path is not a directory",
        ErrorCode::IsDirectory => "the object is a directory",
        ErrorCode::NotEmpty => "the directory is not empty",
        ErrorCode::Invalid => "a value is out of its range",
        ErrorCode::NameTooLong => "the name is longer than 255 bytes",
        ErrorCode::NoSpace => "no space left on a server",
        ErrorCode::Quota => "the quota is used up",
        ErrorCode::TooManyLinks => "the object has too many names",
        ErrorCode::Io => {
            "input/output error on a server, or a server out of reach after all retries"
        }
        ErrorCode::Damaged => {
            "bytes do not match their checksum; the message names file and server"
        }
        ErrorCode::Stale => "the handle names nothing any more",
        ErrorCode::NoAttribute => "no such extended attribute",
        ErrorCode::Range => "the value does not fit into the buffer",
        ErrorCode::NotSupported => "the operation or the option is not supported",
        ErrorCode::FileTooBig => "the file would be too large",
        ErrorCode::Busy => "the server is busy or in its grace time; ask again",
        ErrorCode::Interrupted => "interrupted because the caller is being killed",
        ErrorCode::Protocol => "the peer broke the protocol",
        ErrorCode::Version => "the peer speaks no protocol version that this program speaks",
        ErrorCode::Unauthenticated => "the peer did not prove the cluster's key",
        ErrorCode::WrongFileSystem => "another file system or server answers at this address",
        ErrorCode::BadSession => "the session has expired or is unknown",
        ErrorCode::NotStuffed => "the file's bytes have moved to datafiles",
        ErrorCode::CrossDevice => "the two names are in different file systems",
        ErrorCode::ReadOnly => "the file system is mounted read-only",
        ErrorCode::Unreachable => "a server cannot be reached",
        ErrorCode::InUse => "the object is in use",
        ErrorCode::NoData => "there is no data, or no hole, from this offset on",
        ErrorCode::Loop => "too many symlinks, or a symlink where none may be",
        ErrorCode::TooBig => "the argument is too large",
        ErrorCode::Deadlock => "the lock would deadlock",
        ErrorCode::Locked => "another owner holds a lock on these bytes",
        ErrorCode::NoLocks => "this client has too many locks",
        ErrorCode::Moved => "the name lies on another part of its directory; ask again",
        ErrorCode::Stalled => "the answer is late; the operation goes on in the background",
    }
}

/// The name of an errno that [`to_errno`] gives, for messages.
pub fn errno_name(errno: i32) -> &'static str {
    const NAMES: &[(i32, &str)] = &[
        (libc::ENOENT, "ENOENT"),
        (libc::EEXIST, "EEXIST"),
        (libc::EACCES, "EACCES"),
        (libc::EPERM, "EPERM"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EISDIR, "EISDIR"),
        (libc::ENOTEMPTY, "ENOTEMPTY"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENAMETOOLONG, "ENAMETOOLONG"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EDQUOT, "EDQUOT"),
        (libc::EMLINK, "EMLINK"),
        (libc::EIO, "EIO"),
        (libc::ESTALE, "ESTALE"),
        (libc::ENODATA, "ENODATA"),
        (libc::ERANGE, "ERANGE"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::EFBIG, "EFBIG"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::EINTR, "EINTR"),
        (libc::EPROTO, "EPROTO"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
        (libc::EXDEV, "EXDEV"),
        (libc::EROFS, "EROFS"),
        (libc::EBUSY, "EBUSY"),
        (libc::ENXIO, "ENXIO"),
        (libc::ELOOP, "ELOOP"),
        (libc::E2BIG, "E2BIG"),
        (libc::EDEADLK, "EDEADLK"),
        (libc::ENOLCK, "ENOLCK"),
    ];
    NAMES.iter().find(|(n, _)| *n == errno).map_or("?", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_has_a_real_errno_with_a_name() {
        for &code in ErrorCode::ALL {
            let errno = to_errno(code);
            assert!(errno > 0, "{code}");
            assert_ne!(errno_name(errno), "?", "{code}");
        }
    }

    #[test]
    fn every_code_has_a_text_of_its_own() {
        let mut seen = HashSet::new();
        for &code in ErrorCode::ALL {
            assert!(!text(code).is_empty());
            assert!(seen.insert(text(code)), "{code}");
        }
    }

    #[test]
    fn what_programs_rely_on() {
        assert_eq!(to_errno(ErrorCode::NotFound), libc::ENOENT);
        assert_eq!(to_errno(ErrorCode::NotPermitted), libc::EPERM);
        assert_eq!(to_errno(ErrorCode::NoAttribute), libc::ENODATA);
        assert_eq!(to_errno(ErrorCode::Unreachable), libc::EIO);
    }
}
