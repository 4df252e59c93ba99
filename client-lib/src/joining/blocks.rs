//! What is held back of one file, in blocks of [`JOINED_BYTES_MAX`] that fill up.
//!
//! Pure. Invariants: a block's covered ranges ascend and do not touch; of two writes of the same byte
//! the later one counts; blocks stand in the order of their first writes, one at most for each place.
use super::JOINED_BYTES_MAX;
use crate::open_table::OpenFile;
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Blocks of one file that gather at once: as far as several writers of it may be apart.
pub const BLOCKS_MAX: usize = 16;
/// Most bytes that gather of one file: what a recall waits for.
pub const GATHERED_MAX: usize = 4 << 20;
/// Places of a block that may be written apart from each other; with more it goes as it is.
const RUNS_MAX: usize = 256;

/// One block.
pub struct Block {
    /// Where it begins in the file.
    start: u64,
    bytes: Vec<u8>,
    covered: Vec<Range<usize>>,
    writes: usize,
    /// When the first of its bytes was answered.
    pub since_ns: i64,
    /// By which open it came.
    pub file: Arc<OpenFile>,
}

impl Block {
    fn put(&mut self, mut from: usize, data: &[u8]) {
        let mut to = from + data.len();
        if from > self.bytes.len() {
            self.bytes.resize(from, 0);
        }
        let (over, behind) = data.split_at(data.len().min(self.bytes.len() - from));
        self.bytes[from..from + over.len()].copy_from_slice(over);
        self.bytes.extend_from_slice(behind);
        self.writes += 1;
        let first = self.covered.partition_point(|r| r.end < from);
        let last = self.covered.partition_point(|r| r.start <= to);
        if let Some(touched) = self.covered.get(first..last).filter(|t| !t.is_empty()) {
            from = from.min(touched.first().map_or(from, |r| r.start));
            to = to.max(touched.last().map_or(to, |r| r.end));
        }
        self.covered.splice(first..last, std::iter::once(from..to));
    }

    /// Whether it cannot take more, or nothing of it is missing.
    pub fn is_full(&self) -> bool {
        self.covered.first().is_some_and(|r| r.len() == JOINED_BYTES_MAX)
            || self.covered.len() >= RUNS_MAX
    }

    /// Whether it has come to little more than one write to each place: not worth the copy.
    pub fn is_scattered(&self) -> bool {
        self.covered.len() > 2 && self.writes <= self.covered.len() * 5 / 4
    }

    /// Bytes that it takes in memory.
    pub fn buffered(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that were written.
    pub fn written(&self) -> usize {
        self.covered.iter().map(Range::len).sum()
    }

    fn runs(&self) -> impl Iterator<Item = (u64, usize)> {
        self.covered.iter().map(|r| (self.start + r.start as u64, r.len()))
    }

    /// The bytes that were written, behind each other.
    fn into_bytes(mut self) -> Vec<u8> {
        let mut to = 0;
        for from in self.covered {
            let len = from.len();
            if from.start != to {
                self.bytes.copy_within(from, to);
            }
            to += len;
        }
        self.bytes.truncate(to);
        self.bytes
    }
}

/// Blocks that go together.
pub struct Load(SmallVec<[Block; 1]>);

impl Load {
    /// Whether any of them is scattered.
    pub fn is_scattered(&self) -> bool {
        self.0.iter().any(Block::is_scattered)
    }

    /// Bytes that they take in memory.
    pub fn buffered(&self) -> usize {
        self.0.iter().map(Block::buffered).sum()
    }

    /// Bytes that were written.
    pub fn written(&self) -> usize {
        self.0.iter().map(Block::written).sum()
    }

    /// When the first of their bytes was answered, and by which open that block came.
    pub fn first(&self) -> Option<(i64, Arc<OpenFile>)> {
        let first = self.0.iter().min_by_key(|b| b.since_ns)?;
        Some((first.since_ns, first.file.clone()))
    }

