//! Waiting a moment for the kernel's next request instead of going to sleep.
//!
//! One program's operations come one by one, and each waits until a thread of ours has woken up. The
//! thread that has just answered looks for the next request (`-o spin-us`) and finds it without a
//! wake-up (docs/PERFORMANCE.md: up to a third less time for an operation). It does so only
//! while no other thread has a request, so programs that keep all of them busy lose no time by it.
//!
//! Place in the walks: around each callback of [`crate::fuse_ops`] that runs an operation.
use parking_lot::RwLock;
use pvfs2_bmi::client::Spin;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use std::cell::OnceCell;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    static SPIN: OnceCell<Spin> = const { OnceCell::new() };
}

/// What the threads of one mount share.
pub(crate) struct Linger {
    spin_us: u32,
    /// The kernel's end of the mount; none before it is mounted and after its end.
    device: RwLock<Option<OwnedFd>>,
    /// Threads that have a request, or look for one here.
    inside: AtomicUsize,
}

impl Linger {
    /// Looks for at most `spin_us` microseconds each time; 0: never.
    pub(crate) fn new(spin_us: u32) -> Linger {
        Linger { spin_us, device: RwLock::new(None), inside: AtomicUsize::new(0) }
    }

    /// Looks at `device` from now on.
    pub(crate) fn begin(&self, device: OwnedFd) {
        *self.device.write() = Some(device);
    }

    /// Looks no more, and holds the device no more.
    pub(crate) fn end(&self) {
        *self.device.write() = None;
    }

    /// Serves a request, and stays until the next one is there or the time is up.
    pub(crate) fn serve(&self, request: impl FnOnce()) {
        self.inside.fetch_add(1, Ordering::Relaxed);
        request();
        if self.is_alone() {
            self.stay();
        }
        self.inside.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_alone(&self) -> bool {
        self.inside.load(Ordering::Relaxed) == 1
    }

    fn stay(&self) {
        let device = self.device.read();
        let Some(device) = &*device else { return };
        let mut fds = [PollFd::new(device, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        SPIN.with(|spin| {
            // Whatever poll says but "nothing": the kernel has something to tell.
            spin.get_or_init(|| Spin::new(self.spin_us)).wait(|| {
                match poll(&mut fds, Some(&at_once)) {
                    Ok(0) if self.is_alone() => None,
                    Ok(0) => Some(false),
                    _ => Some(true),
                }
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn served(linger: &Linger) -> Duration {
        let begin = Instant::now();
        linger.serve(|| {});
        begin.elapsed()
    }

    #[test]
    fn it_stays_until_something_is_there() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let linger = Linger::new(60_000_000);
        served(&linger);
        linger.begin(reader);
        // While another thread is inside: no staying, or this would take a minute.
        linger.inside.fetch_add(1, Ordering::Relaxed);
        served(&linger);
        linger.inside.fetch_sub(1, Ordering::Relaxed);
        let sender = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            rustix::io::write(&writer, b"x").unwrap();
            writer
        });
        assert!(served(&linger) >= Duration::from_millis(20), "it waits");
        let _writer = sender.join().unwrap();
        served(&linger);
        linger.end();
        served(&linger);
    }

    #[test]
    fn the_end_of_the_mount_is_something() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(writer);
        let linger = Linger::new(60_000_000);
        linger.begin(reader);
        served(&linger);
    }
}
