//! Trove's errors, and their one conversion into [`PvfsError`].
//!
//! Place in the walks: wherever a local file fails. A message says what was tried, on which file,
//! and what to do where that is known.
use pvfs2_proto::{ErrorCode, PvfsError};
use std::io;
use std::path::{Path, PathBuf};

/// Result inside Trove.
pub type Result<T, E = TroveError> = std::result::Result<T, E>;

/// What can fail in Trove.
#[derive(Debug, thiserror::Error)]
pub enum TroveError {
    /// A call to the operating system.
    #[error("cannot {what} {}: {source}", path.display())]
    Os {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder is not a storage space that this server may open.
    #[error("{0}")]
    Format(String),
    /// The storage space is already open in another process.
    #[error("{0}")]
    Locked(String),
    /// A record or a side file is damaged.
    #[error("{0}")]
    Damaged(String),
    /// An earlier failure forbids to go on.
    #[error("{0}")]
    Poisoned(String),
    /// No space left.
    #[error("{0}")]
    NoSpace(String),
    /// A value out of its range.
    #[error("{0}")]
    Invalid(String),
    /// sled failed.
    #[error("keyval (sled) in {}: {source}", path.display())]
    Sled {
        /// sled's folder.
        path: PathBuf,
        /// What sled said.
        #[source]
        source: sled::Error,
    },
    /// fjall failed.
    #[cfg(feature = "fjall")]
    #[error("keyval (fjall) in {}: {source}", path.display())]
    Fjall {
        /// fjall's folder.
        path: PathBuf,
        /// What fjall said.
        #[source]
        source: fjall::Error,
    },
}

impl TroveError {
    /// For `map_err`: wraps an I/O error with what was tried on which file.
    pub(crate) fn os(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TroveError {
        let path = path.to_path_buf();
        move |source| TroveError::Os { what, path, source }
    }

    /// Whether the cause is a full disk or quota.
    pub fn is_no_space(&self) -> bool {
        matches!(self.code(), ErrorCode::NoSpace | ErrorCode::Quota)
    }

    /// The code that it has on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            TroveError::Os { source, .. } => code_of(source),
            TroveError::Format(_) => ErrorCode::WrongFileSystem,
            TroveError::Locked(_) => ErrorCode::InUse,
            TroveError::Damaged(_) => ErrorCode::Damaged,
            TroveError::Poisoned(_) => ErrorCode::Io,
            TroveError::NoSpace(_) => ErrorCode::NoSpace,
            TroveError::Invalid(_) => ErrorCode::Invalid,
            TroveError::Sled { source: sled::Error::Io(e), .. } => code_of(e),
            TroveError::Sled { .. } => ErrorCode::Io,
            #[cfg(feature = "fjall")]
            TroveError::Fjall { source: fjall::Error::Io(e), .. }
            | TroveError::Fjall { source: fjall::Error::Storage(fjall::LsmError::Io(e)), .. } => {
                code_of(e)
            }
            #[cfg(feature = "fjall")]
            TroveError::Fjall { .. } => ErrorCode::Io,
        }
    }
}

fn code_of(e: &io::Error) -> ErrorCode {
    match e.raw_os_error() {
        Some(libc::ENOSPC) => ErrorCode::NoSpace,
        Some(libc::EDQUOT) => ErrorCode::Quota,
        Some(libc::EFBIG) => ErrorCode::FileTooBig,
        Some(libc::EINVAL) => ErrorCode::Invalid,
        Some(libc::EOPNOTSUPP) => ErrorCode::NotSupported,
        Some(libc::EROFS) => ErrorCode::ReadOnly,
        _ => ErrorCode::Io,
    }
}

impl From<TroveError> for PvfsError {
    fn from(e: TroveError) -> Self {
        PvfsError::new(e.code(), e.to_string())
    }
}
