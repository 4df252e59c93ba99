//! Who uses how much on this server, and how much may be used: pure tables, no clock, no network.
//!
//! Usage follows from the attributes: [`Table::apply`] is told of every object whose attributes a
//! transaction changes, by [`crate::store::Store::commit`] and nobody else, so no operation can
//! forget it. A clean stop writes the sums down; after an unclean one they are counted from the
//! attributes, which the journal has kept, so they can never drift from what is there.
//!
//! Invariant (over all servers): what they may use together, [`Table::ceiling`] of each, is at most
//! the limit or what is used already; see `room.rs` for how room moves between them.
use pvfs2_proto::op::{QuotaAmount, QuotaKind};
use pvfs2_proto::{Attr, Handle, ServerId};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A user, a group or a tree.
pub(crate) type Id = (QuotaKind, u64);
/// Those that one object counts for.
pub(crate) type Ids = SmallVec<[Id; 3]>;

/// Bytes and files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

impl Amount {
    /// As a message.
    pub(crate) fn of(self, id: Id) -> QuotaAmount {
        QuotaAmount { kind: id.0 as i32, id: id.1, bytes: self.bytes, files: self.files }
    }
    /// Out of a message.
    pub(crate) fn parse(m: &QuotaAmount) -> Option<(Id, Amount)> {
        let kind = QuotaKind::try_from(m.kind).ok()?;
        Some(((kind, m.id), Amount { bytes: m.bytes, files: m.files }))
    }
    fn plus(self, other: Amount) -> Amount {
        Amount {
            bytes: self.bytes.saturating_add(other.bytes),
            files: self.files.saturating_add(other.files),
        }
    }
    fn minus(self, other: Amount) -> Amount {
        Amount {
            bytes: self.bytes.saturating_sub(other.bytes),
            files: self.files.saturating_sub(other.files),
        }
    }
}

/// What one object counts, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    uid: u32,
    gid: u32,
    tree: u64,
    bytes: u64,
}

impl Charge {
    /// What an object with these attributes counts.
    pub(crate) fn of(attr: &Attr) -> Charge {
        let bytes = if attr.is_file() { attr.size } else { 0 };
        Charge { uid: attr.uid, gid: attr.gid, tree: attr.quota_tree, bytes }
    }
    fn ids(&self) -> Ids {
        ids(self.uid, self.gid, self.tree)
    }
    fn amount(&self) -> Amount {
        Amount { bytes: self.bytes, files: 1 }
    }
}

/// Whom an object counts for.
pub(crate) fn ids(uid: u32, gid: u32, tree: u64) -> Ids {
    let mut all = Ids::new();
    all.push((QuotaKind::User, uid.into()));
    all.push((QuotaKind::Group, gid.into()));
    if tree != 0 {
        all.push((QuotaKind::Dir, tree));
    }
    all
}

/// Room that writers of an open file have got.
struct Reserved {
    end: u64,
    charge: Charge,
}

impl Reserved {
    fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.charge.bytes)
    }
}

/// See the head of the file.
#[derive(Default)]
pub(crate) struct Table {
    used: BTreeMap<Id, Amount>,
    reserved: HashMap<Handle, Reserved>,
    reserved_sums: HashMap<Id, u64>,
    limits: BTreeMap<Id, Amount>,
    /// (Not on the first server) what objects here may take, as it was granted.
    allowed: HashMap<Id, Amount>,
    /// (On the first server) what the others may take, or were last heard to take.
    granted: BTreeMap<(Id, ServerId), Amount>,
    /// (On the first server) those of whom the others were asked since the start.
    surveyed: BTreeSet<Id>,
}

impl Table {
    /// An object's charge changes from `old` to `new`; `None`: it does not exist.
    pub(crate) fn apply(&mut self, handle: Handle, old: Option<Charge>, new: Option<Charge>) {
        if old != new {
            if let Some(old) = old {
                for id in old.ids() {
                    let left = self.used.get(&id).map(|u| u.minus(old.amount()));
                    match left.filter(|u| *u != Amount::default()) {
                        Some(left) => drop(self.used.insert(id, left)),
                        None => drop(self.used.remove(&id)),
                    }
                }
            }
            if let Some(new) = new {
                for id in new.ids() {
                    let used = self.used.entry(id).or_default();
                    *used = used.plus(new.amount());
                }
            }
        }
        if let Some(reserved) = self.reserved.get(&handle) {
            let end = reserved.end;
            let shrunk = new.is_none_or(|n| n.bytes < reserved.charge.bytes);
            self.release(handle);
            if let Some(charge) = new.filter(|_| !shrunk) {
                self.reserve(handle, charge, end);
            }
        }
    }

