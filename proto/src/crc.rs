//! The algebra of CRC-32 that makes partial updates cheap.
//!
//! Place in the walks: every write of a datafile, and the frame that brings it. CRC-32 is linear but for its constant part:
//! `linear(A) = crc(A) ^ crc(zeros of the same length)` satisfies `linear(A ^ B) = linear(A) ^
//! linear(B)`, leading zeros do not change it, and `k` zero bytes behind multiply it by `x^(8k)`
//! modulo the polynomial. So a strip is kept as the linear CRC of its bytes *padded with zeros to the
//! full strip* ("padded sum"): a hole is 0, growing a file changes nothing, and bytes put at offset
//! `o` add [`piece`] of them and take [`piece`] of the old ones away, both by XOR.
//! Source: Ross Williams, "A painless guide to CRC error detection algorithms"; zlib's
//! `crc32_combine`.
use crate::op::PhysicalExtent;

/// Bytes under one checksum: a piece of a datafile, whatever the distribution of the file.
pub const STRIP_BYTES: u64 = 65_536;

/// CRC-32's polynomial, reflected.
const POLY: u32 = 0xedb8_8320;
/// `x^0`, reflected.
const ONE: u32 = 0x8000_0000;
const STRIP: usize = STRIP_BYTES as usize;
const LOW: [u32; 256] = powers(0x0080_0000);
const HIGH: [u32; 257] = powers(multiply(0x0080_0000, LOW[255]));
/// `crc` of a strip of zeros.
const ZERO_STRIP: u32 = multiply(u32::MAX, HIGH[256]) ^ u32::MAX;

/// `a(x) * b(x)` modulo the polynomial, reflected.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut p = 0;
    let mut i = 0;
    while i < 32 {
        p ^= b & ((a >> (31 - i)) & 1).wrapping_neg();
        b = (b >> 1) ^ ((b & 1).wrapping_neg() & POLY);
        i += 1;
    }
    p
}

const fn powers<const N: usize>(base: u32) -> [u32; N] {
    let mut t = [ONE; N];
    let mut i = 1;
    while i < N {
        t[i] = multiply(base, t[i - 1]);
        i += 1;
    }
    t
}

/// `x^(8 * bytes)` for up to a strip.
fn shift_by(bytes: usize) -> u32 {
    match bytes {
        0 => ONE,
        b if b < 256 => LOW[b],
        b if b % 256 == 0 => HIGH[b / 256],
        b => multiply(HIGH[b / 256], LOW[b % 256]),
    }
}

/// `value` with `bytes` zero bytes behind.
fn shift(value: u32, bytes: usize) -> u32 {
    if value == 0 || bytes == 0 { value } else { multiply(shift_by(bytes), value) }
}

/// CRC-32 of `bytes` zero bytes, up to a strip.
fn zeros(bytes: usize) -> u32 {
    if bytes == STRIP { ZERO_STRIP } else { shift(u32::MAX, bytes) ^ u32::MAX }
}

/// What `len` bytes with CRC-32 `crc` at `offset` of a strip add to its padded sum.
pub fn piece(crc: u32, offset: usize, len: usize) -> u32 {
    shift(crc ^ zeros(len), STRIP - offset - len)
}

/// The padded sum of a strip's first bytes.
pub fn padded(bytes: &[u8]) -> u32 {
    piece(crc32fast::hash(bytes), 0, bytes.len())
}

/// The plain CRC-32 of a strip's first `len` bytes, given its padded sum.
pub fn plain(padded: u32, len: usize) -> u32 {
    if len == STRIP {
        return padded ^ ZERO_STRIP;
    }
    // The polynomial is primitive: x has the order 2^32 - 1, so x^-k = x^(2^32 - 1 - k).
    let mut exponent = u64::from(u32::MAX) - 8 * (STRIP - len) as u64;
    let (mut square, mut back) = (ONE >> 1, ONE);
    while exponent != 0 {
        if exponent & 1 != 0 {
            back = multiply(square, back);
        }
        square = multiply(square, square);
        exponent >>= 1;
    }
    multiply(back, padded) ^ zeros(len)
}

/// The CRC-32 of two pieces behind each other, the second a strip or less.
pub fn join(first: u32, second: u32, second_len: usize) -> u32 {
    shift(first, second_len) ^ second
}

/// How many bytes of an extent fall into each strip, in order.
pub fn strips_of(extent: &PhysicalExtent) -> impl Iterator<Item = usize> + use<> {
    let (mut at, end) = (extent.physical_offset, extent.physical_offset.saturating_add(extent.len));
    std::iter::from_fn(move || {
        let len = (end - at).min(STRIP_BYTES - at % STRIP_BYTES);
        at += len;
        (len > 0).then_some(len as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_extent_is_cut_where_strips_end() {
        let cut = |physical_offset, len| {
            strips_of(&PhysicalExtent { physical_offset, len }).collect::<Vec<_>>()
        };
        assert_eq!(cut(0, 0), [0usize; 0]);
        assert_eq!(cut(3, 5), [5]);
        assert_eq!(cut(STRIP_BYTES, STRIP_BYTES), [STRIP]);
        assert_eq!(cut(STRIP_BYTES - 1, STRIP_BYTES + 2), [1, STRIP, 1]);
        assert_eq!(cut(u64::MAX - 2, u64::MAX), [2]);
    }

    #[test]
    fn zeros_of_every_kind_of_length() {
        for len in [0, 1, 2, 255, 256, 257, 4096, 65_535, 65_536] {
            assert_eq!(zeros(len), crc32fast::hash(&vec![0; len]), "{len}");
            assert_eq!(padded(&vec![0; len]), 0);
        }
    }

    proptest! {
        #[test]
        fn padding_and_plain_agree_with_the_crc(bytes in prop::collection::vec(any::<u8>(), 0..3000),
                                                pad in 0usize..3000) {
            let sum = padded(&bytes);
            prop_assert_eq!(plain(sum, bytes.len()), crc32fast::hash(&bytes));
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + pad, 0);
            prop_assert_eq!(padded(&longer), sum);
            longer.resize(STRIP, 0);
            prop_assert_eq!(plain(sum, STRIP), crc32fast::hash(&longer));
        }

        #[test]
        fn joined_as_one(first in prop::collection::vec(any::<u8>(), 0..3000),
                         second in prop::collection::vec(any::<u8>(), 0..3000)) {
            let sum = join(crc32fast::hash(&first), crc32fast::hash(&second), second.len());
            prop_assert_eq!(sum, crc32fast::hash(&[first, second].concat()));
        }

        #[test]
        fn pieces_replace_pieces(mut strip in prop::collection::vec(any::<u8>(), 1..5000),
                                 at in 0usize..5000, new in prop::collection::vec(any::<u8>(), 0..600)) {
            let at = at % strip.len();
            let n = new.len().min(strip.len() - at);
            let before = padded(&strip);
            let old = crc32fast::hash(&strip[at..at + n]);
            strip[at..at + n].copy_from_slice(&new[..n]);
            let after = before ^ piece(old, at, n) ^ piece(crc32fast::hash(&new[..n]), at, n);
            prop_assert_eq!(after, padded(&strip));
        }
    }
}
