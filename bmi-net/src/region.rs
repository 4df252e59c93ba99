//! Memory that a client and a server of the same machine share: what is to be written stands in it, and
//! only where goes through the socket (PVFS2's BMI_memalloc, RDMA's registered memory).
//!
//! Place in the walks: a write, between a FUSE thread's or a program's buffer and the datafile. The client
//! makes a [`Region`], a memfd sealed against any change of its size, and passes it with the hello of a
//! unix connection; the server maps it (`Mapping`), for reading only, as long as the connection and the
//! requests that use it last. Nothing is copied on the way and only the client sums the bytes: the server
//! stores its checksums beside them, as they are, and whoever reads compares.
//!
//! Invariants: from the moment a request that names memory of a region has left until it was answered,
//! those bytes do not change. So a call that is given up before its answer takes the region's file with
//! it: `Region::renew` puts another below the same addresses, with the same bytes, and what the server
//! may still read is written by nobody any more. A server looks at the bytes only by system calls, so
//! that no fault of a client's memory can be one of the server's.
use parking_lot::Mutex;
use pvfs2_proto::op::SharedPiece;
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use rustix::fs::{MemfdFlags, SealFlags};
use smallvec::SmallVec;
use std::ffi::CStr;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Largest region that a server maps, in bytes.
pub const REGION_BYTES_MAX: usize = 16 << 20;
/// Most bytes that a server maps of all its clients together: what would be more travels by the socket.
pub const MAPPED_BYTES_MAX: u64 = 64 << 20;
/// Most pieces of a region in one request.
pub const PIECES_MAX: usize = 1024;

const NAME: &CStr = c"pvfs2-region";
/// Nobody, not even whoever made it, can change its size any more.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A file in memory that keeps its size. Allocates nothing else.
///
/// # Errors
/// The system's.
pub fn memory_file(len: usize) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, len as u64)?;
    rustix::fs::fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

/// Maps `file`, or memory without one; `at`: over what is mapped there, else where the system likes.
///
/// # Safety
/// `at` is null, or `len` bytes from there on are the caller's mapping.
unsafe fn map(
    file: Option<&OwnedFd>,
    at: *mut u8,
    len: usize,
    writable: bool,
) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    let flags = libc::MAP_SHARED
        | if at.is_null() { 0 } else { libc::MAP_FIXED }
        | if file.is_none() { libc::MAP_ANONYMOUS } else { 0 };
    let fd = file.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: a new mapping of an open file, in place of the caller's own where `at` says so.
    let got = unsafe { libc::mmap(at.cast(), len, protection, flags, fd, 0) };
    if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(got.cast()) }
}

/// The client's end: memory of one thread (or of one that writes at a time) that a carrier may share.
pub struct Region {
    base: *mut u8,
    len: usize,
    /// It was mapped by [`Region::new`].
    is_own: bool,
    /// None: it cannot be shared (any more).
    file: Mutex<Option<Arc<OwnedFd>>>,
}

