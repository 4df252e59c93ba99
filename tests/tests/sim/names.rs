//! An actor's operations on names and attributes.
use super::Actor;
use crate::hand::{Hand, name};
use crate::model::{Kind, NodeId};
use bytes::Bytes;
use pvfs2_client::sys;
use pvfs2_proto::attr::TimeSpec;
use pvfs2_proto::attr::mode::S_IFIFO;
use pvfs2_proto::{ErrorCode, Handle, SetAttr};
use std::collections::BTreeMap;

impl Actor {
    pub(super) async fn create(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let real = self.hand().create(self.handles[&dir], text).await;
        let model = self.model.make(dir, text, Kind::File(Vec::new()));
        self.same(&format!("create {text}"), &real, model.map(|_| ()));
        if let (Ok(file), Ok(id)) = (real, model) {
            self.handles.insert(id, file.handle);
            if self.open.len() < 4 && self.rand(3) == 0 {
                self.open.push((id, self.turn, file));
            } else {
                self.hand().close(&file).await;
            }
        }
    }

    pub(super) async fn mkdir(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let real = self.hand().mkdir(self.handles[&dir], text).await;
        let model = self.model.make(dir, text, Kind::Dir(BTreeMap::new()));
        self.same(&format!("mkdir {text}"), &real, model.map(|_| ()));
        if let (Ok(handle), Ok(id)) = (real, model) {
            self.handles.insert(id, handle);
        }
    }

    pub(super) async fn symlink(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let target = format!("t{}", self.rand(1_000));
        let real =
            self.hand().run(sys::Symlink::new(self.handles[&dir], name(text), name(&target))).await;
        let model = self.model.make(dir, text, Kind::Symlink(target));
        self.same(&format!("symlink {text}"), &real, model.map(|_| ()));
        if let (Ok(attr), Ok(id)) = (real, model) {
            self.handles.insert(id, attr.handle());
        }
    }

    pub(super) async fn unlink(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let real = self.hand().run(sys::Unlink::new(self.handles[&dir], name(text))).await;
        let model = self.model.unlink(dir, text);
        self.same(&format!("unlink {text}"), &real, model);
    }

    pub(super) async fn rmdir(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let real = self.hand().run(sys::Rmdir::new(self.handles[&dir], name(text))).await;
        let model = self.model.rmdir(dir, text);
        self.same(&format!("rmdir {text}"), &real, model);
    }

    pub(super) async fn rename(&mut self) {
        let (from, text, to, new) =
            (self.pick_dir(), self.pick_name(), self.pick_dir(), self.pick_name());
        let (no_replace, exchange) = (self.rand(4) == 0, self.rand(6) == 0);
        let no_replace = no_replace && !exchange;
        // A directory into itself is refused by the kernel before it comes to us.
        let into_itself = |dir: NodeId, entry: &str, other: NodeId| {
            self.model.lookup(dir, entry).is_ok_and(|id| self.model.is_inside(other, id))
        };
        if into_itself(from, text, to) || (into_itself(to, new, from)) {
            return;
        }
        let old = (self.handles[&from], name(text));
        let real = self
            .hand()
            .run(sys::Rename::new(old, (self.handles[&to], name(new)), no_replace, exchange))
            .await;
        let mut model = self.model.rename((from, text), (to, new), no_replace, exchange);
        // Where two errors apply, POSIX leaves open which one it is.
        let both = no_replace && model == Err(ErrorCode::NotFound);
        if both
            && self.model.lookup(to, new).is_ok()
            && matches!(&real, Err(e) if e.code == ErrorCode::Exists)
        {
            model = Err(ErrorCode::Exists);
        }
        self.same(
            &format!("rename {from}/{text} {to}/{new} {no_replace} {exchange}"),
            &real,
            model,
        );
    }

    pub(super) async fn link(&mut self) {
        let (Some(id), dir, text) = (self.pick_file(), self.pick_dir(), self.pick_name()) else {
            return;
        };
        let real = self
            .hand()
            .run(sys::Link::new(self.handles[&id], self.handles[&dir], name(text)))
            .await;
        let model = self.model.link(id, dir, text);
        self.same(&format!("link {text}"), &real, model);
    }

    pub(super) async fn list(&mut self) {
        let dir = self.pick_dir();
        let real = self.hand().list(self.handles[&dir]).await.expect("readdir");
        let model: BTreeMap<String, Handle> =
            self.model.dir(dir).iter().map(|(text, id)| (text.clone(), self.handles[id])).collect();
        assert_eq!(real, model, "{}, step {}: readdir", self.label, self.steps);
    }

    pub(super) async fn mknod(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let machine = sys::Mknod::new(self.handles[&dir], name(text), S_IFIFO | 0o600, 0);
        let real = self.hand().run(machine).await;
        let model = self.model.make(dir, text, Kind::Fifo);
        self.same(&format!("mknod {text}"), &real, model.map(|_| ()));
        if let (Ok(attr), Ok(id)) = (real, model) {
            self.handles.insert(id, attr.handle());
        }
    }

