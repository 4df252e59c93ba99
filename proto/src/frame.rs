//! The frame: a fixed 32-byte little-endian header, a prost-encoded head, a raw body.
//!
//! | bytes | field |
//! |---|---|
//! | 0-1 | magic `50 56` ("PV") |
//! | 2 | protocol version |
//! | 3 | kind ([`Kind`]) |
//! | 4-5 | op ([`crate::op::Op`] as number) |
//! | 6-7 | flags ([`FLAG_FLOW`], ...) |
//! | 8-15 | tag: matches a response or a flow to its request |
//! | 16-19 | head length |
//! | 20-23 | body length |
//! | 24-27 | CRC-32 of header bytes 0-23 and head |
//! | 28-31 | CRC-32 of the body (0 with [`FLAG_NO_BODY_CRC`]) |
//!
//! Lengths are checked against `limits` before anything is allocated. Place in the walks: written
//! and read only by `bmi-net`.
use crate::limits::{BODY_MAX, HEAD_MAX};

/// Bytes of the header.
pub const HEADER_LEN: usize = 32;
/// First two bytes of every frame.
pub const MAGIC: [u8; 2] = *b"PV";
/// The protocol version that this code speaks.
pub const VERSION: u8 = 1;
/// The oldest protocol version that this code accepts.
pub const VERSION_MIN: u8 = 1;

/// More of the body follows (or is wanted) as flow frames with the same tag.
pub const FLAG_FLOW: u16 = 1;
/// The body carries no CRC in the header.
pub const FLAG_NO_BODY_CRC: u16 = 2;
/// The last frame of a flow.
pub const FLAG_FLOW_END: u16 = 4;
/// A flow frame that grants credits instead of carrying bytes; the count is in the op field.
pub const FLAG_CREDIT: u16 = 8;
/// The body is lent: it leaves from where the datafile's pages lie, under the checksums that are
/// stored beside it. One that does not match was overwritten meanwhile or damaged on the disk: the
/// stream stays good, and the bytes are to be asked for once more, not lent. Only where the request
/// allows it.
pub const FLAG_LENT: u16 = 16;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Client to server.
    Request = 1,
    /// Server to client, with the request's tag.
    Response = 2,
    /// Server to client, unasked.
    Notice = 3,
    /// A piece of a body, or credit for pieces.
    Flow = 4,
    /// Client to server: no one waits for the response with this tag any more.
    Cancel = 5,
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Protocol version of the sender.
    pub version: u8,
    /// What the frame is.
    pub kind: Kind,
    /// Operation, as in [`crate::op::Op`]; credits in a credit frame.
    pub op: u16,
    /// `FLAG_*` bits.
    pub flags: u16,
    /// Matches responses and flows to requests.
    pub tag: u64,
    /// Bytes of the head.
    pub head_len: u32,
    /// Bytes of the body in this frame.
    pub body_len: u32,
    /// CRC-32 of header bytes 0-23 and head.
    pub head_crc: u32,
    /// CRC-32 of the body.
    pub body_crc: u32,
}

/// What is wrong with a frame. The connection is answered once and cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are no PVFS2 frame.
    #[error("the peer does not speak this protocol (bad magic)")]
    Magic,
    /// The sender's version is not spoken here.
    #[error("protocol version {0} is not spoken here ({VERSION_MIN} to {VERSION} are)")]
    Version(u8),
    /// The kind is unknown.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// The head is longer than allowed.
    #[error("head of {0} bytes is longer than {HEAD_MAX}")]
    HeadTooLong(u32),
    /// The body is longer than allowed.
    #[error("body of {0} bytes is longer than {BODY_MAX}")]
    BodyTooLong(u32),
    /// The head's checksum does not match.
    #[error("the frame's head was damaged on the way (CRC-32)")]
    HeadCrc,
    /// The body's checksum does not match.
    #[error("the frame's body was damaged on the way (CRC-32)")]
    BodyCrc,
}

