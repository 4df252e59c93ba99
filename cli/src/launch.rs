//! Starts servers in this process: a metadata server (also one with both roles) on one event loop
//! of a thread of its own, an I/O server on one or several, and each one's management service on a
//! thread beside.
//!
//! Order of a start: storage space (lock, recovery), sockets, operations; so whoever can connect is
//! served, and every failure is told by [`start`] itself. Order of a stop: no new connections,
//! requests under way answered, last write-out, storage space closed with its clean-stop marker.
use anyhow::{Context, Result, anyhow, bail};
use pvfs2_bmi::addr::Address;
use pvfs2_bmi::auth::ClusterKey;
use pvfs2_bmi::server::{Listener, ServerOptions, serve};
use pvfs2_config::Cluster;
use pvfs2_io::{IoConfig, IoServer};
use pvfs2_meta::{MetaConfig, MetaServer, PeerConfig};
use pvfs2_proto::env::Env;
use pvfs2_proto::{ClusterMap, ErrorCode, PvfsError, ServerId};
use pvfs2_server_core::management::{self, source::ServerSource};
use pvfs2_server_core::metrics::{Metrics, names};
use pvfs2_server_core::service::{CombinedHandler, OpHandler, ServiceConfig, SessionService};
use pvfs2_trove::collection::CollectionOptions;
use pvfs2_trove::{FormatInfo, StorageSpace, TroveOptions};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

/// How long the management service waits for numbers from the server's own loop.
const GAUGES_PATIENCE: Duration = Duration::from_secs(2);

/// How long a server waits for the end of a predecessor that still holds its storage or its port.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(2);

type Gauges = Vec<(&'static str, u64)>;
type Question = std_mpsc::SyncSender<Gauges>;
type Thread = JoinHandle<Result<()>>;

/// A server of this process. Dropping it stops it.
pub struct RunningServer {
    alias: String,
    addresses: Vec<String>,
    shutdown: watch::Sender<bool>,
    told_to_end: Arc<AtomicBool>,
    threads: Vec<Thread>,
    space: Arc<StorageSpace>,
    failure_told: bool,
}

impl RunningServer {
    /// Its alias.
    pub fn alias(&self) -> &str {
        &self.alias
    }
    /// Where it listens.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }
    /// Whether one of its threads has ended before it was told to.
    pub fn has_failed(&self) -> bool {
        !*self.shutdown.borrow() && self.threads.iter().any(JoinHandle::is_finished)
    }
    /// As [`RunningServer::has_failed`], true only once.
    pub fn fails_now(&mut self) -> bool {
        let first = self.has_failed() && !self.failure_told;
        self.failure_told |= first;
        first
    }
    /// Whether the management service was told to end the server.
    pub fn was_told_to_end(&self) -> bool {
        self.told_to_end.load(Ordering::Relaxed)
    }
    /// Stops it cleanly and waits for that.
    ///
    /// # Errors
    /// When a thread failed or the storage space could not be written out.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.threads.is_empty() {
            return Ok(());
        }
        // Nobody listens any more when all threads have failed.
        let _ = self.shutdown.send(true);
        let mut first = Ok(());
        for thread in self.threads.drain(..) {
            let ended =
                thread.join().unwrap_or_else(|_| Err(anyhow!("a thread of the server panicked")));
            first = first.and(ended);
        }
        let closed = self.space.close().context("cannot close the storage space");
        first.and(closed)
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            tracing::error!("server {}: {e:#}", self.alias);
        }
    }
}

/// Makes the storage space of a server.
///
/// # Errors
/// An unknown alias; a folder that is not empty or cannot be written.
pub fn format(cluster: &Cluster, alias: &str) -> Result<()> {
    let (id, server) = cluster.by_alias(alias).with_context(|| unknown(cluster, alias))?;
    let dir = cluster.storage_of(server);
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).with_context(|| {
            format!(
                "cannot make {}; is the disk there, and may this user write to it?",
                parent.display()
            )
        })?;
    }
    StorageSpace::format(&dir, &format_info(cluster, id, alias)).map_err(|e| match e.code {
        ErrorCode::NoSpace => {
            anyhow!("{}; free some space there, or choose a folder on another disk", e.detail)
        }
        _ => e.into(),
    })
}

