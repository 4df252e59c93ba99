//! The map of a split directory: which names lie on which metadata server.
//!
//! A directory begins on its *home*, the server of its handle. When it has grown, it gets *parts* on
//! other servers: directory objects with handles of their own, flagged `DIR_PART`, that hold nothing
//! but dirents. Names are spread by their hash (the order of cursors, so a listing goes part by part
//! and a cursor outlives a split):
//!
//! | hash | holder |
//! |---|---|
//! | below `start(1)` | home |
//! | `start(k)` to `start(k + 1)`, below `moved` | part k (`parts[k - 1]`) |
//! | `moved` and above | home still: the split is under way |
//!
//! Place in the walks: every operation on a name of a split directory, on the client (whom to ask)
//! and on the server (is it mine). Invariants: `moved` only grows, so a holder is never wrong twice
//! for the same name; the hash of a directory's names is keyed by the home's seed on every server.
use crate::handle::Handle;

/// Low bits of a name's hash that are clear; a cursor counts names of equal hash there.
pub const RANK_BITS: u32 = 6;
/// One more than the greatest hash.
pub const HASH_END: u64 = 1 << 62;

/// The place of a name in its directory: a hash with the low [`RANK_BITS`] clear, never 0. Folded
/// multiplication as in wyhash (Wang Yi, public domain); the secret seed keeps anybody from
/// preparing names that collide (clients learn the seed of split directories).
pub fn name_hash(seed: u64, name: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a) * u128::from(b | 1);
        (wide as u64) ^ ((wide >> 64) as u64)
    };
    let mut hash = fold(seed ^ K, name.len() as u64 ^ 0xd6e8_feb8_6659_fd93);
    for part in name.chunks(8) {
        let word = part.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        hash = fold(hash ^ word, seed.rotate_left(32) ^ K);
    }
    hash = fold(hash, K);
    ((hash >> 8).max(1)) << RANK_BITS
}

/// The hash at which a listing goes on after `cursor`.
pub fn position(cursor: u64) -> u64 {
    cursor.saturating_add(1) >> RANK_BITS << RANK_BITS
}

/// See the head of the file. Part of the directory's attributes; a part's own attributes carry one
/// too, without `parts`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DirMap {
    /// The directory.
    #[prost(uint64, tag = "1")]
    pub home: u64,
    /// Key of the name hash.
    #[prost(fixed64, tag = "2")]
    pub seed: u64,
    /// Handles of the parts, in the order of their hashes.
    #[prost(uint64, repeated, tag = "3")]
    pub parts: Vec<u64>,
    /// Names of hashes from here on have not moved yet; [`HASH_END`]: the split is over. At a part:
    /// the end of what it was given last.
    #[prost(uint64, tag = "4")]
    pub moved: u64,
    /// (At a part) the home's `change` whose attributes it has.
    #[prost(uint64, tag = "5")]
    pub version: u64,
    /// (At a part) number of the move that gave it names last.
    #[prost(uint64, tag = "6")]
    pub seq: u64,
    /// (At a part) the beginning of what it was given last.
    #[prost(uint64, tag = "7")]
    pub last_low: u64,
    /// (At a part) names that it was given last.
    #[prost(uint64, tag = "8")]
    pub last_names: u64,
    /// (At a part) directories among them.
    #[prost(uint32, tag = "9")]
    pub last_subdirs: u32,
}

impl DirMap {
    /// Where the range of holder `k` begins; 0 is the home.
    pub fn start(&self, k: usize) -> u64 {
        let n = self.parts.len() as u128 + 1;
        let whole = u128::from(HASH_END >> RANK_BITS);
        ((whole * (k as u128).min(n) / n) as u64) << RANK_BITS
    }

    fn holder(&self, hash: u64) -> usize {
        if hash >= self.moved {
            return 0;
        }
        (1..=self.parts.len()).rev().find(|k| hash >= self.start(*k)).unwrap_or(0)
    }

    /// The object (home or part) that holds names of `hash`.
    pub fn owner(&self, hash: u64) -> Handle {
        match self.holder(hash) {
            0 => Handle(self.home),
            k => Handle(self.parts[k - 1]),
        }
    }

    /// The object that holds `name`.
    pub fn owner_of(&self, name: &[u8]) -> Handle {
        self.owner(name_hash(self.seed, name))
    }

    /// Where the stretch around `hash` ends that one object holds.
    pub fn share_end(&self, hash: u64) -> u64 {
        if hash >= self.moved {
            return HASH_END;
        }
        let end = self.start(self.holder(hash) + 1);
        // Nothing has moved yet: all is the home's.
        if self.moved <= self.start(1) { HASH_END } else { end.min(self.moved) }
    }

    /// Whether names are still moving.
    pub fn is_moving(&self) -> bool {
        self.moved < HASH_END
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(parts: usize, moved: u64) -> DirMap {
        let parts = (0..parts as u64).map(|k| 100 + k).collect();
        DirMap { home: 7, seed: 3, parts, moved, ..Default::default() }
    }

    proptest! {
        #[test]
        fn shares_cover_every_hash_once(parts in 1usize..8, at in 0u64..=HASH_END, probe in 0u64..HASH_END) {
            let start1 = map(parts, 0).start(1);
            let m = map(parts, at.max(start1) >> RANK_BITS << RANK_BITS);
            let (mut from, mut seen) = (0, 0);
            while from < HASH_END {
                let end = m.share_end(from);
                prop_assert!(end > from && end.is_multiple_of(1 << RANK_BITS));
                prop_assert_eq!(position(end - 1), end);
                if (from..end).contains(&probe) {
                    seen += 1;
                    prop_assert_eq!(m.owner(probe), m.owner(from));
                }
                from = end;
            }
            prop_assert_eq!(seen, 1);
        }
    }

    #[test]
    fn names_go_to_every_holder() {
        let m = map(3, HASH_END);
        let mut count = std::collections::BTreeMap::new();
        for i in 0..4_000 {
            *count.entry(m.owner_of(format!("f{i}").as_bytes()).0).or_insert(0) += 1;
        }
        assert_eq!(count.keys().copied().collect::<Vec<_>>(), [7, 100, 101, 102]);
        assert!(count.values().all(|n| (800..1_200).contains(n)), "{count:?}");
    }

    #[test]
    fn golden_bytes() {
        use prost::Message;
        // On disk with the attributes.
        let m = DirMap {
            home: 7,
            seed: 0x0807_0605_0403_0201,
            parts: vec![100, 300],
            moved: 64,
            version: 2,
            seq: 3,
            last_low: 4,
            last_names: 5,
            last_subdirs: 6,
        };
        let bytes = [
            8, 7, 17, 1, 2, 3, 4, 5, 6, 7, 8, 26, 3, 100, 172, 2, 32, 64, 40, 2, 48, 3, 56, 4, 64,
            5, 72, 6,
        ];
        assert_eq!(m.encode_to_vec(), bytes);
        assert_eq!(DirMap::decode(bytes.as_slice()), Ok(m));
    }

    #[test]
    fn what_has_not_moved_is_the_homes() {
        let m = map(2, map(2, 0).start(1));
        assert_eq!((m.owner(HASH_END - 64), m.share_end(0)), (Handle(7), HASH_END));
        let m = map(2, m.start(1) + 64);
        assert_eq!((m.owner(m.start(1)), m.share_end(m.start(1))), (Handle(100), m.start(1) + 64));
        assert_eq!((m.owner(m.start(1) + 64), m.share_end(m.start(2))), (Handle(7), HASH_END));
        assert_eq!((m.owner(0), m.share_end(0)), (Handle(7), m.start(1)));
    }
}
