//! Every key and every fixed-layout value of a metadata server's keyval; built and parsed here and
//! nowhere else. All numbers in keys are big-endian, so that a scan goes in their order.
//!
//! | first byte | key | value |
//! |---|---|---|
//! | `a` | handle (8) | `Attr` (prost) |
//! | `d` | directory (8), name hash (8), name | handle (8, LE), type bits >> 12 (1) |
//! | `p` | directory (8) | parent handle (8, LE) |
//! | `x` | handle (8), attribute name | attribute value |
//! | `b` | handle (8) | bytes of a stuffed file (short of the size: zeros follow); a symlink's target |
//! | `o` | handle (8) | (empty) an object without a name that may still be open |
//! | `q` | metahandle (8) | datahandles to remove (8 each, LE) |
//! | `i` | intent (8) | `IntentRecord` (prost): an operation over several servers, here begun |
//! | `j` | intent (8), kind (1), handle (8) | `StepRecord` (prost): a step of another server's intent, done here |
//! | `e` | session (8), slot (4) | seq (8, LE), offset (8, LE): where an append was begun |
//! | `m` | handle (8) | `FileLayout` (prost): where a stuffed file's bytes began to move |
//! | `n` | counter (1) | value (8, LE) |
//! | `u` | quota kind (1), id (8) | bytes (8, LE), files (8, LE): usage at the last clean stop; kind 255: there was one |
//! | `U` | quota kind (1), id (8) | bytes (8, LE), files (8, LE): a limit, 0 none; kind 255: there ever was one |
//! | `t` | part (8) | seed of its name hash (8, LE): a part of a split directory of another server |
//! | `T` | directory (8) | (empty) a directory of this server whose names are moving to its parts |
//! | `s`, `r` | see `server_core::session` | sessions and kept replies |
//!
//! Directory cursors: dirents lie in the order of a 56-bit keyed hash of their names, so a cursor
//! (hash << 6 | rank among names of equal hash) stays right while other names come and go, costs no
//! record of its own, and a loop that renames while it reads comes to an end. Bits: 62, so that a
//! cursor with some small offset still fits a signed 64-bit position.
use bytes::Bytes;
use pvfs2_proto::Handle;
use pvfs2_proto::dirmap::RANK_BITS;
pub use pvfs2_proto::dirmap::name_hash;
use pvfs2_server_core::session::SessionKeys;
use smallvec::SmallVec;

/// Prefixes of session and reply records.
pub const SESSION_KEYS: SessionKeys = SessionKeys { session: b's', reply: b'r' };

const ATTR: u8 = b'a';
const DIRENT: u8 = b'd';
const PARENT: u8 = b'p';
const XATTR: u8 = b'x';
const BYTES: u8 = b'b';
const ORPHAN: u8 = b'o';
const REAP: u8 = b'q';
const INTENT: u8 = b'i';
const STEP: u8 = b'j';
const APPEND: u8 = b'e';
const COUNTER: u8 = b'n';
const MOVING: u8 = b'm';
const USED: u8 = b'u';
const LIMIT: u8 = b'U';
/// In the place of a quota's kind: says something of all of them.
const QUOTA_MARK: u8 = 255;
const PART: u8 = b't';
const SPLITTING: u8 = b'T';

/// The rank's part of a cursor.
const RANK_MASK: u64 = (1 << RANK_BITS) - 1;

/// A key; short ones live on the stack.
pub type Key = SmallVec<[u8; 40]>;

/// Counters of the `n` records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// Handles below this one may have been given out.
    Handles = 1,
    /// Intents below this one may have been given out.
    Intents = 2,
    /// The key of the name hash, drawn when the root was made.
    NameHash = 3,
    /// Objects, as counted at the last clean stop.
    Objects = 4,
}

fn with_u64(prefix: u8, n: u64) -> Key {
    let mut key = Key::new();
    key.push(prefix);
    key.extend_from_slice(&n.to_be_bytes());
    key
}

