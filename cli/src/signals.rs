//! SIGINT, SIGTERM and SIGHUP for the long-lived subcommands: caught from the first moment, so that
//! none arrives between the start of a server or a mount and the wait for the end.
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a program cleanly.
pub struct StopSignals {
    runtime: Runtime,
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl StopSignals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn catch() -> Result<StopSignals> {
        let runtime =
            Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        let guard = runtime.enter();
        let one = |kind| signal(kind).context("cannot catch signals");
        let (int, term) = (one(SignalKind::interrupt())?, one(SignalKind::terminate())?);
        let hup = one(SignalKind::hangup())?;
        drop(guard);
        Ok(StopSignals { runtime, int, term, hup })
    }

    /// Waits for one of them, at most `limit`; its name when it came.
    pub fn wait(&mut self, limit: Duration) -> Option<&'static str> {
        let (int, term, hup) = (&mut self.int, &mut self.term, &mut self.hup);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = int.recv() => Some("SIGINT"),
                _ = term.recv() => Some("SIGTERM"),
                _ = hup.recv() => Some("SIGHUP"),
                () = tokio::time::sleep(limit) => None,
            }
        })
    }
}
