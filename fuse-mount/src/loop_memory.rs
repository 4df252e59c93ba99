//! Memory for the event loops of a mount, into which the kernel puts its requests and which I/O servers of
//! the same machine may read: what a program writes is not copied again on its way to the datafile.
//!
//! Place in the walks: the beginning of a write. fuser makes each loop's buffer itself, as a vector of a
//! length that nothing else has, and gives no way to bring one's own; so it is the allocator that knows
//! better. A program that mounts names [`LoopMemory`] its global allocator; in one that does not, writes
//! are lent to the socket. Everything but those buffers goes to the system's allocator.
//!
//! | bytes from the mapping's beginning | what |
//! |---|---|
//! | 0-4015 | nothing |
//! | 4016 | the buffer begins: the kernel's two headers of a write have 80 bytes, its data begin at a page |
//! | 4096 | data of a write, up to a mebibyte |
//! | `SHARED_BYTES` | end of what is shared; plain memory up to the buffer's end |
//!
//! Invariants: nothing here allocates or panics; only a loop of a mount that was announced by `expect`
//! gets such a buffer; it goes back to the system when fuser frees it.
use pvfs2_bmi::region::{Region, memory_file};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The length of fuser's buffers: its largest write, and a page.
const BUFFER_BYTES: usize = (16 << 20) + 4096;
const PAGE: usize = 4096;
/// Bytes of `fuse_in_header` and `fuse_write_in`.
const WRITE_HEADERS: usize = 80;
const BEGIN: usize = PAGE - WRITE_HEADERS;
/// What is shared of a buffer's mapping.
const SHARED_BYTES: usize = PAGE + crate::options::MAX_WRITE_BYTES as usize + PAGE;
const MAPPED_BYTES: usize = (BEGIN + BUFFER_BYTES).next_multiple_of(PAGE);
/// Buffers at a time; more are the system's.
const BUFFERS_MAX: usize = 256;

/// Loops that have been announced and have no buffer yet.
static EXPECTED: AtomicUsize = AtomicUsize::new(0);
/// Where the buffers are; 0: none.
static BUFFERS: [AtomicUsize; BUFFERS_MAX] = [const { AtomicUsize::new(0) }; BUFFERS_MAX];

thread_local! {
    /// The mapping of this thread's buffer and its file, until the loop's carrier takes it.
    static OF_THIS_THREAD: Cell<Option<(usize, RawFd)>> = const { Cell::new(None) };
}

/// The system's allocator but for the buffers of event loops.
pub struct LoopMemory;

/// So many event loops are about to start: their buffers are to be shared.
pub(crate) fn expect(loops: usize) {
    EXPECTED.fetch_add(loops, Ordering::AcqRel);
}

/// The shared part of this thread's buffer, for its carrier; once.
pub(crate) fn of_this_thread() -> Option<Region> {
    let (base, file) = OF_THIS_THREAD.take()?;
    // SAFETY: the descriptor was made by `buffer` and is nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    // SAFETY: mapped by `buffer` from this file, and freed when the loop of this thread has ended, after
    // which it calls no server.
    Some(unsafe { Region::adopt(base as *mut u8, SHARED_BYTES, file) })
}

fn is_expected() -> bool {
    let less = |n: usize| n.checked_sub(1);
    EXPECTED.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
}

