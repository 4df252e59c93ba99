//! Several clients do what they like to the same names at the same time. What each of them may hear is
//! loosely bound (a name may be there or not); what is left in the end is not: every name leads to an
//! object, every object has as many names as it says, every directory counts right and knows its
//! parent, and when all is removed, nothing is left on any server.
use crate::hand::{Hand, name};
use crate::world::World;
use pvfs2_client::sys::{self, DirHandle};
use pvfs2_proto::attr::mode::S_IFIFO;
use pvfs2_proto::env::{Random, SplitMix};
use pvfs2_proto::{Attr, ErrorCode, Handle, Result};
use std::collections::{BTreeMap, HashMap};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// One of the clients.
pub struct Vandal {
    label: String,
    random: SplitMix,
    hand: Hand,
    top: Handle,
}

impl Vandal {
    pub fn new(seed: u64, number: usize, hand: Hand, top: Handle) -> Vandal {
        let random = SplitMix::new(seed.wrapping_mul(37) + number as u64);
        Vandal { label: format!("seed {seed}, client {number}"), random, hand, top }
    }

    fn rand(&self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    fn name(&self) -> &'static str {
        NAMES[self.rand(NAMES.len() as u64) as usize]
    }

    async fn lookup(&self, dir: Handle, text: &str) -> Result<Attr> {
        self.hand.run(sys::Lookup::new(dir, name(text))).await
    }

    /// Some directory of the tree, or one that was in it a moment ago.
    async fn dir(&self) -> Handle {
        let mut at = self.top;
        while self.rand(3) > 0 {
            match self.lookup(at, self.name()).await {
                Ok(attr) if attr.is_dir() => at = attr.handle(),
                _ => break,
            }
        }
        at
    }

    /// One random operation.
    pub async fn step(&self) {
        let (dir, text) = (self.dir().await, self.name());
        let done = match self.rand(12) {
            0..2 => self.hand.mkdir(dir, text).await.map(|_| ()),
            2..4 => match self.hand.create(dir, text).await {
                Ok(file) => {
                    let bytes = pvfs2_tests::pattern::bytes(3, 0, self.rand(3_000) as usize + 1);
                    let wrote =
                        self.hand.run(sys::Write::new(file.clone(), 0, bytes.into(), false));
                    let wrote = wrote.await;
                    self.hand.close(&file).await;
                    wrote.map(|_| ())
                }
                Err(e) => Err(e),
            },
            4 => {
                let fifo = sys::Mknod::new(dir, name(text), S_IFIFO | 0o600, 0);
                self.hand.run(fifo).await.map(|_| ())
            }
            5 => self.hand.run(sys::Unlink::new(dir, name(text))).await.map(|_| ()),
            6 => self.hand.run(sys::Rmdir::new(dir, name(text))).await.map(|_| ()),
            7 => match self.lookup(self.dir().await, self.name()).await {
                Ok(attr) if !attr.is_dir() => {
                    let link = sys::Link::new(attr.handle(), dir, name(text));
                    self.hand.run(link).await.map(|_| ())
                }
                other => other.map(|_| ()),
            },
            8..11 => {
                let new = (self.dir().await, name(self.name()));
                let (no_replace, exchange) = (self.rand(4) == 0, self.rand(4) == 0);
                let rename =
                    sys::Rename::new((dir, name(text)), new, no_replace && !exchange, exchange);
                self.hand.run(rename).await
            }
            _ => self.hand.list(dir).await.map(|_| ()),
        };
        use ErrorCode::*;
        const MAY_BE: [ErrorCode; 7] =
            [NotFound, Exists, NotEmpty, IsDirectory, NotDirectory, Stale, Invalid];
        if let Err(e) = done {
            assert!(MAY_BE.contains(&e.code), "{}: {:?}: {}", self.label, e.code, e.detail);
        }
    }
}

/// Checks the tree below `top` through a client that knows nothing yet, and removes it.
pub async fn check_and_remove(seed: u64, world: &World, hand: &Hand, top: Handle) {
    let mut names: HashMap<u64, (Attr, u32)> = HashMap::new();
    let (mut found, mut next) = (vec![(top, Handle::ROOT)], 0);
    let mut entries_of: Vec<BTreeMap<String, Attr>> = Vec::new();
    while next < found.len() {
        let (dir, parent) = found[next];
        next += 1;
        let label = format!("seed {seed}, directory {dir}");
        let page = hand.run(sys::Readdir::new(DirHandle::new(dir), 0, false, false)).await;
        assert_eq!(page.expect("readdir").parent(), parent, "{label}: its parent");
        let mut entries = BTreeMap::new();
        for (text, handle) in hand.list(dir).await.expect("readdir") {
            let attr = hand.run(sys::Lookup::new(dir, name(&text))).await;
            let attr = attr.unwrap_or_else(|e| panic!("{label}: {text} names nothing: {e}"));
            assert_eq!(attr.handle(), handle, "{label}: {text}");
            if attr.is_dir() {
                assert!(!found.iter().any(|f| f.0 == handle), "{label}: {text} has two names");
                found.push((handle, dir));
            }
            names.entry(handle.0).or_insert((attr.clone(), 0)).1 += 1;
            entries.insert(text, attr);
        }
        let attr = hand.run(sys::Getattr::new(dir)).await.expect("getattr");
        let subdirs = entries.values().filter(|a| a.is_dir()).count() as u32;
        let counts = (entries.len() as u64, 2 + subdirs);
        assert_eq!((attr.size, attr.nlink), counts, "{label}: entries, links");
        entries_of.push(entries);
    }
    for (attr, count) in names.values().filter(|n| !n.0.is_dir()) {
        assert_eq!(attr.nlink, *count, "seed {seed}: names of {attr:?}");
    }
    for ((dir, _), entries) in found.iter().zip(&entries_of).rev() {
        for (text, attr) in entries {
            if attr.is_dir() {
                hand.run(sys::Rmdir::new(*dir, name(text))).await.expect("rmdir");
            } else {
                hand.run(sys::Unlink::new(*dir, name(text))).await.expect("unlink");
            }
        }
    }
    hand.run(sys::Rmdir::new(Handle::ROOT, name("mess"))).await.expect("rmdir of it all");
    world.assert_no_datafile_is_left().await;
    world.assert_objects(1).await;
}