fn unknown(cluster: &Cluster, alias: &str) -> String {
    format!("the cluster file names no server '{alias}'; it has {}", cluster.aliases())
}

fn format_info(cluster: &Cluster, id: ServerId, alias: &str) -> FormatInfo {
    let keyval = cluster.servers.get(id as usize).map(|s| s.keyval).unwrap_or_default();
    FormatInfo { fs_id: cluster.fs_id, server_alias: alias.to_owned(), server_id: id, keyval }
}

/// What all threads of one server share.
struct Shared {
    id: ServerId,
    alias: String,
    map: Arc<ClusterMap>,
    env: Env,
    key: Option<ClusterKey>,
    metrics: Arc<Metrics>,
    space: Arc<StorageSpace>,
    options: Arc<ServerOptions>,
    shutdown: watch::Receiver<bool>,
    sync_meta: bool,
}

/// Starts a server; returns when it serves. An I/O server gets `io_loops` event loops.
///
/// # Errors
/// Whatever keeps it from serving: an unknown alias, a storage space that is missing, in use or of
/// another version or file system, a taken port, a missing key.
pub fn start(cluster: &Cluster, alias: &str, io_loops: usize) -> Result<RunningServer> {
    let (id, server) = cluster.by_alias(alias).with_context(|| unknown(cluster, alias))?;
    let key = cluster.key_path().map(|p| ClusterKey::from_file(&p)).transpose()?;
    let env = Env::real();
    let info = format_info(cluster, id, alias);
    let collection = CollectionOptions::within(server.meta_memory_bytes);
    let mut trove = TroveOptions { collection, ..TroveOptions::default() };
    trove.bstreams.recycle_secs = u64::from(cluster.timeouts.handle_recycle_secs);
    let dir = cluster.storage_of(server);
    let space = when_free(|| StorageSpace::open(&dir, &info, trove.clone(), env.clone()))?;
    let space = Arc::new(space);
    crate::growth::check_and_note(cluster, &dir).with_context(|| format!("server {alias}"))?;
    let (stop, shutdown) = watch::channel(false);
    let mut options = ServerOptions::new(env.clone());
    options.key = key.clone();
    options.fs_id = cluster.fs_id;
    let shared = Arc::new(Shared {
        id,
        alias: alias.to_owned(),
        map: Arc::new(cluster.to_map()),
        env,
        key,
        metrics: Arc::new(Metrics::new()),
        space: space.clone(),
        options: Arc::new(options),
        shutdown,
        sync_meta: cluster.sync_meta,
    });
    let mut running = RunningServer {
        alias: alias.to_owned(),
        addresses: server.addresses.clone(),
        shutdown: stop,
        told_to_end: Arc::default(),
        threads: Vec::new(),
        space,
        failure_told: false,
    };
    let started = start_threads(&shared, server, io_loops, &mut running);
    if let Err(e) = started {
        // Its own end says less than what kept it from starting.
        let _ = running.stop();
        return Err(e.context(format!("server {alias}")));
    }
    Ok(running)
}

