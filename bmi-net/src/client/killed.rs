//! Whether the program that waits for an operation is being killed: fuser answers FUSE_INTERRUPT
//! with ENOSYS, so whoever waits must look by itself.

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

#[cfg(test)]
mod tests {
    use super::*;

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
