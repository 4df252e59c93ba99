//! The keys of encrypted folders that are open on this device (`keys.json` in the state directory, for its
//! owner alone), and what people do with such folders: encrypt, unlock, lock, change the passphrase.
//!
//! None of it needs the server: the key file lies in the folder here, and the next pass carries it there.
//!
//! | step of `encrypt` | crash after it |
//! |---|---|
//! | key kept | a key that nothing uses |
//! | folder with its key file made aside, synced | the same, and something that nobody sees in `.pvfs2-sync` |
//! | renamed to its place | done: a pass never sees the folder without its key file |
use super::config::Config;
use crate::error::{Result, SyncError};
use crate::names::{self, OWN_DIR};
use crate::rng::{hex, secret, unhex};
use crate::secret::Secret;
use crate::vault::key_file::{BYTES_MAX, By, KeyFile};
use crate::vault::{FolderKey, KEY_FILE, KeyId, Vault};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE: &str = "keys.json";

/// The keys, by their numbers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Keys(BTreeMap<String, Secret>);

fn fail(path: &Path) -> impl Fn(std::io::Error) -> SyncError + '_ {
    move |e| SyncError::io(path.display().to_string(), e)
}

/// Writes a file that only its owner may read, whole or not at all.
fn write(tmp: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(tmp);
    file.and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all())).map_err(fail(tmp))?;
    std::fs::rename(tmp, path).map_err(fail(path))?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

fn sync_dir(dir: &Path) -> Result<()> {
    std::fs::File::open(dir).and_then(|f| f.sync_all()).map_err(fail(dir))
}

