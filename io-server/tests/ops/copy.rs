//! df_copy: bytes and holes between datafiles of one server.
use crate::rig::{FIRST, H, on_both, pattern};
use pvfs2_proto::ErrorCode;

/// Another datahandle of the server.
const TO: u64 = FIRST + 9;

#[test]
fn bytes_and_holes_are_copied() {
    on_both(|r| {
        let data = pattern(5, 200_000);
        r.write(H, &[(0, &data), (500_000, &data)]).unwrap();
        // Over what is there: the hole between takes it away, and the end is where the piece ends.
        r.write(TO, &[(0, &pattern(6, 400_000))]).unwrap();
        r.copy(TO, &[(H, 0, 0, 800_000)]).unwrap();
        assert_eq!(r.stat(TO).size, 800_000, "{}", r.name);
        let (_, got) = r.read(TO, &[(0, 800_000)]).unwrap();
        assert!(got[..200_000] == data && got[500_000..700_000] == data, "{}", r.name);
        assert!(got[200_000..500_000].iter().chain(&got[700_000..]).all(|b| *b == 0));
        let map = r.map(TO, 0, 16);
        let first = map.data[0];
        assert!(first.physical_offset + first.len < 500_000, "{}: a hole: {map:?}", r.name);
        // Two pieces at odd places, of two sources, one of which does not exist.
        r.copy(TO, &[(H, 3, 100, 1_000), (FIRST + 77, 0, 2_000, 500)]).unwrap();
        let (_, got) = r.read(TO, &[(0, 3_000)]).unwrap();
        assert!(got[..100] == data[..100] && got[100..1_100] == data[3..1_003]);
        assert!(got[1_100..2_000] == data[1_100..2_000] && got[2_500..] == data[2_500..3_000]);
        assert!(got[2_000..2_500].iter().all(|b| *b == 0), "{}", r.name);
        // Within one datafile.
        r.copy(TO, &[(TO, 100, 900_000, 1_000)]).unwrap();
        assert_eq!(r.read(TO, &[(900_000, 1_000)]).unwrap().1, &data[3..1_003]);
        // Checksums are kept right: every strip is compared when it is read from the disk.
        assert_eq!(r.read(TO, &[(0, 901_000)]).unwrap().1.len(), 901_000);
    });
}

#[test]
fn what_cannot_be_is_refused() {
    on_both(|r| {
        r.write(H, &[(0, b"x")]).unwrap();
        let code = |pieces: &[(u64, u64, u64, u64)]| r.copy(TO, pieces).unwrap_err().code;
        assert_eq!(code(&[]), ErrorCode::Invalid);
        assert_eq!(code(&[(H, 0, 10, 5), (H, 0, 12, 5)]), ErrorCode::Invalid);
        assert_eq!(code(&[(H, 0, 0, 1 << 40)]), ErrorCode::Invalid);
        assert_eq!(code(&[(H, 0, u64::MAX, 5)]), ErrorCode::FileTooBig);
        assert_eq!(code(&[(5, 0, 0, 5)]), ErrorCode::Stale);
        assert!(r.copy(5, &[(H, 0, 0, 5)]).is_err());
        r.write(TO, &[(0, b"y")]).unwrap();
        r.remove(vec![TO]).unwrap();
        assert_eq!(code(&[(H, 0, 0, 1)]), ErrorCode::Stale, "removed lately");
    });
}
