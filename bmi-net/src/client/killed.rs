//! Whether the program that waits for an operation is being killed: fuser answers FUSE_INTERRUPT
//! with ENOSYS, so whoever waits must look by itself.

use std::time::Duration;

/// How often a waiting call looks, in milliseconds.
pub(super) const LOOK_MS: u64 = 250;

/// Whether the thread `tid` has a SIGKILL pending or is gone.
pub(super) fn is_being_killed(tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    // A thread's own folder is not listed in /proc but can be opened.
    match std::fs::read_to_string(format!("/proc/{tid}/status")) {
        Ok(status) => has_kill_pending(&status),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH),
    }
}

fn has_kill_pending(status: &str) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    status.lines().any(|line| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        let dead =
            line.strip_prefix("State:").is_some_and(|s| s.trim_start().starts_with(['Z', 'X']));
        dead || mask
            .and_then(|m| u64::from_str_radix(m.trim(), 16).ok())
            .is_some_and(|m| m & KILL != 0)
    })
}

/// What ends a wait that any signal may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The thread is being killed, or is gone.
    Kill,
    /// A signal waits to be delivered: the system call shall end with EINTR.
    Other,
}

/// Waits until the thread `tid` has a signal; for ever if it is 0. Needs a tokio runtime.
pub async fn signalled(tid: u32) -> Signal {
    if tid == 0 {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        if is_being_killed(tid) {
            return Signal::Kill;
        }
        let status = std::fs::read_to_string(format!("/proc/{tid}/status"));
        if status.is_ok_and(|s| has_signal(&s)) {
            return Signal::Other;
        }
    }
}

/// Whether a signal waits that this thread, and no other, will take.
fn has_signal(status: &str) -> bool {
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let mask = |name: &str| field(name).and_then(|m| u64::from_str_radix(m, 16).ok()).unwrap_or(0);
    // What is pending for the whole process another thread may take: then this one must not return.
    let shared = if field("Threads:") == Some("1") { mask("ShdPnd:") } else { 0 };
    (mask("SigPnd:") | shared) & !mask("SigBlk:") & !mask("SigIgn:") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_signals_are_seen() {
        let alarm = "0000000000002000";
        let status = |threads, own, shared, blocked, ignored| {
            format!(
                "Threads:\t{threads}\nSigPnd:\t{own}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\n\
                 SigIgn:\t{ignored}\n"
            )
        };
        assert!(has_signal(&status(9, alarm, "0", "0", "0")));
        assert!(has_signal(&status(1, "0", alarm, "0", "0")));
        assert!(!has_signal(&status(2, "0", alarm, "0", "0")), "another thread may take it");
        assert!(!has_signal(&status(1, "0", alarm, alarm, "0")));
        assert!(!has_signal(&status(1, "0", alarm, "0", alarm)));
        assert!(!has_signal(&status(1, "0", "0", "0", "0")));
    }

    #[test]
    fn pending_kill_is_seen() {
        assert!(has_kill_pending("State:\tS (sleeping)\nSigPnd:\t0000000000000100\n"));
        assert!(has_kill_pending("ShdPnd:\t0000000000000100\n"));
        assert!(has_kill_pending("State:\tZ (zombie)\nShdPnd:\t0000000000000000\n"));
        assert!(!has_kill_pending(
            "State:\tS (sleeping)\nSigPnd:\t0000000000000200\nSigBlk:\tffff\n"
        ));
        assert!(!is_being_killed(0));
        assert!(!is_being_killed(std::process::id()));
        assert!(is_being_killed(u32::MAX - 1));
    }
}