    pub(super) async fn lookup(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let real = self.hand().run(sys::Lookup::new(self.handles[&dir], name(text))).await;
        let model = self.model.lookup(dir, text);
        self.same(&format!("lookup {text}"), &real, model.map(|_| ()));
        if let (Ok(attr), Ok(id)) = (real, model) {
            assert_eq!(attr.handle(), self.handles[&id], "{}: lookup {text}", self.label);
            self.check_attr(id, &attr);
            if let Kind::Symlink(target) = &self.model.nodes[id].kind {
                let got = self.hand().run(sys::Readlink::new(attr.handle())).await;
                assert_eq!(got.expect("readlink"), target.as_bytes(), "{}", self.label);
            }
        }
    }

    pub(super) async fn setxattr(&mut self) {
        let Some(id) = self.pick(|kind| matches!(kind, Kind::File(_) | Kind::Dir(_))) else {
            return;
        };
        let (key, value) = (format!("user.{}", self.pick_name()), self.bytes(1 + self.rand(300)));
        let (create, replace) = (self.rand(4) == 0, self.rand(4) == 0);
        let replace = replace && !create;
        let set = sys::Setxattr::new(self.handles[&id], name(&key), value.clone(), create, replace);
        let real = self.hand().run(set).await;
        let there = self.model.nodes[id].xattrs.contains_key(&key);
        let model = match (create, replace, there) {
            (true, _, true) => Err(ErrorCode::Exists),
            (_, true, false) => Err(ErrorCode::NoAttribute),
            _ => Ok(()),
        };
        self.same(&format!("setxattr {key} of node {id} {create} {replace}"), &real, model);
        if model.is_ok() {
            self.model.nodes[id].xattrs.insert(key, value.to_vec());
        }
    }

    pub(super) async fn removexattr(&mut self) {
        let Some(id) = self.pick(|kind| matches!(kind, Kind::File(_) | Kind::Dir(_))) else {
            return;
        };
        let key = format!("user.{}", self.pick_name());
        let real = self.hand().run(sys::Removexattr::new(self.handles[&id], name(&key))).await;
        let model = self.model.nodes[id].xattrs.remove(&key).map(|_| ());
        self.same(
            &format!("removexattr {key} of node {id}"),
            &real,
            model.ok_or(ErrorCode::NoAttribute),
        );
    }

    pub(super) async fn xattrs(&mut self) {
        let picked = self.pick(|kind| matches!(kind, Kind::File(_) | Kind::Dir(_)));
        if let Some(id) = picked {
            self.check_xattrs(id, self.hand()).await;
        }
    }

    /// The extended attributes, list and values, as `hand` sees them.
    pub(super) async fn check_xattrs(&self, id: NodeId, hand: &Hand) {
        let (handle, model) = (self.handles[&id], &self.model.nodes[id].xattrs);
        let label = format!("{}, step {}: node {id}", self.label, self.steps);
        if !matches!(self.model.nodes[id].kind, Kind::File(_) | Kind::Dir(_)) {
            return;
        }
        let listed = hand.run(sys::Listxattr::new(handle)).await.expect("listxattr");
        let mut own: Vec<Bytes> =
            listed.into_iter().filter(|n| !n.starts_with(b"user.pvfs2.")).collect();
        own.sort();
        let want: Vec<Bytes> = model.keys().map(|k| name(k)).collect();
        assert_eq!(own, want, "{label}: listxattr");
        for (key, value) in model {
            let got = hand.run(sys::Getxattr::new(handle, name(key))).await.expect("getxattr");
            assert!(got == value[..], "{label}: {key}");
        }
    }

    pub(super) async fn chmod(&mut self) {
        let Some(id) = self.pick(|kind| !matches!(kind, Kind::Symlink(_))) else { return };
        let mode = [0o600, 0o644, 0o755, 0o1777, 0o4711, 0o2755][self.rand(6) as usize];
        let set = SetAttr { mode: Some(mode), ..Default::default() };
        let real = self.hand().run(sys::Setattr::new(self.handles[&id], set)).await;
        self.same(&format!("chmod {mode:o} node {id}"), &real, Ok(()));
        self.model.nodes[id].mode = mode;
        self.check_attr(id, &real.expect("just checked"));
    }

    pub(super) async fn utimes(&mut self) {
        let Some(id) = self.pick_file() else { return };
        let ns = 1_000_000_000 * self.rand(1_000_000_000) as i64 + self.rand(1_000_000_000) as i64;
        let time = TimeSpec { now: false, ns };
        let set = SetAttr { mtime: Some(time), atime: Some(time), ..Default::default() };
        let real = self.hand().run(sys::Setattr::new(self.handles[&id], set)).await;
        self.same(&format!("utimes of node {id}"), &real, Ok(()));
        self.model.nodes[id].mtime_ns = Some(ns);
        self.check_attr(id, &real.expect("just checked"));
    }
}