/// Tries again for a moment while something is in use: a predecessor that was killed just now holds
/// lock and sockets until the last of its threads is gone.
fn when_free<T>(attempt: impl Fn() -> Result<T, PvfsError>) -> Result<T, PvfsError> {
    let until = Instant::now() + PREDECESSOR_PATIENCE;
    loop {
        match attempt() {
            Err(e) if e.code == ErrorCode::InUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

fn start_threads(
    shared: &Arc<Shared>,
    server: &pvfs2_config::Server,
    io_loops: usize,
    running: &mut RunningServer,
) -> Result<()> {
    let listeners = bind_all(&server.addresses)?;
    let (ask, questions) = mpsc::unbounded_channel();
    match (server.meta_range.is_some(), server.io_range.is_some()) {
        (false, _) => start_io(shared, listeners, questions, io_loops.max(1), running)?,
        (true, also_io) => start_meta(shared, listeners, questions, also_io, running)?,
    }
    match &server.management {
        Some(address) => start_management(shared, address, ask, running),
        None => Ok(()),
    }
}

fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}

fn bind_all(addresses: &[String]) -> Result<Vec<Listener>> {
    let runtime = runtime()?;
    let mut all = Vec::new();
    for text in addresses {
        let address: Address = text.parse()?;
        if let Address::Unix(path) = &address
            && let Some(dir) = path.parent()
        {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {} for a socket", dir.display()))?;
        }
        let bound = when_free(|| runtime.block_on(Listener::bind(&address))).map_err(|e| match e.code {
            ErrorCode::InUse => anyhow!(
                "{} (is this server running already? otherwise end what listens there, or change the address in the cluster file)",
                e.detail
            ),
            _ => e.into(),
        });
        all.push(bound?);
    }
    Ok(all)
}

/// Runs `main` on a thread with a runtime of its own and waits until it has told that it is ready.
fn spawn(
    name: String,
    running: &mut RunningServer,
    main: impl AsyncFnOnce(Ready) -> Result<()> + Send + 'static,
) -> Result<()> {
    let (ready, is_ready) = std_mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let runtime = runtime()?;
        LocalSet::new().block_on(&runtime, main(Ready(ready)))
    });
    let thread = thread.context("cannot start a thread")?;
    match is_ready.recv() {
        Ok(()) => {
            running.threads.push(thread);
            Ok(())
        }
        // It ended before it was ready: its result says why.
        Err(_) => match thread.join() {
            Ok(Ok(())) => bail!("a thread of the server ended before it was ready"),
            Ok(Err(e)) => Err(e),
            Err(_) => bail!("a thread of the server panicked"),
        },
    }
}

/// Told once by a thread that serves.
struct Ready(std_mpsc::SyncSender<()>);

impl Ready {
    fn tell(self) {
        // Whoever started the thread waits for it.
        let _ = self.0.send(());
    }
}

fn service_config(
    shared: &Shared,
    durable: Option<pvfs2_server_core::session::DurableSessions>,
) -> ServiceConfig {
    ServiceConfig {
        server: shared.id,
        map: shared.map.clone(),
        env: shared.env.clone(),
        metrics: shared.metrics.clone(),
        durable,
    }
}

fn io_server(shared: &Shared) -> Result<Arc<IoServer>> {
    let config = IoConfig::new(
        shared.id,
        shared.map.clone(),
        shared.space.bstreams.clone(),
        shared.env.clone(),
        shared.metrics.clone(),
    );
    Ok(IoServer::open(config)?)
}

fn start_io(
    shared: &Arc<Shared>,
    listeners: Vec<Listener>,
    questions: mpsc::UnboundedReceiver<Question>,
    loops: usize,
    running: &mut RunningServer,
) -> Result<()> {
    let io = io_server(shared)?;
    let service = Arc::new(SessionService::new(io.clone(), service_config(shared, None))?);
    for i in 1..loops {
        let clones = listeners.iter().map(Listener::try_clone).collect::<Result<Vec<_>, _>>()?;
        let (shared, service) = (shared.clone(), service.clone());
        spawn(format!("{}-{i}", shared.alias), running, async move |ready| {
            ready.tell();
            serve_all(&shared, clones, service).await;
            Ok(())
        })?;
    }
    let shared = shared.clone();
    spawn(format!("{}-0", shared.alias), running, async move |ready| {
        let expiry = service.spawn_background();
        let answers = spawn_local(answer(service.clone(), questions));
        let background = spawn_local({
            let (io, shutdown) = (io.clone(), shared.shutdown.clone());
            async move { io.background(shutdown).await }
        });
        ready.tell();
        serve_all(&shared, listeners, service).await;
        expiry.abort();
        answers.abort();
        // It ends by the same signal; what it writes out must be over before the space is closed.
        let _ = background.await;
        Ok(io.shutdown().await?)
    })
}

