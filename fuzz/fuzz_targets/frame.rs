//! Frames: any 32 bytes decode to a header that says nothing beyond the limits, or to an error; what
//! decodes encodes to the same bytes; one changed bit of header or head is noticed.
#![no_main]
use libfuzzer_sys::fuzz_target;
use pvfs2_proto::frame::{HEADER_LEN, Header, Kind};
use pvfs2_proto::limits::{BODY_MAX, HEAD_MAX};

fuzz_target!(|data: &[u8]| {
    let Some((bytes, head)) = data.split_first_chunk::<HEADER_LEN>() else { return };
    if let Ok(h) = Header::decode(bytes) {
        assert!(h.head_len as usize <= HEAD_MAX && h.body_len as usize <= BODY_MAX);
        assert_eq!(h.encode(), *bytes);
        let _ = h.check_head(head);
        let _ = h.check_body_crc(crc32fast::hash(head));
    }
    // A good frame around the same bytes, then with one bit changed somewhere.
    let head = &head[..head.len().min(1000)];
    let good = Header::new(Kind::Request, u16::from(bytes[0]), 0, u64::from(bytes[1]), head, 0, 0);
    let wire = good.encode();
    assert_eq!(Header::decode(&wire), Ok(good));
    assert_eq!(good.check_head(head), Ok(()));
    let bit = usize::from(bytes[2]) * 8 % (28 * 8 + head.len() * 8);
    let (mut wire, mut head) = (wire, head.to_vec());
    match bit / 8 {
        at if at < 28 => wire[at] ^= 1 << (bytes[3] % 8),
        at => head[at - 28] ^= 1 << (bytes[3] % 8),
    }
    if let Ok(h) = Header::decode(&wire) {
        assert!(h.check_head(&head).is_err(), "a changed bit went through");
    }
});