    /// What is to be written: ranges of the file (offset, length), and their bytes behind each other.
    pub fn into_runs(mut self) -> (Vec<(u64, usize)>, Bytes) {
        let runs = self.0.iter().flat_map(Block::runs).collect();
        let mut bytes = Vec::new();
        match self.0.len() {
            1 => bytes = self.0.swap_remove(0).into_bytes(),
            _ => {
                bytes.reserve_exact(self.written());
                for block in &self.0 {
                    block.covered.iter().for_each(|r| bytes.extend(&block.bytes[r.clone()]));
                }
            }
        }
        (runs, Bytes::from(bytes))
    }
}

/// The blocks of one file that gather.
#[derive(Default)]
pub struct Blocks {
    blocks: VecDeque<Block>,
    /// How large the next one will probably become.
    likely: usize,
}

/// Where a byte's block begins, and the byte in it.
fn place(at: u64) -> (u64, usize) {
    let within = at % JOINED_BYTES_MAX as u64;
    (at - within, within as usize)
}

/// Whether any byte of `range` lies in one of `runs` (offset, length).
pub fn overlap(mut runs: impl Iterator<Item = (u64, usize)>, range: &Range<u64>) -> bool {
    runs.any(|(at, len)| at < range.end && range.start < at + len as u64)
}

/// Whether two bytes lie in one block, or in two beside each other.
pub fn is_near(a: u64, b: u64) -> bool {
    place(a).0.abs_diff(place(b).0) <= JOINED_BYTES_MAX as u64
}

/// The starts of the blocks in which the bytes of `range` lie.
fn starts(range: Range<u64>) -> impl Iterator<Item = u64> {
    (place(range.start).0..range.end).step_by(JOINED_BYTES_MAX)
}

impl Blocks {
    /// Whether nothing gathers.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn of(&self, start: u64) -> Option<usize> {
        self.blocks.iter().position(|b| b.start == start)
    }

    /// Whether a write of `range` would fit.
    pub fn have_room(&self, range: Range<u64>) -> bool {
        let mut new = 0;
        for start in starts(range.clone()) {
            match self.of(start).map(|i| &self.blocks[i]) {
                Some(block) if block.covered.len() >= RUNS_MAX => return false,
                Some(_) => {}
                None => new += 1,
            }
        }
        let gathered: usize = self.blocks.iter().map(Block::written).sum();
        let len = (range.end - range.start) as usize;
        self.blocks.len() + new <= BLOCKS_MAX && gathered + len <= GATHERED_MAX
    }

    /// Whether `at` lies in a block that gathers, or in one beside it.
    pub fn are_near(&self, at: u64) -> bool {
        self.blocks.iter().any(|b| is_near(b.start, at))
    }

    /// Whether any byte of `range` gathers.
    pub fn overlap(&self, range: &Range<u64>) -> bool {
        self.blocks.iter().any(|b| overlap(b.runs(), range))
    }

    /// Puts a write in; how many bytes more that takes, and whether it made a block full.
    pub fn put(
        &mut self,
        at: u64,
        mut data: &[u8],
        now_ns: i64,
        file: &Arc<OpenFile>,
    ) -> (usize, bool) {
        let (mut more, mut full, mut at) = (0, false, at);
        while !data.is_empty() {
            let (start, within) = place(at);
            let (now, later) = data.split_at(data.len().min(JOINED_BYTES_MAX - within));
            let index = self.of(start).unwrap_or_else(|| {
                self.blocks.push_back(Block {
                    start,
                    bytes: Vec::with_capacity(self.likely),
                    covered: Vec::new(),
                    writes: 0,
                    since_ns: now_ns,
                    file: file.clone(),
                });
                self.blocks.len() - 1
            });
            let block = &mut self.blocks[index];
            let before = block.buffered();
            block.put(within, now);
            more += block.buffered() - before;
            full |= block.is_full();
            (data, at) = (later, at + now.len() as u64);
        }
        (more, full)
    }

    /// Takes the first one out that `may_go`, or is full, and others that may go as well as far as they
    /// come to no more than one full one.
    pub fn take(&mut self, may_go: impl Fn(&Block) -> bool) -> Option<Load> {
        let goes = |b: &Block| b.is_full() || may_go(b);
        self.load(|blocks, fits| blocks.iter().position(|b| goes(b) && fits(b)))
    }

    /// Takes out what makes room for a write of `range`: of the blocks that it does not go into those
    /// that lie farthest on in the file. Writers go upward, each at its own pace, so these are the last
    /// to get full.
    pub fn take_farthest(&mut self, range: &Range<u64>) -> Option<Load> {
        let own = place(range.start).0..range.end;
        self.load(|blocks, fits| {
            let others = blocks.iter().enumerate().filter(|(_, b)| !own.contains(&b.start));
            others.filter(|(_, b)| fits(b)).max_by_key(|(_, b)| b.start).map(|(i, _)| i)
        })
    }

