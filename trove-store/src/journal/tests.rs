//! Tests of the journal on disk: a torn tail at every byte, damage in the middle, lost power,
//! rotation, checkpoints, a full disk.
use super::disk::DiskJournal;
use super::record::Change;
use super::recovery::{Recovered, recover};
use super::segment::{self, SEGMENT_HEAD_BYTES, SegmentHead};
use super::*;
use crate::collection::tests::quick_dir;
use crate::error::TroveError;
use bytes::Bytes;
use std::path::{Path, PathBuf};

const FS: u64 = 7;

fn changes(n: u64) -> Vec<Change> {
    let value = Bytes::from(vec![n as u8; (n % 40) as usize]);
    vec![
        Change { key: Bytes::from(format!("key{n}")), value: Some(value) },
        Change { key: Bytes::from(format!("gone{n}")), value: None },
    ]
}

fn found(dir: &Path, checkpoint: u64) -> Result<(Recovered, Vec<u64>)> {
    let mut seen = Vec::new();
    let r = recover(dir, FS, checkpoint, |index, c| {
        assert_eq!(c.to_vec(), changes(index));
        seen.push(index);
    })?;
    Ok((r, seen))
}

fn filled(dir: &Path, records: u64, segment_bytes: u64) -> DiskJournal {
    let j = DiskJournal::new(dir, FS, 0, segment_bytes).unwrap();
    for n in 1..=records {
        assert_eq!(j.append(&changes(n)).unwrap(), n);
    }
    j
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    segment::list(dir).unwrap().into_iter().map(|(_, p)| p).collect()
}

/// Where each record of a segment begins.
fn starts(bytes: &[u8]) -> Vec<usize> {
    let mut at = SEGMENT_HEAD_BYTES;
    let mut out = Vec::new();
    while let Some(r) = record::decode(&bytes[at..]) {
        out.push(at);
        at += r.len;
    }
    assert_eq!(at, bytes.len());
    out
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let t = quick_dir();
    drop(filled(t.path(), 6, 1 << 20));
    let path = segments(t.path()).remove(0);
    let whole = std::fs::read(&path).unwrap();
    let starts = starts(&whole);
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let left = starts.iter().filter(|s| **s < cut).count() as u64;
        // The record that is broken does not count; one that ends exactly here does.
        let left = if starts.contains(&cut) || cut <= SEGMENT_HEAD_BYTES { left } else { left - 1 };
        let (r, seen) = found(t.path(), 0).unwrap();
        assert_eq!(seen, (1..=left).collect::<Vec<_>>(), "cut at {cut}");
        assert_eq!(r.last_index, left);
        // What was cut off is gone for good, and the journal goes on.
        let j = DiskJournal::new(t.path(), FS, left, 1 << 20).unwrap();
        assert_eq!(j.append(&changes(left + 1)).unwrap(), left + 1);
        drop(j);
        assert_eq!(found(t.path(), 0).unwrap().0.last_index, left + 1);
        for p in segments(t.path()) {
            std::fs::remove_file(p).unwrap();
        }
    }
}