impl Header {
    /// The header for `head` and a body of `body_len` bytes with checksum `body_crc`.
    pub fn new(
        kind: Kind,
        op: u16,
        flags: u16,
        tag: u64,
        head: &[u8],
        body_len: u32,
        body_crc: u32,
    ) -> Header {
        let mut h = Header {
            version: VERSION,
            kind,
            op,
            flags,
            tag,
            head_len: head.len() as u32,
            body_len,
            head_crc: 0,
            body_crc,
        };
        h.head_crc = h.crc_over(head);
        h
    }

    fn prefix(&self) -> [u8; 24] {
        let mut b = [0u8; 24];
        b[0..2].copy_from_slice(&MAGIC);
        b[2] = self.version;
        b[3] = self.kind as u8;
        b[4..6].copy_from_slice(&self.op.to_le_bytes());
        b[6..8].copy_from_slice(&self.flags.to_le_bytes());
        b[8..16].copy_from_slice(&self.tag.to_le_bytes());
        b[16..20].copy_from_slice(&self.head_len.to_le_bytes());
        b[20..24].copy_from_slice(&self.body_len.to_le_bytes());
        b
    }

    fn crc_over(&self, head: &[u8]) -> u32 {
        let mut c = crc32fast::Hasher::new();
        c.update(&self.prefix());
        c.update(head);
        c.finalize()
    }

    /// The 32 bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut b = [0u8; HEADER_LEN];
        b[..24].copy_from_slice(&self.prefix());
        b[24..28].copy_from_slice(&self.head_crc.to_le_bytes());
        b[28..32].copy_from_slice(&self.body_crc.to_le_bytes());
        b
    }

    /// Decodes and checks all that can be checked before head and body are there.
    ///
    /// # Errors
    /// [`FrameError`]; nothing has been allocated.
    pub fn decode(b: &[u8; HEADER_LEN]) -> Result<Header, FrameError> {
        let u16_at = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        if b[0..2] != MAGIC {
            return Err(FrameError::Magic);
        }
        if !(VERSION_MIN..=VERSION).contains(&b[2]) {
            return Err(FrameError::Version(b[2]));
        }
        let kind = match b[3] {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Notice,
            4 => Kind::Flow,
            5 => Kind::Cancel,
            k => return Err(FrameError::Kind(k)),
        };
        let h = Header {
            version: b[2],
            kind,
            op: u16_at(4),
            flags: u16_at(6),
            tag: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
            head_len: u32_at(16),
            body_len: u32_at(20),
            head_crc: u32_at(24),
            body_crc: u32_at(28),
        };
        if h.head_len as usize > HEAD_MAX {
            return Err(FrameError::HeadTooLong(h.head_len));
        }
        if h.body_len as usize > BODY_MAX {
            return Err(FrameError::BodyTooLong(h.body_len));
        }
        Ok(h)
    }

    /// Checks the head that followed.
    ///
    /// # Errors
    /// [`FrameError::HeadCrc`].
    pub fn check_head(&self, head: &[u8]) -> Result<(), FrameError> {
        (self.crc_over(head) == self.head_crc).then_some(()).ok_or(FrameError::HeadCrc)
    }

    /// Checks the body that followed, given its CRC-32 as computed by the receiver.
    ///
    /// # Errors
    /// [`FrameError::BodyCrc`].
    pub fn check_body_crc(&self, crc: u32) -> Result<(), FrameError> {
        let ok = self.flags & FLAG_NO_BODY_CRC != 0 || self.body_len == 0 || crc == self.body_crc;
        ok.then_some(()).ok_or(FrameError::BodyCrc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_header() {
        let h = Header::new(
            Kind::Request,
            7,
            FLAG_FLOW,
            0x0102_0304_0506_0708,
            b"head",
            3,
            0xdead_beef,
        );
        let hex: String = h.encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(&hex[..48], "505601010700010008070605040302010400000003000000");
        assert_eq!(&hex[56..], "efbeadde");
        let back = Header::decode(&h.encode()).unwrap();
        assert_eq!(back, h);
        assert!(back.check_head(b"head").is_ok() && back.check_head(b"heed").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(b in prop::array::uniform32(any::<u8>())) {
            if let Ok(h) = Header::decode(&b) {
                prop_assert!(h.head_len as usize <= HEAD_MAX && h.body_len as usize <= BODY_MAX);
                let _ = h.check_head(&[]);
            }
        }
    }
}
