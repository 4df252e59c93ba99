//! Which users' stores are open. A store is opened when its user first asks, with its database locked
//! exclusively, and stays open: one worker per user, one writer per database.
use super::accounts::{Accounts, User, UserId};
use super::dav::locks::Locks;
use super::jobs::Jobs;
use super::local::{Local, MAIN, Route};
use super::metrics::Requests;
use super::ports::Ports;
use super::preview::Thumbs;
use super::root::{Begin, Root};
use crate::error::{Result, SyncError};
use crate::files::disk::Disk;
use crate::rng::{hex, secret};
use crate::store::{Clock, Expired, Progress, Store};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
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
    route: Arc<OpenRoute>,
    retired: AtomicBool,
    conflicts: AtomicUsize,
}

/// A storage route that is open.
#[derive(Debug)]
pub struct OpenRoute {
    /// Which.
    pub id: i64,
    /// Its directory with its store.
    pub root: Root,
    /// Against another server.
    _lock: Option<std::fs::File>,
}

impl OpenRoute {
    /// The user's folder on this route, and what is kept beside it.
    #[must_use]
    pub fn folders(&self, id: UserId, name: &str) -> (PathBuf, PathBuf) {
        let root = self.root.path();
        (root.join(name), root.join(SERVICE_DIR).join(id.to_string()))
    }
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
        let mut store = self.store.lock();
        let result = f(&mut store);
        if result.is_ok() {
            self.conflicts.store(store.count_conflicts()?, Ordering::Relaxed);
            drop(store);
            self.changed.send_modify(|n| *n += 1);
        }
        result
    }

    /// How many conflict copies there were after the last change.
    #[must_use]
    pub fn conflicts(&self) -> usize {
        self.conflicts.load(Ordering::Relaxed)
    }

    /// The user's folder, and what is kept beside it.
    #[must_use]
    pub fn folders(&self, user: &User) -> (PathBuf, PathBuf) {
        self.route.folders(user.id, &user.name)
    }

    /// Whether another worker has taken this one's place: ask again.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
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
    main: Arc<OpenRoute>,
    routes: Mutex<HashMap<i64, Arc<OpenRoute>>>,
    /// Routes, where each store lies, and settings.
    pub local: Local,
    /// Users whose stores nobody may open now, and why.
    pub(super) held: Mutex<HashMap<UserId, String>>,
    /// When it began, milliseconds since 1970.
    pub began_ms: i64,
    /// Long work of the administrator.
    pub jobs: Jobs,
    /// Where it listens, once it does.
    pub ports: OnceLock<Weak<Ports>>,
    /// A test's: so many more points are passed before one fails as if the process had ended.
    #[doc(hidden)]
    pub crash_in: AtomicI64,
    /// The accounts.
    pub accounts: Accounts,
    workers: Mutex<HashMap<UserId, Arc<Worker>>>,
    /// Whether anybody may make an account, and with which quota.
    pub signup: Option<Option<u64>>,
    clock: Clock,
    /// When the server last went round to drop what has been kept long enough, and what went.
    pub swept: Mutex<Option<(i64, Expired)>>,
    /// Pictures of images.
    pub thumbs: Thumbs,
    /// Requests by route and status.
    pub requests: Requests,
    /// Only this process has it: for what a browser keeps as proof that a link's password was known.
    pub key: [u8; 32],
    /// Says when the server ends, so that nobody waits for changes any more.
    pub closing: watch::Sender<bool>,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("root", &self.main.root).finish_non_exhaustive()
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
        Self::open_with(root, begin, signup, clock, None)
    }

    /// The same with the accounts in another database, if `accounts` says in which.
    ///
    /// # Errors
    /// As [`Users::open`], and [`Accounts::open_outside`].
    pub fn open_with(
        root: &Path,
        begin: Begin,
        signup: Option<Option<u64>>,
        clock: Clock,
        accounts: Option<&str>,
    ) -> Result<Self> {
        let users = Self::unfinished(root, begin, signup, clock, accounts)?;
        users.finish_swaps();
        Ok(users)
    }

    /// A test's: opens it, with the process ending at the given point of the recovery.
    ///
    /// # Errors
    /// As [`Users::open`].
    #[doc(hidden)]
    pub fn open_cut(root: &Path, clock: Clock, point: i64) -> Result<Self> {
        let users = Self::unfinished(root, Begin::Never, None, clock, None)?;
        users.crash_in.store(point, Ordering::Relaxed);
        users.finish_swaps();
        Ok(users)
    }

    fn unfinished(
        root: &Path,
        begin: Begin,
        signup: Option<Option<u64>>,
        clock: Clock,
        accounts: Option<&str>,
    ) -> Result<Self> {
        let root = Root::open(root, begin)?;
        let own = root.path().join(SERVICE_DIR);
        let lock = lock(&root)?;
        let file = own.join("accounts.db");
        let accounts = match accounts {
            Some(_) if file.exists() => {
                return Err(SyncError::Taken(format!(
                    "{} has accounts: start without another database, or move that file away",
                    file.display()
                )));
            }
            Some(url) => Accounts::open_outside(url)?,
            None => Accounts::open(&file)?,
        };
        let local = Local::open(&own.join("service.db"))?;
        accounts.number_above(numbers_taken(&own, &local)?)?;
        Ok(Self {
            main: Arc::new(OpenRoute { id: MAIN, root, _lock: Some(lock) }),
            routes: Mutex::default(),
            local,
            held: Mutex::default(),
            began_ms: now_ms(),
            jobs: Jobs::default(),
            ports: OnceLock::new(),
            crash_in: AtomicI64::new(i64::MAX),
            accounts,
            workers: Mutex::default(),
            signup,
            clock,
            swept: Mutex::default(),
            thumbs: Thumbs::default(),
            requests: Requests::default(),
            key: secret().map_err(|e| SyncError::io("random bytes", e))?,
            closing: watch::Sender::new(false),
        })
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.main.root
    }

    /// Whether the root, or a route that is open, was unmounted and is there again in another mount.
    #[must_use]
    pub fn came_back(&self) -> bool {
        let mut open: Vec<_> = self.routes.lock().values().cloned().collect();
        open.push(self.main.clone());
        open.iter().any(|route| route.root.came_back())
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

    /// A user's worker, if the store is open.
    #[must_use]
    pub fn open_worker(&self, user: UserId) -> Option<Arc<Worker>> {
        self.workers.lock().get(&user).cloned()
    }

    /// A route, opened, with its store being the one that began there.
    ///
    /// # Errors
    /// [`SyncError::RootLost`], [`SyncError::NotFound`].
    pub fn route(&self, id: i64) -> Result<Arc<OpenRoute>> {
        if id == MAIN {
            return Ok(self.main.clone());
        }
        let mut open = self.routes.lock();
        if let Some(route) = open.get(&id) {
            route.root.check()?;
            return Ok(route.clone());
        }
        let known = self.local.routes()?.into_iter().find(|r| r.id == id);
        let known = known.ok_or_else(|| SyncError::NotFound(format!("route {id}")))?;
        let root = Root::open(&known.path, Begin::Never)?;
        if root.id() != known.store {
            let at = known.path.display();
            let why = format!("{at} has another store than it had: mount the right file system");
            return Err(SyncError::RootLost(why));
        }
        let lock = lock(&root)?;
        let route = Arc::new(OpenRoute { id, root, _lock: Some(lock) });
        open.insert(id, route.clone());
        Ok(route)
    }

    /// Adds a route: an empty directory that is there.
    ///
    /// # Errors
    /// [`SyncError::Invalid`], [`SyncError::Taken`], [`SyncError::RootLost`] as [`Root::open`] says.
    pub fn add_route(&self, name: &str, path: &Path) -> Result<Route> {
        super::accounts::check_name(name).map_err(|_| {
            SyncError::Invalid(format!("a route's name is made as a user's: {name:?}"))
        })?;
        let Some(text) = path.to_str().filter(|_| path.is_absolute()) else {
            return Err(SyncError::Invalid(format!("{} is no absolute path", path.display())));
        };
        if path.starts_with(self.root().path()) {
            let why = format!("{} lies in the root itself", path.display());
            return Err(SyncError::Invalid(why));
        }
        if let Some(other) = self.local.routes()?.iter().find(|r| r.path == path || r.name == name)
        {
            return Err(SyncError::Taken(format!(
                "route {} at {}",
                other.name,
                other.path.display()
            )));
        }
        let root = Root::open(path, Begin::New)?;
        let store = root.id().to_owned();
        let id = self.local.add_route(name, text, &store)?;
        Ok(Route { id, name: name.to_owned(), path: path.to_owned(), store })
    }

    /// The root and all other routes.
    ///
    /// # Errors
    /// Database.
    pub fn all_routes(&self) -> Result<Vec<Route>> {
        let root = self.root();
        let main = Route {
            id: MAIN,
            name: "root".into(),
            path: root.path().to_owned(),
            store: root.id().to_owned(),
        };
        let mut all = vec![main];
        all.extend(self.local.routes()?);
        Ok(all)
    }

    /// Forgets a route on which no store lies; its directory stays as it is.
    ///
    /// # Errors
    /// As [`Local::drop_route`].
    pub fn drop_route(&self, id: i64) -> Result<()> {
        self.local.drop_route(id)?;
        self.routes.lock().remove(&id);
        Ok(())
    }

    /// The route for stores that begin.
    ///
    /// # Errors
    /// Database.
    pub fn default_route(&self) -> Result<i64> {
        Ok(self.local.word("route")?.and_then(|w| w.parse().ok()).unwrap_or(MAIN))
    }

    /// On which route a user's store lies, or will begin: then that is written down.
    ///
    /// # Errors
    /// Database.
    pub fn place(&self, user: &User) -> Result<i64> {
        if let Some(route) = self.local.place(user.id)? {
            return Ok(route);
        }
        // A store of before there were routes lies in the root.
        let (_, own) = self.main.folders(user.id, &user.name);
        let route = if own.exists() { MAIN } else { self.default_route()? };
        self.local.set_place(user.id, route)?;
        Ok(route)
    }

    /// Takes the user's worker out of service: whoever has it still finds it held.
    pub(super) fn retire(&self, user: UserId) {
        if let Some(worker) = self.workers.lock().remove(&user) {
            worker.retired.store(true, Ordering::Release);
            worker.changed.send_modify(|n| *n += 1);
        }
    }

    /// The user's worker; opens the store if nobody has asked yet.
    ///
    /// # Errors
    /// I/O, database, [`SyncError::RootLost`], [`SyncError::Held`].
    pub fn worker(&self, user: &User) -> Result<Arc<Worker>> {
        let mut workers = self.workers.lock();
        if let Some(w) = workers.get(&user.id) {
            if w.route.id != MAIN {
                w.route.root.check()?;
            }
            return Ok(w.clone());
        }
        if let Some(why) = self.held.lock().get(&user.id) {
            return Err(SyncError::Held(why.clone()));
        }
        self.root().check()?;
        let route = self.route(self.place(user)?)?;
        let (tree, own) = route.folders(user.id, &user.name);
        let db_path = own.join("meta.db");
        // A store that has been there before must be there again, else the mount is gone (trap 5).
        if !db_path.exists() {
            route.root.make_dir(&user.name)?;
            route.root.make_dir(&format!("{SERVICE_DIR}/{}", user.id))?;
        }
        super::backups::drop_snapshot(&own)?;
        let files = Arc::new(Disk::open(&tree, &own, None)?);
        let epoch = hex(&secret::<8>().map_err(|e| SyncError::io("random bytes", e))?);
        let db = Connection::open(&db_path)?;
        let store = Store::open(db, files.clone(), self.clock.clone(), &epoch, user.quota)?;
        let conflicts = store.count_conflicts()?;
        let worker = Arc::new(Worker {
            files,
            store: Mutex::new(store),
            locks: Locks::default(),
            uploads: Mutex::default(),
            changed: watch::Sender::new(0),
            route,
            retired: AtomicBool::new(false),
            conflicts: AtomicUsize::new(conflicts),
        });
        workers.insert(user.id, worker.clone());
        Ok(worker)
    }

    /// Counts bytes of a job, and ends it when the server ends.
    ///
    /// # Errors
    /// [`SyncError::Net`] when the server ends.
    pub fn tick(&self, bytes: u64) -> Result<()> {
        self.jobs.tick(bytes);
        if *self.closing.borrow() {
            return Err(SyncError::Net("the server ends".into()));
        }
        Ok(())
    }

    /// A point at which a test may let the process end.
    ///
    /// # Errors
    /// [`SyncError::Crash`].
    pub(super) fn point(&self) -> Result<()> {
        if self.crash_in.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(SyncError::Crash);
        }
        Ok(())
    }
}

/// The highest number of a store that is or was there.
fn numbers_taken(own: &Path, local: &Local) -> Result<UserId> {
    let names = std::fs::read_dir(own).map_err(|e| SyncError::io(own.display().to_string(), e))?;
    let numbers = names.filter_map(|n| n.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.chain(local.highest_place()?).max().unwrap_or(0))
}

/// Locks a root's store against another server.
fn lock(root: &Root) -> Result<std::fs::File> {
    let own = root.path().join(SERVICE_DIR);
    let file = std::fs::File::create(own.join("lock"))
        .map_err(|e| SyncError::io(own.display().to_string(), e))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |e| SyncError::io(format!("{}: another server has it", own.display()), e.into()),
    )?;
    Ok(file)
}
