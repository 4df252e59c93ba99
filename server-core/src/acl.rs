//! POSIX ACLs (POSIX.1e draft 17) as Linux keeps and applies them (`fs/posix_acl.c`).
//!
//! Place in the walks: [`crate::prelude`] asks here wherever an object has an access ACL; the
//! metadata server's operations set, change and hand ACLs down. Invariant: an [`Acl`] is valid: its
//! entries are in the order of their tags, owner, group and others once each, and with a named user
//! or group there is a mask.
//!
//! | bytes of the extended attribute | what (little-endian) |
//! |---|---|
//! | 0-3 | version, 2 |
//! | then each 8 | tag (2), permissions (2), id (4; of no meaning but for named users and groups) |
use bytes::Bytes;
use pvfs2_proto::limits::ACL_BYTES_MAX;
use pvfs2_proto::op::Cred;
use pvfs2_proto::{Attr, ErrorCode, PvfsError, Result};

const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 8;
const NO_ID: u32 = u32::MAX;

/// Whom an entry is about; ordered as in an ACL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Tag {
    /// The owner.
    UserObj = 0x01,
    /// A named user.
    User = 0x02,
    /// The object's group.
    GroupObj = 0x04,
    /// A named group.
    Group = 0x08,
    /// What named users and all groups can have at most.
    Mask = 0x10,
    /// Everybody else.
    Other = 0x20,
}

impl Tag {
    fn of(n: u16) -> Option<Tag> {
        let all = [Tag::UserObj, Tag::User, Tag::GroupObj, Tag::Group, Tag::Mask, Tag::Other];
        all.into_iter().find(|tag| *tag as u16 == n)
    }

    fn is_named(self) -> bool {
        matches!(self, Tag::User | Tag::Group)
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it is about.
    pub tag: Tag,
    /// Bits as in a mode's last digit.
    pub perm: u32,
    /// The user or group, where it names one.
    pub id: u32,
}

/// An ACL, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

fn invalid(what: &str) -> PvfsError {
    PvfsError::new(ErrorCode::Invalid, format!("this is no POSIX ACL: {what}"))
}

impl Acl {
    /// An ACL out of an extended attribute's value; none when it has no entries.
    ///
    /// # Errors
    /// `Invalid`; `TooBig`.
    pub fn parse(value: &[u8]) -> Result<Option<Acl>> {
        if value.len() > ACL_BYTES_MAX {
            return Err(PvfsError::new(
                ErrorCode::TooBig,
                format!("an ACL has at most {} entries", ACL_BYTES_MAX / ENTRY_BYTES - 1),
            ));
        }
        let Some((version, rest)) = value.split_first_chunk::<4>() else {
            return Err(invalid("it has no version"));
        };
        if u32::from_le_bytes(*version) != VERSION || rest.len() % ENTRY_BYTES != 0 {
            return Err(invalid("its version is not 2, or an entry is cut off"));
        }
        let entries = rest.chunks_exact(ENTRY_BYTES).map(entry).collect::<Result<Vec<_>>>()?;
        if entries.is_empty() {
            return Ok(None);
        }
        check(&entries)?;
        Ok(Some(Acl(entries)))
    }

    /// The extended attribute's value.
    pub fn serialise(&self) -> Bytes {
        let mut out = Vec::with_capacity(4 + self.0.len() * ENTRY_BYTES);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for e in &self.0 {
            out.extend_from_slice(&(e.tag as u16).to_le_bytes());
            out.extend_from_slice(&(e.perm as u16).to_le_bytes());
            out.extend_from_slice(&e.id.to_le_bytes());
        }
        out.into()
    }

    /// The access ACL of an object, where it has one.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn of(attr: &Attr) -> Result<Option<Acl>> {
        if attr.acl.is_empty() {
            return Ok(None);
        }
        Acl::parse(&attr.acl).map_err(|_| {
            PvfsError::new(
                ErrorCode::Damaged,
                format!("the ACL of object {:x} does not parse: set it anew", attr.handle),
            )
        })
    }

    /// Makes `attr` carry this access ACL, which says what its mode says (or none, where the mode
    /// says it all).
    fn put(&self, attr: &mut Attr) {
        attr.acl = if self.is_mode() { Bytes::new() } else { self.serialise() };
    }