fn start_meta(
    shared: &Arc<Shared>,
    listeners: Vec<Listener>,
    questions: mpsc::UnboundedReceiver<Question>,
    also_io: bool,
    running: &mut RunningServer,
) -> Result<()> {
    let shared = shared.clone();
    spawn(format!("{}-0", shared.alias), running, async move |ready| {
        let config = MetaConfig {
            server: shared.id,
            map: shared.map.clone(),
            collection: shared.space.collection.clone(),
            bstreams: Some(shared.space.bstreams.clone()),
            clean_stop: shared.space.clean_stop,
            sync_meta: shared.sync_meta,
            env: shared.env.clone(),
        };
        let meta = MetaServer::open(config, PeerConfig { key: shared.key.clone(), mem: None })?;
        let services = service_config(&shared, Some(meta.durable_sessions()));
        meta.spawn_background();
        if also_io {
            let io = io_server(&shared)?;
            let background = spawn_local({
                let (io, shutdown) = (io.clone(), shared.shutdown.clone());
                async move { io.background(shutdown).await }
            });
            // `SessionService` takes an Arc; this one never leaves its thread.
            #[allow(clippy::arc_with_non_send_sync)]
            let handler = Arc::new(CombinedHandler { meta: meta.clone(), io: io.clone() });
            run_meta(&shared, listeners, questions, SessionService::new(handler, services)?, ready)
                .await;
            let _ = background.await;
            io.shutdown().await?;
        } else {
            let service = SessionService::new(meta.clone(), services)?;
            run_meta(&shared, listeners, questions, service, ready).await;
        }
        Ok(meta.shutdown().await?)
    })
}

async fn run_meta<H: OpHandler>(
    shared: &Shared,
    listeners: Vec<Listener>,
    questions: mpsc::UnboundedReceiver<Question>,
    service: SessionService<H>,
    ready: Ready,
) {
    let service = Arc::new(service);
    let expiry = service.spawn_background();
    let answers = spawn_local(answer(service.clone(), questions));
    ready.tell();
    serve_all(shared, listeners, service).await;
    expiry.abort();
    answers.abort();
}

/// Serves all addresses on this loop until the server is told to stop.
async fn serve_all<H: OpHandler>(
    shared: &Shared,
    listeners: Vec<Listener>,
    service: Arc<SessionService<H>>,
) {
    let tasks: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let (options, shutdown) = (shared.options.clone(), shared.shutdown.clone());
            spawn_local(serve(listener, service.clone(), options, shutdown))
        })
        .collect();
    let mut shutdown = shared.shutdown.clone();
    // An error means that the sender is gone: the same as true.
    let _ = shutdown.wait_for(|stop| *stop).await;
    service.drain();
    for task in tasks {
        if let Err(e) = task.await {
            tracing::error!("server {}: a listening task ended badly: {e}", shared.alias);
        }
    }
}

/// Answers the management service's questions on the server's own loop, where its numbers live.
async fn answer<H: OpHandler>(
    service: Arc<SessionService<H>>,
    mut questions: mpsc::UnboundedReceiver<Question>,
) {
    while let Some(question) = questions.recv().await {
        let mut gauges = service.handler().gauges();
        gauges.push((names::SESSIONS, service.session_count() as u64));
        // A question that nobody waits for any more.
        let _ = question.try_send(gauges);
    }
}

fn start_management(
    shared: &Arc<Shared>,
    address: &str,
    ask: mpsc::UnboundedSender<Question>,
    running: &mut RunningServer,
) -> Result<()> {
    let gauges = move || {
        let (question, answer) = std_mpsc::sync_channel(1);
        if ask.send(question).is_err() {
            return Vec::new();
        }
        answer.recv_timeout(GAUGES_PATIENCE).unwrap_or_default()
    };
    let told_to_end = running.told_to_end.clone();
    let drain = move |end: bool| {
        if end {
            told_to_end.store(true, Ordering::Relaxed);
        }
    };
    let source = Arc::new(ServerSource::new(
        shared.id,
        &shared.map,
        shared.env.rand_u64(),
        shared.metrics.clone(),
        Box::new(gauges),
        Box::new(drain),
    ));
    let (address, shutdown) = (address.to_owned(), shared.shutdown.clone());
    spawn(format!("{}-mgmt", shared.alias), running, async move |ready| {
        let listener = management::bind(&address).await?;
        ready.tell();
        management::serve_on(listener, source, shutdown).await;
        Ok(())
    })
}
