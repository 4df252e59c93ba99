//! Pooled buffers: warm memory for bodies, reused so that nothing per request allocates cold pages
//! (a cold copy costs 150 ms/GB, a warm one 30).
use parking_lot::Mutex;
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
            return PooledBuf { data: vec![0; len].into_boxed_slice(), len, pool: None };
        }
        let data = self.free.lock().pop().unwrap_or_else(|| vec![0; self.size].into_boxed_slice());
        PooledBuf { data, len, pool: Some(self.clone()) }
    }
}

/// A buffer that goes back to its pool when dropped.
pub struct PooledBuf {
    data: Box<[u8]>,
    len: usize,
    pool: Option<Arc<BufPool>>,
}

impl PooledBuf {
    /// A buffer outside any pool.
    pub fn from_vec(data: Vec<u8>) -> PooledBuf {
        let len = data.len();
        PooledBuf { data: data.into_boxed_slice(), len, pool: None }
    }
    /// Shortens it to `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
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
