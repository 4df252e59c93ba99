//! Which users' stores are open. A store is opened when its user first asks, with its database locked
//! exclusively, and stays open: one worker per user, one writer per database.
use super::accounts::{Accounts, User, UserId};
use super::dav::locks::Locks;
use super::metrics::Requests;
use super::root::{Begin, Root};
use crate::error::{Result, SyncError};
use crate::files::disk::Disk;
use crate::rng::{hex, secret};
use crate::store::{Clock, Expired, Progress, Store};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// The folder beside the users' folders that is the service's own.
pub const SERVICE_DIR: &str = ".sync";

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// One user's worker.
pub struct Worker {
    /// The files, for reading and writing bytes outside the store's lock.
    pub files: Arc<Disk>,
    /// The table.
    pub store: Mutex<Store>,
    /// Locks of the user's WebDAV clients.
    pub locks: Locks,
    uploads: Mutex<HashMap<String, Arc<Mutex<Progress>>>>,
    changed: watch::Sender<u64>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Worker {
    /// Waits for the next change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes something, and wakes whoever waits for changes.
    ///
    /// # Errors
    /// As `f`.
    pub fn change<T>(&self, f: impl FnOnce(&mut Store) -> Result<T>) -> Result<T> {
        let result = f(&mut self.store.lock());
        if result.is_ok() {
            self.changed.send_modify(|n| *n += 1);
        }
        result
    }

    /// The progress of an upload that was begun.
    ///
    /// # Errors
    /// [`SyncError::NotFound`].
    pub fn progress(&self, id: &str) -> Result<Arc<Mutex<Progress>>> {
        let mut uploads = self.uploads.lock();
        if let Some(p) = uploads.get(id) {
            return Ok(p.clone());
        }
        let p = Arc::new(Mutex::new(Progress::resume(&*self.files, id)?));
        uploads.insert(id.to_owned(), p.clone());
        Ok(p)
    }

    /// Makes an upload the file's content.
    ///
    /// # Errors
    /// As the store says.
    pub fn commit(&self, id: &str, who: &str) -> Result<crate::api::NodeInfo> {
        let progress = self.progress(id)?;
        let progress = progress.lock();
        let result = self.change(|s| s.upload_commit(id, &progress, who));
        if !matches!(result, Err(SyncError::RootLost(_) | SyncError::Io { .. })) {
            self.uploads.lock().remove(id);
        }
        result
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// As the store says.
    pub fn drop_upload(&self, id: &str) -> Result<()> {
        self.uploads.lock().remove(id);
        self.store.lock().upload_drop(id)
    }
}

/// The service: accounts and workers over one root.
pub struct Users {
    root: Root,
    /// The accounts.
    pub accounts: Accounts,
    workers: Mutex<HashMap<UserId, Arc<Worker>>>,
    /// Whether anybody may make an account, and with which quota.
    pub signup: Option<Option<u64>>,
    clock: Clock,
    /// When the server last went round to drop what has been kept long enough, and what went.
    pub swept: Mutex<Option<(i64, Expired)>>,
    /// Requests by route and status.
    pub requests: Requests,
    /// Only this process has it: for what a browser keeps as proof that a link's password was known.
    pub key: [u8; 32],
    /// Says when the server ends, so that nobody waits for changes any more.
    pub closing: watch::Sender<bool>,
    _lock: std::fs::File,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Users {
    /// Opens the service's folder below `root`, which must be there; `begin`: whether it may be a new
    /// one. `signup`: whether anybody may make an account, and with which quota. `clock`: for the stores.
    ///
    /// # Errors
    /// [`SyncError::RootLost`] as [`Root::open`] says; I/O; another server on the same root.
    pub fn open(
        root: &Path,
        begin: Begin,
        signup: Option<Option<u64>>,
        clock: Clock,
    ) -> Result<Self> {
        let root = Root::open(root, begin)?;
        let own = root.path().join(SERVICE_DIR);
        let fail = |e| SyncError::io(own.display().to_string(), e);
        let lock = std::fs::File::create(own.join("lock")).map_err(fail)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |e| SyncError::io(format!("{}: another server has it", own.display()), e.into()),
        )?;
        let accounts = Accounts::open(&own.join("accounts.db"))?;
        Ok(Self {
            root,
            accounts,
            workers: Mutex::default(),
            signup,
            clock,
            swept: Mutex::default(),
            requests: Requests::default(),
            key: secret().map_err(|e| SyncError::io("random bytes", e))?,
            closing: watch::Sender::new(false),
            _lock: lock,
        })
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The time of day of the stores.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    /// The workers whose stores are open.
    #[must_use]
    pub fn open_workers(&self) -> Vec<Arc<Worker>> {
        self.workers.lock().values().cloned().collect()
    }

    /// The user's worker; opens the store if nobody has asked yet.
    ///
    /// # Errors
    /// I/O, database, [`SyncError::RootLost`].
    pub fn worker(&self, user: &User) -> Result<Arc<Worker>> {
        let mut workers = self.workers.lock();
        if let Some(w) = workers.get(&user.id) {
            return Ok(w.clone());
        }
        self.root.check()?;
        let tree = self.root.path().join(&user.name);
        let own = self.root.path().join(SERVICE_DIR).join(user.id.to_string());
        let db_path = own.join("meta.db");
        // A store that has been there before must be there again, else the mount is gone (trap 5).
        if !db_path.exists() {
            self.root.make_dir(&user.name)?;
            self.root.make_dir(&format!("{SERVICE_DIR}/{}", user.id))?;
        }
        let files = Arc::new(Disk::open(&tree, &own, None)?);
        let epoch = hex(&secret::<8>().map_err(|e| SyncError::io("random bytes", e))?);
        let db = Connection::open(&db_path)?;
        let store = Store::open(db, files.clone(), self.clock.clone(), &epoch, user.quota)?;
        let worker = Arc::new(Worker {
            files,
            store: Mutex::new(store),
            locks: Locks::default(),
            uploads: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        workers.insert(user.id, worker.clone());
        Ok(worker)
    }
}
