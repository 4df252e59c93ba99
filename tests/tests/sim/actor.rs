//! One client that does random operations in a folder of its own and compares every result with the
//! model's; and the same operations by hand.
use crate::model::{Kind, Model, NodeId};
use bytes::Bytes;
use pvfs2_bmi::client::AsyncNet;
use pvfs2_client::machine::Machine;
use pvfs2_client::sys::{self, DirHandle};
use pvfs2_client::{Client, OpState, OpenFile, run};
use pvfs2_proto::env::{Random, SplitMix};
use pvfs2_proto::op::{Cred, FallocateKind};
use pvfs2_proto::{Attr, ErrorCode, Handle, Result, SetAttr};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// A client with the carrier that drives it.
pub struct Hand {
    client: Arc<Client>,
    net: Rc<AsyncNet>,
    keepalive: JoinHandle<()>,
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.keepalive.abort();
    }
}

fn name(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Hand {
    pub fn new(client: Arc<Client>, net: Rc<AsyncNet>, keepalive: JoinHandle<()>) -> Hand {
        Hand { client, net, keepalive }
    }

    pub async fn run<M: Machine>(&self, mut machine: M) -> Result<M::Out> {
        let mut op = OpState::new(&self.client, Cred::root(), 0);
        run(&mut machine, &mut op, &self.client, &*self.net).await
    }

    pub async fn mkdir(&self, dir: Handle, text: &str) -> Result<Handle> {
        Ok(self.run(sys::Mkdir::new(dir, name(text), 0o755)).await?.handle())
    }

    async fn create(&self, dir: Handle, text: &str) -> Result<Arc<OpenFile>> {
        let made =
            self.run(sys::Create::open(dir, name(text), 0o644, (true, true), true, false)).await?;
        Ok(made.file.expect("create opens"))
    }

    async fn open(&self, handle: Handle) -> Result<Arc<OpenFile>> {
        self.run(sys::Open::new(handle, (true, true), false)).await
    }

    async fn close(&self, file: &Arc<OpenFile>) {
        self.run(sys::Release::new(file.clone())).await.expect("release");
    }

    async fn list(&self, dir: Handle) -> Result<BTreeMap<String, Handle>> {
        let (open, mut cursor, mut names) = (DirHandle::new(dir), 0, BTreeMap::new());
        loop {
            let page = self.run(sys::Readdir::new(open.clone(), cursor, true, true)).await?;
            for entry in page.entries() {
                let text = String::from_utf8(entry.name.to_vec()).expect("our own names");
                assert!(names.insert(text, Handle(entry.handle)).is_none(), "a name twice");
                cursor = entry.cursor;
            }
            if page.is_end() {
                return Ok(names);
            }
        }
    }
}

/// The actor.
pub struct Actor {
    label: String,
    random: SplitMix,
    hand: Hand,
    model: Model,
    handles: HashMap<NodeId, Handle>,
    open: Vec<(NodeId, Arc<OpenFile>)>,
    steps: u64,
}

/// The longest file that an actor makes.
const FILE_MAX: u64 = 20_000;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

impl Actor {
    pub fn new(seed: u64, number: usize, hand: Hand, dir: Handle) -> Actor {
        Actor {
            label: format!("seed {seed}, client {number}"),
            random: SplitMix::new(seed.wrapping_mul(31) + number as u64),
            hand,
            model: Model::new(),
            handles: HashMap::from([(0, dir)]),
            open: Vec::new(),
            steps: 0,
        }
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

    /// A file of the tree, if there is one.
    fn pick_file(&self) -> Option<NodeId> {
        let inside = |d: NodeId| {
            self.model
                .dir(d)
                .values()
                .copied()
                .filter(|n| self.model.is_file(*n))
                .collect::<Vec<_>>()
        };
        let files: Vec<NodeId> = self.model.dirs().into_iter().flat_map(inside).collect();
        (!files.is_empty()).then(|| files[self.rand(files.len() as u64) as usize])
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
        match self.rand(100) {
            0..14 => self.create().await,
            14..22 => self.mkdir().await,
            22..26 => self.symlink().await,
            26..34 => self.unlink().await,
            34..39 => self.rmdir().await,
            39..49 => self.rename().await,
            49..54 => self.link().await,
            54..59 => self.list().await,
            59..62 => self.xattr().await,
            62..65 => self.close_one().await,
            _ => self.file_step().await,
        }
    }

    async fn create(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let real = self.hand.create(self.handles[&dir], text).await;
        let model = self.model.make(dir, text, Kind::File(Vec::new()));
        self.same(&format!("create {text}"), &real, model.map(|_| ()));
        if let (Ok(file), Ok(id)) = (real, model) {
            self.handles.insert(id, file.handle);
            if self.open.len() < 4 && self.rand(3) == 0 {
                self.open.push((id, file));
            } else {
                self.hand.close(&file).await;
            }
        }
    }

    async fn mkdir(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let real = self.hand.mkdir(self.handles[&dir], text).await;
        let model = self.model.make(dir, text, Kind::Dir(BTreeMap::new()));
        self.same(&format!("mkdir {text}"), &real, model.map(|_| ()));
        if let (Ok(handle), Ok(id)) = (real, model) {
            self.handles.insert(id, handle);
        }
    }

    async fn symlink(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let target = format!("t{}", self.rand(1_000));
        let real =
            self.hand.run(sys::Symlink::new(self.handles[&dir], name(text), name(&target))).await;
        let model = self.model.make(dir, text, Kind::Symlink(target));
        self.same(&format!("symlink {text}"), &real, model.map(|_| ()));
        if let (Ok(attr), Ok(id)) = (real, model) {
            self.handles.insert(id, attr.handle());
        }
    }

    async fn unlink(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let real = self.hand.run(sys::Unlink::new(self.handles[&dir], name(text))).await;
        let model = self.model.unlink(dir, text);
        self.same(&format!("unlink {text}"), &real, model);
    }

    async fn rmdir(&mut self) {
        let (dir, text) = (self.pick_dir(), self.pick_name());
        let real = self.hand.run(sys::Rmdir::new(self.handles[&dir], name(text))).await;
        let model = self.model.rmdir(dir, text);
        self.same(&format!("rmdir {text}"), &real, model);
    }

    async fn rename(&mut self) {
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
            .hand
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

    async fn link(&mut self) {
        let (Some(id), dir, text) = (self.pick_file(), self.pick_dir(), self.pick_name()) else {
            return;
        };
        let real =
            self.hand.run(sys::Link::new(self.handles[&id], self.handles[&dir], name(text))).await;
        let model = self.model.link(id, dir, text);
        self.same(&format!("link {text}"), &real, model);
    }

    async fn list(&mut self) {
        let dir = self.pick_dir();
        let real = self.hand.list(self.handles[&dir]).await.expect("readdir");
        let model: BTreeMap<String, Handle> =
            self.model.dir(dir).iter().map(|(text, id)| (text.clone(), self.handles[id])).collect();
        assert_eq!(real, model, "{}, step {}: readdir", self.label, self.steps);
    }

    async fn xattr(&mut self) {
        let Some(id) = self.pick_file() else { return };
        let (key, value) = (format!("user.{}", self.pick_name()), self.bytes(1 + self.rand(300)));
        let handle = self.handles[&id];
        let real = self
            .hand
            .run(sys::Setxattr::new(handle, name(&key), value.clone(), false, false))
            .await;
        self.same("setxattr", &real, Ok(()));
        self.model.nodes[id].xattrs.insert(key, value.to_vec());
    }

    async fn close_one(&mut self) {
        if !self.open.is_empty() {
            let i = self.rand(self.open.len() as u64) as usize;
            let (_, file) = self.open.swap_remove(i);
            self.hand.close(&file).await;
        }
    }

    /// Something with the bytes of a file: one that is open (it may have lost its name), or another.
    async fn file_step(&mut self) {
        let held = !self.open.is_empty() && self.rand(2) == 0;
        let (id, file) = if held {
            self.open[self.rand(self.open.len() as u64) as usize].clone()
        } else {
            let Some(id) = self.pick_file() else { return };
            let real = self.hand.open(self.handles[&id]).await;
            self.same(&format!("open node {id}"), &real, Ok(()));
            (id, real.expect("just checked"))
        };
        let what = self.rand(10);
        match what {
            0..4 => self.write(id, &file).await,
            4 => self.append(id, &file).await,
            5 => self.truncate(id).await,
            6 => self.punch(id, &file).await,
            7 => {
                let real = self.hand.run(sys::Fsync::file(file.clone())).await;
                self.same(&format!("fsync node {id}"), &real, Ok(()));
            }
            _ => {
                self.read(id, &file).await;
                self.getattr(id).await;
            }
        }
        if !held {
            self.hand.close(&file).await;
        }
    }

    async fn write(&mut self, id: NodeId, file: &Arc<OpenFile>) {
        let at = self.rand(FILE_MAX / 2);
        // Small ones often, so that files stay stuffed for a while.
        let (at, len) = if self.rand(2) == 0 {
            (at % 300, 1 + self.rand(500))
        } else {
            (at, 1 + self.rand(FILE_MAX / 2))
        };
        let data = self.bytes(len);
        let real = self.hand.run(sys::Write::new(file.clone(), at, data.clone(), false)).await;
        self.same(&format!("write {len} at {at} of node {id}"), &real, Ok(()));
        assert_eq!(real.expect("just checked"), data.len());
        self.model.write(id, at as usize, &data);
    }

    async fn append(&mut self, id: NodeId, file: &Arc<OpenFile>) {
        let data = self.bytes(1 + self.rand(400));
        let real = self.hand.run(sys::Append::new(file.clone(), data.clone(), false)).await;
        self.same(&format!("append {} to node {id}", data.len()), &real, Ok(()));
        let end = self.model.file(id).len();
        let (wrote, at) = real.expect("just checked");
        let place = (wrote, at) == (data.len(), end as u64)
            || (wrote, at) == (data.len(), (end + data.len()) as u64);
        assert!(
            place,
            "{}, step {}: appended {wrote} at {at}, the file has {end}",
            self.label, self.steps
        );
        self.model.write(id, end, &data);
    }

    async fn truncate(&mut self, id: NodeId) {
        let size = self.rand(FILE_MAX) % if self.rand(2) == 0 { 900 } else { FILE_MAX };
        let set = SetAttr { size: Some(size), ..Default::default() };
        let real = self.hand.run(sys::Setattr::new(self.handles[&id], set)).await;
        self.same(&format!("truncate node {id} to {size}"), &real, Ok(()));
        assert_eq!(
            real.expect("just checked").size,
            size,
            "{}, step {}: size after truncate",
            self.label,
            self.steps
        );
        self.model.file(id).resize(size as usize, 0);
    }

    async fn punch(&mut self, id: NodeId, file: &Arc<OpenFile>) {
        let (at, len) = (self.rand(FILE_MAX / 2), 1 + self.rand(3_000));
        let real = self
            .hand
            .run(sys::Fallocate::new(file.clone(), FallocateKind::PunchHole, at, len, false))
            .await;
        self.same(&format!("punch {len} at {at} of node {id}"), &real, Ok(()));
        self.model.punch(id, at as usize, len as usize);
    }

    async fn read(&mut self, id: NodeId, file: &Arc<OpenFile>) {
        let (at, len) = (self.rand(FILE_MAX / 2), 1 + self.rand(FILE_MAX));
        let (at, len) = if self.rand(2) == 0 { (0, FILE_MAX * 2) } else { (at, len) };
        let real = self.hand.run(sys::Read::new(file.clone(), at, len as usize)).await;
        self.same("read", &real, Ok(()));
        let (label, steps) = (self.label.clone(), self.steps);
        let model = self.model.file(id);
        let from = (at as usize).min(model.len());
        let to = ((at + len) as usize).min(model.len());
        let got = real.expect("just checked");
        let first = got.iter().zip(&model[from..to]).position(|(a, b)| a != b);
        if let Some(at) = first {
            let end = (at + 24).min(got.len());
            let same = (0..got.len().saturating_sub(24))
                .filter(|i| got[*i..*i + 24] == got[at..end])
                .collect::<Vec<_>>();
            let bad: Vec<usize> = (0..got.len()).filter(|i| got[*i] != model[from + i]).collect();
            crate::trace(|| {
                format!(
                    "same bytes at {same:?}, differs in {:?}..{:?} ({})",
                    bad.first(),
                    bad.last(),
                    bad.len()
                )
            });
            crate::trace(|| {
                format!("there {:?}, wanted {:?}", &got[at..end], &model[from + at..from + end])
            });
        }
        assert!(
            got.len() == to - from && first.is_none(),
            "{label}, step {steps}: read {len} at {at} of node {id} ({} bytes): {} bytes, first difference {first:?}",
            model.len(),
            got.len()
        );
    }

    fn check_attr(&self, id: NodeId, attr: &Attr) {
        let node = &self.model.nodes[id];
        let label = format!("{}, step {}: node {id}", self.label, self.steps);
        match &node.kind {
            Kind::File(bytes) => {
                assert_eq!(
                    (attr.size, attr.nlink),
                    (bytes.len() as u64, node.nlink),
                    "{label}: size, links of {attr:?}"
                );
            }
            Kind::Dir(_) => assert!(attr.is_dir(), "{label}"),
            Kind::Symlink(target) => {
                assert_eq!((attr.is_symlink(), attr.size), (true, target.len() as u64), "{label}")
            }
        }
    }

    async fn getattr(&mut self, id: NodeId) {
        let real = self.hand.run(sys::Getattr::new(self.handles[&id])).await;
        self.same("getattr", &real, Ok(()));
        self.check_attr(id, &real.expect("just checked"));
    }

    pub async fn close_all(&mut self) {
        for (_, file) in std::mem::take(&mut self.open) {
            self.hand.close(&file).await;
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
                    Kind::Dir(_) => {}
                }
                for (key, value) in &self.model.nodes[id].xattrs {
                    let got =
                        fresh.run(sys::Getxattr::new(handle, name(key))).await.expect("getxattr");
                    assert_eq!(&got[..], &value[..], "{}: {key} of node {id}", self.label);
                }
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
                    self.hand.run(sys::Rmdir::new(parent, name(text))).await.expect("rmdir");
                } else {
                    self.hand.run(sys::Unlink::new(parent, name(text))).await.expect("unlink");
                }
            }
        }
    }
}
