//! Clients that do random operations in a folder of their own and compare every result with the
//! model's: one client, or several who take turns, so that each sees what the others did.
//!
//! Operations on names stand in `names.rs`, on bytes in `files.rs`.
use crate::hand::{Hand, name};
use crate::model::{Kind, Model, NodeId};
use bytes::Bytes;
use pvfs2_client::OpenFile;
use pvfs2_client::sys;
use pvfs2_proto::attr::mode::{S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG};
use pvfs2_proto::env::{Random, SplitMix};
use pvfs2_proto::{Attr, ErrorCode, Handle, Result};
use std::collections::HashMap;
use std::sync::Arc;

#[path = "files.rs"]
mod files;
#[path = "names.rs"]
mod names;

/// Who acts.
pub struct Actor {
    label: String,
    random: SplitMix,
    hands: Vec<Hand>,
    turn: usize,
    pub(crate) model: Model,
    handles: HashMap<NodeId, Handle>,
    /// What is open, and by whom.
    open: Vec<(NodeId, usize, Arc<OpenFile>)>,
    /// Of which file the last write was, and where it ended.
    went_on: (NodeId, u64),
    steps: u64,
}

/// The longest file that an actor makes.
const FILE_MAX: u64 = 20_000;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

impl Actor {
    pub fn new(seed: u64, number: usize, hands: Vec<Hand>, dir: Handle) -> Actor {
        Actor {
            label: format!("seed {seed}, client {number}"),
            random: SplitMix::new(seed.wrapping_mul(31) + number as u64),
            hands,
            turn: 0,
            model: Model::new(),
            handles: HashMap::from([(0, dir)]),
            open: Vec::new(),
            went_on: (0, 0),
            steps: 0,
        }
    }

    /// Whose turn it is.
    fn hand(&self) -> &Hand {
        &self.hands[self.turn]
    }

    fn rand(&self, below: u64) -> u64 {
        self.random.next_u64() % below.max(1)
    }

    fn pick_dir(&self) -> NodeId {
        let dirs = self.model.dirs();
        dirs[self.rand(dirs.len() as u64) as usize]
    }

