//! What one operation alters: gathered here, made one journal record by `Store::commit`.
//!
//! Place in the walks: every operation that changes something fills one. Besides the records it
//! notes what the store must hear of when they are in the journal: objects that came and went, what
//! quotas count, work for the reaper, directories that have grown, parts of directories.
use crate::keys::{self, DirentValue};
use crate::quota::Charge;
use bytes::Bytes;
use prost::Message;
use pvfs2_proto::attr::mode::{S_IFDIR, S_IFMT};
use pvfs2_proto::{Attr, AttrFlags, Handle};
use pvfs2_server_core::service::OpCx;
use pvfs2_trove::Txn;
use smallvec::SmallVec;

/// What one operation alters.
#[derive(Default)]
pub struct Change {
    pub(crate) txn: Txn,
    pub(crate) objects: i64,
    /// Something was queued for the reaper.
    pub(crate) reaps: bool,
    /// Objects whose attributes change, for quotas: what they count afterwards.
    pub(crate) charges: SmallVec<[(Handle, Option<Charge>); 4]>,
    /// Objects of which there was nothing before.
    pub(crate) made: SmallVec<[Handle; 1]>,
    /// A directory that has grown or shrunk: handle, names, whether it may have a limit of its own.
    pub(crate) counted: Option<(Handle, u64, bool)>,
    /// A part of a directory that came or went, with its seed.
    pub(crate) parts: Vec<(Handle, Option<u64>)>,
}

impl Change {
    /// Nothing yet.
    pub fn new() -> Change {
        Change::default()
    }
    /// Writes attributes of an object that exists.
    pub fn put_attr(&mut self, attr: &Attr) {
        if attr.mode & S_IFMT == S_IFDIR
            && attr.dir_map.is_none()
            && self.counted.is_none_or(|c| c.1 < attr.size)
        {
            self.counted = Some((attr.handle(), attr.size, attr.has(AttrFlags::HAS_XATTR)));
        }
        self.txn.put(keys::attr(attr.handle()).to_vec(), attr.encode_to_vec());
        self.charges.push((attr.handle(), Some(Charge::of(attr))));
    }
    /// Writes attributes of a new object.
    pub fn new_object(&mut self, attr: &Attr) {
        self.objects += 1;
        self.made.push(attr.handle());
        self.put_attr(attr);
    }
    /// Writes a dirent.
    pub fn put_dirent(&mut self, key: keys::Key, handle: Handle, kind: u32) {
        let value = DirentValue { handle, kind };
        self.txn.put(key.to_vec(), value.encode().to_vec());
    }
    /// Removes a record.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.txn.delete(key.as_ref().to_vec());
    }
    /// What the change makes of a record; `None`: nothing.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Option<Bytes>> {
        self.txn.get(key.as_ref()).map(|value| value.cloned())
    }
    /// Writes a record.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) {
        self.txn.put(key.as_ref().to_vec(), value);
    }
    /// Writes what a part of a split directory of another server is known by.
    pub fn put_part(&mut self, part: Handle, seed: u64) {
        self.put(keys::part(part), keys::u64_value(seed).to_vec());
        self.parts.push((part, Some(seed)));
    }
    /// Sets a directory's parent.
    pub fn put_parent(&mut self, dir: Handle, parent: Handle) {
        self.put(keys::parent(dir), keys::u64_value(parent.0).to_vec());
    }
    /// Adds the reply record (see [`OpCx::reply_record`]).
    pub fn reply(&mut self, cx: &OpCx, response: &pvfs2_proto::op::OpResponse) {
        cx.reply_record(&mut self.txn, response);
    }
}