    /// Sets the access ACL: the mode follows.
    pub fn set(&self, attr: &mut Attr) {
        attr.mode = attr.mode & !0o777 | self.mode();
        self.put(attr);
    }

    /// Whether it says no more than a mode can.
    fn is_mode(&self) -> bool {
        self.0.len() == 3
    }

    fn perm(&self, tag: Tag) -> u32 {
        self.0.iter().find(|e| e.tag == tag).map_or(0, |e| e.perm)
    }

    /// Whom the mode's middle digit is about.
    fn group_class(&self) -> Tag {
        if self.0.iter().any(|e| e.tag == Tag::Mask) { Tag::Mask } else { Tag::GroupObj }
    }

    /// The permission bits of the mode that goes with it.
    fn mode(&self) -> u32 {
        self.perm(Tag::UserObj) << 6 | self.perm(self.group_class()) << 3 | self.perm(Tag::Other)
    }

    /// Makes its owner, mask (or group) and other entries say `mode`, or with `only` no more than
    /// they said.
    fn follow(&mut self, mode: u32, only: bool) {
        let class = self.group_class();
        for e in &mut self.0 {
            let bits = match e.tag {
                Tag::UserObj => mode >> 6 & 7,
                Tag::Other => mode & 7,
                tag if tag == class => mode >> 3 & 7,
                _ => continue,
            };
            e.perm = if only { e.perm & bits } else { bits };
        }
    }

    /// Gives a new object, whose mode comes from before the umask, the ACL that its directory hands
    /// down (this one).
    pub fn hand_down(mut self, attr: &mut Attr) {
        self.follow(attr.mode, true);
        self.set(attr);
    }

    /// Whether it grants `want` on an object of `uid` and `gid`. Where groups that are not known
    /// could tell, it does not.
    pub fn grants(&self, cred: &Cred, attr: &Attr, want: u32) -> bool {
        let mask = if self.group_class() == Tag::Mask { self.perm(Tag::Mask) } else { 7 };
        let class = |e: &Entry| e.perm & mask & want == want;
        if cred.uid == attr.uid {
            return self.perm(Tag::UserObj) & want == want;
        }
        if let Some(e) = self.0.iter().find(|e| e.tag == Tag::User && e.id == cred.uid) {
            return class(e);
        }
        let (mut member, mut all_grant) = (false, true);
        for e in self.0.iter().filter(|e| matches!(e.tag, Tag::GroupObj | Tag::Group)) {
            let gid = if e.tag == Tag::Group { e.id } else { attr.gid };
            if cred.in_group(gid) {
                if class(e) {
                    return true;
                }
                member = true;
            } else if !cred.groups_known {
                all_grant &= class(e);
            }
        }
        !member && all_grant && self.perm(Tag::Other) & want == want
    }
}

/// A chmod of an object that may have an access ACL: the ACL follows the mode.
///
/// # Errors
/// `Damaged`.
pub fn follow_mode(attr: &mut Attr) -> Result<()> {
    if let Some(mut acl) = Acl::of(attr)? {
        acl.follow(attr.mode, false);
        acl.put(attr);
    }
    Ok(())
}

fn entry(bytes: &[u8]) -> Result<Entry> {
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let tag = Tag::of(half(0)).ok_or_else(|| invalid("an entry has an unknown tag"))?;
    let perm = u32::from(half(2));
    if perm > 7 {
        return Err(invalid("an entry has unknown permissions"));
    }
    let id = u32::from(half(4)) | u32::from(half(6)) << 16;
    if !tag.is_named() {
        return Ok(Entry { tag, perm, id: NO_ID });
    }
    if id == NO_ID {
        return Err(invalid("a named entry names nobody"));
    }
    Ok(Entry { tag, perm, id })
}

fn check(entries: &[Entry]) -> Result<()> {
    if !entries.is_sorted_by_key(|e| e.tag) {
        return Err(invalid("its entries are not in order"));
    }
    let count = |tag: Tag| entries.iter().filter(|e| e.tag == tag).count();
    if [Tag::UserObj, Tag::GroupObj, Tag::Other].into_iter().any(|tag| count(tag) != 1) {
        return Err(invalid("owner, group and others are in it once each"));
    }
    let named = entries.iter().any(|e| e.tag.is_named());
    if count(Tag::Mask) > 1 || named && count(Tag::Mask) == 0 {
        return Err(invalid("with named users or groups there is one mask"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