impl Keys {
    /// As they are now; none yet: none.
    ///
    /// # Errors
    /// I/O; a file that cannot be read as keys.
    pub fn load(state: &Path) -> Result<Self> {
        let path = state.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|e| SyncError::Invalid(format!("{}: {e}", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(fail(&path)(e)),
        }
    }

    fn save(&self, state: &Path) -> Result<()> {
        let text =
            serde_json::to_vec_pretty(self).map_err(|e| SyncError::Invalid(e.to_string()))?;
        write(&state.join("keys.json.new"), &state.join(FILE), &text)
    }

    /// What the engine opens folders with.
    #[must_use]
    pub fn vaults(&self) -> Vec<Arc<Vault>> {
        let key = |s: &Secret| unhex(s).map(FolderKey::from_bytes);
        self.0.values().filter_map(key).map(|k| Arc::new(Vault::new(&k))).collect()
    }

    /// Whether the folder with this key is open.
    #[must_use]
    pub fn has(&self, id: &KeyId) -> bool {
        self.0.contains_key(&hex(id))
    }

    fn add(state: &Path, key: &FolderKey) -> Result<()> {
        let mut all = Self::load(state)?;
        all.0.insert(hex(&key.id()), hex(key.bytes()).into());
        all.save(state)
    }

    fn remove(state: &Path, id: &KeyId) -> Result<bool> {
        let mut all = Self::load(state)?;
        let had = all.0.remove(&hex(id)).is_some();
        all.save(state)?;
        Ok(had)
    }
}

/// A folder as people name it: a path in the synchronised folder, or an absolute one to there.
fn place(config: &Config, folder: &str) -> Result<PathBuf> {
    let below = match Path::new(folder).strip_prefix(&config.folder) {
        Ok(rest) => rest.to_owned(),
        Err(_) if Path::new(folder).is_absolute() => {
            let why = format!("{folder}: not in {}", config.folder.display());
            return Err(SyncError::Invalid(why));
        }
        Err(_) => PathBuf::from(folder),
    };
    let text = super::filter::folder(&below.to_string_lossy());
    if text.is_empty() {
        let why = "the whole folder cannot be encrypted: name one in it";
        return Err(SyncError::Invalid(why.into()));
    }
    let mut path = config.folder.clone();
    for name in text.split('/') {
        names::check(name).map_err(SyncError::Invalid)?;
        path.push(name);
    }
    Ok(path)
}

/// The key file of a folder here.
fn key_file(path: &Path) -> Result<KeyFile> {
    let at = path.join(KEY_FILE);
    let text = match std::fs::read(&at) {
        Ok(text) if text.len() <= BYTES_MAX => text,
        Ok(_) => return Err(SyncError::Damaged(format!("{}: too long", at.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(SyncError::NotFound(format!(
                "{}: not an encrypted folder, or not fetched yet (`pvfs2 sync now` fetches it)",
                path.display()
            )));
        }
        Err(e) => return Err(fail(&at)(e)),
    };
    KeyFile::parse(&text)
}

/// Makes a folder of the tree an encrypted one. It must not be there yet, or be empty. Returns the recovery
/// key, to be shown once.
///
/// # Errors
/// [`SyncError::Invalid`] with what stands against it; I/O.
pub fn encrypt(state: &Path, folder: &str, passphrase: &str) -> Result<String> {
    let config = Config::load(state)?;
    let path = place(&config, folder)?;
    let invalid = |why: &str| Err(SyncError::Invalid(format!("{}: {why}", path.display())));
    let mut above = Some(path.as_path());
    while let Some(dir) = above.filter(|d| d.starts_with(&config.folder)) {
        if dir.join(KEY_FILE).symlink_metadata().is_ok() {
            return invalid("it is, or lies in, an encrypted folder already");
        }
        above = dir.parent();
    }
    let there = match std::fs::read_dir(&path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return invalid(
                    "it is not empty. What is in it was sent plain and stays so in the server's trash and \
                     versions. Encrypt a new folder, move your files into it, and purge the trash",
                );
            }
            true
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(fail(&path)(e)),
    };
    let key = FolderKey::random()?;
    let (file, recovery) = KeyFile::make(&key, passphrase)?;
    Keys::add(state, &key)?;
    let own = config.folder.join(OWN_DIR);
    let nonce = secret::<8>().map_err(|e| SyncError::io("random bytes", e))?;
    let aside = own.join(format!("new-{}", hex(&nonce)));
    let text = file.text();
    if there {
        write(&aside, &path.join(KEY_FILE), text.as_bytes())?;
        return Ok(recovery);
    }
    let parent = path.parent().unwrap_or(&config.folder);
    std::fs::create_dir_all(parent).map_err(fail(parent))?;
    std::fs::create_dir(&aside).map_err(fail(&aside))?;
    write(&aside.join("new"), &aside.join(KEY_FILE), text.as_bytes())?;
    std::fs::rename(&aside, &path).map_err(fail(&path))?;
    sync_dir(parent)?;
    Ok(recovery)
}

/// Opens an encrypted folder on this device.
///
/// # Errors
/// [`SyncError::Denied`] if the secret is not the right one: nothing is changed.
pub fn unlock(state: &Path, folder: &str, by: By, text: &str) -> Result<()> {
    let path = place(&Config::load(state)?, folder)?;
    Keys::add(state, &key_file(&path)?.open(by, text)?)
}

/// Closes it: the key is forgotten; the files that are here stay.
///
/// # Errors
/// I/O; no encrypted folder.
pub fn lock(state: &Path, folder: &str) -> Result<bool> {
    let path = place(&Config::load(state)?, folder)?;
    Keys::remove(state, &key_file(&path)?.id()?)
}

/// Sets another passphrase; the next pass takes it to the server. Returns the key file's text, by which
/// can be told whether it came to stand.
///
/// # Errors
/// As [`unlock`].
pub fn passphrase(state: &Path, folder: &str, by: By, old: &str, new: &str) -> Result<Vec<u8>> {
    let config = Config::load(state)?;
    let path = place(&config, folder)?;
    let mut file = key_file(&path)?;
    let key = file.open(by, old)?;
    file.set_passphrase(&key, new)?;
    let nonce = secret::<8>().map_err(|e| SyncError::io("random bytes", e))?;
    let aside = config.folder.join(OWN_DIR).join(format!("new-{}", hex(&nonce)));
    let text = file.text().into_bytes();
    write(&aside, &path.join(KEY_FILE), &text)?;
    Ok(text)
}

/// The key file's text of a folder as it is here now.
///
/// # Errors
/// I/O.
pub fn key_text(state: &Path, folder: &str) -> Result<Vec<u8>> {
    let path = place(&Config::load(state)?, folder)?.join(KEY_FILE);
    std::fs::read(&path).map_err(fail(&path))
}
