//! Bytes that know where they belong: the 8-byte word at logical offset o is a mix of o and a seed,
//! so a strip that lies in the wrong place, or another file's bytes, show at once.

/// The word at logical offset `at` (a multiple of 8).
fn word(seed: u64, at: u64) -> [u8; 8] {
    let mut z = at ^ seed.rotate_left(32);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

/// `len` bytes of the pattern from `logical_offset` on.
pub fn bytes(seed: u64, logical_offset: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 16);
    let first = logical_offset & !7;
    let mut at = first;
    while out.len() < len + 8 {
        out.extend_from_slice(&word(seed, at));
        at += 8;
    }
    let skip = (logical_offset - first) as usize;
    out.truncate(skip + len);
    out.split_off(skip)
}

/// The first place in `got` (which begins at `logical_offset`) that differs from the pattern.
pub fn differs(seed: u64, logical_offset: u64, got: &[u8]) -> Option<u64> {
    let want = bytes(seed, logical_offset, got.len());
    want.iter().zip(got).position(|(a, b)| a != b).map(|i| logical_offset + i as u64)
}

/// Checks that the file at `path` is `size` bytes of the pattern, without holding it in memory.
///
/// # Panics
/// With the first place that differs.
pub fn check_file(path: &std::path::Path, seed: u64, size: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).expect("open to check");
    assert_eq!(file.metadata().expect("stat to check").len(), size, "size of {}", path.display());
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let want = buf.len().min((size - at) as usize);
        file.read_exact_at(&mut buf[..want], at).expect("read to check");
        if let Some(place) = differs(seed, at, &buf[..want]) {
            panic!("{}: wrong byte at {place} of {size}", path.display());
        }
        at += want as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_parts_of_the_whole() {
        let whole = bytes(7, 0, 1000);
        for (at, len) in [(0, 1), (3, 9), (8, 16), (13, 500), (999, 1)] {
            assert_eq!(bytes(7, at as u64, len), &whole[at..at + len]);
        }
        assert_eq!(differs(7, 13, &whole[13..600]), None);
        assert_eq!(differs(8, 0, &whole), Some(0));
        assert_eq!(differs(7, 8, &whole[..8]), Some(8));
    }
}
