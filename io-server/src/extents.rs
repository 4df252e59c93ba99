//! Lists of extents off the network, checked before anything else looks at them.
//!
//! Invariant: whatever [`check`] lets through is ascending, does not overlap, sums without overflow
//! to at most `IO_BYTES_MAX`, and ends at or below `FILE_SIZE_MAX`; so the operations may add and
//! index without looking again.
use pvfs2_proto::limits::{DATAHANDLES_MAX, FILE_SIZE_MAX, IO_BYTES_MAX, IO_EXTENTS_MAX};
use pvfs2_proto::op::PhysicalExtent;
use pvfs2_proto::{ErrorCode, PvfsError, Result};

/// Checks a list that moves bytes, and returns their sum.
///
/// # Errors
/// `Invalid` for an empty list, too many extents or bytes, or extents out of order; `FileTooBig`
/// for an end beyond `FILE_SIZE_MAX`.
pub fn check(extents: &[PhysicalExtent]) -> Result<u64> {
    let total = check_places(extents)?;
    if total > IO_BYTES_MAX {
        return Err(invalid(format!(
            "the request moves {total} bytes; {IO_BYTES_MAX} is the most: split it"
        )));
    }
    Ok(total)
}

/// Checks a list that moves no bytes (preallocation, holes): as [`check`], but of any size.
///
/// # Errors
/// As [`check`].
pub fn check_places(extents: &[PhysicalExtent]) -> Result<u64> {
    if extents.is_empty() || extents.len() > IO_EXTENTS_MAX {
        return Err(invalid(format!(
            "the request lists {} extents; 1 to {IO_EXTENTS_MAX} are taken: split it",
            extents.len()
        )));
    }
    let (mut total, mut at) = (0u64, 0u64);
    for e in extents {
        let end = e.physical_offset.checked_add(e.len).filter(|end| *end <= FILE_SIZE_MAX);
        let end = end.ok_or_else(|| {
            PvfsError::new(
                ErrorCode::FileTooBig,
                format!(
                    "an extent of {} bytes at physical offset {} ends beyond the largest datafile",
                    e.len, e.physical_offset
                ),
            )
        })?;
        if e.physical_offset < at {
            return Err(invalid(format!(
                "the extent at physical offset {} begins before the one listed earlier ends ({at})",
                e.physical_offset
            )));
        }
        at = end;
        // No overflow: the extents are disjoint and all end at or below FILE_SIZE_MAX.
        total += e.len;
    }
    Ok(total)
}

/// Checks the number of datahandles in a list.
///
/// # Errors
/// `Invalid` when there are more than `DATAHANDLES_MAX`.
pub fn check_count(datahandles: &[u64]) -> Result<()> {
    if datahandles.len() > DATAHANDLES_MAX {
        return Err(invalid(format!(
            "the request lists {} datahandles; {DATAHANDLES_MAX} is the most: split it",
            datahandles.len()
        )));
    }
    Ok(())
}

fn invalid(detail: String) -> PvfsError {
    PvfsError::new(ErrorCode::Invalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(pairs: &[(u64, u64)]) -> Vec<PhysicalExtent> {
        pairs
            .iter()
            .map(|&(physical_offset, len)| PhysicalExtent { physical_offset, len })
            .collect()
    }

    #[test]
    fn refuses_what_cannot_be_served() {
        assert_eq!(check(&list(&[(0, 4), (4, 0), (9, 1)])).unwrap(), 5);
        for (bad, code) in [
            (list(&[]), ErrorCode::Invalid),
            (list(&[(5, 2), (6, 1)]), ErrorCode::Invalid),
            (list(&[(9, 1), (0, 1)]), ErrorCode::Invalid),
            (list(&[(0, IO_BYTES_MAX + 1)]), ErrorCode::Invalid),
            (list(&[(u64::MAX, 2)]), ErrorCode::FileTooBig),
            (list(&[(FILE_SIZE_MAX, 1)]), ErrorCode::FileTooBig),
            (list(&vec![(0, 0); IO_EXTENTS_MAX + 1]), ErrorCode::Invalid),
        ] {
            assert_eq!(check(&bad).unwrap_err().code, code, "{:?}", bad.first());
        }
        assert!(check_places(&list(&[(0, IO_BYTES_MAX + 1)])).is_ok());
        assert!(check_count(&vec![1; DATAHANDLES_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn what_passes_is_disjoint_and_bounded(
            raw in prop::collection::vec((any::<u64>(), any::<u64>()), 0..6),
            near in prop::collection::vec((0u64..200, 0u64..40), 0..6),
        ) {
            for pairs in [raw, near] {
                let extents = list(&pairs);
                if let Ok(total) = check(&extents) {
                    let sum: u128 = pairs.iter().map(|p| u128::from(p.1)).sum();
                    prop_assert_eq!(u128::from(total), sum);
                    prop_assert!(total <= IO_BYTES_MAX);
                    for w in pairs.windows(2) {
                        prop_assert!(w[0].0 + w[0].1 <= w[1].0);
                    }
                }
            }
        }
    }
}
