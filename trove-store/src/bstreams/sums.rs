//! The checksums of one datafile in memory, and its side file.
//!
//! Place in the walks: every read and write of a datafile. Invariants: strip `i` has the padded sum
//! (see `crc.rs`) of its bytes, or is *unknown* (after an unclean stop, until it is read or
//! overwritten whole); what no chunk covers is a hole (0), or unknown if `rest_unknown`.
//! *Verified* bits say that a strip was compared with the disk since the datafile was opened.
//!
//! Side file `<handle>.crc`, trusted only while the datafile is not in the log `DIRTY`; all numbers
//! are little-endian. (One dirty log for all datafiles instead of a flag in each side file: marking
//! costs one small append, and the side file is only made when the datafile comes to rest.)
//!
//! | bytes | field |
//! |---|---|
//! | 0-3 | magic `PVCS` |
//! | 4-7 | version, 1 |
//! | 8-15 | handle |
//! | 16-23 | length of the datafile |
//! | 24-31 | its mtime in ns |
//! | 32-35 | CRC-32 of bytes 0-31 |
//! | 36-63 | zeros |
//! | 64- | padded sum of each strip, 4 bytes; a hole in the file is 0 |
use super::STRIP_BYTES;
use super::media::MediaFile;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};

/// Strips that one chunk covers (64 MiB of a datafile).
pub const CHUNK_STRIPS: u64 = 1024;
/// Bytes before the first sum.
pub const SIDE_HEAD_BYTES: usize = 64;
const MAGIC: &[u8; 4] = b"PVCS";
const VERSION: u32 = 1;
const WORDS: usize = CHUNK_STRIPS as usize / 64;
const CHUNK_BYTES: usize = CHUNK_STRIPS as usize * 4;

struct Chunk {
    sums: [u32; CHUNK_STRIPS as usize],
    known: [u64; WORDS],
    verified: [AtomicU64; WORDS],
    changed: bool,
}

impl Chunk {
    fn new(known: bool) -> Box<Chunk> {
        Box::new(Chunk {
            sums: [0; CHUNK_STRIPS as usize],
            known: [if known { u64::MAX } else { 0 }; WORDS],
            verified: [const { AtomicU64::new(0) }; WORDS],
            changed: true,
        })
    }
}

/// What is known of a strip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// Nothing: it must be read first.
    Unknown,
    /// Its padded sum.
    Known(u32),
}

/// The sums of one datafile.
pub struct Sums {
    chunks: BTreeMap<u64, Box<Chunk>>,
    rest_unknown: bool,
    /// From this strip on the side file holds sums of bytes that were cut off since.
    stale_from: u64,
}

fn place(strip: u64) -> (u64, usize, usize, u64) {
    let at = (strip % CHUNK_STRIPS) as usize;
    (strip / CHUNK_STRIPS, at, at / 64, 1 << (at % 64))
}

impl Sums {
    /// Of an empty datafile.
    pub fn empty() -> Sums {
        Sums { chunks: BTreeMap::new(), rest_unknown: false, stale_from: 0 }
    }
    /// Of a datafile of which nothing is known.
    pub fn unknown() -> Sums {
        Sums { rest_unknown: true, ..Sums::empty() }
    }

    /// What is known of a strip.
    pub fn get(&self, strip: u64) -> Sum {
        let (chunk, at, word, bit) = place(strip);
        match self.chunks.get(&chunk) {
            Some(c) if c.known[word] & bit != 0 => Sum::Known(c.sums[at]),
            Some(_) => Sum::Unknown,
            None if self.rest_unknown => Sum::Unknown,
            None => Sum::Known(0),
        }
    }

    /// Sets the sum of a strip.
    pub fn set(&mut self, strip: u64, sum: u32) {
        let (chunk, at, word, bit) = place(strip);
        if sum == 0 && !self.rest_unknown && !self.chunks.contains_key(&chunk) {
            return;
        }
        let known = !self.rest_unknown;
        let c = self.chunks.entry(chunk).or_insert_with(|| Chunk::new(known));
        c.sums[at] = sum;
        c.known[word] |= bit;
        c.changed = true;
    }

