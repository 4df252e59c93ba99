//! What a device remembers of its set-up: one folder of one user at one server, in a state directory of
//! its own. The token is in there, so only its owner may read it.
use super::base::Base;
use super::engine::Engine;
use super::http::Client;
use crate::api::{Login, LoginWithCode};
use crate::error::{Result, SyncError};
use crate::files::disk::Disk;
use crate::names::OWN_DIR;
use crate::plan::Names;
use crate::rng::{Rng, secret};
use crate::secret::Secret;
use crate::server::pages::date;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The set-up, `device.json` in the state directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// `https://host:port`.
    pub server: String,
    /// User name.
    pub user: String,
    /// What this device calls itself.
    pub device: String,
    /// The folder.
    pub folder: PathBuf,
    /// PEM of the certificates to trust; `None`: the public ones.
    pub ca: Option<String>,
    token: Secret,
    /// Tells the folder from any other (trap 5).
    marker: String,
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Today, UTC.
#[must_use]
pub fn today() -> String {
    let (y, m, d) = date(now_ns() / 86_400_000_000_000);
    format!("{y:04}-{m:02}-{d:02}")
}

impl Config {
    /// Signs this device in and remembers the set-up in `state`. The folder is made if it is missing.
    ///
    /// # Errors
    /// As the server says; I/O; a state directory that has a set-up already.
    pub fn set_up(
        state: &Path,
        server: &str,
        ca: Option<String>,
        login: &Login,
        folder: &Path,
    ) -> Result<Self> {
        let login = LoginWithCode { login: login.clone(), code: Secret::default() };
        Self::set_up_with_code(state, server, ca, &login, folder)
    }

    /// The same for an account that signs in in two steps; without a code the server's refusal is
    /// [`crate::api::CODE_NEEDED`].
    ///
    /// # Errors
    /// As [`Config::set_up`].
    pub fn set_up_with_code(
        state: &Path,
        server: &str,
        ca: Option<String>,
        with_code: &LoginWithCode,
        folder: &Path,
    ) -> Result<Self> {
        let login = &with_code.login;
        let fail = |p: &Path, e| SyncError::io(p.display().to_string(), e);
        if state.join("device.json").exists() {
            return Err(SyncError::Taken(format!("{} has a set-up already", state.display())));
        }
        std::fs::create_dir_all(state).map_err(|e| fail(state, e))?;
        std::fs::create_dir_all(folder).map_err(|e| fail(folder, e))?;
        let folder = folder.canonicalize().map_err(|e| fail(folder, e))?;
        let session = Client::new(server, ca.as_deref(), "")?.login_with_code(with_code)?;
        let disk = Disk::open(&folder, &folder.join(OWN_DIR), None)?;
        let config = Self {
            server: server.to_owned(),
            user: login.user.clone(),
            device: login.device.clone(),
            folder,
            ca,
            token: session.token,
            marker: disk.marker().to_owned(),
        };
        let text =
            serde_json::to_vec_pretty(&config).map_err(|e| SyncError::Invalid(e.to_string()))?;
        let path = state.join("device.json");
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut f| f.write_all(&text).and_then(|()| f.sync_all()))
            .map_err(|e| fail(&path, e))?;
        Ok(config)
    }

    /// The set-up in `state`.
    ///
    /// # Errors
    /// None there, or one that cannot be read.
    pub fn load(state: &Path) -> Result<Self> {
        let path = state.join("device.json");
        let text = std::fs::read(&path).map_err(|e| {
            SyncError::io(format!("{} (set this device up first)", path.display()), e)
        })?;
        serde_json::from_slice(&text)
            .map_err(|e| SyncError::Invalid(format!("{}: {e}", path.display())))
    }

    /// A connection to the server.
    ///
    /// # Errors
    /// A certificate that is none.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.server, self.ca.as_deref(), &self.token)
    }

    /// Takes the state for oneself, until the file is dropped; `None`: a daemon has it.
    ///
    /// # Errors
    /// I/O.
    pub fn lock(state: &Path) -> Result<Option<std::fs::File>> {
        let path = state.join("lock");
        let fail = |e| SyncError::io(path.display().to_string(), e);
        let file = std::fs::File::create(&path).map_err(fail)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(fail(e.into())),
        }
    }

    /// The engine. Only one at a time can have the state open.
    ///
    /// # Errors
    /// [`SyncError::RootLost`] if the folder is not the one that was set up; database.
    pub fn engine(&self, state: &Path) -> Result<Engine> {
        let own = self.folder.join(OWN_DIR);
        let files = Disk::open(&self.folder, &own, Some(&self.marker))?;
        let db = Connection::open(state.join("base.db"))?;
        let seed = secret::<8>().map_err(|e| SyncError::io("random bytes", e))?;
        let mut rng = Rng::new(u64::from_le_bytes(seed));
        Ok(Engine::new(
            Arc::new(files),
            Base::open(db)?,
            Names { device: self.device.clone(), date: today() },
            Arc::new(now_ns),
            Box::new(move || rng.next_u64()),
        ))
    }
}

/// The conflict copies below a folder, as paths in it, also those that other devices made.
///
/// # Errors
/// I/O.
pub fn conflicts_in(folder: &Path) -> Result<Vec<String>> {
    let (mut found, mut dirs) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(dir) = dirs.pop() {
        let fail = |e| SyncError::io(dir.display().to_string(), e);
        for entry in std::fs::read_dir(&dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            if crate::names::is_conflict(&name.to_string_lossy()) {
                let path = entry.path();
                let path = path.strip_prefix(folder).unwrap_or(&path);
                found.push(path.display().to_string());
            }
            if entry.file_type().map_err(fail)?.is_dir() && name != OWN_DIR {
                dirs.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}
