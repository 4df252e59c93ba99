//! Bytes that know where they belong: every eight bytes of a file are a function of the file's tag
//! and of their place, so that a lost, torn or misplaced write is found and named.
//!
//! Layout: word `i` (bytes `8 i .. 8 i + 8`, little endian) is `mix(tag + i)`. Ranges may begin and
//! end anywhere.

/// A file's tag: repetition, seed and rank of the file.
pub fn tag(seed: u64, iteration: u32, file: u32) -> u64 {
    mix(seed ^ u64::from(iteration) << 40 ^ u64::from(file) << 8 ^ 0x5eed)
}

/// SplitMix64's output function: every bit of the input moves half of the output's.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn word(tag: u64, index: u64) -> [u8; 8] {
    mix(tag.wrapping_add(index)).to_le_bytes()
}

/// Calls `each` with every piece of `len` bytes at `logical_offset`: where it begins in the range,
/// and the bytes that belong there. Stops when `each` says false.
fn pieces(tag: u64, logical_offset: u64, len: usize, mut each: impl FnMut(usize, &[u8]) -> bool) {
    let mut at = 0;
    while at < len {
        let place = logical_offset + at as u64;
        let skip = (place % 8) as usize;
        let take = (8 - skip).min(len - at);
        if !each(at, &word(tag, place / 8)[skip..skip + take]) {
            return;
        }
        at += take;
    }
}

/// Fills `buf` with what belongs at `logical_offset`.
pub fn fill(tag: u64, logical_offset: u64, buf: &mut [u8]) {
    let len = buf.len();
    pieces(tag, logical_offset, len, |at, bytes| {
        buf[at..at + bytes.len()].copy_from_slice(bytes);
        true
    });
}

/// What was found where something else belonged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first wrong byte's place in the file.
    pub logical_offset: u64,
    /// What belongs there.
    pub expected: u8,
    /// What is there.
    pub found: u8,
    /// Wrong bytes in the range.
    pub bytes: u64,
}

/// Compares `buf` with what belongs at `logical_offset`.
pub fn check(tag: u64, logical_offset: u64, buf: &[u8]) -> Option<Damage> {
    let mut damage: Option<Damage> = None;
    pieces(tag, logical_offset, buf.len(), |at, bytes| {
        let there = &buf[at..at + bytes.len()];
        if there == bytes {
            return true;
        }
        for (i, (&found, &expected)) in there.iter().zip(bytes).enumerate() {
            if found != expected {
                let logical_offset = logical_offset + (at + i) as u64;
                damage.get_or_insert(Damage { logical_offset, expected, found, bytes: 0 }).bytes +=
                    1;
            }
        }
        true
    });
    damage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_a_file_is_the_same_bytes() {
        let tag = tag(7, 1, 2);
        let mut whole = vec![0; 4_096];
        fill(tag, 1_000, &mut whole);
        for (from, to) in [(0, 4_096), (1, 2), (3, 47), (8, 16), (1_001, 4_095)] {
            let mut part = vec![0; to - from];
            fill(tag, 1_000 + from as u64, &mut part);
            assert_eq!(part, whole[from..to]);
            assert_eq!(check(tag, 1_000 + from as u64, &part), None);
        }
    }

    #[test]
    fn damage_is_found_and_named() {
        let tag = tag(7, 0, 0);
        let mut buf = vec![0; 47_008];
        fill(tag, 47_008, &mut buf);
        buf[12_345] ^= 0x40;
        buf[12_346] ^= 1;
        let damage = check(tag, 47_008, &buf).unwrap();
        assert_eq!((damage.logical_offset, damage.bytes), (47_008 + 12_345, 2));
        assert_eq!(damage.found ^ damage.expected, 0x40);
        buf[12_345] ^= 0x40;
        buf[12_346] ^= 1;
        assert_eq!(check(tag, 47_008, &buf), None);
        // Right bytes in the wrong place, of the wrong file, or of an earlier repetition.
        assert!(check(tag, 47_016, &buf).is_some_and(|d| d.bytes > 40_000));
        assert!(check(super::tag(7, 0, 1), 47_008, &buf).is_some());
        assert!(check(super::tag(7, 1, 0), 47_008, &buf).is_some());
        assert!(check(tag, 0, &[0; 64]).is_some_and(|d| d.logical_offset == 0));
    }
}
