//! Pooled buffers: warm memory for bodies, reused so that nothing per request allocates cold pages
//! (a cold copy costs 150 ms/GB, a warm one 30).
use parking_lot::Mutex;
use pvfs2_proto::limits::{BODY_MAX, FLOW_BUFFER_BYTES};
use smallvec::SmallVec;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A pool of equal buffers.
pub struct BufPool {
    size: usize,
    keep: usize,
    free: Mutex<Vec<Box<[u8]>>>,
}

impl BufPool {
    /// A pool of buffers of `size` bytes that keeps at most `keep` of them when they come back.
    pub fn new(size: usize, keep: usize) -> Arc<BufPool> {
        Arc::new(BufPool { size, keep, free: Mutex::new(Vec::new()) })
    }
    /// A buffer of `len` bytes with arbitrary contents; longer than the pool's size: a fresh one
    /// that is not kept.
    pub fn take(self: &Arc<BufPool>, len: usize) -> PooledBuf {
        if len > self.size {
            return PooledBuf {
                data: vec![0; len].into_boxed_slice(),
                len,
                pool: None,
                crcs: Crcs::new(),
            };
        }
        let data = self.free.lock().pop().unwrap_or_else(|| vec![0; self.size].into_boxed_slice());
        PooledBuf { data, len, pool: Some(self.clone()), crcs: Crcs::new() }
    }
}

/// Pools of the sizes that bodies come in, shared by all connections of a server loop.
#[derive(Clone)]
pub struct Pools {
    by_size: [Arc<BufPool>; 3],
}

impl Pools {
    /// Empty pools that keep a bounded amount of memory.
    pub fn new() -> Pools {
        let pool = |size: usize, keep_bytes: usize| BufPool::new(size, keep_bytes / size);
        Pools {
            by_size: [
                pool(16 << 10, 4 << 20),
                pool(FLOW_BUFFER_BYTES, 16 << 20),
                pool(BODY_MAX, 32 << 20),
            ],
        }
    }
    /// A buffer of `len` bytes with arbitrary contents.
    pub fn take(&self, len: usize) -> PooledBuf {
        let [small, flow, whole] = &self.by_size;
        let pool = [small, flow].into_iter().find(|p| len <= p.size).unwrap_or(whole);
        pool.take(len)
    }
}

impl Default for Pools {
    fn default() -> Pools {
        Pools::new()
    }
}

/// A buffer that goes back to its pool when dropped.
pub struct PooledBuf {
    data: Box<[u8]>,
    len: usize,
    pool: Option<Arc<BufPool>>,
    crcs: Crcs,
}

/// CRC-32 of the pieces of a body, cut where the strips end into which they go.
pub type Crcs = SmallVec<[u32; 5]>;

impl PooledBuf {
    /// The checksums of its pieces, if the frame that brought it was cut at strips.
    pub fn crcs(&self) -> &[u32] {
        &self.crcs
    }
    /// Says what the checksums of its pieces are.
    pub(crate) fn set_crcs(&mut self, crcs: Crcs) {
        self.crcs = crcs;
    }
    /// A buffer outside any pool.
    pub fn from_vec(data: Vec<u8>) -> PooledBuf {
        let len = data.len();
        PooledBuf { data: data.into_boxed_slice(), len, pool: None, crcs: Crcs::new() }
    }
    /// Shortens it to `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.crcs.clear();
    }
}
impl Deref for PooledBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.data[..self.len]
    }
}
impl DerefMut for PooledBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.data[..self.len]
    }
}
impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let mut free = pool.free.lock();
            if free.len() < pool.keep {
                free.push(std::mem::take(&mut self.data));
            }
        }
    }
}
