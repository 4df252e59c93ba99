//! What of a call's body travels by memory that the server has mapped.
//!
//! Place in the walks: a write on its way to a server on the same machine. A body that lies in the
//! carrier's region is named, not sent, with the checksums of what falls into each strip: the one look at
//! the bytes that the client takes. All other bodies go as they always do.
use crate::call::Call;
use crate::region::{PIECES_MAX, Region};
use pvfs2_proto::crc;
use pvfs2_proto::op::{IoWriteRequest, OpRequest, PhysicalExtent, SharedPiece};

/// Bodies from here on are shared: below, a copy is cheaper than to name them.
pub(super) const SHARE_MIN_BYTES: usize = 4 << 10;

/// The request that names the body of `call` in `region`; none: it is to be sent.
pub(super) fn shared_write(region: &Region, call: &Call<'_>) -> Option<OpRequest> {
    let OpRequest::IoWrite(write) = &call.op else { return None };
    let total: usize = call.body.iter().map(|b| b.len()).sum();
    let extents = write.extents.iter().map(|e| e.len).fold(0, u64::saturating_add);
    if total < SHARE_MIN_BYTES || call.body.len() > PIECES_MAX || extents != total as u64 {
        return None;
    }
    let pieces = call.body.iter().filter(|b| !b.is_empty()).map(|b| {
        let offset = region.place_of(b)?;
        Some(SharedPiece { offset, len: b.len() as u64 })
    });
    let shared = pieces.collect::<Option<Vec<_>>>()?;
    let crcs = strip_crcs(&write.extents, &call.body);
    let extents = write.extents.clone();
    Some(OpRequest::IoWrite(IoWriteRequest { datahandle: write.datahandle, extents, shared, crcs }))
}

/// CRC-32 of what of `body` falls into each strip, extent after extent.
fn strip_crcs(extents: &[PhysicalExtent], body: &[&[u8]]) -> Vec<u32> {
    let mut crcs = Vec::new();
    let (mut slices, mut now) = (body.iter(), &[][..]);
    for mut left in extents.iter().flat_map(crc::strips_of) {
        let mut hasher = crc32fast::Hasher::new();
        while left > 0 {
            if now.is_empty() {
                match slices.next() {
                    Some(next) => now = next,
                    None => break,
                }
                continue;
            }
            let (head, rest) = now.split_at(now.len().min(left));
            hasher.update(head);
            (now, left) = (rest, left - head.len());
        }
        crcs.push(hasher.finalize());
    }
    crcs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::SharedBuf;
    use pvfs2_proto::op::OpMessage;

    fn call<'a>(extents: &[(u64, u64)], body: &[&'a [u8]]) -> Call<'a> {
        let extents = extents
            .iter()
            .map(|&(physical_offset, len)| PhysicalExtent { physical_offset, len })
            .collect();
        let write = IoWriteRequest { datahandle: 7, extents, ..Default::default() };
        let mut call = Call::new(0, write.into_request());
        call.body = body.iter().copied().collect();
        call
    }

    #[test]
    fn a_body_in_the_region_is_named_with_its_strips_checksums() {
        let mut buf = SharedBuf::new(300_000).unwrap();
        buf.iter_mut().enumerate().for_each(|(i, b)| *b = (i * i % 251) as u8);
        let body = [&buf[10..70_010], &buf[200_000..260_000]];
        // Two extents, three strips of the first and two of the second, cut elsewhere than the pieces.
        let extents = [(60_000, 90_000), (196_600, 40_000)];
        let Some(OpRequest::IoWrite(write)) = shared_write(buf.region(), &call(&extents, &body))
        else {
            panic!("not shared");
        };
        let place = |offset, len| SharedPiece { offset, len };
        assert_eq!(write.shared, [place(10, 70_000), place(200_000, 60_000)]);
        assert_eq!((write.datahandle, write.extents.len()), (7, 2));
        let all = body.concat();
        let mut want = Vec::new();
        let mut rest = &all[..];
        for len in [5_536, 65_536, 18_928, 8, 39_992] {
            let (now, later) = rest.split_at(len);
            want.push(crc32fast::hash(now));
            rest = later;
        }
        assert!(rest.is_empty());
        assert_eq!(write.crcs, want);
    }

    #[test]
    fn what_is_not_all_in_the_region_or_small_or_uneven_is_sent() {
        let buf = SharedBuf::new(100_000).unwrap();
        let own = vec![1u8; 50_000];
        let shared = |extents: &[(u64, u64)], body: &[&[u8]]| {
            shared_write(buf.region(), &call(extents, body)).is_some()
        };
        assert!(shared(&[(0, 50_000)], &[&buf[..50_000]]));
        assert!(!shared(&[(0, 100_000)], &[&buf[..50_000], &own]));
        assert!(!shared(&[(0, 1_000)], &[&buf[..1_000]]));
        assert!(!shared(&[(0, 49_999)], &[&buf[..50_000]]));
        assert!(!shared(&[(0, u64::MAX), (0, 50_001)], &[&buf[..50_000]]));
        let many: Vec<&[u8]> = buf.chunks(50).collect();
        assert!(!shared(&[(0, 100_000)], &many));
    }
}