fn be_u64(key: &[u8], at: usize) -> Option<u64> {
    key.get(at..at + 8).map(|b| b.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

fn le_u64(value: &[u8], at: usize) -> Option<u64> {
    value.get(at..at + 8).map(|b| b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// Key of an object's attributes.
pub fn attr(handle: Handle) -> Key {
    with_u64(ATTR, handle.0)
}
/// Prefix of all attributes.
pub fn attrs() -> [u8; 1] {
    [ATTR]
}
/// The handle in a key that begins with a prefix byte and a handle.
pub fn handle_of(key: &[u8]) -> Option<Handle> {
    be_u64(key, 1).map(Handle)
}

/// Key of a dirent.
pub fn dirent(dir: Handle, hash: u64, name: &[u8]) -> Key {
    let mut key = with_u64(DIRENT, dir.0);
    key.extend_from_slice(&hash.to_be_bytes());
    key.extend_from_slice(name);
    key
}
/// Prefix of all dirents.
pub fn all_dirents() -> [u8; 1] {
    [DIRENT]
}
/// Prefix of a directory's dirents.
pub fn dirents(dir: Handle) -> Key {
    with_u64(DIRENT, dir.0)
}
/// Where to go on after `cursor`: the key after which to scan, and how many names of the hash that
/// follows there have been seen.
pub fn dirents_after(dir: Handle, cursor: u64) -> (Key, u64) {
    let hash = cursor & !RANK_MASK;
    let mut key = with_u64(DIRENT, dir.0);
    key.extend_from_slice(&hash.to_be_bytes());
    (key, (cursor & RANK_MASK) + 1)
}
/// The key after which the dirents of hashes from `low` on begin.
pub fn dirents_from(dir: Handle, low: u64) -> Key {
    let mut key = with_u64(DIRENT, dir.0);
    key.extend_from_slice(&low.to_be_bytes());
    key
}
/// Hash and name out of a dirent's key.
pub fn dirent_parts(key: &Bytes) -> Option<(u64, Bytes)> {
    let hash = be_u64(key, 9)?;
    (key.len() > 17).then(|| (hash, key.slice(17..)))
}
/// The cursor of the name with `hash` that is number `rank` of its hash.
pub fn cursor(hash: u64, rank: u64) -> u64 {
    hash | rank.min(RANK_MASK)
}

/// What a dirent points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirentValue {
    /// The object.
    pub handle: Handle,
    /// Its type bits as in `st_mode`.
    pub kind: u32,
}

impl DirentValue {
    /// As stored.
    pub fn encode(&self) -> [u8; 9] {
        let mut value = [0; 9];
        value[..8].copy_from_slice(&self.handle.0.to_le_bytes());
        value[8] = (self.kind >> 12) as u8;
        value
    }
    /// Out of the store.
    pub fn decode(value: &[u8]) -> Option<DirentValue> {
        let kind = u32::from(*value.get(8)?) << 12;
        Some(DirentValue { handle: Handle(le_u64(value, 0)?), kind })
    }
}

/// Key of a directory's parent.
pub fn parent(dir: Handle) -> Key {
    with_u64(PARENT, dir.0)
}
/// Key of an extended attribute.
pub fn xattr(handle: Handle, name: &[u8]) -> Key {
    let mut key = with_u64(XATTR, handle.0);
    key.extend_from_slice(name);
    key
}
/// Prefix of an object's extended attributes.
pub fn xattrs(handle: Handle) -> Key {
    with_u64(XATTR, handle.0)
}
/// The attribute's name in its key.
pub fn xattr_name(key: &Bytes) -> Bytes {
    key.slice(9.min(key.len())..)
}
/// Key of a stuffed file's bytes or a symlink's target.
pub fn bytes(handle: Handle) -> Key {
    with_u64(BYTES, handle.0)
}
/// Key of an orphan.
pub fn orphan(handle: Handle) -> Key {
    with_u64(ORPHAN, handle.0)
}
/// Prefix of all orphans.
pub fn orphans() -> [u8; 1] {
    [ORPHAN]
}
/// Key of a reap queue entry.
pub fn reap(metahandle: Handle) -> Key {
    with_u64(REAP, metahandle.0)
}
/// Prefix of the reap queue.
pub fn reaps() -> [u8; 1] {
    [REAP]
}
/// Value of a reap queue entry.
pub fn reap_value(datahandles: &[u64]) -> Vec<u8> {
    datahandles.iter().flat_map(|h| h.to_le_bytes()).collect()
}
/// Datahandles out of a reap queue entry.
pub fn reap_datahandles(value: &[u8]) -> Vec<Handle> {
    value.chunks_exact(8).filter_map(|c| le_u64(c, 0)).map(Handle).collect()
}
/// Key of the layout that a stuffed file's bytes began to move to.
pub fn moving(handle: Handle) -> Key {
    with_u64(MOVING, handle.0)
}
/// Prefix of all moves.
pub fn all_moving() -> [u8; 1] {
    [MOVING]
}
/// Key of a part of a split directory; its value is a counter's.
pub fn part(part: Handle) -> Key {
    with_u64(PART, part.0)
}
/// Prefix of all parts.
pub fn parts() -> [u8; 1] {
    [PART]
}
/// Key of a directory whose names are moving to its parts.
pub fn splitting(dir: Handle) -> Key {
    with_u64(SPLITTING, dir.0)
}
/// Prefix of all of those.
pub fn all_splitting() -> [u8; 1] {
    [SPLITTING]
}
/// Key of an intent.
pub fn intent(intent: u64) -> Key {
    with_u64(INTENT, intent)
}
/// Prefix of all intents.
pub fn intents() -> [u8; 1] {
    [INTENT]
}
/// The intent in the key of an intent or a step.
pub fn intent_of(key: &[u8]) -> Option<u64> {
    be_u64(key, 1)
}
/// Key of a step of another server's intent.
pub fn step(intent: u64, kind: u8, handle: u64) -> Key {
    let mut key = with_u64(STEP, intent);
    key.push(kind);
    key.extend_from_slice(&handle.to_be_bytes());
    key
}
/// Prefix of all steps.
pub fn steps() -> [u8; 1] {
    [STEP]
}
/// The kind in a step's key.
pub fn step_kind(key: &[u8]) -> Option<u8> {
    key.get(9).copied()
}
/// Key of the note where a session's append was begun.
pub fn append_note(session: u64, slot: u32) -> Key {
    let mut key = with_u64(APPEND, session);
    key.extend_from_slice(&slot.to_be_bytes());
    key
}
/// Prefix of a session's notes.
pub fn append_notes(session: u64) -> Key {
    with_u64(APPEND, session)
}
/// Value of a note.
pub fn append_value(seq: u64, logical_offset: u64) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&seq.to_le_bytes());
    value[8..].copy_from_slice(&logical_offset.to_le_bytes());
    value
}
/// The offset in a note, if it is the note of request `seq`.
pub fn append_place(value: Option<&[u8]>, seq: u64) -> Option<u64> {
    let value = value?;
    (le_u64(value, 0)? == seq).then(|| le_u64(value, 8)).flatten()
}
fn quota(prefix: u8, kind: u8, id: u64) -> Key {
    let mut key = Key::new();
    key.extend_from_slice(&[prefix, kind]);
    key.extend_from_slice(&id.to_be_bytes());
    key
}
/// Key of what a user, a group or a tree took at the last clean stop.
pub fn quota_used(kind: u8, id: u64) -> Key {
    quota(USED, kind, id)
}
/// Key of the mark that such sums were written.
pub fn quota_used_written() -> Key {
    quota(USED, QUOTA_MARK, 0)
}
/// Prefix of them.
pub fn quotas_used() -> [u8; 1] {
    [USED]
}
/// Key of a limit.
pub fn quota_limit(kind: u8, id: u64) -> Key {
    quota(LIMIT, kind, id)
}
/// Key of the mark that there ever was a limit.
pub fn quota_limits_set() -> Key {
    quota(LIMIT, QUOTA_MARK, 0)
}
/// Prefix of the limits.
pub fn quota_limits() -> [u8; 1] {
    [LIMIT]
}
/// Kind and id in a quota's key; `None` for a mark.
pub fn quota_parts(key: &[u8]) -> Option<(u8, u64)> {
    let kind = key.get(1).copied().filter(|k| *k != QUOTA_MARK)?;
    Some((kind, be_u64(key, 2)?))
}
/// Value of a quota's key.
pub fn quota_value(bytes: u64, files: u64) -> [u8; 16] {
    append_value(bytes, files)
}
/// Bytes and files out of it.
pub fn quota_amount(value: &[u8]) -> Option<(u64, u64)> {
    Some((le_u64(value, 0)?, le_u64(value, 8)?))
}
/// Key of a counter.
pub fn counter(counter: Counter) -> [u8; 2] {
    [COUNTER, counter as u8]
}
/// Value of a counter or a parent.
pub fn u64_value(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}
/// A counter or parent out of its value.
pub fn u64_of(value: &[u8]) -> Option<u64> {
    le_u64(value, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_keys() {
        let h = Handle(0x0102_0304_0506_0708);
        let be = [1, 2, 3, 4, 5, 6, 7, 8];
        let key = |prefix: u8, tail: &[u8]| [&[prefix][..], &be, tail].concat();
        assert_eq!(attr(h).as_slice(), key(b'a', b""));
        assert_eq!(parent(h).as_slice(), key(b'p', b""));
        assert_eq!(xattr(h, b"user.a").as_slice(), key(b'x', b"user.a"));
        assert_eq!(bytes(h).as_slice(), key(b'b', b""));
        assert_eq!(orphan(h).as_slice(), key(b'o', b""));
        assert_eq!(reap(h).as_slice(), key(b'q', b""));
        assert_eq!(moving(h).as_slice(), key(b'm', b""));
        assert_eq!(part(h).as_slice(), key(b't', b""));
        assert_eq!(splitting(h).as_slice(), key(b'T', b""));
        assert_eq!(intent(h.0).as_slice(), key(b'i', b""));
        assert_eq!(step(h.0, 3, 1).as_slice(), key(b'j', &[3, 0, 0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(append_note(h.0, 5).as_slice(), key(b'e', &[0, 0, 0, 5]));
        assert_eq!(append_place(Some(&append_value(3, 9)), 3), Some(9));
        assert_eq!(append_place(Some(&append_value(3, 9)), 4), None);
        assert_eq!(counter(Counter::Handles), [b'n', 1]);
        assert_eq!(quota_used(1, h.0).as_slice(), [&[b'u', 1][..], &be].concat());
        assert_eq!(quota_limit(2, h.0).as_slice(), [&[b'U', 2][..], &be].concat());
        assert_eq!(quota_parts(&quota_limit(2, h.0)), Some((2, h.0)));
        assert_eq!(quota_parts(&quota_limits_set()), None);
        assert_eq!(quota_amount(&quota_value(3, 9)), Some((3, 9)));
        assert_eq!(SESSION_KEYS.session_key(h.0).as_slice(), key(b's', b""));
        assert_eq!(SESSION_KEYS.reply_key(h.0, 5).as_slice(), key(b'r', &[0, 0, 0, 5]));
        let d = dirent(h, 0x40, b"name");
        assert_eq!(d.as_slice(), key(b'd', b"\0\0\0\0\0\0\0\x40name"));
        let value = DirentValue { handle: h, kind: 0o040000 };
        assert_eq!(value.encode(), [8, 7, 6, 5, 4, 3, 2, 1, 4]);
        assert_eq!(DirentValue::decode(&value.encode()), Some(value));
        assert_eq!(reap_value(&[1, 2]).len(), 16);
        assert_eq!(reap_datahandles(&reap_value(&[1, h.0])), [Handle(1), h]);
    }

    #[test]
    fn golden_name_hash() {
        // These places are on disk: a change of the function loses every name.
        let seen = [name_hash(7, b"a"), name_hash(7, b"hello.txt"), name_hash(8, b"a")];
        assert_eq!(seen, GOLDEN_HASHES);
        for h in seen {
            assert!(h & RANK_MASK == 0 && h > 0 && h < 1 << 62);
        }
    }

    #[test]
    fn names_spread_over_cursors() {
        let mut seen = std::collections::HashSet::new();
        for i in 0..20_000 {
            assert!(seen.insert(name_hash(99, format!("file{i}").as_bytes())));
        }
    }

    const GOLDEN_HASHES: [u64; 3] =
        [3_272_960_932_285_180_352, 1_034_488_099_536_465_600, 4_120_979_203_386_375_040];
}