    /// Makes strips `from..` holes.
    pub fn clear_from(&mut self, from: u64) {
        let (chunk, _, _, _) = place(from);
        self.stale_from = self.stale_from.min(from);
        drop(self.chunks.split_off(&(chunk + 1)));
        if self.chunks.contains_key(&chunk) {
            for strip in from..(chunk + 1) * CHUNK_STRIPS {
                self.set(strip, 0);
            }
        }
    }

    /// Makes strips `from..to` holes.
    pub fn clear(&mut self, from: u64, to: u64) {
        let mut strip = from;
        while strip < to {
            let (chunk, at, _, _) = place(strip);
            if !self.rest_unknown && at == 0 && to - strip >= CHUNK_STRIPS {
                // A missing chunk is a hole already; one that is there must be written as zeros.
                let next = self.chunks.range(chunk..).next().map_or(u64::MAX, |(c, _)| *c);
                if next > chunk {
                    strip = next.saturating_mul(CHUNK_STRIPS).min(to);
                    continue;
                }
            }
            self.set(strip, 0);
            strip += 1;
        }
    }

    /// Whether a strip was compared with the disk since the datafile was opened.
    pub fn is_verified(&self, strip: u64) -> bool {
        let (chunk, _, word, bit) = place(strip);
        let c = self.chunks.get(&chunk);
        c.is_some_and(|c| c.verified[word].load(Ordering::Relaxed) & bit != 0)
    }

