//! Files in memory, for simulations: they run out of space, end the process at any call, and lose what
//! was not synced when the power goes, all drawn from a seed. Names are kept at a loss of power (as
//! ordered journals keep them), bytes only as far as [`Files::seal`] has returned: so a name can be left
//! over an empty file (trap 12).
use super::{Area, At, Files, Listing, Stat, What, join, name_of, parent_of};
use crate::error::{Result, SyncError};
use crate::rng::Rng;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug)]
struct Node {
    inode: u64,
    dir: bool,
    data: Vec<u8>,
    durable: Vec<u8>,
    mtime_ns: i64,
    ctime_ns: i64,
    exec: bool,
}

#[derive(Debug)]
struct Inner {
    nodes: BTreeMap<String, Node>,
    next_inode: u64,
    clock: i64,
    rng: Rng,
    fuel: Option<u64>,
    full_one_in: u64,
    mounted: bool,
    vanish: Option<u64>,
    unreadable: Option<String>,
}

/// Files in memory; clones share them.
#[derive(Clone, Debug)]
pub struct Mem(Arc<Mutex<Inner>>);

fn key(at: At) -> String {
    join(if at.0 == Area::Tree { "T" } else { "O" }, at.1).trim_end_matches('/').to_owned()
}

fn errno(code: i32, at: At) -> SyncError {
    SyncError::io(format!("simulated {}", key(at)), std::io::Error::from_raw_os_error(code))
}

impl Inner {
    fn step(&mut self) -> Result<()> {
        self.clock += 1;
        match &mut self.vanish {
            Some(0) => self.mounted = false,
            Some(n) => *n -= 1,
            None => {}
        }
        match &mut self.fuel {
            Some(0) => Err(SyncError::Crash),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn make(&mut self, path: String, dir: bool) {
        self.next_inode += 1;
        let node = Node {
            inode: self.next_inode,
            dir,
            data: Vec::new(),
            durable: Vec::new(),
            mtime_ns: self.clock,
            ctime_ns: self.clock,
            exec: false,
        };
        self.nodes.insert(path, node);
    }

    fn need_dir(&self, at: At) -> Result<()> {
        match self.nodes.get(&key(At(at.0, parent_of(at.1)))) {
            Some(n) if n.dir => Ok(()),
            Some(_) => Err(errno(libc::ENOTDIR, at)),
            None => Err(errno(libc::ENOENT, at)),
        }
    }

    fn take(&mut self, path: &str) -> Vec<(String, Node)> {
        let below = format!("{path}/");
        let keys: Vec<_> =
            self.nodes.keys().filter(|k| *k == path || k.starts_with(&below)).cloned().collect();
        keys.into_iter()
            .filter_map(|k| {
                let node = self.nodes.remove(&k)?;
                Some((k.get(path.len()..).unwrap_or_default().to_owned(), node))
            })
            .collect()
    }

    fn put(&mut self, path: &str, moved: Vec<(String, Node)>) {
        for (rest, mut node) in moved {
            if rest.is_empty() {
                node.ctime_ns = self.clock;
            }
            self.nodes.insert(format!("{path}{rest}"), node);
        }
    }
}

impl Mem {
    /// Empty folders; every fault that comes is drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut inner = Inner {
            nodes: BTreeMap::new(),
            next_inode: 0,
            clock: 1_700_000_000_000_000_000,
            rng: Rng::new(seed),
            fuel: None,
            full_one_in: 0,
            mounted: true,
            vanish: None,
            unreadable: None,
        };
        for dir in ["T", "O", "O/tmp", "O/versions", "O/trash", "O/foreign"] {
            inner.make(dir.to_owned(), true);
        }
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Ends the process after so many more calls; `None`: never.
    pub fn crash_after(&self, calls: Option<u64>) {
        self.0.lock().fuel = calls;
    }

    /// One in so many writes finds the disk full; 0: none.
    pub fn full_one_in(&self, n: u64) {
        self.0.lock().full_one_in = n;
    }

    /// Unmounts after so many more calls: the root is an empty folder then. `None`: mounts again.
    pub fn vanish_after(&self, calls: Option<u64>) {
        let mut inner = self.0.lock();
        inner.vanish = calls;
        inner.mounted = true;
    }

    /// Listing this directory of the tree fails from now on; `None`: none does.
    pub fn unreadable(&self, dir: Option<&str>) {
        self.0.lock().unreadable = dir.map(|d| key(At(Area::Tree, d)));
    }

    /// Bytes are lost from the end of a file while its time stands still, as a crash leaves it.
    pub fn damage(&self, path: &str, len: usize) {
        let mut inner = self.0.lock();
        inner.clock += 1;
        let clock = inner.clock;
        if let Some(n) = inner.nodes.get_mut(&key(At(Area::Tree, path))) {
            n.data.truncate(len);
            n.durable.clone_from(&n.data);
            n.ctime_ns = clock;
        }
    }

    /// Lets time pass for the files.
    pub fn advance(&self, ns: i64) {
        self.0.lock().clock += ns;
    }

    /// The time of the files.
    #[must_use]
    pub fn now_ns(&self) -> i64 {
        self.0.lock().clock
    }

    /// The power goes: unsynced bytes are lost, wholly or in part.
    pub fn lose_power(&self) {
        let mut guard = self.0.lock();
        let inner = &mut *guard;
        for node in inner.nodes.values_mut().filter(|n| !n.dir && n.data != n.durable) {
            if inner.rng.one_in(2) {
                node.data.clone_from(&node.durable);
            } else {
                node.data.clear();
            }
            node.durable.clone_from(&node.data);
        }
    }

    /// A user's program writes a whole file in place, and the bytes reach the disk.
    pub fn user_write(&self, path: &str, bytes: &[u8], at_ns: Option<i64>) {
        let mut inner = self.0.lock();
        inner.clock += 1;
        let path = key(At(Area::Tree, path));
        if !inner.nodes.contains_key(&path) {
            inner.make(path.clone(), false);
        }
        let clock = inner.clock;
        if let Some(n) = inner.nodes.get_mut(&path) {
            n.data = bytes.to_vec();
            n.durable = bytes.to_vec();
            n.mtime_ns = at_ns.unwrap_or(clock);
            n.ctime_ns = clock;
        }
    }

    /// Paths of the tree with the bytes of files; `None` for directories.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        let inner = self.0.lock();
        inner
            .nodes
            .iter()
            .filter_map(|(k, n)| Some((k.strip_prefix("T/")?, n)))
            .map(|(k, n)| (k.to_owned(), (!n.dir).then(|| n.data.clone())))
            .collect()
    }

