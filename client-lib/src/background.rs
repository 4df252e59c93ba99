//! The background thread: what no program waits for on its own thread.
//!
//! One thread with a current-thread runtime and an `AsyncNet`. It drives operations that stalled on
//! a FUSE thread ([`Background::run_or_move`]), closes of files ([`Background::release`]: those that
//! have something to report at once, the others in batches), and keeps the sessions' leases. Tools run whole
//! programs on it ([`Background::wait`]).
//!
//! Invariants: a close waits at most [`FLUSH_EVERY`], or until there are [`BATCH_MAX`] for its server; the
//! thread is woken for the first that waits, and for each [`BATCH_MAX`]th, not for each;
//! [`Background::shutdown`] sends what is pending and says goodbye, within a bounded time.
use crate::client::Client;
use crate::joining::{self, WriteOut};
use crate::locks::Job;
use crate::machine::{Machine, OpState, drive_now, run};
use crate::open_table::OpenFile;
use crate::sys::{GiveBack, GiveBackRight, Release, ReleaseBatch, Write};
use parking_lot::Mutex;
use pvfs2_bmi::call::Net;
use pvfs2_bmi::client::{AsyncNet, BlockingNet};
use pvfs2_proto::{ErrorCode, PvfsError, Result, ServerId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::{LocalSet, spawn_local};

/// Longest time that a close with nothing to report waits for company.
pub const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Closes that travel in one request.
pub const BATCH_MAX: usize = 64;
/// How long a shutdown waits for what is under way.
pub const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Work for the thread: called there, with what it has.
type Task<N> = Box<dyn FnOnce(Rc<Worker<N>>) -> LocalFuture + Send>;

/// An order to the worker.
enum Order<N: Net> {
    Run(Task<N>),
    /// A file is among the closed ones.
    Closed,
    /// [`BATCH_MAX`] are.
    ManyClosed,
    Stop,
}

/// Files that were closed, which the worker has not taken yet.
type Closed = Arc<Mutex<Vec<Arc<OpenFile>>>>;

/// Where a worker gets its orders.
pub struct Inbox<N: Net> {
    orders: mpsc::UnboundedReceiver<Order<N>>,
    closed: Closed,
}

/// Gives a worker orders, from any thread.
pub struct Outbox<N: Net> {
    orders: mpsc::UnboundedSender<Order<N>>,
    closed: Closed,
}

impl<N: Net> Outbox<N> {
    fn send(&self, order: Order<N>) -> Result<()> {
        self.orders.send(order).map_err(|_| stopped())
    }

    /// See [`Background::release`]; whether the worker was woken for it.
    pub fn release(&self, file: Arc<OpenFile>) -> bool {
        let urgent = file.has_news();
        let waiting = {
            let mut closed = self.closed.lock();
            closed.push(file);
            closed.len()
        };
        // After a shutdown the session is gone, and the open with it.
        if urgent || waiting == BATCH_MAX {
            self.send(Order::ManyClosed).is_ok()
        } else {
            waiting == 1 && self.send(Order::Closed).is_ok()
        }
    }
}

/// A way for orders. A worker whose outbox is gone sends what is pending and ends.
pub fn orders<N: Net>() -> (Outbox<N>, Inbox<N>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let closed = Closed::default();
    (Outbox { orders: tx, closed: closed.clone() }, Inbox { orders: rx, closed })
}

/// What runs on the thread; over any carrier, so that tests and simulations drive it too.
pub struct Worker<N: Net> {
    client: Arc<Client>,
    net: Rc<N>,
    batches: RefCell<BTreeMap<ServerId, Vec<Arc<OpenFile>>>>,
    running: Cell<usize>,
    idle: Notify,
}

impl<N: Net + 'static> Worker<N> {
    /// A worker.
    pub fn new(client: Arc<Client>, net: Rc<N>) -> Rc<Worker<N>> {
        Rc::new(Worker {
            client,
            net,
            batches: RefCell::default(),
            running: Cell::new(0),
            idle: Notify::new(),
        })
    }

    /// The client.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// The carrier.
    pub fn net(&self) -> &Rc<N> {
        &self.net
    }

    fn spawn(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        let worker = self.clone();
        self.running.set(self.running.get() + 1);
        spawn_local(async move {
            future.await;
            worker.running.set(worker.running.get() - 1);
            worker.idle.notify_waiters();
        });
    }

    /// Releases a file: at once if it has something to report, else with the next batch.
    pub fn release(self: &Rc<Self>, file: Arc<OpenFile>) {
        if file.has_news() {
            let worker = self.clone();
            self.spawn(async move {
                let mut op = OpState::own(&worker.client);
                // Logged where it failed; nobody waits for it.
                let _ = run(&mut Release::new(file), &mut op, &worker.client, &*worker.net).await;
            });
            return;
        }
        if file.mark_released() {
            return;
        }
        let Some(server) = self.client.map().meta_server_of(file.handle) else { return };
        let mut batches = self.batches.borrow_mut();
        let batch = batches.entry(server).or_default();
        batch.push(file);
        if batch.len() >= BATCH_MAX {
            let full = std::mem::take(batch);
            drop(batches);
            self.send_batch(server, full);
        }
    }

    /// Sends all batches that wait.
    pub fn flush(self: &Rc<Self>) {
        for (server, batch) in self.batches.take() {
            if !batch.is_empty() {
                self.send_batch(server, batch);
            }
        }
    }

    fn send_batch(self: &Rc<Self>, server: ServerId, files: Vec<Arc<OpenFile>>) {
        let worker = self.clone();
        self.spawn(async move {
            let mut op = OpState::own(&worker.client);
            let mut batch = ReleaseBatch::new(server, files);
            let _ = run(&mut batch, &mut op, &worker.client, &*worker.net).await;
        });
    }

    /// Gives a lock back. Nobody waits for it: with its session, every lock ends.
    fn give_back(self: &Rc<Self>, job: Job) {
        let worker = self.clone();
        spawn_local(async move {
            let mut op = OpState::own(&worker.client);
            // Logged where it failed.
            let _ = run(&mut GiveBack::new(job), &mut op, &worker.client, &*worker.net).await;
        });
    }

    /// Does what the joining of writes asks for.
    fn join_job(self: &Rc<Self>, job: joining::Job) {
        let worker = self.clone();
        self.spawn(async move {
            let mut op = OpState::own(&worker.client);
            let (client, net) = (&worker.client, &*worker.net);
            match job {
                joining::Job::WriteOut(state) => {
                    let Some(out) = client.joins().take_out(&state) else { return };
                    let result = match worker.may_write_out(&out).await {
                        Ok(()) => {
                            let mut write = Write::joined(out.file, out.runs, out.bytes);
                            run(&mut write, &mut op, client, net).await
                        }
                        Err(e) => Err(e),
                    };
                    let (handle, failed) = (state.handle, result.err());
                    let lost = client.joins().landed(&state, failed.clone());
                    if let Some(e) = failed {
                        // They count in its size.
                        client.acache().drop_handle(handle);
                        tracing::warn!("{lost} bytes of file {handle} could not be written: {e}");
                    }
                }
                joining::Job::GiveBack(state) => {
                    let _ = client.joins().settle(&state, 0).await;
                    let right = client.joins().given_up(&state);
                    let mut back = GiveBackRight::new(state.handle, right);
                    if let Err(e) = run(&mut back, &mut op, client, net).await {
                        // Lost, the server asks again.
                        let handle = state.handle;
                        tracing::debug!("the right on file {handle} could not be given back: {e}");
                    }
                    client.joins().gave_back(&state);
                }
                joining::Job::Refuse(handle, right) => {
                    let mut back = GiveBackRight::new(handle, right);
                    // Lost, the server asks again.
                    let _ = run(&mut back, &mut op, client, net).await;
                }
                joining::Job::Listen(server) => {
                    let _ = run(&mut GiveBackRight::none(server), &mut op, client, net).await;
                }
            }
        });
    }

    /// Where this process was stopped for so long that its session may have ended meanwhile, others may
    /// have written the file since. Nothing is held back unless the server has answered within two thirds
    /// of the lease before, so that is a third after it was.
    async fn may_write_out(&self, out: &WriteOut) -> Result<()> {
        let client = &self.client;
        let server = client.map().meta_server_of(out.file.handle).unwrap_or_default();
        let lease_ns = i64::from(client.shared().lease_ms(server)) * 1_000_000;
        if client.env().now_ns().saturating_sub(out.since_ns) < lease_ns / 3 {
            return Ok(());
        }
        let mut ask = GiveBackRight::ask(out.file.handle, out.right);
        if run(&mut ask, &mut OpState::own(client), client, &*self.net).await? {
            return Ok(());
        }
        Err(PvfsError::new(
            ErrorCode::Io,
            "this client was stopped for longer than its lease, and others may have written since",
        ))
    }

    /// Writes out everything that is held back.
    async fn write_out(self: &Rc<Self>) {
        while self.client.joins().any() {
            self.client.joins().kick_all();
            while let Some(job) = self.client.joins().pop() {
                self.join_job(job);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn until_idle(&self) {
        while self.running.get() > 0 {
            let idle = self.idle.notified();
            if self.running.get() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Does what it is told until it is told to stop.
    pub async fn serve(self: Rc<Self>, inbox: Inbox<N>) {
        let Inbox { mut orders, closed } = inbox;
        let take_closed = || {
            let files = std::mem::take(&mut *closed.lock());
            files.into_iter().for_each(|file| self.release(file));
        };
        let mut flush_at = None;
        loop {
            let waiting =
                !closed.lock().is_empty() || self.batches.borrow().values().any(|b| !b.is_empty());
            let due = match (waiting, flush_at) {
                (false, _) => None,
                (true, Some(at)) => Some(at),
                (true, None) => Some(tokio::time::Instant::now() + FLUSH_EVERY),
            };
            flush_at = due;
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                job = self.client.locks().next_job() => self.give_back(job),
                job = self.client.joins().next_job(|| self.client.env().now_ns()) => {
                    self.join_job(job);
                }
                order = orders.recv() => match order {
                    Some(Order::Run(job)) => self.spawn(job(self.clone())),
                    Some(Order::Closed) => {}
                    Some(Order::ManyClosed) => take_closed(),
                    Some(Order::Stop) | None => {
                        take_closed();
                        return self.stop().await;
                    }
                },
                () = timer => {
                    flush_at = None;
                    take_closed();
                    self.flush();
                }
            }
        }
    }

    async fn stop(self: &Rc<Self>) {
        if tokio::time::timeout(SHUTDOWN_WAIT, self.write_out()).await.is_err() {
            tracing::error!(
                "stopping with written bytes that a server has not taken: they are lost"
            );
        }
        self.flush();
        if tokio::time::timeout(SHUTDOWN_WAIT, self.until_idle()).await.is_err() {
            tracing::warn!(
                operations = self.running.get(),
                "stopping while operations still wait for a server; they end unanswered"
            );
        }
    }
}

/// The thread; see the head of the file.
pub struct Background {
    client: Arc<Client>,
    orders: Outbox<AsyncNet>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Io` when the system gives no thread or no runtime.
    pub fn start(client: Arc<Client>) -> Result<Arc<Background>> {
        let (orders, inbox) = orders();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| no_thread("runtime", &e))?;
        let thread = std::thread::Builder::new()
            .name("pvfs2-bg".into())
            .spawn({
                let client = client.clone();
                move || LocalSet::new().block_on(&runtime, thread_main(client, inbox))
            })
            .map_err(|e| no_thread("thread", &e))?;
        Ok(Arc::new(Background { client, orders, thread: Mutex::new(Some(thread)) }))
    }

    /// The client.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Runs an operation on the thread and calls `done` there with its result. After a shutdown
    /// `done` is called at once with `Interrupted`.
    pub fn spawn_op<M: Machine + 'static>(
        &self,
        mut machine: M,
        mut op: OpState,
        done: impl FnOnce(Result<M::Out>) + Send + 'static,
    ) {
        let cell = Arc::new(Mutex::new(Some(done)));
        let inside = cell.clone();
        let job: Task<AsyncNet> = Box::new(move |worker| {
            Box::pin(async move {
                let result = run(&mut machine, &mut op, &worker.client, &*worker.net).await;
                if let Some(done) = inside.lock().take() {
                    done(result);
                }
            })
        });
        if self.orders.send(Order::Run(job)).is_err()
            && let Some(done) = cell.lock().take()
        {
            done(Err(stopped()));
        }
    }

    /// Runs an operation on this thread by `net`; if it stalls, moves it to the background, which
    /// calls `done`. So `done` is called once, here or there.
    pub fn run_or_move<M: Machine + 'static>(
        &self,
        net: &BlockingNet,
        mut machine: M,
        mut op: OpState,
        done: impl FnOnce(Result<M::Out>) + Send + 'static,
    ) {
        match drive_now(run(&mut machine, &mut op, &self.client, net)) {
            Err(e) if e.code == ErrorCode::Stalled => self.spawn_op(machine, op, done),
            result => done(result),
        }
    }

    /// Runs an operation on the thread and waits for its result, as a tool does. Never call it on
    /// the background thread itself.
    ///
    /// # Errors
    /// The operation's.
    pub fn run_op<M: Machine + 'static>(&self, machine: M, op: OpState) -> Result<M::Out>
    where
        M::Out: 'static,
    {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.spawn_op(machine, op, move |result| {
            let _ = tx.send(result);
        });
        rx.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Runs a program of a tool on the thread (many operations, also at once) and waits for its
    /// result.
    ///
    /// # Errors
    /// The program's; `Interrupted` after a shutdown.
    pub fn wait<T, F, Fut>(&self, program: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Worker<AsyncNet>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + 'static,
    {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        let job: Task<AsyncNet> = Box::new(move |worker| {
            Box::pin(async move {
                let _ = tx.send(program(worker).await);
            })
        });
        self.orders.send(Order::Run(job))?;
        rx.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Releases a file; returns at once. Until the server has answered, what was written through it
    /// stays this client's knowledge.
    pub fn release(&self, file: Arc<OpenFile>) {
        let _ = self.orders.release(file);
    }

    /// Sends what is pending, says goodbye to the servers and ends the thread. Waits for that, a
    /// few seconds at most; a second call does nothing.
    pub fn shutdown(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        let _ = self.orders.send(Order::Stop);
        if thread.join().is_err() {
            tracing::error!("the background thread has panicked");
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.shutdown();
    }
}

async fn thread_main(client: Arc<Client>, inbox: Inbox<AsyncNet>) {
    let net = AsyncNet::new(client.shared().clone());
    let keeper = spawn_local({
        let net = net.clone();
        async move { net.keepalive().await }
    });
    Worker::new(client, net.clone()).serve(inbox).await;
    keeper.abort();
    if tokio::time::timeout(SHUTDOWN_WAIT, net.goodbye()).await.is_err() {
        tracing::warn!("a server did not answer the goodbye; its session ends with its lease");
    }
}

fn no_thread(what: &str, e: &std::io::Error) -> PvfsError {
    PvfsError::new(ErrorCode::Io, format!("no {what} for background work: {e}"))
}

fn stopped() -> PvfsError {
    PvfsError::new(ErrorCode::Interrupted, "the client has been shut down")
}
