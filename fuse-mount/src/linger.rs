//! How the threads of a mount wait for the kernel's next request.
//!
//! One program's operations come one by one. The thread that has just answered looks for the next
//! request for a moment (`-o spin-us`) and finds it without a wake-up, as long as no other thread has a
//! request and could use the processor. But for each request the kernel also wakes a thread that sleeps
//! in read(2), if there is one. So while all requests come from one thread of one program, or are writes
//! of one file (whose lock the kernel gives to one writer at a time), one of ours is at the device, and the
//! others are put aside (docs/PERFORMANCE.md: half the mount's CPU time):
//!
//! | a thread | does |
//! |---|---|
//! | has answered, nobody is at the device | stays there: looks for a moment, then sleeps in read(2) |
//! | has answered, somebody is there, the last `ALIKE` requests were one program's, or one file's | is put aside |
//! | has answered, and they were not | stays there as well |
//! | has a request, nobody is at the device, and it is about to sleep over an answer | calls one that was put aside |
//! | has a request of another program than the last, and not a write of the same file | calls all that were put aside |
//! | was put aside, and has slept for `LOOK` | goes to the device if nobody is there, or the mount has ended |
//!
//! Invariant: a request that is there is taken at once when a thread is at the device, or comes back to
//! it, or is about to sleep over an answer; in any case within `LOOK`.
//!
//! Place in the walks: around each callback of [`crate::fuse_ops`] that runs an operation.
use parking_lot::{Condvar, Mutex, RwLock};
use pvfs2_bmi::client::Spin;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use std::cell::{Cell, OnceCell};
use std::sync::atomic::{AtomicIsize, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How often a thread that was put aside looks whether it is missed.
const LOOK: Duration = Duration::from_millis(100);
/// Requests in a row of one program's thread, or writes of one file, after which our others are put aside.
const ALIKE: u32 = 64;

thread_local! {
    static SPIN: OnceCell<Spin> = const { OnceCell::new() };
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

/// What the threads of one mount share.
pub(crate) struct Linger {
    spin_us: u32,
    /// The kernel's end of the mount; none before it is mounted and after its end.
    device: RwLock<Option<OwnedFd>>,
    /// Threads at the device: in read(2) or on the way there.
    readers: AtomicIsize,
    /// Threads that have a request.
    inside: AtomicUsize,
    /// Requests in a row of the same program's thread, or that write the same file.
    alike: AtomicU32,
    last: AtomicU32,
    last_written: AtomicU64,
    aside: Mutex<Aside>,
    called: Condvar,
}

/// Threads that were put aside.
#[derive(Default)]
struct Aside {
    threads: usize,
    /// So many of them may go to the device, and are counted there.
    calls: usize,
}

impl Linger {
    /// Looks for at most `spin_us` microseconds each time; 0: never.
    pub(crate) fn new(spin_us: u32) -> Linger {
        Linger {
            spin_us,
            device: RwLock::new(None),
            readers: AtomicIsize::new(0),
            inside: AtomicUsize::new(0),
            alike: AtomicU32::new(0),
            last: AtomicU32::new(0),
            last_written: AtomicU64::new(0),
            aside: Mutex::default(),
            called: Condvar::new(),
        }
    }

    /// `threads` are about to read from `device`.
    pub(crate) fn begin(&self, device: OwnedFd, threads: usize) {
        self.readers.store(threads as isize, Ordering::Release);
        *self.device.write() = Some(device);
    }

    /// Looks no more, and holds the device no more.
    pub(crate) fn end(&self) {
        *self.device.write() = None;
        self.called.notify_all();
    }

    /// Serves a request of the thread `caller` (0: nobody's), and stays until the next one is there or
    /// the time is up, or until this thread is called.
    pub(crate) fn serve(&self, caller: u32, request: impl FnOnce()) {
        self.serve_writer(caller, 0, request);
    }

    /// As [`Linger::serve`]; while it lasts the kernel sends no other write of the file `written` (0: of
    /// none).
    pub(crate) fn serve_writer(&self, caller: u32, written: u64, request: impl FnOnce()) {
        if SERVES.replace(true) {
            return request();
        }
        self.comes_from(caller, written);
        self.inside.fetch_add(1, Ordering::Relaxed);
        self.readers.fetch_sub(1, Ordering::AcqRel);
        request();
        self.inside.fetch_sub(1, Ordering::Relaxed);
        SERVES.set(false);
        if self.takes_place() {
            self.stay();
        } else if self.alike.load(Ordering::Relaxed) >= ALIKE {
            self.be_put_aside();
        } else {
            self.readers.fetch_add(1, Ordering::AcqRel);
            self.stay();
        }
    }

    /// A request of this thread has come: with another's, all of ours go to the device.
    fn comes_from(&self, caller: u32, written: u64) {
        let same_file =
            self.last_written.swap(written, Ordering::Relaxed) == written && written != 0;
        let same_thread = caller != 0 && self.last.swap(caller, Ordering::Relaxed) == caller;
        if same_thread || same_file {
            if self.alike.load(Ordering::Relaxed) < ALIKE {
                self.alike.fetch_add(1, Ordering::Relaxed);
            }
        } else if self.alike.swap(0, Ordering::Relaxed) >= ALIKE {
            let aside = &mut *self.aside.lock();
            let more = aside.threads - aside.calls;
            aside.calls += more;
            self.readers.fetch_add(more as isize, Ordering::AcqRel);
            self.called.notify_all();
        }
    }

    /// As after a request, for one that needs no answer.
    pub(crate) fn look(&self) {
        if self.readers.load(Ordering::Acquire) == 1 {
            self.stay();
        }
    }

    /// This thread has a request and is about to sleep over an answer.
    pub(crate) fn sleeps(&self) {
        if self.readers.load(Ordering::Acquire) == 0 && SERVES.get() {
            let aside = &mut *self.aside.lock();
            if aside.threads > aside.calls && self.takes_place() {
                aside.calls += 1;
                self.called.notify_one();
            }
        }
    }

    /// Nobody is at the device, and from now on one is counted there.
    fn takes_place(&self) -> bool {
        self.readers.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn be_put_aside(&self) {
        let mut aside = self.aside.lock();
        loop {
            if aside.calls > 0 {
                aside.calls -= 1;
                return;
            }
            if self.takes_place() {
                return;
            }
            if self.has_ended() {
                self.readers.fetch_add(1, Ordering::AcqRel);
                return;
            }
            aside.threads += 1;
            let _ = self.called.wait_for(&mut aside, LOOK);
            aside.threads -= 1;
        }
    }

    /// What poll(2) tells of the device; `None`: there is none.
    fn told(&self) -> Option<PollFlags> {
        let device = self.device.read();
        let mut fds = [PollFd::new(device.as_ref()?, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&at_once)) {
            Ok(0) => Some(PollFlags::empty()),
            Ok(_) => Some(fds[0].revents()),
            // Interrupted, or worse: read(2) will tell.
            Err(_) => Some(PollFlags::IN),
        }
    }

    fn has_ended(&self) -> bool {
        self.told()
            .is_none_or(|told| told.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL))
    }

    fn stay(&self) {
        SPIN.with(|spin| {
            // Whatever poll says but "nothing": the kernel has something to tell.
            spin.get_or_init(|| Spin::new(self.spin_us)).wait(|| {
                if self.inside.load(Ordering::Relaxed) > 0 {
                    return Some(false);
                }
                match self.told() {
                    Some(told) if told.is_empty() => None,
                    told => Some(told.is_some()),
                }
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};
    use std::thread::sleep;
    use std::time::Instant;

    const MS: Duration = Duration::from_millis(1);
    const ME: u32 = 1;

    /// A device of `threads`, with requests of one program.
    fn device(spin_us: u32, threads: usize) -> (Arc<Linger>, OwnedFd) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let linger = Arc::new(Linger::new(spin_us));
        linger.begin(reader, threads);
        (0..ALIKE + 2).for_each(|_| linger.comes_from(ME, 0));
        (linger, writer)
    }

    fn served(linger: &Linger) -> Duration {
        let begin = Instant::now();
        linger.serve(ME, || {});
        begin.elapsed()
    }

    #[test]
    fn it_stays_until_something_is_there() {
        let (linger, writer) = device(60_000_000, 1);
        // While another thread has a request: no staying, or this would take a minute.
        linger.inside.fetch_add(1, Ordering::Relaxed);
        served(&linger);
        linger.inside.fetch_sub(1, Ordering::Relaxed);
        let sender = std::thread::spawn(move || {
            sleep(50 * MS);
            rustix::io::write(&writer, b"x").unwrap();
            writer
        });
        assert!(served(&linger) >= 20 * MS, "it waits");
        let _writer = sender.join().unwrap();
        served(&linger);
        linger.serve(ME, || linger.serve(ME, || {}));
        assert_eq!(linger.readers.load(Ordering::Acquire), 1);
    }

    #[test]
    fn the_end_of_the_mount_is_something() {
        let (linger, writer) = device(60_000_000, 1);
        drop(writer);
        served(&linger);
        linger.end();
        served(&linger);
    }

    /// Serves in a thread of its own until `go` says so; then tells that it has come back.
    fn another(linger: &Arc<Linger>) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
        let (go, wait) = mpsc::channel::<()>();
        let (tell, back) = mpsc::channel();
        let (linger, (inside, is_inside)) = (linger.clone(), mpsc::channel());
        std::thread::spawn(move || {
            linger.serve(ME, || {
                inside.send(()).unwrap();
                let _ = wait.recv();
            });
            let _ = tell.send(());
        });
        is_inside.recv().unwrap();
        (go, back)
    }

    fn put_aside(linger: &Linger) {
        while linger.aside.lock().threads == 0 {
            sleep(MS);
        }
    }

    #[test]
    fn others_are_put_aside_only_while_one_program_asks() {
        let (linger, _writer) = device(0, 3);
        let readers = || linger.readers.load(Ordering::Acquire);
        let (go, back) = another(&linger);
        go.send(()).unwrap();
        put_aside(&linger);
        assert_eq!(readers(), 2);
        linger.serve(2, || {
            back.recv().unwrap();
            assert_eq!(readers(), 2, "it is called, and one is there as before");
        });
        assert_eq!(readers(), 3, "and nobody is put aside any more");
        served(&linger);
        assert_eq!((readers(), linger.aside.lock().threads), (3, 0));
    }

    #[test]
    fn others_are_put_aside_while_one_file_is_written() {
        let (linger, _writer) = device(0, 3);
        let alike = || linger.alike.load(Ordering::Relaxed);
        linger.comes_from(7, 1);
        assert_eq!(alike(), 0, "another thread");
        (0..ALIKE).for_each(|i| linger.comes_from(8 + i % 4, 1));
        assert_eq!(alike(), ALIKE);
        linger.comes_from(3, 2);
        assert_eq!(alike(), 0, "another file");
        linger.comes_from(4, 2);
        linger.comes_from(4, 0);
        assert_eq!(alike(), 2, "the same thread");
        linger.comes_from(5, 0);
        linger.comes_from(6, 2);
        assert_eq!(alike(), 0, "a write of the same file, but not the last");
    }

    #[test]
    fn who_sleeps_calls_first() {
        let (linger, _writer) = device(0, 2);
        let (go, back) = another(&linger);
        go.send(()).unwrap();
        put_aside(&linger);
        linger.serve(ME, || {
            assert_eq!(linger.readers.load(Ordering::Acquire), 0, "it looks for its answer");
            linger.sleeps();
            back.recv().unwrap();
            assert_eq!(linger.readers.fetch_sub(1, Ordering::AcqRel), 1);
        });
        assert_eq!(linger.readers.load(Ordering::Acquire), 1, "nobody was there");
        // Outside of a request nobody is called.
        linger.sleeps();
    }

    #[test]
    fn whoever_is_put_aside_is_missed_after_a_while() {
        let (linger, writer) = device(0, 2);
        let (go, back) = another(&linger);
        go.send(()).unwrap();
        put_aside(&linger);
        // This one does not come back, and calls nobody.
        linger.serve(ME, || {
            back.recv_timeout(100 * LOOK).unwrap();
            assert_eq!(linger.readers.fetch_sub(1, Ordering::AcqRel), 1, "it is there");
        });
        // And after the end of the mount everybody comes back.
        let (go, back) = another(&linger);
        linger.readers.store(1, Ordering::Release);
        go.send(()).unwrap();
        put_aside(&linger);
        drop(writer);
        back.recv_timeout(100 * LOOK).unwrap();
    }
}