/// Maps a buffer; none: the system's allocator is to give one.
fn buffer() -> Option<*mut u8> {
    let file = memory_file(SHARED_BYTES).ok()?;
    let (none, private) = (std::ptr::null_mut(), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let both = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let base =
        unsafe { libc::mmap(none, MAPPED_BYTES, both, private | libc::MAP_NORESERVE, -1, 0) };
    if base == libc::MAP_FAILED {
        return None;
    }
    let file = file.into_raw_fd();
    let shared = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: over the beginning of the mapping just made.
    let over = unsafe { libc::mmap(base, SHARED_BYTES, both, shared, file, 0) };
    let at = base as usize + BEGIN;
    let free = |place: &AtomicUsize| {
        place.compare_exchange(0, at, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    if over == libc::MAP_FAILED || !BUFFERS.iter().any(free) {
        // SAFETY: the mapping and the descriptor made above, which nobody knows of yet.
        unsafe {
            libc::munmap(base, MAPPED_BYTES);
            libc::close(file);
        }
        return None;
    }
    forget_of_this_thread(Some((base as usize, file)));
    Some(at as *mut u8)
}

fn forget_of_this_thread(new: Option<(usize, RawFd)>) {
    if let Ok(Some((_, file))) = OF_THIS_THREAD.try_with(|of| of.replace(new)) {
        // SAFETY: a descriptor of ours that no carrier has taken.
        unsafe { libc::close(file) };
    }
}

/// Whether it is one of ours; forgets it if so.
fn forget(buffer: *mut u8) -> bool {
    let is_it = |place: &AtomicUsize| {
        let found = place.compare_exchange(buffer as usize, 0, Ordering::AcqRel, Ordering::Relaxed);
        found.is_ok()
    };
    BUFFERS.iter().any(is_it)
}

// SAFETY: memory is the system's, or a mapping of its own that is as long as was asked, zeroed, and not
// known to the system's allocator; which of the two it is tells its length and the table.
unsafe impl GlobalAlloc for LoopMemory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() == BUFFER_BYTES
            && layout.align() <= 8
            && is_expected()
            && let Some(at) = buffer()
        {
            return at;
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if layout.size() == BUFFER_BYTES && forget(at) {
            let base = at.wrapping_sub(BEGIN);
            if OF_THIS_THREAD.try_with(|of| of.get().is_some_and(|b| b.0 == base as usize))
                == Ok(true)
            {
                forget_of_this_thread(None);
            }
            // SAFETY: mapped by `buffer`, and the caller uses it no more.
            unsafe { libc::munmap(base.cast(), MAPPED_BYTES) };
            return;
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let is_ours = |place: &AtomicUsize| place.load(Ordering::Acquire) == at as usize;
        if layout.size() != BUFFER_BYTES || !BUFFERS.iter().any(is_ours) {
            // SAFETY: as the caller promises.
            return unsafe { System.realloc(at, layout, size) };
        }
        // SAFETY: the caller promises a size that is right for the alignment.
        let new = unsafe { System.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: two pieces of memory of at least so many bytes; then the old one is given back.
            unsafe {
                std::ptr::copy_nonoverlapping(at, new, size.min(BUFFER_BYTES));
                self.dealloc(at, layout);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_expected_is_shared_and_all_of_it_comes_back() {
        let one = |align| Layout::from_size_align(BUFFER_BYTES, align).unwrap();
        let get = |layout| {
            // SAFETY: sizes are not zero.
            unsafe { LoopMemory.alloc_zeroed(layout) }
        };
        let plain = get(one(1));
        assert!(of_this_thread().is_none(), "nothing was announced");
        expect(1);
        let small = get(Layout::from_size_align(4096, 8).unwrap());
        let ours = get(one(1));
        assert_eq!(ours as usize % PAGE, BEGIN);
        let region = of_this_thread().expect("the loop's buffer");
        assert!(of_this_thread().is_none(), "once");
        // SAFETY: the buffers just made, of this length.
        let all = unsafe { std::slice::from_raw_parts_mut(ours, BUFFER_BYTES) };
        assert!(all.iter().all(|b| *b == 0));
        all.fill(7);
        drop(region);
        let plain_too = get(one(1));
        assert!(of_this_thread().is_none(), "one was announced");
        // SAFETY: each with what it was made with.
        unsafe {
            let grown = LoopMemory.realloc(ours, one(1), BUFFER_BYTES + 9);
            let all = std::slice::from_raw_parts(grown, BUFFER_BYTES);
            assert!(all.iter().all(|b| *b == 7));
            LoopMemory.dealloc(grown, Layout::from_size_align(BUFFER_BYTES + 9, 1).unwrap());
            LoopMemory.dealloc(plain, one(1));
            LoopMemory.dealloc(plain_too, one(1));
            LoopMemory.dealloc(small, Layout::from_size_align(4096, 8).unwrap());
        }
        assert!(!forget(ours), "it is known no more");
    }

    #[test]
    fn a_buffer_that_no_carrier_took_takes_its_file_along() {
        let layout = Layout::from_size_align(BUFFER_BYTES, 1).unwrap();
        std::thread::spawn(move || {
            let at = buffer().expect("a buffer");
            let (_, file) = OF_THIS_THREAD.get().expect("a file");
            let name = format!("/proc/self/fd/{file}");
            assert!(std::fs::read_link(&name).unwrap().to_string_lossy().contains("pvfs2-region"));
            // SAFETY: just made.
            unsafe { LoopMemory.dealloc(at, layout) };
            assert!(OF_THIS_THREAD.get().is_none());
            let link = std::fs::read_link(&name).unwrap_or_default();
            assert!(!link.to_string_lossy().contains("pvfs2-region"), "still open");
        })
        .join()
        .unwrap();
    }
}
