//! One thread at the kernel's end of the mount, and what it does there: it waits a moment for the next
//! request instead of going to sleep.
//!
//! One program's operations come one by one. The thread that has just answered looks for the next
//! request (`-o spin-us`) and finds it without a wake-up (docs/PERFORMANCE.md), as long as no other
//! thread has a request and could use the processor. For each request that comes the kernel wakes a
//! thread that sleeps in read(2), if there is one; so there is none while one looks:
//!
//! | a thread | does |
//! |---|---|
//! | has answered, nobody is at the device | stays there: looks for a moment, then sleeps in read(2) |
//! | has answered, somebody is there | is put aside |
//! | has a request, nobody is at the device, and another request is there, or it will sleep itself | calls one that was put aside |
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
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::time::Duration;

/// How often a thread that was put aside looks whether it is missed.
const LOOK: Duration = Duration::from_millis(100);

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

    /// Serves a request, and stays until the next one is there or the time is up, or until this thread
    /// is called.
    pub(crate) fn serve(&self, request: impl FnOnce()) {
        if SERVES.replace(true) {
            return request();
        }
        self.inside.fetch_add(1, Ordering::Relaxed);
        self.readers.fetch_sub(1, Ordering::AcqRel);
        self.meanwhile(false);
        request();
        self.inside.fetch_sub(1, Ordering::Relaxed);
        SERVES.set(false);
        if self.takes_place() {
            self.stay();
        } else {
            self.be_put_aside();
        }
    }

    /// This thread has a request and waits for an answer; `sleeps`: it will sleep over it.
    pub(crate) fn meanwhile(&self, sleeps: bool) {
        if self.readers.load(Ordering::Acquire) == 0
            && SERVES.get()
            && (sleeps || self.sees_something())
        {
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

    fn sees_something(&self) -> bool {
        self.told().is_some_and(|told| !told.is_empty())
    }

    fn has_ended(&self) -> bool {
        self.told()
            .is_none_or(|told| told.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL))
    }

    fn stay(&self) {
        SPIN.with(|spin| {
            // Whatever poll says but "nothing": the kernel has something to tell.
            spin.get_or_init(|| Spin::new(self.spin_us)).wait(|| match self.told() {
                Some(told) if !told.is_empty() => Some(true),
                Some(_) if self.inside.load(Ordering::Relaxed) == 0 => None,
                _ => Some(false),
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

    /// A device of which the one thread is here.
    fn device(spin_us: u32, threads: usize) -> (Arc<Linger>, OwnedFd) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let linger = Arc::new(Linger::new(spin_us));
        linger.begin(reader, threads);
        (linger, writer)
    }

    fn served(linger: &Linger) -> Duration {
        let begin = Instant::now();
        linger.serve(|| {});
        begin.elapsed()
    }

    fn write(device: &OwnedFd) {
        rustix::io::write(device, b"x").unwrap();
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
            write(&writer);
            writer
        });
        assert!(served(&linger) >= 20 * MS, "it waits");
        let _writer = sender.join().unwrap();
        served(&linger);
        linger.serve(|| linger.serve(|| {}));
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
            linger.serve(|| {
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
    fn one_is_at_the_device_and_the_others_are_called() {
        let (linger, writer) = device(0, 2);
        let (go, back) = another(&linger);
        go.send(()).unwrap();
        put_aside(&linger);
        linger.serve(|| {
            assert_eq!(linger.aside.lock().threads, 1);
            linger.meanwhile(false);
            assert_eq!(linger.readers.load(Ordering::Acquire), 0, "nothing is there");
            write(&writer);
            linger.meanwhile(false);
            back.recv().unwrap();
            assert_eq!(linger.readers.load(Ordering::Acquire), 1);
            linger.meanwhile(true);
            // It takes what is there, and this one is put aside in its place.
            assert_eq!(linger.readers.fetch_sub(1, Ordering::AcqRel), 1);
        });
        assert_eq!(linger.readers.load(Ordering::Acquire), 1, "nobody was there");
        // Outside of a request nobody is called.
        linger.meanwhile(true);
    }

    #[test]
    fn who_sleeps_calls_first() {
        let (linger, _writer) = device(0, 2);
        let (go, back) = another(&linger);
        go.send(()).unwrap();
        put_aside(&linger);
        linger.serve(|| {
            linger.meanwhile(true);
            back.recv().unwrap();
            linger.readers.fetch_sub(1, Ordering::AcqRel);
        });
    }

    #[test]
    fn whoever_is_put_aside_is_missed_after_a_while() {
        let (linger, writer) = device(0, 2);
        let (go, back) = another(&linger);
        go.send(()).unwrap();
        put_aside(&linger);
        // This one does not come back, and calls nobody.
        linger.serve(|| {
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
