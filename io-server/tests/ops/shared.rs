//! io_write of bodies in memory that the client shares: bytes and checksums, over memory and over a disk.
use crate::rig::{H, Rig, list, on_both, pattern};
use pvfs2_bmi::region::{SharedBody, SharedBuf};
use pvfs2_bmi::service::Body;
use pvfs2_proto::crc::strips_of;
use pvfs2_proto::op::{IoWriteRequest, OpMessage, SharedPiece};
use pvfs2_proto::{ErrorCode, Result};

/// Writes the pieces (offset, length) of `buf`, one after the other, into `extents`.
fn write(
    r: &Rig,
    extents: &[(u64, u64)],
    (buf, pieces): (&SharedBuf, &[(u64, u64)]),
    change: fn(&mut Vec<u32>),
) -> Result<()> {
    let shared: Vec<_> = pieces.iter().map(|&(offset, len)| SharedPiece { offset, len }).collect();
    let body = SharedBody::of(buf, &shared)?;
    let bytes = body.slices().concat();
    let extents = list(extents);
    let (mut rest, mut crcs) = (&bytes[..], Vec::new());
    for len in extents.iter().flat_map(strips_of) {
        let (now, later) = rest.split_at(len.min(rest.len()));
        crcs.push(crc32fast::hash(now));
        rest = later;
    }
    change(&mut crcs);
    let request = IoWriteRequest { datahandle: H, extents, shared, crcs };
    r.raw(request.into_request(), Body::Shared(body)).map(|_| ())
}

#[test]
fn bytes_and_checksums_are_the_clients() {
    on_both(|r| {
        let mut buf = SharedBuf::new(1 << 20).unwrap();
        let mut model = vec![0u8; 0];
        // Whole strips, parts of strips, over what is there and beyond the end, in pieces that end
        // elsewhere than the extents.
        for (i, (extents, pieces)) in [
            (vec![(0, 262_144)], vec![(0, 65_536), (131_072, 65_536), (400_000, 131_072)]),
            (vec![(65_530, 20)], vec![(7, 20)]),
            (
                vec![(1_000, 70_000), (200_000, 100_000)],
                vec![(5, 1), (900_000, 99_999), (9, 70_000)],
            ),
            (vec![(500_000, 10), (589_824, 65_536), (700_000, 1)], vec![(100, 65_547)]),
        ]
        .into_iter()
        .enumerate()
        {
            buf.copy_from_slice(&pattern(i as u64 + 1, 1 << 20));
            write(r, &extents, (&buf, &pieces), |_| ()).unwrap();
            let mut bytes =
                pieces.iter().flat_map(|&(at, len)| &buf[at as usize..(at + len) as usize]);
            for (at, len) in extents {
                let end = (at + len) as usize;
                model.resize(model.len().max(end), 0);
                model[at as usize..end].iter_mut().zip(&mut bytes).for_each(|(to, b)| *to = *b);
            }
            assert_eq!(bytes.next(), None);
            // A read compares with the checksums.
            let got = r.read(H, &[(0, model.len() as u64)]).unwrap();
            assert!(got.1 == model, "{} after {i}", r.name);
        }
    });
}

#[test]
fn a_wrong_checksum_is_told_to_who_reads() {
    on_both(|r| {
        let mut buf = SharedBuf::new(200_000).unwrap();
        buf.fill(3);
        let all = [(0, 200_000)];
        write(r, &all, (&buf, &all), |crcs| crcs[1] ^= 1).unwrap();
        assert_eq!(r.read(H, &[(0, 65_536)]).unwrap().1, [3; 65_536]);
        let e = r.read(H, &[(65_536, 65_536)]).unwrap_err();
        assert_eq!(e.code, ErrorCode::Damaged, "{}", r.name);
    });
}

#[test]
fn what_does_not_agree_writes_nothing() {
    on_both(|r| {
        let buf = SharedBuf::new(100_000).unwrap();
        let short = |crcs: &mut Vec<u32>| crcs.truncate(1);
        for (extents, pieces, change) in [
            (vec![(0, 100_000)], vec![(0, 99_999)], (|_| ()) as fn(&mut Vec<u32>)),
            (vec![(0, 99_999)], vec![(0, 100_000)], |_| ()),
            (vec![(0, 100_000)], vec![(0, 100_000)], short),
            (vec![(0, 100_000)], vec![(0, 100_000)], |crcs| crcs.push(0)),
            (vec![(9, 5), (3, 5)], vec![(0, 10)], |_| ()),
            (vec![(u64::MAX - 3, 10)], vec![(0, 10)], |_| ()),
        ] {
            let e = write(r, &extents, (&buf, &pieces), change).unwrap_err();
            assert!(matches!(e.code, ErrorCode::Invalid | ErrorCode::FileTooBig), "{e}");
        }
        assert!(r.list(0, 9).datahandles.is_empty(), "{}: something was written", r.name);
    });
}
