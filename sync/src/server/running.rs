//! A server as a whole, on threads of its own: what `pvfs2 sync serve` and `quickstart` start and stop.
//!
//! A server holds its root open. If the root's file system is unmounted and mounted again, what is held
//! leads nowhere, though the path names the store: [`Kept`] looks for that and starts the server anew.
use super::http::{self, App};
use super::ports::Ports;
use super::root::Begin;
use super::serve::{Identity, self_signed, tls};
use super::sweep;
use super::users::{SERVICE_DIR, Users, now_ms};
use crate::error::{Result, SyncError};
use crate::rng::{hex, secret};
use crate::secret::Secret;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// How to run a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder that has the users' folders: any POSIX directory, or `/mnt/pvfs2/user`.
    pub root: PathBuf,
    /// Where it listens; port 0: any free one.
    pub listen: SocketAddr,
    /// Certificate and key; `None`: one that is made here.
    pub identity: Option<Identity>,
    /// Names and addresses for the certificate that is made here.
    pub hosts: Vec<String>,
    /// Whether anybody may make an account, and with which quota in bytes.
    pub signup: Option<Option<u64>>,
    /// Whether a store may begin in a root that has none.
    pub begin: Begin,
    /// Where the accounts are, if not beside the stores: `mysql://USER:PASSWORD@HOST:PORT/NAME`.
    pub accounts: Option<Secret>,
    /// The time of day of the stores, milliseconds since 1970: a test's own.
    pub clock: fn() -> i64,
    /// How often the server drops what has been kept long enough.
    pub sweep_every: Duration,
}

impl Options {
    /// A server of `root` at `listen`, with the rest as it is by default.
    #[must_use]
    pub fn new(root: PathBuf, listen: SocketAddr) -> Self {
        let hosts = vec!["localhost".into(), "127.0.0.1".into(), "::1".into()];
        Self {
            root,
            listen,
            identity: None,
            hosts,
            signup: None,
            begin: Begin::Never,
            accounts: None,
            clock: now_ms,
            sweep_every: sweep::EVERY,
        }
    }
}

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its accounts and workers.
    pub app: App,
    /// The certificate it shows.
    pub cert: PathBuf,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts it; when this returns it answers.
    ///
    /// # Errors
    /// I/O: the root, the address, the certificate.
    pub fn start(options: &Options) -> Result<Self> {
        let app: App = Arc::new(Users::open_with(
            &options.root,
            options.begin,
            options.signup,
            Arc::new(options.clock),
            options.accounts.as_deref(),
        )?);
        let identity = match &options.identity {
            Some(given) => given.clone(),
            None => self_signed(&options.root.join(SERVICE_DIR), &options.hosts)?,
        };
        let config = tls(&identity)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("sync-serve")
            .enable_all()
            .build()
            .map_err(|e| SyncError::io("runtime", e))?;
        let (stop, mut stopped) = watch::channel(false);
        let router = http::router(app.clone());
        let ports = Arc::new(Ports::new(runtime.handle().clone(), config, router, stopped.clone()));
        let addr = open_ports(&app, &ports, options.listen)?;
        let _ = app.ports.set(Arc::downgrade(&ports));
        let (serving, every) = (app.clone(), options.sweep_every);
        let thread = std::thread::Builder::new()
            .name("sync-serve".into())
            .spawn(move || {
                runtime.spawn(sweep::run(serving, every, stopped.clone()));
                runtime.block_on(async {
                    let _ = stopped.wait_for(|s| *s).await;
                    ports.ended().await;
                });
            })
            .map_err(|e| SyncError::io("thread", e))?;
        Ok(Self { addr, app, cert: identity.cert, stop, thread: Some(thread) })
    }

    /// Makes the first administrator if there is no user yet; the password is told once, here.
    ///
    /// # Errors
    /// Database.
    pub fn first_admin(&self) -> Result<Option<String>> {
        if !self.app.accounts.users()?.is_empty() {
            return Ok(None);
        }
        let password = hex(&secret::<10>().map_err(|e| SyncError::io("random bytes", e))?);
        self.app.accounts.create("admin", &password, true, None, now_ms())?;
        Ok(Some(password))
    }
}

/// Opens what was set, as far as that can be, else what was given.
fn open_ports(app: &App, ports: &Ports, given: SocketAddr) -> Result<SocketAddr> {
    let mut first = None;
    for addr in app.listen(given) {
        match ports.open(addr) {
            Ok(addr) => first = first.or(Some(addr)),
            Err(e) => tracing::error!(error = %e, "a port that was set"),
        }
    }
    let addr = first.map_or_else(|| ports.open(given), Ok)?;
    app.local.set_word("listen.given", &given.to_string())?;
    let now: Vec<String> = ports.list().into_iter().map(|p| p.address).collect();
    app.local.set_word("listen.now", &now.join(" "))?;
    Ok(addr)
}

impl Drop for Running {
    /// Lets requests that are under way end.
    fn drop(&mut self) {
        self.app.closing.send_replace(true);
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How often it is looked whether a root that went is there again, and tried to start anew.
const LOOK: Duration = Duration::from_secs(1);
/// How long the end of looking is waited for; a mount whose servers are away may hold it up.
const LOOK_ENDS: Duration = Duration::from_secs(2);

/// A server that starts anew when its root, or a route, was unmounted and is mounted again.
#[derive(Debug)]
pub struct Kept {
    /// The server of now; `None` while it starts anew.
    server: Arc<Mutex<Option<Running>>>,
    stop: Option<mpsc::Sender<()>>,
    ended: mpsc::Receiver<()>,
}

impl Kept {
    /// Keeps a server that was started with `options`.
    ///
    /// # Errors
    /// No thread.
    pub fn new(server: Running, options: &Options) -> Result<Self> {
        let again = Options { begin: Begin::Never, ..options.clone() };
        let server = Arc::new(Mutex::new(Some(server)));
        let (stop, stopped) = mpsc::channel::<()>();
        let (ends, ended) = mpsc::channel();
        let theirs = server.clone();
        std::thread::Builder::new()
            .name("sync-keep".into())
            .spawn(move || {
                look(&theirs, &again, &stopped);
                drop(ends);
            })
            .map_err(|e| SyncError::io("thread", e))?;
        Ok(Self { server, stop: Some(stop), ended })
    }
}

fn look(server: &Mutex<Option<Running>>, options: &Options, stopped: &mpsc::Receiver<()>) {
    let stop = || stopped.recv_timeout(LOOK) != Err(mpsc::RecvTimeoutError::Timeout);
    let mut told = String::new();
    while !stop() {
        let app = server.lock().as_ref().map(|s| s.app.clone());
        if app.is_some_and(|app| app.came_back()) {
            tracing::warn!(root = %options.root.display(), "mounted again: the server starts anew");
            let old = server.lock().take();
            drop(old);
        }
        if server.lock().is_some() {
            continue;
        }
        match Running::start(options) {
            Ok(new) => {
                tracing::info!(addr = %new.addr, "answers again");
                told.clear();
                *server.lock() = Some(new);
            }
            // The locks of a mount that is gone last until its file system gives them up.
            Err(e) if e.to_string() != told => {
                told = e.to_string();
                tracing::warn!(error = %e, "does not start anew yet; tried again every second");
            }
            Err(_) => {}
        }
    }
}

impl Drop for Kept {
    /// Lets requests that are under way end.
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.ended.recv_timeout(LOOK_ENDS);
        let server = self.server.lock().take();
        drop(server);
    }
}
