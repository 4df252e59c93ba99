//! The journal: any bytes decode to a record or to nothing, without a panic and without allocating by
//! a length that they claim; what decodes encodes to the same bytes; recovery over any segment file
//! gives records in order without a gap, or an error, and a second recovery gives the same.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pvfs2_trove::journal::record::{self, RECORD_BYTES_MIN};
use pvfs2_trove::journal::recovery::recover;
use pvfs2_trove::journal::segment::{self, SegmentHead};

const FS_ID: u64 = 7;

/// Makes the checksums right where a record's length leads to its end, so that what lies behind them
/// is reached too.
fn mend(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some((len, _)) = record::peek(&bytes[at..]) {
        if len < RECORD_BYTES_MIN || at + len > bytes.len() {
            return;
        }
        let crc = crc32fast::hash(&bytes[at..at + len - 4]);
        bytes[at + len - 4..at + len].copy_from_slice(&crc.to_le_bytes());
        at += len;
    }
}

fn check_one(bytes: &[u8]) {
    let Some(r) = record::decode(bytes) else { return };
    let mut again = Vec::new();
    if record::encode(&mut again, r.index, r.durable, &r.changes).is_ok() {
        assert_eq!(record::decode(&again), Some(record::Record { len: again.len(), ..r }));
    }
}

fuzz_target!(|data: &[u8]| {
    let _ = SegmentHead::decode(data);
    let _ = segment::decode_checkpoint(data);
    check_one(data);
    let mut mended = data.to_vec();
    mend(&mut mended);
    check_one(&mended);

    let dir = std::env::temp_dir().join(format!("pvfs2-fuzz-journal.{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a folder");
    let head = SegmentHead { fs_id: FS_ID, first_index: 1, boot_id: [0; 16] };
    let mut file = head.encode().to_vec();
    file.extend_from_slice(&mended);
    std::fs::write(segment::path_of(&dir, 1), &file).expect("a segment");
    let run = || {
        let mut seen = Vec::new();
        let result = recover(&dir, FS_ID, 0, |index, changes| seen.push((index, changes.len())));
        result.ok().map(|r| (r.last_index, r.replayed, seen))
    };
    if let Some((last, replayed, seen)) = run() {
        assert_eq!((last, replayed), (seen.len() as u64, seen.len() as u64));
        assert!(seen.iter().enumerate().all(|(i, (index, _))| *index == i as u64 + 1));
        assert_eq!(run(), Some((last, replayed, seen)), "the second recovery finds the same");
    }
});