    /// A copy that shares nothing: a backup.
    #[must_use]
    pub fn copy(&self) -> Self {
        let inner = self.0.lock();
        Self(Arc::new(Mutex::new(Inner {
            nodes: inner.nodes.clone(),
            next_inode: inner.next_inode,
            clock: inner.clock,
            rng: inner.rng.clone(),
            fuel: None,
            full_one_in: inner.full_one_in,
            mounted: true,
            vanish: None,
            unreadable: None,
        })))
    }
}

impl Files for Mem {
    fn check_root(&self) -> Result<()> {
        let mut inner = self.0.lock();
        inner.step()?;
        if inner.mounted { Ok(()) } else { Err(SyncError::RootLost("simulated".into())) }
    }

    fn stat(&self, at: At) -> Result<Option<Stat>> {
        let mut inner = self.0.lock();
        inner.step()?;
        Ok(inner.nodes.get(&key(at)).map(|n| Stat {
            what: if n.dir { What::Dir } else { What::File },
            size: n.data.len() as u64,
            mtime_ns: n.mtime_ns,
            ctime_ns: n.ctime_ns,
            inode: n.inode,
            exec: n.exec,
        }))
    }

    fn list(&self, at: At) -> Result<Listing> {
        let names: Vec<String> = {
            let mut inner = self.0.lock();
            inner.step()?;
            if !inner.mounted {
                return Ok(Listing::default());
            }
            if inner.unreadable.as_ref() == Some(&key(at)) {
                return Err(errno(libc::EIO, at));
            }
            let dir = format!("{}/", key(at));
            if !inner.nodes.get(&key(at)).is_some_and(|n| n.dir) {
                return Err(errno(libc::ENOENT, at));
            }
            let below = inner.nodes.keys().filter_map(|k| k.strip_prefix(&dir));
            below.filter(|k| !k.contains('/')).map(str::to_owned).collect()
        };
        let mut out = Listing::default();
        for name in names {
            if let Some(stat) = self.stat(At(at.0, &join(at.1, &name)))? {
                out.entries.push((name, stat));
            }
        }
        Ok(out)
    }

    fn read(&self, at: At, pos: u64, len: usize) -> Result<Vec<u8>> {
        let mut inner = self.0.lock();
        inner.step()?;
        let node = inner.nodes.get(&key(at)).filter(|n| !n.dir);
        let data = &node.ok_or_else(|| errno(libc::ENOENT, at))?.data;
        let from = usize::try_from(pos).unwrap_or(usize::MAX).min(data.len());
        let to = from.saturating_add(len).min(data.len());
        Ok(data.get(from..to).unwrap_or_default().to_vec())
    }

    fn write(&self, at: At, pos: u64, bytes: &[u8]) -> Result<()> {
        let mut inner = self.0.lock();
        inner.step()?;
        inner.need_dir(at)?;
        let full = inner.full_one_in;
        if full > 0 && inner.rng.one_in(full) {
            return Err(errno(libc::ENOSPC, at));
        }
        let path = key(at);
        if !inner.nodes.contains_key(&path) {
            inner.make(path.clone(), false);
        }
        let clock = inner.clock;
        if let Some(node) = inner.nodes.get_mut(&path) {
            let from = usize::try_from(pos).unwrap_or(0);
            let end = from + bytes.len();
            if node.data.len() < end {
                node.data.resize(end, 0);
            }
            if let Some(room) = node.data.get_mut(from..end) {
                room.copy_from_slice(bytes);
            }
            (node.mtime_ns, node.ctime_ns) = (clock, clock);
        }
        Ok(())
    }

