//! What can go wrong in the sync service, on either side; which HTTP status says it is decided once, here.
use thiserror::Error;

/// An error of the sync service.
#[derive(Debug, Error)]
pub enum SyncError {
    /// The state that the request was based on is no longer that; look again and plan again.
    #[error("changed meanwhile: {0}")]
    Stale(String),
    /// No such node, version, upload or user.
    #[error("not found: {0}")]
    NotFound(String),
    /// The request cannot be right.
    #[error("{0}")]
    Invalid(String),
    /// Another has the name, or one that some devices cannot tell from it.
    #[error("the name is taken: {0}")]
    Taken(String),
    /// The user's quota or the disk is full; nothing was changed.
    #[error("no room: {0}")]
    Full(String),
    /// Not signed in, or not allowed.
    #[error("{0}")]
    Denied(String),
    /// Too many attempts; wait.
    #[error("too many attempts, wait {0} s")]
    Busy(u64),
    /// The directory that everything lies in is not the one it was (unmounted?). Nothing is changed.
    #[error("nothing done: {0}")]
    RootLost(String),
    /// The user's store stands still for a while: it is being moved or loaded. Reading may go on.
    #[error("changes must wait: {0}")]
    Held(String),
    /// Bytes are not what their hash says.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The device saw a state of the server that the server no longer has; it must begin anew.
    #[error("the server's history is another one; begin anew")]
    Epoch,
    /// The server was not reached, or did not answer in time.
    #[error("server not reached: {0}")]
    Net(String),
    /// The brake against mass deletion holds.
    #[error(
        "{0} deletions are planned, of {1} entries: say yes first (`pvfs2 sync now --allow-deletes`)"
    )]
    Brake(usize, usize),
    /// Somebody ended or paused the pass; nothing is lost, the next one goes on.
    #[error("stopped")]
    Stopped,
    /// The operating system's word about a file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried on what.
        what: String,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The database's word.
    #[error("database: {0}")]
    Db(#[from] rusqlite::Error),
    /// A simulation ended this process here.
    #[error("simulated crash")]
    Crash,
}

/// Result with [`SyncError`].
pub type Result<T> = std::result::Result<T, SyncError>;

impl SyncError {
    /// An I/O error with what was tried; a full disk becomes [`SyncError::Full`].
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full(format!("{what}: {source}")),
            _ => Self::Io { what, source },
        }
    }

    /// The HTTP status that tells it.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Stale(_) => 412,
            Self::NotFound(_) => 404,
            Self::Invalid(_) => 400,
            Self::Taken(_) | Self::Brake(..) => 409,
            Self::Full(_) => 507,
            Self::Denied(_) => 401,
            Self::Busy(_) => 429,
            Self::Damaged(_) => 422,
            Self::Epoch => 410,
            Self::RootLost(_) | Self::Held(_) | Self::Net(_) | Self::Stopped => 503,
            Self::Db(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => 507,
            Self::Io { .. } | Self::Db(_) | Self::Crash => 500,
        }
    }

    /// The other way, on a device: what a status with a message means.
    #[must_use]
    pub fn from_status(status: u16, text: String) -> Self {
        match status {
            412 => Self::Stale(text),
            404 => Self::NotFound(text),
            409 => Self::Taken(text),
            507 => Self::Full(text),
            401 | 403 => Self::Denied(text),
            422 => Self::Damaged(text),
            410 => Self::Epoch,
            400..=499 => Self::Invalid(format!("{status}: {text}")),
            _ => Self::Net(format!("{status}: {text}")),
        }
    }

    /// Whether looking and planning again may cure it.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale(_) | Self::NotFound(_) | Self::Taken(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap11_a_full_disk_is_507_also_where_the_database_noticed_it() {
        let db = |code| {
            SyncError::Db(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
        };
        assert_eq!(db(rusqlite::ffi::SQLITE_FULL).status(), 507);
        assert_eq!(db(rusqlite::ffi::SQLITE_IOERR).status(), 500);
        let os = std::io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(SyncError::io("f", os).status(), 507);
    }
}
