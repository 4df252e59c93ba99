//! Messages: any bytes decode to a message or to an error, without a panic; what decodes encodes and
//! decodes to the same; layouts and distributions that pass their check compute without a panic.
#![no_main]
use libfuzzer_sys::fuzz_target;
use prost::Message;
use pvfs2_proto::op::{Notice, RequestHead, ResponseHead};
use pvfs2_proto::{Attr, ClusterMap, Dist};

fn round_trip<M: Message + Default + PartialEq>(data: &[u8]) -> Option<M> {
    let m = M::decode(data).ok()?;
    let again = M::decode(m.encode_to_vec().as_slice());
    assert!(again.is_ok_and(|a| a == m));
    Some(m)
}

fn exercise(dist: &Dist, num_datafiles: u32, logical_offset: u64) {
    if dist.check(num_datafiles).is_err() {
        return;
    }
    let logical_offset = logical_offset >> 2; // files end below 2^62
    let p = dist.locate(num_datafiles, logical_offset);
    assert!(p.datafile < num_datafiles && p.contiguous_bytes > 0);
    assert_eq!(dist.logical_of(num_datafiles, p.datafile, p.physical_offset), Some(logical_offset));
    let _ = dist.physical_size(num_datafiles, p.datafile, logical_offset);
    let _ = Dist::parse(dist.name(), &dist.params());
}

fuzz_target!(|data: &[u8]| {
    if let Some(head) = round_trip::<RequestHead>(data) {
        let _ = head.op.map(|op| op.op().name());
    }
    if let Some(head) = round_trip::<ResponseHead>(data) {
        let _ = head.as_error();
    }
    round_trip::<Notice>(data);
    if let Some(attr) = round_trip::<Attr>(data) {
        if let Some(l) = &attr.layout {
            exercise(&l.dist, l.datahandles.len().min(64) as u32, attr.size);
        }
    }
    if let Some(map) = round_trip::<ClusterMap>(data) {
        for h in [0, 1, u64::MAX] {
            let _ = (map.meta_server_of(h.into()), map.io_server_of(h.into()));
        }
    }
    if let (Some(dist), Some(n)) = (round_trip::<Dist>(data), data.first()) {
        exercise(&dist, u32::from(*n % 33), u64::from_le_bytes([data.len() as u8, *n, 3, 1, 4, 1, 5, *n]));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        for name in ["simple_stripe", "varstrip_dist", "twod_stripe"] {
            if let Ok(dist) = Dist::parse(name, text) {
                exercise(&dist, 4, 1 << 40);
            }
        }
    }
});
