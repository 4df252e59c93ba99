//! Datafiles that will probably be read from their beginning soon, as a client names them with its
//! reads: the disk reads them now, while the client and the network are busy with the one before.
//!
//! A hint: nothing waits for it, nothing fails by it, and it changes nothing that anybody can read.
//! Opening a datafile and beginning with its bytes can wait for the disk, so it is done in the pool, by
//! `JOBS_MAX` threads at most; what comes while they are all busy is dropped.
use crate::state::IoState;
use pvfs2_proto::Handle;
use pvfs2_proto::limits::{AHEAD_BYTES_MAX, AHEAD_FILES_MAX};
use pvfs2_proto::op::Ahead;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many requests' hints are followed at the same time.
const JOBS_MAX: usize = 4;

/// Counts what is under way.
#[derive(Default)]
pub struct AheadJobs(AtomicUsize);

impl AheadJobs {
    fn try_begin(&self) -> bool {
        let one_more = |n| (n < JOBS_MAX).then_some(n + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }
    fn end(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Has the disk begin with what a client will probably read soon.
pub fn begin(state: &Arc<IoState>, mut ahead: Vec<Ahead>) {
    ahead.truncate(AHEAD_FILES_MAX);
    ahead.retain(|a| a.len > 0 && state.own(a.datahandle).is_ok());
    if ahead.is_empty() || !state.ahead_jobs().try_begin() {
        return;
    }
    let job = Job(state.clone());
    drop(state.begin_blocking(move || {
        for a in ahead {
            // Who reads it is told what is wrong with it.
            let _ = job.0.bstreams().read_ahead(Handle(a.datahandle), a.len.min(AHEAD_BYTES_MAX));
        }
        Ok(())
    }));
}

/// One that is under way, until dropped.
struct Job(Arc<IoState>);

impl Drop for Job {
    fn drop(&mut self) {
        self.0.ahead_jobs().end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_the_same_time() {
        let jobs = AheadJobs::default();
        (0..JOBS_MAX).for_each(|_| assert!(jobs.try_begin()));
        assert!(!jobs.try_begin());
        jobs.end();
        assert!(jobs.try_begin() && !jobs.try_begin());
    }
}