// SAFETY: base and length never change, and the memory is reached only through references that the
// owner of the buffer gives out.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Fresh memory of `len` bytes, zeroed; memory that cannot be shared, where the system makes no memfd.
    ///
    /// # Errors
    /// The system's, when it has no memory.
    pub fn new(len: usize) -> io::Result<Region> {
        let len = len.max(1);
        let file =
            memory_file(len).inspect_err(|e| tracing::debug!("no memory to share: {e}")).ok();
        // SAFETY: nothing is mapped over.
        let base = unsafe { map(file.as_ref(), std::ptr::null_mut(), len, true)? };
        Ok(Region { base, len, is_own: true, file: Mutex::new(file.map(Arc::new)) })
    }

    /// Memory that is mapped from `file` already, from the file's beginning on, and stays so as long as
    /// bytes in it are given to a carrier.
    ///
    /// # Safety
    /// `base` and `len` are such a mapping, for writing, and the caller takes it away only after the last
    /// use of this region by a carrier.
    pub unsafe fn adopt(base: *mut u8, len: usize, file: OwnedFd) -> Region {
        Region { base, len, is_own: false, file: Mutex::new(Some(Arc::new(file))) }
    }

    /// Where `bytes` begin in the region, if all of them lie in it.
    pub(crate) fn place_of(&self, bytes: &[u8]) -> Option<u64> {
        let at = (bytes.as_ptr() as usize).checked_sub(self.base as usize)?;
        (at.checked_add(bytes.len())? <= self.len).then_some(at as u64)
    }

    /// What to pass to a server, and its size.
    pub(crate) fn file(&self) -> Option<(Arc<OwnedFd>, u64)> {
        self.file.lock().clone().map(|file| (file, self.len as u64))
    }

    /// Puts another file below the same addresses, with the same bytes: the one before is left to the
    /// servers that have it.
    pub(crate) fn renew(&self) {
        let mut file = self.file.lock();
        if file.take().is_none() {
            return;
        }
        match self.replace() {
            Ok(new) => *file = Some(Arc::new(new)),
            Err(e) => {
                tracing::warn!("shared memory cannot be renewed, no more is shared: {e}");
                self.leave();
            }
        }
    }

    /// Puts memory without a file below the same addresses, with the same bytes.
    fn leave(&self) {
        // SAFETY: the region's own mapping, which lives as long as `self`; bytes without meaning.
        let bytes = unsafe { std::slice::from_raw_parts(self.base, self.len) }.to_vec();
        // SAFETY: over our own mapping; whoever holds a reference into it finds the same bytes.
        if let Err(e) = unsafe { map(None, self.base, self.len, true) } {
            // What would be written here, a server would store under the checksum of other bytes.
            tracing::error!("no memory to put in place of what servers may still read: {e}");
            std::process::abort();
        }
        // SAFETY: just mapped, and of this length.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base, self.len) };
    }

    fn replace(&self) -> io::Result<OwnedFd> {
        let new = memory_file(self.len)?;
        // SAFETY: the region's own mapping, which lives as long as `self`; bytes without meaning.
        let bytes = unsafe { std::slice::from_raw_parts(self.base, self.len) };
        let new = std::fs::File::from(new);
        new.write_all_at(bytes, 0)?;
        let new = OwnedFd::from(new);
        // SAFETY: over our own mapping; whoever holds a reference into it finds the same bytes.
        unsafe { map(Some(&new), self.base, self.len, true)? };
        Ok(new)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.is_own {
            // SAFETY: mapped by `new`, and nobody has a reference into it any more.
            unsafe { libc::munmap(self.base.cast(), self.len) };
        }
    }
}

/// A program's buffer in a region of its own. While a write from it is under way (also when it is given
/// up), nobody may write to any part of it: that write may put another region below it.
pub struct SharedBuf {
    region: Arc<Region>,
}

impl SharedBuf {
    /// `len` zeros.
    ///
    /// # Errors
    /// The system's.
    pub fn new(len: usize) -> io::Result<SharedBuf> {
        Ok(SharedBuf { region: Arc::new(Region::new(len)?) })
    }

    /// What a carrier is to share.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

impl Deref for SharedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the region's mapping, which lives as long as `self`; only `self` gives references out.
        unsafe { std::slice::from_raw_parts(self.region.base, self.region.len) }
    }
}

impl DerefMut for SharedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.region.base, self.region.len) }
    }
}

/// Bytes that are mapped in this process, of all connections.
static MAPPED: AtomicU64 = AtomicU64::new(0);