    fn seal(&self, at: At, len: u64, mtime_ns: i64, exec: bool) -> Result<()> {
        let mut inner = self.0.lock();
        inner.step()?;
        inner.need_dir(at)?;
        let path = key(at);
        if !inner.nodes.contains_key(&path) {
            inner.make(path.clone(), false);
        }
        let clock = inner.clock;
        if let Some(node) = inner.nodes.get_mut(&path) {
            node.data.resize(usize::try_from(len).unwrap_or(0), 0);
            node.durable.clone_from(&node.data);
            (node.mtime_ns, node.ctime_ns, node.exec) = (mtime_ns, clock, exec);
        }
        Ok(())
    }

    fn put(&self, at: At, bytes: &[u8], mtime_ns: i64, exec: bool) -> Result<Stat> {
        self.write(at, 0, bytes)?;
        {
            let mut inner = self.0.lock();
            let clock = inner.clock;
            if let Some(node) = inner.nodes.get_mut(&key(at)) {
                node.data.truncate(bytes.len());
                (node.mtime_ns, node.ctime_ns, node.exec) = (mtime_ns, clock, exec);
            }
        }
        self.stat(at)?.ok_or_else(|| errno(libc::ENOENT, at))
    }

    fn settle(&self, all: &[(At, u64)]) -> Result<()> {
        for (at, _) in all {
            let mut inner = self.0.lock();
            inner.step()?;
            let node = inner.nodes.get_mut(&key(*at)).ok_or_else(|| errno(libc::ENOENT, *at))?;
            node.durable.clone_from(&node.data);
        }
        Ok(())
    }

    fn mkdir(&self, at: At) -> Result<()> {
        let mut inner = self.0.lock();
        inner.step()?;
        inner.need_dir(at)?;
        if inner.nodes.contains_key(&key(at)) {
            return Err(errno(libc::EEXIST, at));
        }
        inner.make(key(at), true);
        Ok(())
    }

    fn rename(&self, from: At, to: At) -> Result<()> {
        let mut inner = self.0.lock();
        inner.step()?;
        inner.need_dir(to)?;
        let (a, b) = (key(from), key(to));
        if !inner.nodes.contains_key(&a) {
            return Err(errno(libc::ENOENT, from));
        }
        if inner.nodes.contains_key(&b) {
            return Err(errno(libc::EEXIST, to));
        }
        if b.starts_with(&format!("{a}/")) {
            return Err(errno(libc::EINVAL, to));
        }
        let moved = inner.take(&a);
        inner.put(&b, moved);
        Ok(())
    }

    fn exchange(&self, a: At, b: At) -> Result<()> {
        let mut inner = self.0.lock();
        inner.step()?;
        let (ka, kb) = (key(a), key(b));
        for (k, at) in [(&ka, a), (&kb, b)] {
            if !inner.nodes.contains_key(k) {
                return Err(errno(libc::ENOENT, at));
            }
        }
        let (one, other) = (inner.take(&ka), inner.take(&kb));
        inner.put(&kb, one);
        inner.put(&ka, other);
        Ok(())
    }

    fn remove_file(&self, at: At) -> Result<()> {
        let mut inner = self.0.lock();
        inner.step()?;
        match inner.nodes.get(&key(at)) {
            Some(n) if n.dir => return Err(errno(libc::EISDIR, at)),
            _ => inner.nodes.remove(&key(at)),
        };
        Ok(())
    }

    fn remove_dir(&self, at: At) -> Result<()> {
        let mut inner = self.0.lock();
        inner.step()?;
        let below = format!("{}/", key(at));
        if inner.nodes.keys().any(|k| k.starts_with(&below)) {
            return Err(errno(libc::ENOTEMPTY, at));
        }
        inner.nodes.remove(&key(at));
        Ok(())
    }

    fn sync_dir(&self, _at: At) -> Result<()> {
        self.0.lock().step()
    }
}

impl Mem {
    /// A user removes a file, or a directory with all that is in it.
    pub fn user_remove(&self, path: &str) {
        let mut inner = self.0.lock();
        inner.clock += 1;
        inner.take(&key(At(Area::Tree, path)));
    }

    /// A user renames; nothing happens if the place is taken or below itself.
    pub fn user_rename(&self, from: &str, to: &str) -> bool {
        debug_assert!(!name_of(to).is_empty());
        let fuel = self.0.lock().fuel.take();
        let done = self.rename(At(Area::Tree, from), At(Area::Tree, to)).is_ok();
        self.0.lock().fuel = fuel;
        done
    }

    /// A user makes a directory.
    pub fn user_mkdir(&self, path: &str) {
        let fuel = self.0.lock().fuel.take();
        drop(self.mkdir(At(Area::Tree, path)));
        self.0.lock().fuel = fuel;
    }
}