#[test]
fn garbage_behind_the_last_record_is_cut() {
    let t = quick_dir();
    drop(filled(t.path(), 3, 1 << 20));
    let path = segments(t.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() as u64;
    bytes.extend([0x5a; 1000]);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(found(t.path(), 0).unwrap().0.cut_bytes, 1000);
    assert_eq!(path.metadata().unwrap().len(), end);
}

#[test]
fn damage_with_good_records_behind_it_is_refused_with_file_and_offset() {
    for segment_bytes in [1 << 20, 4096] {
        let t = quick_dir();
        drop(filled(t.path(), 200, segment_bytes));
        let path = segments(t.path()).remove(0);
        let whole = std::fs::read(&path).unwrap();
        let starts = starts(&whole);
        for n in [0, 3, starts.len() - 2] {
            let mut bytes = whole.clone();
            bytes[starts[n] + 30] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let e = found(t.path(), 0).unwrap_err();
            let text = e.to_string();
            assert!(matches!(e, TroveError::Damaged(_)), "{text}");
            let offset = format!("offset {}", starts[n]);
            assert!(text.contains(&offset) && text.contains(path.to_str().unwrap()), "{text}");
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(found(t.path(), 0).unwrap().0.last_index, 200);
    }
}

#[test]
fn damage_at_the_end_of_an_older_segment_is_refused() {
    let t = quick_dir();
    drop(filled(t.path(), 200, 4096));
    let all = segments(t.path());
    assert!(all.len() > 2);
    let whole = std::fs::read(&all[0]).unwrap();
    std::fs::write(&all[0], &whole[..whole.len() - 1]).unwrap();
    let e = found(t.path(), 0).unwrap_err().to_string();
    assert!(e.contains(all[0].to_str().unwrap()), "{e}");
    std::fs::remove_file(&all[0]).unwrap();
    let e = found(t.path(), 0).unwrap_err().to_string();
    assert!(e.contains("missing"), "{e}");
}

/// Writes the segment as another boot would have left it.
fn as_of_another_boot(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let head = SegmentHead::decode(&bytes).unwrap();
    let other = SegmentHead { boot_id: [9; 16], ..head }.encode();
    bytes[..SEGMENT_HEAD_BYTES].copy_from_slice(&other);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn lost_power_may_tear_the_unsynced_second_only() {
    let t = quick_dir();
    let j = filled(t.path(), 10, 1 << 20);
    assert_eq!(j.sync().unwrap(), 10);
    for n in 11..=20 {
        j.append(&changes(n)).unwrap();
    }
    drop(j);
    let path = segments(t.path()).remove(0);
    as_of_another_boot(&path);
    let whole = std::fs::read(&path).unwrap();
    let starts = starts(&whole);
    // Record 13 was never promised: a page of it that was not written is no damage.
    let mut bytes = whole.clone();
    bytes[starts[12] + 30] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(found(t.path(), 0).unwrap().0.last_index, 12);
    // Record 8 was: records written after the sync say so.
    let mut bytes = whole.clone();
    bytes[starts[7] + 30] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(found(t.path(), 0).is_err());
}

#[test]
fn rotation_and_checkpoints_drop_what_is_covered_and_no_more() {
    let t = quick_dir();
    let j = filled(t.path(), 300, 4096);
    let before = segments(t.path()).len();
    assert!(before > 3);
    j.checkpoint(150).unwrap();
    let after = segments(t.path());
    assert!(after.len() < before);
    assert_eq!(segment::read_checkpoint(t.path()).unwrap(), 150);
    let (r, seen) = found(t.path(), 150).unwrap();
    assert_eq!((r.last_index, seen[0], seen.len()), (300, 151, 150));
    j.checkpoint(300).unwrap();
    assert!(segments(t.path()).is_empty());
    assert_eq!(found(t.path(), 300).unwrap().0.last_index, 300);
    assert_eq!(j.append(&changes(301)).unwrap(), 301);
    assert_eq!(j.sync().unwrap(), 301);
    drop(j);
    assert_eq!(found(t.path(), 300).unwrap().1, [301]);
}

#[test]
fn a_stranger_in_the_folder_is_named() {
    let t = quick_dir();
    std::fs::write(t.path().join("notes.txt"), "x").unwrap();
    assert!(found(t.path(), 0).unwrap_err().to_string().contains("notes.txt"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    #[test]
    fn arbitrary_segments_never_panic_and_never_grow(
        flips in proptest::collection::vec((0usize..3000, 0u8..=255), 1..6), cut in 0usize..3000) {
        let t = quick_dir();
        drop(filled(t.path(), 40, 4096));
        let path = segments(t.path()).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, xor) in flips {
            let at = at % bytes.len();
            bytes[at] ^= xor;
        }
        bytes.truncate(cut.max(1));
        std::fs::write(&path, &bytes).unwrap();
        // Whatever is handed out is what was written (found() compares), in order.
        if let Ok((r, seen)) = found(t.path(), 0) {
            let want: Vec<u64> = (1..=r.last_index).collect();
            proptest::prop_assert_eq!(seen, want);
        }
    }
}

#[test]
fn poison_refuses_everything() {
    let t = quick_dir();
    let j = filled(t.path(), 2, 4096);
    j.poison("the disk burns");
    assert!(j.append(&changes(3)).unwrap_err().to_string().contains("burns"));
    assert!(j.sync().is_err() && j.checkpoint(1).is_err());
}
