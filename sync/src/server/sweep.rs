//! The server's own round: at its start and every hour it drops what has been kept long enough, for each
//! user in turn. A user whose store cannot be opened is logged and does not stop the round.
use super::http::App;
use super::users::Users;
use crate::error::{Result, SyncError};
use crate::store::Expired;
use std::time::Duration;
use tokio::sync::watch;

/// How often it goes round.
pub const EVERY: Duration = Duration::from_secs(3_600);

impl Users {
    /// Goes round once.
    ///
    /// # Errors
    /// The accounts' database; [`SyncError::RootLost`].
    pub fn sweep(&self) -> Result<Expired> {
        self.jobs.between(|| self.finish_swaps());
        let ages = self.accounts.ages()?;
        let mut all = Expired::default();
        for user in self.accounts.users()? {
            loop {
                self.root().check()?;
                if *self.closing.borrow() {
                    return Ok(all);
                }
                let piece = self.worker(&user).and_then(|w| w.change(|s| s.expire(&ages)));
                match piece {
                    Ok(done) => {
                        all.add(done);
                        if !done.more() {
                            break;
                        }
                    }
                    // Another round will find it.
                    Err(SyncError::Held(_)) => break,
                    Err(e @ SyncError::RootLost(_)) if self.root().check().is_err() => {
                        return Err(e);
                    }
                    Err(e) => {
                        tracing::error!(user = user.name, error = %e, "expiry");
                        break;
                    }
                }
            }
        }
        *self.swept.lock() = Some((self.now_ms(), all));
        Ok(all)
    }
}

/// Goes round until the server ends.
pub async fn run(app: App, every: Duration, mut stop: watch::Receiver<bool>) {
    loop {
        let round = app.clone();
        match tokio::task::spawn_blocking(move || round.sweep()).await {
            Ok(Ok(done)) if done != Expired::default() => tracing::info!(?done, "expired"),
            Ok(Ok(_)) => {}
            Ok(Err(e)) => tracing::error!(error = %e, "expiry"),
            Err(e) => tracing::error!(error = %e, "expiry"),
        }
        let ended = stop.wait_for(|s| *s);
        if tokio::time::timeout(every, ended).await.is_ok() {
            return;
        }
    }
}