    /// Remembers that a strip was compared with the disk.
    pub fn set_verified(&self, strip: u64) {
        let (chunk, _, word, bit) = place(strip);
        if let Some(c) = self.chunks.get(&chunk) {
            c.verified[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether any strip is unknown.
    pub fn has_unknown(&self) -> bool {
        // Chunks are only made with unknown strips while the rest is unknown too.
        self.rest_unknown
    }

    /// All data was read: what is still unknown, and what lies beyond `size`, is a hole.
    pub fn settle(&mut self, size: u64) {
        self.rest_unknown = false;
        for c in self.chunks.values_mut() {
            for (at, sum) in c.sums.iter_mut().enumerate() {
                if c.known[at / 64] & (1 << (at % 64)) == 0 {
                    *sum = 0;
                }
            }
            c.known = [u64::MAX; WORDS];
        }
        self.clear_from(size.div_ceil(STRIP_BYTES));
    }

    /// Reads the side file; `None` when it is not a sound side file of this handle. Else also the
    /// length and mtime of the datafile that it was written for.
    ///
    /// # Errors
    /// As the disk.
    pub fn load(file: &dyn MediaFile, handle: u64) -> io::Result<Option<(Sums, u64, i64)>> {
        let mut head = [0; SIDE_HEAD_BYTES];
        if file.read_at(0, &mut head)? < SIDE_HEAD_BYTES {
            return Ok(None);
        }
        let Some((found, size, mtime_ns)) = decode_head(&head) else { return Ok(None) };
        if found != handle {
            return Ok(None);
        }
        let mut sums = Sums { stale_from: u64::MAX, ..Sums::empty() };
        let strips = size.div_ceil(STRIP_BYTES);
        let mut raw = [0; CHUNK_BYTES];
        let mut at = SIDE_HEAD_BYTES as u64;
        // Holes of the side file are holes of the datafile: jump over them.
        while let Some((start, _)) = file.next_data(at)? {
            let chunk = (start - SIDE_HEAD_BYTES as u64) / CHUNK_BYTES as u64;
            if chunk * CHUNK_STRIPS >= strips {
                break;
            }
            let offset = SIDE_HEAD_BYTES as u64 + chunk * CHUNK_BYTES as u64;
            raw.fill(0);
            file.read_at(offset, &mut raw)?;
            let mut c = Chunk::new(true);
            c.changed = false;
            let all = raw.chunks_exact(4).zip(c.sums.iter_mut()).zip(chunk * CHUNK_STRIPS..);
            for ((b, sum), strip) in all {
                if strip < strips {
                    *sum = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            if c.sums.iter().any(|s| *s != 0) {
                sums.chunks.insert(chunk, c);
            }
            at = offset + CHUNK_BYTES as u64;
        }
        Ok(Some((sums, size, mtime_ns)))
    }

    /// Writes the side file: chunks that changed, then the header. Does not sync.
    ///
    /// # Errors
    /// As the disk; the datafile must stay marked dirty.
    pub fn store(
        &mut self,
        file: &dyn MediaFile,
        handle: u64,
        size: u64,
        mtime_ns: i64,
    ) -> io::Result<()> {
        let strips = size.div_ceil(STRIP_BYTES);
        let fresh = self.stale_from == 0;
        if self.stale_from < u64::MAX {
            file.set_len(if fresh { 0 } else { SIDE_HEAD_BYTES as u64 + self.stale_from * 4 })?;
        }
        file.set_len(SIDE_HEAD_BYTES as u64 + strips * 4)?;
        for (chunk, c) in &mut self.chunks {
            if !c.changed && !fresh {
                continue;
            }
            let first = chunk * CHUNK_STRIPS;
            let count = strips.saturating_sub(first).min(CHUNK_STRIPS) as usize;
            let mut raw = [0; CHUNK_BYTES];
            for (b, sum) in raw.chunks_exact_mut(4).zip(&c.sums[..count]) {
                b.copy_from_slice(&sum.to_le_bytes());
            }
            let offset = SIDE_HEAD_BYTES as u64 + chunk * CHUNK_BYTES as u64;
            file.write_at(offset, &[IoSlice::new(&raw[..count * 4])]).map_err(|(_, e)| e)?;
            c.changed = false;
        }
        self.stale_from = u64::MAX;
        let head = encode_head(handle, size, mtime_ns);
        file.write_at(0, &[IoSlice::new(&head)]).map_err(|(_, e)| e)
    }
}

fn encode_head(handle: u64, size: u64, mtime_ns: i64) -> [u8; SIDE_HEAD_BYTES] {
    let mut b = [0; SIDE_HEAD_BYTES];
    b[0..4].copy_from_slice(MAGIC);
    b[4..8].copy_from_slice(&VERSION.to_le_bytes());
    b[8..16].copy_from_slice(&handle.to_le_bytes());
    b[16..24].copy_from_slice(&size.to_le_bytes());
    b[24..32].copy_from_slice(&mtime_ns.to_le_bytes());
    let crc = crc32fast::hash(&b[..32]);
    b[32..36].copy_from_slice(&crc.to_le_bytes());
    b
}

fn decode_head(b: &[u8; SIDE_HEAD_BYTES]) -> Option<(u64, u64, i64)> {
    let u64_at = |at: usize| b[at..at + 8].try_into().ok().map(u64::from_le_bytes);
    let sound = &b[0..4] == MAGIC
        && b[4..8] == VERSION.to_le_bytes()
        && b[32..36] == crc32fast::hash(&b[..32]).to_le_bytes();
    if sound { Some((u64_at(8)?, u64_at(16)?, u64_at(24)? as i64)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_head() {
        let b = encode_head(0x0102_0304, 65_537, 9);
        let hex: String = b[..32].iter().map(|b| format!("{b:02x}")).collect();
        let want = "505643530100000004030201000000000100010000000000\
                    0900000000000000";
        assert_eq!(hex, want);
        assert_eq!(decode_head(&b), Some((0x0102_0304, 65_537, 9)));
        for i in 0..36 {
            let mut bad = b;
            bad[i] ^= 1;
            assert_eq!(decode_head(&bad), None, "byte {i}");
        }
    }

    #[test]
    fn holes_and_the_unknown() {
        let mut s = Sums::empty();
        assert_eq!(s.get(1 << 40), Sum::Known(0));
        s.set(5, 7);
        s.set(3 * CHUNK_STRIPS, 8);
        s.clear(0, 10 * CHUNK_STRIPS);
        assert_eq!((s.get(5), s.get(3 * CHUNK_STRIPS)), (Sum::Known(0), Sum::Known(0)));
        let mut u = Sums::unknown();
        assert_eq!(u.get(9), Sum::Unknown);
        u.set(0, 1);
        u.set(1, 2);
        assert_eq!(u.get(2), Sum::Unknown);
        assert!(u.has_unknown());
        u.settle(2 * STRIP_BYTES);
        assert!(!u.has_unknown());
        assert_eq!((u.get(1), u.get(2)), (Sum::Known(2), Sum::Known(0)));
    }
}
