//! Polling instead of sleeping: a test waits for what it needs, at most for a stated time.
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// Seconds, short to write.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Whether `condition` came true within `limit`.
pub fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Waits for `condition`; panics, naming `what`, when it does not come true within `limit`.
#[track_caller]
pub fn until(limit: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(within(limit, condition), "waited {limit:?} in vain: {what}");
}

/// The exit status of `child`, if it ends within `limit`.
pub fn exit_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let mut status = None;
    within(limit, || {
        status = child.try_wait().expect("wait for a child");
        status.is_some()
    });
    status
}