    /// Forgets all usage, before it is counted anew; gives what it was.
    pub(crate) fn take_used(&mut self) -> BTreeMap<Id, Amount> {
        std::mem::take(&mut self.used)
    }

    /// What objects here take.
    pub(crate) fn used(&self) -> &BTreeMap<Id, Amount> {
        &self.used
    }

    /// Takes over a sum of the last clean stop.
    pub(crate) fn load(&mut self, id: Id, amount: Amount) {
        self.used.insert(id, amount);
    }

    /// What objects here take, room of open writers included.
    pub(crate) fn taken(&self, id: Id) -> Amount {
        let used = self.used.get(&id).copied().unwrap_or_default();
        let bytes = self.reserved_sums.get(&id).copied().unwrap_or(0);
        used.plus(Amount { bytes, files: 0 })
    }

    /// All limits.
    pub(crate) fn limits(&self) -> &BTreeMap<Id, Amount> {
        &self.limits
    }

    /// Sets a limit, or with zeros takes it away.
    pub(crate) fn set_limit(&mut self, id: Id, limit: Amount) {
        self.surveyed.remove(&id);
        if limit == Amount::default() {
            self.limits.remove(&id);
        } else {
            self.limits.insert(id, limit);
        }
    }

    /// Takes over all limits.
    pub(crate) fn set_limits(&mut self, limits: BTreeMap<Id, Amount>) {
        self.limits = limits;
        self.allowed.retain(|id, _| self.limits.contains_key(id));
    }

    /// Whether an object with these attributes counts for anybody with a limit.
    pub(crate) fn is_limited(&self, attr: &Attr) -> bool {
        !self.limits.is_empty()
            && ids(attr.uid, attr.gid, attr.quota_tree).iter().any(|i| self.limits.contains_key(i))
    }

    /// Whether directory trees are counted at all.
    pub(crate) fn has_trees(&self) -> bool {
        let tree = |id: Option<&Id>| id.is_some_and(|i| i.0 == QuotaKind::Dir);
        tree(self.limits.keys().next_back()) || tree(self.used.keys().next_back())
    }

    /// What objects of this server may take for `id`, which has this limit. `first`: this is the
    /// server that grants; `others`: how many others there are.
    fn ceiling(&self, id: Id, limit: Amount, first: bool) -> Amount {
        let mut ceiling = if first {
            let others = self.granted.range((id, 0)..=(id, ServerId::MAX));
            others.fold(limit, |left, (_, granted)| left.minus(*granted))
        } else {
            self.allowed.get(&id).copied().unwrap_or_default()
        };
        if limit.bytes == 0 {
            ceiling.bytes = u64::MAX;
        }
        if limit.files == 0 {
            ceiling.files = u64::MAX;
        }
        ceiling
    }

    /// Room that is left here for `id`.
    pub(crate) fn room(&self, id: Id, first: bool) -> Option<Amount> {
        let limit = *self.limits.get(&id)?;
        Some(self.ceiling(id, limit, first).minus(self.taken(id)))
    }

    /// Those of `ids` for which `more` does not fit here.
    pub(crate) fn lacking(&self, ids: &Ids, more: Amount, first: bool) -> Ids {
        let lacks = |id: &Id| {
            let Some(room) = self.room(*id, first) else { return false };
            let grows = |more: u64, room: u64| more > 0 && more > room;
            grows(more.bytes, room.bytes) || grows(more.files, room.files)
        };
        ids.iter().copied().filter(lacks).collect()
    }

    /// Grants (or notes) what objects of server `to` may take.
    pub(crate) fn grant(&mut self, id: Id, to: ServerId, amount: Amount) {
        self.granted.insert((id, to), amount);
    }

    /// Of whom the others were asked since the start.
    pub(crate) fn is_surveyed(&self, id: Id) -> bool {
        self.surveyed.contains(&id)
    }

    /// The others have been asked about `id`.
    pub(crate) fn survey(&mut self, id: Id) {
        self.surveyed.insert(id);
    }

    /// (Not on the first server) takes over what was granted.
    pub(crate) fn allow(&mut self, id: Id, amount: Amount) {
        self.allowed.insert(id, amount);
    }

    /// (Not on the first server) gives up what is not used; gives what is.
    pub(crate) fn give_up(&mut self, id: Id) -> Amount {
        let taken = self.taken(id);
        self.allowed.insert(id, taken);
        taken
    }

    /// Up to where writers of a file have room.
    pub(crate) fn reserved_end(&self, handle: Handle) -> u64 {
        self.reserved.get(&handle).map_or(0, |r| r.end)
    }

    /// Gives writers of a file room up to `end`.
    pub(crate) fn reserve(&mut self, handle: Handle, charge: Charge, end: u64) {
        self.release(handle);
        let reserved = Reserved { end, charge };
        for id in charge.ids() {
            *self.reserved_sums.entry(id).or_default() += reserved.bytes();
        }
        self.reserved.insert(handle, reserved);
    }

