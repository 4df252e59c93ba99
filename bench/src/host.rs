//! What the program `pvfs2` gives the harness, so that the harness needs none of the program's code.
use anyhow::Result;
use pvfs2_client::{Background, Client};
use pvfs2_proto::op::Cred;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// Which file system a native client talks to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FsChoice {
    /// As `--fs` of every tool.
    pub fs: Option<String>,
    /// File with the cluster's key.
    pub key_file: Option<PathBuf>,
    /// How long names and attributes are believed, in milliseconds; none: as a mount does.
    pub cache_ms: Option<u64>,
}

/// A connected native client.
pub struct Connected {
    /// The client.
    pub client: Arc<Client>,
    /// Its background thread.
    pub background: Arc<Background>,
    /// On whose behalf.
    pub cred: Cred,
}

/// The program around the harness.
pub trait Host: Sync {
    /// Connects a client of its own, and says what path in that file system `path` means.
    ///
    /// # Errors
    /// When the file system cannot be found or no server answers.
    fn connect(&self, choice: &FsChoice, path: &str) -> Result<(Connected, String)>;
}
