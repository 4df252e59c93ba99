//! Complaints about a cluster file or a mount spec. Each says where (file, line, field), what is
//! wrong, and what to write instead.
use pvfs2_proto::{ErrorCode, PvfsError};
use std::path::PathBuf;

/// What is wrong with a cluster file or a mount spec.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the cluster file {path}: {source}; name it with --config, or make one with `pvfs2 genconfig`"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML, or a field is unknown, missing or of the wrong type.
    #[error("{origin}: line {line}: {problem}")]
    Syntax {
        /// The file.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// What and what to do.
        problem: String,
    },
    /// A newer program wrote it.
    #[error(
        "{origin}: the cluster file has version {found}, this program reads up to {known}; \
         use a newer pvfs2, or set `version = {known}` if you wrote the file by hand"
    )]
    Version {
        /// The file.
        origin: String,
        /// Its version.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The fields are readable, but do not fit together.
    #[error("{origin}: {}{field}: {problem}; {remedy}", line_prefix(*line))]
    Invalid {
        /// The file, or "cluster" when it is not from a file.
        origin: String,
        /// Line, from 1; 0: unknown.
        line: usize,
        /// The field, as `servers.io1.io_range`.
        field: String,
        /// What is wrong.
        problem: String,
        /// What to write instead.
        remedy: String,
    },
    /// A mount spec that cannot be read.
    #[error(
        "'{spec}' does not name a file system: {problem}; write tcp://HOST:PORT/NAME or unix:///PATH.sock/NAME, for example tcp://localhost:3334/pvfs2-fs"
    )]
    Spec {
        /// What was given.
        spec: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn line_prefix(line: usize) -> String {
    if line == 0 { String::new() } else { format!("line {line}: ") }
}

impl From<ConfigError> for PvfsError {
    fn from(e: ConfigError) -> PvfsError {
        PvfsError::new(ErrorCode::Invalid, e.to_string())
    }
}