    /// Takes their room back.
    pub(crate) fn release(&mut self, handle: Handle) {
        let Some(reserved) = self.reserved.remove(&handle) else { return };
        for id in reserved.charge.ids() {
            if let Some(sum) = self.reserved_sums.get_mut(&id) {
                *sum = sum.saturating_sub(reserved.bytes());
                if *sum == 0 {
                    self.reserved_sums.remove(&id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pvfs2_proto::attr::mode::{S_IFDIR, S_IFREG};

    fn file(uid: u32, tree: u64, size: u64) -> Option<Charge> {
        let attr = Attr { mode: S_IFREG, uid, gid: 9, size, quota_tree: tree, ..Attr::default() };
        Some(Charge::of(&attr))
    }
    const USER: Id = (QuotaKind::User, 5);
    fn amount(bytes: u64, files: u64) -> Amount {
        Amount { bytes, files }
    }

    #[test]
    fn usage_follows_objects() {
        let mut t = Table::default();
        let h = Handle(1);
        t.apply(h, None, file(5, 7, 100));
        t.apply(Handle(2), None, file(5, 0, 10));
        assert_eq!(t.taken(USER), amount(110, 2));
        assert_eq!(t.taken((QuotaKind::Dir, 7)), amount(100, 1));
        assert_eq!(t.taken((QuotaKind::Group, 9)), amount(110, 2));
        t.apply(h, file(5, 7, 100), file(6, 7, 50));
        assert_eq!((t.taken(USER), t.taken((QuotaKind::User, 6))), (amount(10, 1), amount(50, 1)));
        assert!(t.has_trees());
        t.apply(h, file(6, 7, 50), None);
        t.apply(Handle(2), file(5, 0, 10), None);
        assert!(t.used().is_empty() && !t.has_trees());
        let dir = Attr { mode: S_IFDIR, uid: 5, size: 3_000, ..Attr::default() };
        t.apply(h, None, Some(Charge::of(&dir)));
        assert_eq!(t.taken(USER), amount(0, 1), "a directory's size counts names");
    }

    #[test]
    fn room_of_writers_counts_until_it_is_used_or_given_back() {
        let mut t = Table::default();
        let h = Handle(1);
        t.apply(h, None, file(5, 0, 100));
        t.reserve(h, file(5, 0, 100).unwrap(), 1_000);
        assert_eq!(t.taken(USER), amount(1_000, 1));
        // What is used of it is not counted twice.
        t.apply(h, file(5, 0, 100), file(5, 0, 700));
        assert_eq!(t.taken(USER), amount(1_000, 1));
        t.apply(h, file(5, 0, 700), file(5, 0, 1_200));
        assert_eq!(t.taken(USER), amount(1_200, 1));
        t.reserve(h, file(5, 0, 1_200).unwrap(), 2_000);
        t.apply(h, file(5, 0, 1_200), file(5, 0, 0));
        assert_eq!(t.taken(USER), amount(0, 1), "a truncation gives it back");
        t.reserve(h, file(5, 0, 0).unwrap(), 500);
        t.apply(h, file(5, 0, 0), None);
        assert_eq!(t.taken(USER), Amount::default());
    }

    #[test]
    fn room_is_what_limit_and_others_leave() {
        let mut t = Table::default();
        let all = ids(5, 9, 0);
        assert!(t.lacking(&all, amount(1 << 60, 1 << 60), true).is_empty(), "no limit");
        t.set_limit(USER, amount(1_000, 0));
        t.apply(Handle(1), None, file(5, 0, 100));
        assert!(t.lacking(&all, amount(900, 1_000_000), true).is_empty());
        assert_eq!(t.lacking(&all, amount(901, 0), true).as_slice(), [USER]);
        t.grant(USER, 3, amount(300, 2));
        t.grant(USER, 4, amount(100, 2));
        assert_eq!(t.room(USER, true), Some(amount(500, u64::MAX - 1)));
        // On another server only what was granted counts.
        assert_eq!(t.lacking(&all, amount(1, 0), false).as_slice(), [USER]);
        assert!(t.lacking(&all, amount(0, 1), false).is_empty(), "no limit of files");
        t.allow(USER, amount(150, 0));
        assert_eq!(t.room(USER, false).map(|r| r.bytes), Some(50));
        assert_eq!(t.give_up(USER), amount(100, 1));
        assert_eq!(t.room(USER, false).map(|r| r.bytes), Some(0));
        t.set_limits(BTreeMap::new());
        assert!(t.lacking(&all, amount(1, 1), false).is_empty());
    }
}
