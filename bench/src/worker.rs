//! A worker: one client, a process of its own, that does phase after phase as it is told.
//!
//! Its standard output belongs to the protocol of [`crate::job`]; whatever it has to say to people
//! goes to standard error. It ends with the coordinator: at the end of its input, and by signal when
//! the process that started it dies.
use crate::api::Backend;
use crate::host::Host;
use crate::job::{FromWorker, Job, Phase, Setup, ToWorker, now_ns, read_line, to_line};
use crate::{ior, mdtest};
use anyhow::{Context, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::io::{BufReader, Write};
use std::time::{Duration, Instant};

/// How often a worker tells how far it is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Tells how far a phase is.
pub struct Teller {
    told: Instant,
    ops: u64,
    bytes: u64,
}

impl Teller {
    /// For a phase that begins now.
    pub fn new() -> Teller {
        Teller { told: Instant::now(), ops: 0, bytes: 0 }
    }

    /// One more transfer or operation, which ended at `now`.
    pub fn add(&mut self, bytes: u64, now: Instant) {
        self.ops += 1;
        self.bytes += bytes;
        if now.duration_since(self.told) >= TELL_EVERY {
            self.told = now;
            // A coordinator that is gone is noticed at the next message.
            let _ = send(&FromWorker::Progress { ops: self.ops, bytes: self.bytes });
        }
    }
}

impl Default for Teller {
    fn default() -> Teller {
        Teller::new()
    }
}

fn send(message: &FromWorker) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(&to_line(message)?).and_then(|()| out.flush()).context("tell the coordinator")
}

/// Runs the worker to its end.
///
/// # Errors
/// A coordinator that breaks off; what kept the worker from going on was told to it too.
pub fn run(host: &dyn Host) -> Result<()> {
    // Without it, a killed coordinator would leave clients that write on.
    set_parent_process_death_signal(Some(Signal::TERM)).context("prctl")?;
    let mut input = BufReader::new(std::io::stdin().lock());
    let Some(first) = read_line(&mut input)? else { return Ok(()) };
    let ToWorker::Setup(setup) = first else { bail!("the first message is no setup") };
    let mut worker = match Worker::new(host, *setup) {
        Ok(worker) => worker,
        Err(e) => return send(&FromWorker::Failed(format!("{e:#}"))),
    };
    send(&FromWorker::Ready)?;
    while let Some(message) = read_line(&mut input)? {
        match message {
            ToWorker::End => break,
            ToWorker::Setup(_) => bail!("a second setup"),
            ToWorker::Phase(phase) => match worker.phase(&phase) {
                Ok(outcome) => send(&FromWorker::Done(Box::new(outcome)))?,
                Err(e) => {
                    send(&FromWorker::Failed(format!("{e:#}")))?;
                    break;
                }
            },
        }
    }
    worker.backend().end();
    Ok(())
}

enum Worker {
    Ior(ior::Worker),
    Mdtest(mdtest::Worker),
}

impl Worker {
    fn new(host: &dyn Host, setup: Setup) -> Result<Worker> {
        let (backend, path) = Backend::new(setup.api, host, &setup.fs, &setup.path)?;
        Ok(match setup.job {
            Job::Ior(spec) => {
                Worker::Ior(ior::Worker::new(backend, spec, path, setup.rank, setup.clients)?)
            }
            Job::Mdtest(spec) => {
                Worker::Mdtest(mdtest::Worker::new(backend, spec, path, setup.rank, setup.clients))
            }
        })
    }

    fn phase(&mut self, phase: &Phase) -> Result<crate::job::Outcome> {
        let begin_ns = now_ns();
        let mut outcome = match (self, phase) {
            (_, Phase::DropCaches) => drop_caches().map(|()| Default::default())?,
            (Worker::Ior(worker), Phase::Ior(phase)) => worker.phase(phase)?,
            (Worker::Mdtest(worker), Phase::Mdtest(phase)) => worker.phase(phase)?,
            _ => bail!("a phase of another job"),
        };
        if outcome.begin_ns == 0 {
            (outcome.begin_ns, outcome.end_ns) = (begin_ns, now_ns());
        }
        Ok(outcome)
    }

    fn backend(self) -> Backend {
        match self {
            Worker::Ior(worker) => worker.backend,
            Worker::Mdtest(worker) => worker.backend,
        }
    }
}

fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
        .context("drop the page cache (this needs root; leave --drop-caches out without it)")
}