/// The server's end: a client's region, mapped for reading.
pub(crate) struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: it never changes, and the memory is only read.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps what a client passed and says to have `len` bytes.
    ///
    /// # Errors
    /// Why it is not mapped: the client's requests bring their bodies then.
    pub(crate) fn new(file: &OwnedFd, len: u64) -> std::result::Result<Mapping, String> {
        // Any other file could become shorter, or lie where reading it waits for somebody.
        let seals = rustix::fs::fcntl_get_seals(file).map_err(|_| "it is no memfd".to_owned())?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err("it is not sealed against changes of its size".into());
        }
        let size = rustix::fs::fstat(file).map_err(|e| e.to_string())?.st_size;
        if u64::try_from(size) != Ok(len) || len == 0 {
            return Err(format!("it has {size} bytes, not the {len} that the client says"));
        }
        if len > REGION_BYTES_MAX as u64 {
            return Err(format!("it has {len} bytes; {REGION_BYTES_MAX} is the most"));
        }
        if MAPPED.fetch_add(len, Ordering::Relaxed) + len > MAPPED_BYTES_MAX {
            MAPPED.fetch_sub(len, Ordering::Relaxed);
            return Err(format!("{MAPPED_BYTES_MAX} bytes of clients' memory are the most"));
        }
        // SAFETY: nothing is mapped over.
        match unsafe { map(Some(file), std::ptr::null_mut(), len as usize, false) } {
            Ok(base) => Ok(Mapping { base, len: len as usize }),
            Err(e) => {
                MAPPED.fetch_sub(len, Ordering::Relaxed);
                Err(e.to_string())
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; bodies keep the mapping as long as they need it.
        unsafe { libc::munmap(self.base.cast(), self.len) };
        MAPPED.fetch_sub(self.len as u64, Ordering::Relaxed);
    }
}

/// A request's body that stands in the client's memory.
pub struct SharedBody {
    mapping: Arc<Mapping>,
    /// Offset and length, checked.
    pieces: SmallVec<[(usize, usize); 8]>,
    len: usize,
}

impl SharedBody {
    /// The body of a request that names `pieces` of what its connection has mapped.
    ///
    /// # Errors
    /// `Invalid`, with nothing done, when they do not lie in it.
    pub(crate) fn new(
        mapping: Option<&Arc<Mapping>>,
        pieces: &[SharedPiece],
    ) -> Result<SharedBody> {
        let invalid = |why: String| PvfsError::new(ErrorCode::Invalid, why);
        let Some(mapping) = mapping else {
            return Err(invalid(
                "the request names shared memory; this connection has none".into(),
            ));
        };
        if pieces.len() > PIECES_MAX {
            let n = pieces.len();
            return Err(invalid(format!("{n} pieces of shared memory; {PIECES_MAX} are the most")));
        }
        let (mut out, mut total) = (SmallVec::with_capacity(pieces.len()), 0usize);
        for piece in pieces {
            let end = piece.offset.checked_add(piece.len);
            if piece.len == 0 || end.is_none_or(|end| end > mapping.len as u64) {
                let SharedPiece { offset, len } = piece;
                let all = mapping.len;
                return Err(invalid(format!(
                    "{len} bytes at {offset} of shared memory, of which there are {all}"
                )));
            }
            // No overflow: at most PIECES_MAX times REGION_BYTES_MAX.
            total += piece.len as usize;
            out.push((piece.offset as usize, piece.len as usize));
        }
        Ok(SharedBody { mapping: mapping.clone(), pieces: out, len: total })
    }

    /// The body that a request naming `pieces` of `buf` has, without a connection: for tests of services.
    ///
    /// # Errors
    /// As a server's.
    pub fn of(buf: &SharedBuf, pieces: &[SharedPiece]) -> Result<SharedBody> {
        let file = buf.region.file();
        let mapped = file.ok_or_else(|| "it is not shared".to_owned());
        let mapped = mapped.and_then(|(file, len)| Mapping::new(&file, len));
        let mapping = mapped.map_err(|why| PvfsError::new(ErrorCode::Invalid, why))?;
        SharedBody::new(Some(&Arc::new(mapping)), pieces)
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, for system calls: the client's memory is to be read by the kernel alone.
    pub fn slices(&self) -> SmallVec<[&[u8]; 16]> {
        let slice = |&(at, len): &(usize, usize)| {
            // SAFETY: within the mapping, which this body keeps, and whose file keeps its size. That a
            // client breaks its word and writes meanwhile is nothing to a reader of plain bytes.
            unsafe { std::slice::from_raw_parts(self.mapping.base.add(at), len) }
        };
        self.pieces.iter().map(slice).collect()
    }
}

#[cfg(test)]
mod tests;