    fn load(
        &mut self,
        next: impl Fn(&VecDeque<Block>, &dyn Fn(&Block) -> bool) -> Option<usize>,
    ) -> Option<Load> {
        let (mut load, mut bytes, mut runs) = (SmallVec::<[Block; 1]>::new(), 0, 0);
        loop {
            let fits = |b: &Block| {
                load.is_empty()
                    || bytes + b.written() <= JOINED_BYTES_MAX && runs + b.covered.len() <= RUNS_MAX
            };
            let index = next(&self.blocks, &fits);
            let Some(block) = index.and_then(|i| self.blocks.remove(i)) else { break };
            bytes += block.written();
            runs += block.covered.len();
            self.likely = block.buffered();
            load.push(block);
        }
        load.sort_unstable_by_key(|b| b.start);
        (!load.is_empty()).then_some(Load(load))
    }

    /// Loses everything; how many bytes that took, and how many were written.
    pub fn clear(&mut self) -> (usize, usize) {
        let lost = |(a, b): (usize, usize), x: &Block| (a + x.buffered(), b + x.written());
        let sums = self.blocks.iter().fold((0, 0), lost);
        self.blocks.clear();
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open_table::OpenTable;
    use proptest::prelude::*;
    use pvfs2_proto::Attr;

    const MIB: u64 = JOINED_BYTES_MAX as u64;

    fn file() -> Arc<OpenFile> {
        OpenFile::new(
            &OpenTable::default(),
            Attr { handle: 9, ..Attr::default() },
            (true, true),
            None,
        )
    }

    #[test]
    fn strided_writers_fill_blocks() {
        let (file, mut blocks) = (file(), Blocks::default());
        const RECORD: u64 = 47_008;
        let mut full = 0;
        // Three writers, the first one ahead of the others by two records.
        for round in 0..60u64 {
            for (writer, ahead) in [(0, 2), (1, 0), (2, 0)] {
                let at = ((round + ahead) * 3 + writer) * RECORD;
                assert!(blocks.have_room(at..at + RECORD));
                assert!(round == 0 || blocks.are_near(at));
                blocks.put(at, &[1; RECORD as usize], 0, &file);
                while let Some(block) = blocks.take(|_| false) {
                    assert_eq!((block.written(), block.into_runs().0.len()), (MIB as usize, 1));
                    full += 1;
                }
            }
        }
        // Of the first one, two records of the first writer were never written.
        assert_eq!(full, 7);
        blocks.put(0, &[1; RECORD as usize], 0, &file);
        blocks.put(3 * RECORD, &[1; RECORD as usize], 0, &file);
        assert!(blocks.take(|_| false).is_some_and(|l| l.0[0].is_full()));
    }

    #[test]
    fn places_far_apart_take_blocks_of_their_own() {
        let (file, mut blocks) = (file(), Blocks::default());
        for i in 0..BLOCKS_MAX as u64 {
            assert!(!blocks.are_near(3 * i * MIB));
            blocks.put(3 * i * MIB, b"abc", i as i64, &file);
        }
        assert!(!blocks.have_room(MIB..MIB + 1) && blocks.have_room(5..9));
        assert!(!blocks.have_room(MIB - 1..MIB + 1), "the second half has none");
        assert!(blocks.overlap(&(2..9)) && !blocks.overlap(&(3..9)) && !blocks.overlap(&(0..0)));
        assert!(blocks.take(|b| b.since_ns > 77).is_none());
        let load = blocks.take(|b| b.since_ns == 0).unwrap();
        assert_eq!((load.0[0].start, load.written(), load.first().unwrap().0), (0, 3, 0));
        assert!(!load.is_scattered());
        let (more, full) = blocks.put(MIB - 2, b"abcd", 9, &file);
        assert_eq!((more, full), (MIB as usize + 2, false), "over two blocks");
        let others = 3 * (BLOCKS_MAX - 1);
        assert_eq!(blocks.clear(), (others + MIB as usize + 2, others + 4));
    }

    #[test]
    fn what_lies_in_too_many_places_goes_as_it_is() {
        let (file, mut blocks) = (file(), Blocks::default());
        for i in 0..RUNS_MAX as u64 {
            assert!(blocks.have_room(2 * i..2 * i + 1));
            assert_eq!(blocks.put(2 * i, b"x", 0, &file).1, i + 1 == RUNS_MAX as u64);
        }
        assert!(!blocks.have_room(5000..5001) && blocks.have_room(MIB..MIB + 1));
        let (runs, bytes) = blocks.take(|_| false).unwrap().into_runs();
        assert_eq!((runs.len(), bytes.len(), runs[1]), (RUNS_MAX, RUNS_MAX, (2, 1)));
    }

    #[test]
    fn what_is_not_full_goes_together() {
        let (file, mut blocks) = (file(), Blocks::default());
        let lay = |blocks: &mut Blocks| {
            for i in [3, 0, 1, 4, 2] {
                let byte = [i as u8; 300 << 10];
                blocks.put(i * MIB + 7, &byte, 9 - i as i64, &file);
            }
        };
        let whole = |load: Load| {
            let (since_ns, _) = load.first().unwrap();
            let (runs, bytes) = load.into_runs();
            let of = |at: usize| bytes[at * (300 << 10)];
            let place = |(at, len): &(u64, usize)| (at / MIB, at % MIB, len >> 10);
            let runs: Vec<_> = runs.iter().map(place).collect();
            let each = (0..runs.len()).map(of).collect::<Vec<_>>();
            (runs, each, since_ns)
        };
        lay(&mut blocks);
        let (runs, bytes, since_ns) = whole(blocks.take(|_| true).unwrap());
        assert_eq!(runs, [(0, 7, 300), (1, 7, 300), (3, 7, 300)], "the oldest, in their order");
        assert_eq!((bytes, since_ns), (vec![0, 1, 3], 6));
        blocks.clear();
        lay(&mut blocks);
        let (runs, bytes, _) = whole(blocks.take_farthest(&(4 * MIB + 9..4 * MIB + 10)).unwrap());
        assert_eq!(runs, [(1, 7, 300), (2, 7, 300), (3, 7, 300)], "not where it goes");
        assert_eq!(bytes, [1, 2, 3]);
        blocks.put(4 * MIB, &[1; MIB as usize], 0, &file);
        let load = blocks.take(|b| b.start == 4 * MIB).unwrap();
        assert_eq!(load.written(), MIB as usize, "a full one alone");
        assert!(blocks.take_farthest(&(MIB - 1..MIB)).is_none(), "none but its own");
    }

    #[test]
    fn what_is_scattered_is_seen() {
        let (file, mut blocks) = (file(), Blocks::default());
        for at in [0, 8192, 40_960] {
            blocks.put(at, &[1; 4096], 0, &file);
        }
        assert!(blocks.take(|_| true).unwrap().is_scattered());
        for at in [0, 4096, 40_960, 45_056, 90_000] {
            blocks.put(at, &[1; 4096], 0, &file);
        }
        assert!(!blocks.take(|_| true).unwrap().is_scattered(), "two, two, one");
    }

    proptest! {
        #[test]
        fn what_comes_out_is_what_was_put_in(
            writes in prop::collection::vec((0u64..3000, 1usize..400, any::<u8>()), 1..40)
        ) {
            // Around the border of two blocks.
            const BASE: u64 = MIB - 1500;
            let (file, mut blocks) = (file(), Blocks::default());
            let mut model: Vec<Option<u8>> = vec![None; 3500];
            let mut memory = 0;
            for (at, len, byte) in writes {
                memory += blocks.put(BASE + at, &vec![byte; len], 0, &file).0;
                model[at as usize..at as usize + len].fill(Some(byte));
            }
            for i in 0..model.len() as u64 {
                let at = BASE + i;
                prop_assert_eq!(blocks.overlap(&(at..at + 1)), model[i as usize].is_some());
            }
            let mut got: Vec<Option<u8>> = vec![None; 3500];
            while let Some(block) = blocks.take(|_| true) {
                memory -= block.buffered();
                let (mut last, (runs, bytes)) = (None, block.into_runs());
                let mut rest = &bytes[..];
                prop_assert_eq!(rest.len(), runs.iter().map(|(_, len)| len).sum::<usize>());
                for (at, len) in runs {
                    let apart = |end| end < at || end == at && at == MIB;
                    prop_assert!(last.is_none_or(apart), "ascending, not touching");
                    last = Some(at + len as u64);
                    let (bytes, later) = rest.split_at(len);
                    rest = later;
                    for (i, byte) in bytes.iter().enumerate() {
                        got[(at - BASE) as usize + i] = Some(*byte);
                    }
                }
            }
            prop_assert_eq!(memory, 0);
            prop_assert_eq!(got, model);
        }
    }
}
