//! Long streams go to the disk while they are still being written.
//!
//! Place in the walks: behind a write. Whoever writes a large file and syncs it would else wait for the
//! disk at the end for all that the rounds of `writeout` have not reached, with the processors idle, and
//! before that the disk was. So of a datafile that is written on and on, what lies behind the writer
//! is started out in steps, by a thread that lets everybody else go first. What is short, or jumps
//! about, waits for its round: it may be written again, or removed, before.
//!
//! Owner of: hints only. Nothing is durable by them, nothing fails by them, and those for which there is
//! no room are left out: a round or a sync follows.
use super::media::MediaFile;
use crate::error::TroveError;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a datafile that are started out at once; the first after so many.
const STEP_BYTES: u64 = 2 << 20;
/// Steps that wait for the thread.
const QUEUE_MAX: usize = 64;
/// The thread's nice value: the lowest priority.
const NICE: libc::c_int = 19;

/// How one datafile is being written.
#[derive(Default)]
pub(super) struct Stream {
    /// Where the last write ended.
    end: u64,
    /// From here on nothing was started out.
    from: u64,
}

impl Stream {
    /// A write of `range`; what is to be started out, if it is time.
    pub fn wrote(&mut self, range: Range<u64>) -> Option<Range<u64>> {
        // Writers that are joined, or several on one file, come a little out of order.
        if range.start > self.end + STEP_BYTES || range.end + STEP_BYTES < self.end {
            self.from = range.start;
            self.end = range.start;
        }
        self.from = self.from.min(range.start);
        self.end = self.end.max(range.end);
        if self.end - self.from < STEP_BYTES {
            return None;
        }
        let out = self.from..self.end;
        self.from = self.end;
        Some(out)
    }
}

/// A stretch of a file that is to be started out.
struct StartOut {
    file: Arc<dyn MediaFile>,
    range: Range<u64>,
}

/// What waits for the thread.
#[derive(Default)]
pub(super) struct StreamOut {
    runs: AtomicBool,
    waiting: Mutex<VecDeque<StartOut>>,
    more: Condvar,
}

impl StreamOut {
    /// Asks for a stretch to be started out, where a thread does it and has time.
    pub fn ask(&self, file: &Arc<dyn MediaFile>, range: Range<u64>) {
        if !self.runs.load(Ordering::Acquire) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() < QUEUE_MAX {
            waiting.push_back(StartOut { file: file.clone(), range });
            self.more.notify_one();
        }
    }

    /// Lets the thread end.
    pub fn stop(&self) {
        let mut waiting = self.waiting.lock();
        self.runs.store(false, Ordering::Release);
        waiting.clear();
        self.more.notify_all();
    }

    fn next(&self) -> Option<StartOut> {
        let mut waiting = self.waiting.lock();
        loop {
            if !self.runs.load(Ordering::Acquire) {
                return None;
            }
            if let Some(next) = waiting.pop_front() {
                return Some(next);
            }
            self.more.wait(&mut waiting);
        }
    }

    fn run(&self) {
        // SAFETY: numbers only; on Linux a nice value belongs to a thread. Refused, it goes on as it is.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid().unsigned_abs(), NICE) };
        while let Some(StartOut { file, range }) = self.next() {
            file.start_writeout(range);
        }
    }
}

/// Starts the thread; `of` gives what it works on.
pub(super) fn start<T: Send + Sync + 'static>(
    owner: &Arc<T>,
    of: impl Fn(&T) -> &StreamOut + Send + 'static,
    dir: &Path,
) -> Result<std::thread::JoinHandle<()>, TroveError> {
    let owner = owner.clone();
    of(&owner).runs.store(true, Ordering::Release);
    std::thread::Builder::new()
        .name("trove-stream".into())
        .spawn(move || of(&owner).run())
        .map_err(TroveError::os("start a thread for", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_go_in_steps_and_nothing_else_does() {
        let (mut stream, k) = (Stream::default(), STEP_BYTES >> 10);
        let strip = 64 << 10;
        let mut out = Vec::new();
        for i in 0..80 {
            out.extend(stream.wrote(i * strip..(i + 1) * strip));
        }
        assert_eq!(out, [0..STEP_BYTES, STEP_BYTES..2 * STEP_BYTES]);
        // A little out of order: nothing is left out.
        let at = 2 * STEP_BYTES;
        assert_eq!(stream.wrote(at + 600 * k..at + 900 * k), None);
        assert_eq!(stream.wrote(at + 512 * k..at + 600 * k), None);
        assert_eq!(stream.wrote(at + 900 * k..at + 1100 * k), Some(at..at + 1100 * k));
        // Here and there.
        let mut stream = Stream::default();
        for i in 0..500 {
            let at = (i * 7919 % 1000) * 4 * STEP_BYTES;
            assert_eq!(stream.wrote(at..at + strip), None, "{i}");
        }
        // The same bytes again and again.
        let mut stream = Stream::default();
        let outs = (0..1000).filter(|_| stream.wrote(0..strip).is_some()).count();
        assert_eq!(outs, 0);
        // One long write.
        assert_eq!(stream.wrote(strip..9 * STEP_BYTES), Some(0..9 * STEP_BYTES));
    }
}
