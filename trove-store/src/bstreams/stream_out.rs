//! Long streams go to the disk while they are still being written.
//!
//! Place in the walks: behind a write. Whoever writes a large file and syncs it would else wait for the
//! disk at the end for all that the rounds of `writeout` have not reached, with the processors idle, and
//! before that the disk was. So of a datafile that is written on and on, what lies behind the writer
//! is started out in steps, by a thread of its own. What is short, or jumps about, waits for its round: it
//! may be written again, or removed, before. So does everything while more comes than disks take: the
//! disk's work would only be in the way of the writers then. (The thread has no low priority: it holds
//! locks of the local file system for which writers wait.)
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
use std::time::{Duration, Instant};

/// Bytes of a datafile that are started out at once; the first after so many.
const STEP_BYTES: u64 = 2 << 20;
/// Steps that wait for the thread.
const QUEUE_MAX: usize = 64;
/// Bytes per second that are too fast for it, of all datafiles together.
const FAST_BYTES: u64 = 600 << 20;
/// How often it is looked at how fast they come.
const LOOK: Duration = Duration::from_millis(20);

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

/// How fast they come.
#[derive(Default)]
struct Pace {
    since: Option<Instant>,
    bytes: u64,
    is_fast: bool,
}

impl Pace {
    /// So many bytes more; whether they come too fast.
    fn is_too_fast(&mut self, bytes: u64, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        self.bytes += bytes;
        let took = now.saturating_duration_since(since);
        if took >= LOOK {
            self.is_fast = self.bytes as f64 / took.as_secs_f64() > FAST_BYTES as f64;
            (self.since, self.bytes) = (Some(now), 0);
        }
        self.is_fast
    }
}

#[derive(Default)]
struct Waiting {
    steps: VecDeque<StartOut>,
    pace: Pace,
}

/// What waits for the thread.
#[derive(Default)]
pub(super) struct StreamOut {
    runs: AtomicBool,
    waiting: Mutex<Waiting>,
    more: Condvar,
}

impl StreamOut {
    /// Asks for a stretch to be started out, where a thread does it and has time.
    pub fn ask(&self, file: &Arc<dyn MediaFile>, range: Range<u64>) {
        if !self.runs.load(Ordering::Acquire) {
            return;
        }
        let mut waiting = self.waiting.lock();
        let bytes = range.end - range.start;
        if !waiting.pace.is_too_fast(bytes, Instant::now()) && waiting.steps.len() < QUEUE_MAX {
            waiting.steps.push_back(StartOut { file: file.clone(), range });
            self.more.notify_one();
        }
    }

    /// Lets the thread end.
    pub fn stop(&self) {
        let mut waiting = self.waiting.lock();
        self.runs.store(false, Ordering::Release);
        waiting.steps.clear();
        self.more.notify_all();
    }

    fn next(&self) -> Option<StartOut> {
        let mut waiting = self.waiting.lock();
        loop {
            if !self.runs.load(Ordering::Acquire) {
                return None;
            }
            if let Some(next) = waiting.steps.pop_front() {
                return Some(next);
            }
            self.more.wait(&mut waiting);
        }
    }

    fn run(&self) {
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
    use super::super::disk::DiskMedia;
    use super::super::media::{Kind, Media};
    use super::super::memory::MemDisk;
    use super::super::{Bstreams, STRIP_BYTES};
    use super::*;
    use pvfs2_proto::Handle;
    use pvfs2_proto::env::Env;

    const H: Handle = Handle(0x0102_0304_0506_0708);

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

    #[test]
    fn what_comes_too_fast_is_left_until_it_comes_slower() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let mut now = begin;
        let mut come = |steps: u32, per_second: u64| {
            let mut left = 0;
            for _ in 0..steps {
                now += Duration::from_secs_f64(STEP_BYTES as f64 / per_second as f64);
                left += u32::from(pace.is_too_fast(STEP_BYTES, now));
            }
            left
        };
        assert_eq!(come(100, 400 << 20), 0);
        assert!(come(100, 2_000 << 20) > 60);
        assert!(come(100, 400 << 20) < 30);
        assert_eq!(come(100, 400 << 20), 0);
    }

    #[test]
    fn nothing_is_asked_for_while_it_comes_too_fast() {
        let dir = tempfile::tempdir().unwrap();
        let media = DiskMedia::open(dir.path()).unwrap();
        let (file, _) = media.open(Kind::Data, H.0, true).unwrap().unwrap();
        let out = StreamOut::default();
        let step = |i: u64| i * STEP_BYTES..(i + 1) * STEP_BYTES;
        let asked = |from: u64, to: u64| {
            (from..to).for_each(|i| out.ask(&file, step(i)));
            std::mem::take(&mut out.waiting.lock().steps).len()
        };
        assert_eq!(asked(0, 9), 0, "nobody would do it");
        out.runs.store(true, Ordering::Release);
        assert_eq!(asked(0, 9), 9);
        out.waiting.lock().pace = Pace { is_fast: true, since: Some(Instant::now()), bytes: 0 };
        assert_eq!(asked(9, 10), 0);
        out.waiting.lock().pace = Pace::default();
        assert_eq!(asked(0, 2 * QUEUE_MAX as u64), QUEUE_MAX, "what there is no room for is left");
    }

    #[test]
    fn what_is_written_on_and_on_goes_out_meanwhile() {
        let disk = MemDisk::default();
        let b = Bstreams::open_memory(&disk, Env::real()).unwrap();
        let strip = [3; STRIP_BYTES as usize];
        // Nobody to do it: nothing is kept for later.
        for i in 0..100 {
            b.write(H, i * STRIP_BYTES, &[&strip]).unwrap();
        }
        let streams = start(&b.inner, |i| &i.shared.stream_out, Path::new("memory"));
        b.threads.lock().push(streams.unwrap());
        // Here and there, of other datafiles.
        for i in 0..100u64 {
            let h = Handle(1 + i % 3);
            b.write(h, (i * 7919 % 1000) * (16 << 20), &[&strip]).unwrap();
        }
        assert_eq!(disk.started_out_bytes(), 0);
        for i in 100..300 {
            b.write(H, i * STRIP_BYTES, &[&strip]).unwrap();
            if i % 16 == 0 {
                // Not faster than disks are.
                std::thread::sleep(Duration::from_millis(3));
            }
        }
        let until = Instant::now() + Duration::from_secs(30);
        while disk.started_out_bytes() < 10 << 20 {
            assert!(Instant::now() < until, "{} bytes", disk.started_out_bytes());
            std::thread::yield_now();
        }
        // A hint is no sync.
        disk.lose_power(0);
        drop(b);
        let b = Bstreams::open_memory(&disk, Env::real()).unwrap();
        assert_eq!(b.stat(H).unwrap().size, 0);
        b.close().unwrap();
    }
}
