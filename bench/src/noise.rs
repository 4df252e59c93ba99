//! Bytes for benchmarks: the same in every run, so that numbers stay comparable.

/// Bytes that do not compress and are the same in every run.
pub fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn noise_is_the_same_in_every_run_and_spread() {
        let bytes = super::noise(65_536);
        assert_eq!(bytes, super::noise(65_536));
        let mut counts = [0u32; 256];
        bytes.iter().for_each(|b| counts[usize::from(*b)] += 1);
        assert!(counts.iter().all(|n| (128..512).contains(n)), "{counts:?}");
    }
}