    fn pick_name(&self) -> &'static str {
        NAMES[self.rand(NAMES.len() as u64) as usize]
    }

    /// An object of the tree that `fits`, if there is one.
    fn pick(&self, fits: impl Fn(&Kind) -> bool) -> Option<NodeId> {
        let dirs = self.model.dirs();
        let inside = dirs.iter().flat_map(|d| self.model.dir(*d).values().copied());
        let found: Vec<NodeId> = inside.filter(|n| fits(&self.model.nodes[*n].kind)).collect();
        (!found.is_empty()).then(|| found[self.rand(found.len() as u64) as usize])
    }

    fn pick_file(&self) -> Option<NodeId> {
        self.pick(|kind| matches!(kind, Kind::File(_)))
    }

    fn bytes(&self, len: u64) -> Bytes {
        let seed = self.random.next_u64();
        Bytes::from(pvfs2_tests::pattern::bytes(seed, 0, len as usize))
    }

    /// The real outcome must be the model's.
    #[track_caller]
    fn same<T>(&self, what: &str, real: &Result<T>, model: std::result::Result<(), ErrorCode>) {
        let real_code = real.as_ref().map(|_| ()).map_err(|e| e.code);
        crate::trace(|| format!("{}, step {}: {what}: {real_code:?}", self.label, self.steps));
        let detail = real.as_ref().err().map(|e| e.detail.to_string()).unwrap_or_default();
        assert_eq!(real_code, model, "{}, step {}: {what} ({detail})", self.label, self.steps);
    }

    /// One random operation.
    pub async fn step(&mut self) {
        self.steps += 1;
        self.turn = self.rand(self.hands.len() as u64) as usize;
        match self.rand(100) {
            0..13 => self.create().await,
            13..20 => self.mkdir().await,
            20..23 => self.symlink().await,
            23..25 => self.mknod().await,
            25..32 => self.unlink().await,
            32..36 => self.rmdir().await,
            36..47 => self.rename().await,
            47..52 => self.link().await,
            52..57 => self.lookup().await,
            57..59 => self.list().await,
            59..62 => self.setxattr().await,
            62..64 => self.removexattr().await,
            64..66 => self.xattrs().await,
            66..69 => self.chmod().await,
            69..71 => self.utimes().await,
            71..74 => self.close_one().await,
            _ => self.file_step().await,
        }
    }

    async fn close_one(&mut self) {
        if !self.open.is_empty() {
            let i = self.rand(self.open.len() as u64) as usize;
            let (_, turn, file) = self.open.swap_remove(i);
            self.hands[turn].close(&file).await;
        }
    }

    fn check_attr(&self, id: NodeId, attr: &Attr) {
        let node = &self.model.nodes[id];
        let label = format!("{}, step {}: node {id}", self.label, self.steps);
        let (size, nlink) = match &node.kind {
            Kind::File(bytes) => (bytes.len() as u64, node.nlink),
            Kind::Symlink(target) => (target.len() as u64, node.nlink),
            Kind::Fifo => (0, node.nlink),
            Kind::Dir(entries) => {
                let subdirs = entries.values().filter(|n| self.model.is_dir(**n)).count();
                (entries.len() as u64, 2 + subdirs as u32)
            }
        };
        assert_eq!((attr.size, attr.nlink), (size, nlink), "{label}: size, links of {attr:?}");
        let kind = match &node.kind {
            Kind::File(_) => S_IFREG,
            Kind::Dir(_) => S_IFDIR,
            Kind::Symlink(_) => S_IFLNK,
            Kind::Fifo => S_IFIFO,
        };
        assert_eq!(attr.kind(), kind, "{label}: kind of {attr:?}");
        if kind != S_IFLNK {
            assert_eq!(attr.mode & 0o7777, node.mode, "{label}: mode of {attr:?}");
        }
        if let Some(mtime_ns) = node.mtime_ns {
            assert_eq!(attr.mtime_ns, mtime_ns, "{label}: mtime of {attr:?}");
        }
    }

    async fn getattr(&mut self, id: NodeId) {
        let real = self.hand().run(sys::Getattr::new(self.handles[&id])).await;
        self.same("getattr", &real, Ok(()));
        self.check_attr(id, &real.expect("just checked"));
    }

    pub async fn close_all(&mut self) {
        for (_, turn, file) in std::mem::take(&mut self.open) {
            self.hands[turn].close(&file).await;
        }
    }

    /// Everything that the model knows, through `fresh`; a digest of it.
    pub async fn verify(&mut self, fresh: &Hand) -> u64 {
        let mut digest = self.steps;
        for dir in self.model.dirs() {
            let real = fresh.list(self.handles[&dir]).await.expect("readdir");
            let entries = self.model.dir(dir).clone();
            let names = entries.iter().map(|(text, id)| (text.clone(), self.handles[id])).collect();
            assert_eq!(real, names, "{}: names in the end", self.label);
            for (text, id) in entries {
                let handle = self.handles[&id];
                let attr = fresh
                    .run(sys::Lookup::new(self.handles[&dir], name(&text)))
                    .await
                    .expect("lookup");
                assert_eq!(attr.handle(), handle);
                self.check_attr(id, &attr);
                digest = digest.rotate_left(7) ^ attr.size ^ handle.0;
                match self.model.nodes[id].kind.clone() {
                    Kind::File(bytes) => {
                        let file = fresh.open(handle).await.expect("open");
                        let got = fresh
                            .run(sys::Read::new(file.clone(), 0, bytes.len() + 10))
                            .await
                            .expect("read");
                        assert!(got == bytes, "{}: bytes of node {id} in the end", self.label);
                        fresh.close(&file).await;
                    }
                    Kind::Symlink(target) => {
                        let got = fresh.run(sys::Readlink::new(handle)).await.expect("readlink");
                        assert_eq!(got, target.as_bytes());
                    }
                    Kind::Dir(_) | Kind::Fifo => {}
                }
                self.check_xattrs(id, fresh).await;
            }
        }
        digest
    }

    /// Removes the whole tree, deepest first.
    pub async fn remove_everything(self) {
        for dir in self.model.dirs().into_iter().rev() {
            for (text, id) in self.model.dir(dir) {
                let parent = self.handles[&dir];
                if self.model.is_dir(*id) {
                    self.hands[0].run(sys::Rmdir::new(parent, name(text))).await.expect("rmdir");
                } else {
                    self.hands[0].run(sys::Unlink::new(parent, name(text))).await.expect("unlink");
                }
            }
        }
    }
}
