//! The metadata servers of the fake cluster: one map of objects, split by handle range only where
//! lookup and readdir must not see another server's attributes.
use super::{Cluster, TestClock};
use bytes::Bytes;
use pvfs2_bmi::call::CallCx;
use pvfs2_proto::attr::mode;
use pvfs2_proto::env::Clock;
use pvfs2_proto::op::*;
use pvfs2_proto::{
    Attr, AttrFlags, ClusterMap, ErrorCode, FileLayout, Handle, PvfsError, Result, ServerId,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

#[derive(Default, Clone)]
struct Obj {
    attr: Attr,
    bytes: Vec<u8>,
    names: BTreeMap<Bytes, u64>,
    target: Bytes,
    xattrs: BTreeMap<Bytes, Bytes>,
    writers: HashMap<u64, u32>,
    readers: u32,
    ended: u64,
    foreign_truncate: bool,
}

pub struct Meta {
    map: Arc<ClusterMap>,
    clock: Arc<TestClock>,
    objects: HashMap<u64, Obj>,
    next: u64,
    sessions: u64,
    /// Directories are made on the second server when there is one.
    pub spread: bool,
    /// A group that a caller must be in for anything to be allowed.
    pub group_wanted: Option<u32>,
    /// Release items as they came.
    pub released: Vec<Vec<ReleaseItem>>,
}

type Answer = Result<(OpResponse, Vec<u8>)>;

fn err<T>(code: ErrorCode) -> Result<T> {
    Err(PvfsError::new(code, "fake"))
}

impl Meta {
    pub fn new(map: Arc<ClusterMap>, clock: Arc<TestClock>) -> Meta {
        let mut m = Meta {
            map,
            clock,
            objects: HashMap::new(),
            next: 1,
            sessions: 0,
            spread: false,
            group_wanted: None,
            released: Vec::new(),
        };
        m.make(0, mode::S_IFDIR | 0o755);
        m
    }

    pub fn new_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    /// Opens that the servers know of.
    pub fn opens(&self) -> u32 {
        self.objects.values().map(|o| o.readers + o.writers.values().sum::<u32>()).sum()
    }

    fn make(&mut self, server: ServerId, mode_bits: u32) -> u64 {
        let first = self.map.server(server).unwrap().meta_range.unwrap().first;
        let handle = first + self.next - 1;
        self.next += 1;
        let now = self.clock.now_ns();
        let mut attr = Attr { handle, mode: mode_bits, nlink: 1, change: 1, ..Default::default() };
        (attr.mtime_ns, attr.ctime_ns, attr.atime_ns) = (now, now, now);
        attr.set(AttrFlags::STUFFED, attr.is_file());
        self.objects.insert(handle, Obj { attr, ..Default::default() });
        handle
    }

    fn obj(&mut self, handle: u64) -> Result<&mut Obj> {
        self.objects.get_mut(&handle).ok_or_else(|| PvfsError::new(ErrorCode::Stale, "fake: gone"))
    }

    fn attr(&mut self, session: u64, handle: u64) -> Result<Attr> {
        let o = self.obj(handle)?;
        let mut attr = o.attr.clone();
        let sole = o.writers.iter().all(|(s, n)| *s == session || *n == 0)
            && o.writers.get(&session).is_some_and(|n| *n > 0)
            && !o.foreign_truncate;
        attr.set(AttrFlags::SOLE_WRITER, sole && attr.has(AttrFlags::SIZE_DYNAMIC));
        if attr.is_dir() {
            attr.size = o.names.len() as u64;
        }
        Ok(attr)
    }

    fn touch(&mut self, handle: u64) {
        let now = self.clock.now_ns();
        if let Some(o) = self.objects.get_mut(&handle) {
            (o.attr.mtime_ns, o.attr.ctime_ns) = (now, now);
            o.attr.change += 1;
        }
    }

    fn name(&mut self, dir: u64, name: &Bytes, mode_bits: u32, server: ServerId) -> Result<u64> {
        if self.obj(dir)?.names.contains_key(name) {
            return err(ErrorCode::Exists);
        }
        let handle = self.make(server, mode_bits);
        self.obj(dir)?.names.insert(name.clone(), handle);
        self.touch(dir);
        Ok(handle)
    }

    fn opened(&mut self, session: u64, handle: u64, write: bool) -> Result<()> {
        let o = self.obj(handle)?;
        if write {
            *o.writers.entry(session).or_default() += 1;
            let striped = !o.attr.has(AttrFlags::STUFFED);
            o.attr.set(AttrFlags::SIZE_DYNAMIC, striped);
        } else {
            o.readers += 1;
        }
        Ok(())
    }

    fn unstuff(&mut self, cluster: &Cluster, handle: u64) -> Result<()> {
        let dist = self.map.default_dist.clone().unwrap();
        let ios: Vec<ServerId> = self.map.io_servers().collect();
        let range = |s: ServerId| self.map.server(s).unwrap().io_range.unwrap().first;
        let datahandles: Vec<u64> = ios.iter().map(|&s| range(s) + (handle & 0xffff)).collect();
        let o = self.obj(handle)?;
        if !o.attr.has(AttrFlags::STUFFED) {
            return Ok(());
        }
        o.attr.set(AttrFlags::STUFFED, false);
        o.attr.change += 1;
        let open = o.writers.values().any(|n| *n > 0);
        o.attr.set(AttrFlags::SIZE_DYNAMIC, open);
        let layout = FileLayout { dist, datahandles };
        o.attr.layout = Some(layout.clone());
        let bytes = std::mem::take(&mut o.bytes);
        put(cluster, &layout, 0, &bytes);
        Ok(())
    }

    fn truncate(&mut self, cluster: &Cluster, session: u64, handle: u64, size: u64) -> Result<()> {
        let small = self.map.small_file_bytes;
        if size > small {
            self.unstuff(cluster, handle)?;
        }
        let o = self.obj(handle)?;
        if let Some(layout) = o.attr.layout.clone() {
            let n = layout.datahandles.len() as u32;
            for (d, h) in layout.datahandles.iter().enumerate() {
                let keep = layout.dist.physical_size(n, d as u32, size) as usize;
                if let Some(df) = cluster.datafiles.borrow_mut().get_mut(h) {
                    df.bytes.truncate(keep);
                    df.written.truncate(keep);
                }
            }
            o.foreign_truncate |= o.writers.iter().any(|(s, n)| *s != session && *n > 0);
            o.ended = o.ended.min(size);
        } else {
            o.bytes.resize(size as usize, 0);
        }
        o.attr.size = size;
        self.touch(handle);
        Ok(())
    }

    fn real_size(&mut self, cluster: &Cluster, handle: u64) -> Result<u64> {
        let attr = self.obj(handle)?.attr.clone();
        let Some(layout) = attr.layout.filter(|_| attr.flags & AttrFlags::SIZE_DYNAMIC != 0) else {
            return Ok(attr.size);
        };
        let all = cluster.datafiles.borrow();
        let sizes: Vec<u64> = layout
            .datahandles
            .iter()
            .map(|h| all.get(h).map_or(0, |d| d.bytes.len() as u64))
            .collect();
        Ok(attr.size.max(layout.dist.logical_size(&sizes)))
    }

    fn release(
        &mut self,
        cluster: &Cluster,
        session: u64,
        item: &ReleaseItem,
        close: bool,
    ) -> Result<()> {
        let foreign = self.obj(item.handle)?.foreign_truncate;
        let asked = if foreign { self.real_size(cluster, item.handle)? } else { 0 };
        let o = self.obj(item.handle)?;
        if item.wrote {
            o.ended = o.ended.max(item.end);
            if item.mtime_ns > o.attr.mtime_set_ns {
                o.attr.mtime_ns = o.attr.mtime_ns.max(item.mtime_ns);
            }
            o.attr.change += 1;
        }
        if !close {
            return Ok(());
        }
        if item.write {
            let n = o.writers.entry(session).or_default();
            *n -= 1;
            if o.writers.values().all(|n| *n == 0) && o.attr.has(AttrFlags::SIZE_DYNAMIC) {
                o.attr.size = o.attr.size.max(if foreign { asked } else { o.ended });
                o.attr.set(AttrFlags::SIZE_DYNAMIC, false);
                (o.ended, o.foreign_truncate) = (0, false);
            }
        } else {
            o.readers -= 1;
        }
        Ok(())
    }

    pub fn handle(
        &mut self,
        cluster: &Cluster,
        session: u64,
        server: ServerId,
        cx: &CallCx,
        op: &OpRequest,
        body: &[u8],
    ) -> Answer {
        if self.group_wanted.is_some_and(|g| !cx.cred.in_group(g)) {
            return err(ErrorCode::Access);
        }
        macro_rules! ok {
            ($req:ty, $resp:expr) => {
                Ok((<$req>::wrap_response($resp), Vec::new()))
            };
        }
        match op {
            OpRequest::Lookup(r) => ok!(LookupRequest, self.lookup(session, server, r)?),
            OpRequest::Getattr(r) => {
                let attr = Some(self.attr(session, r.handle)?);
                ok!(GetattrRequest, GetattrResponse { attr })
            }
            OpRequest::Listattr(r) => {
                let attr = |h: &u64| self.attr(session, *h).unwrap_or_default();
                let attrs = r.handles.iter().map(attr).collect();
                ok!(ListattrRequest, ListattrResponse { attrs })
            }
            OpRequest::Create(r) => ok!(CreateRequest, self.create(cluster, session, server, r)?),
            OpRequest::Mkdir(r) => {
                let on = if self.spread { 1 - server } else { server };
                let h = self.name(r.dir, &r.name, mode::S_IFDIR | r.mode, on)?;
                ok!(
                    MkdirRequest,
                    MkdirResponse { attr: Some(self.attr(session, h)?), ..Default::default() }
                )
            }
            OpRequest::Mknod(r) => {
                let h = self.name(r.dir, &r.name, r.mode, server)?;
                ok!(
                    MknodRequest,
                    MknodResponse { attr: Some(self.attr(session, h)?), ..Default::default() }
                )
            }
            OpRequest::Symlink(r) => {
                let h = self.name(r.dir, &r.name, mode::S_IFLNK | 0o777, server)?;
                self.obj(h)?.target = r.target.clone();
                ok!(
                    SymlinkRequest,
                    SymlinkResponse { attr: Some(self.attr(session, h)?), ..Default::default() }
                )
            }
            OpRequest::Readlink(r) => {
                let target = self.obj(r.handle)?.target.clone();
                ok!(ReadlinkRequest, ReadlinkResponse { target })
            }
            OpRequest::Link(r) => {
                self.obj(r.handle)?.attr.nlink += 1;
                self.obj(r.dir)?.names.insert(r.name.clone(), r.handle);
                self.touch(r.handle);
                ok!(
                    LinkRequest,
                    LinkResponse {
                        attr: Some(self.attr(session, r.handle)?),
                        ..Default::default()
                    }
                )
            }
            OpRequest::Unlink(r) => {
                let handle = self.obj(r.dir)?.names.remove(&r.name);
                let Some(handle) = handle else { return err(ErrorCode::NotFound) };
                self.touch(r.dir);
                self.obj(handle)?.attr.nlink -= 1;
                self.touch(handle);
                let attr = Some(self.attr(session, handle)?);
                if attr.as_ref().is_some_and(|a| a.nlink == 0) {
                    self.objects.remove(&handle);
                }
                ok!(UnlinkRequest, UnlinkResponse { handle, attr, ..Default::default() })
            }
            OpRequest::Rmdir(r) => {
                let handle = self.obj(r.dir)?.names.get(&r.name).copied();
                let Some(handle) = handle else { return err(ErrorCode::NotFound) };
                if !self.obj(handle)?.names.is_empty() {
                    return err(ErrorCode::NotEmpty);
                }
                self.obj(r.dir)?.names.remove(&r.name);
                self.objects.remove(&handle);
                ok!(RmdirRequest, RmdirResponse { handle, ..Default::default() })
            }
            OpRequest::Rename(r) => ok!(RenameRequest, self.rename(r)?),
            OpRequest::Readdir(r) => ok!(ReaddirRequest, self.readdir(session, server, r)?),
            OpRequest::Getxattr(_)
            | OpRequest::Setxattr(_)
            | OpRequest::Listxattr(_)
            | OpRequest::Removexattr(_) => self.xattr(session, op),
            _ => self.file(cluster, session, op, body),
        }
    }

    fn file(&mut self, cluster: &Cluster, session: u64, op: &OpRequest, body: &[u8]) -> Answer {
        macro_rules! ok {
            ($req:ty, $resp:expr) => {
                Ok((<$req>::wrap_response($resp), Vec::new()))
            };
        }
        let small = self.map.small_file_bytes;
        match op {
            OpRequest::Setattr(r) => {
                let set = r.set.clone().unwrap();
                if let Some(size) = set.size {
                    self.truncate(cluster, session, r.handle, size)?;
                }
                let now = self.clock.now_ns();
                let o = self.obj(r.handle)?;
                if let Some(m) = set.mode {
                    o.attr.mode = o.attr.kind() | m;
                }
                if let Some(t) = set.mtime {
                    (o.attr.mtime_ns, o.attr.mtime_set_ns) = (if t.now { now } else { t.ns }, now);
                }
                o.attr.ctime_ns = now;
                o.attr.change += 1;
                ok!(SetattrRequest, SetattrResponse { attr: Some(self.attr(session, r.handle)?) })
            }
            OpRequest::Open(r) => {
                if r.truncate {
                    self.truncate(cluster, session, r.handle, 0)?;
                }
                self.obj(r.handle)?;
                self.opened(session, r.handle, r.write)?;
                let attr = self.attr(session, r.handle)?;
                let stuffed = attr.has(AttrFlags::STUFFED) && r.want_bytes;
                let bytes = stuffed.then(|| Bytes::from(self.objects[&r.handle].bytes.clone()));
                ok!(OpenRequest, OpenResponse { attr: Some(attr), bytes, right: 0 })
            }
            OpRequest::Release(r) => {
                self.released.push(r.items.clone());
                for item in &r.items {
                    self.release(cluster, session, item, true)?;
                }
                ok!(ReleaseRequest, ReleaseResponse {})
            }
            OpRequest::Report(r) => {
                let item = r.item.clone().unwrap();
                self.release(cluster, session, &item, false)?;
                ok!(ReportRequest, ReportResponse { attr: Some(self.attr(session, item.handle)?) })
            }
            OpRequest::ReadSmall(r) => {
                let attr = self.attr(session, r.handle)?;
                if !attr.has(AttrFlags::STUFFED) {
                    return err(ErrorCode::NotStuffed);
                }
                let b = &self.obj(r.handle)?.bytes;
                let from = b.len().min(r.logical_offset as usize);
                let to = b.len().min((r.logical_offset + r.len) as usize);
                let body = b[from..to].to_vec();
                Ok((ReadSmallRequest::wrap_response(ReadSmallResponse { attr: Some(attr) }), body))
            }
            OpRequest::WriteSmall(r) => {
                let end = r.logical_offset + body.len() as u64;
                let o = self.obj(r.handle)?;
                if !o.attr.has(AttrFlags::STUFFED) || end > small {
                    return err(ErrorCode::NotStuffed);
                }
                write_at(&mut o.bytes, r.logical_offset, body);
                o.attr.size = o.bytes.len() as u64;
                self.touch(r.handle);
                ok!(
                    WriteSmallRequest,
                    WriteSmallResponse { attr: Some(self.attr(session, r.handle)?) }
                )
            }
            OpRequest::Unstuff(r) => {
                self.unstuff(cluster, r.handle)?;
                ok!(UnstuffRequest, UnstuffResponse { attr: Some(self.attr(session, r.handle)?) })
            }
            OpRequest::Append(r) => {
                let at = self.real_size(cluster, r.handle)?;
                // After a truncation by another session a client's own knowledge is void.
                let void = self.obj(r.handle)?.foreign_truncate;
                assert!(void || r.known_end <= at, "the client knows of more than there is");
                if at + body.len() as u64 > small {
                    self.unstuff(cluster, r.handle)?;
                }
                let o = self.obj(r.handle)?;
                match o.attr.layout.clone() {
                    Some(layout) => put(cluster, &layout, at, body),
                    None => write_at(&mut o.bytes, at, body),
                }
                o.attr.size = at + body.len() as u64;
                self.touch(r.handle);
                let attr = Some(self.attr(session, r.handle)?);
                ok!(AppendRequest, AppendResponse { logical_offset: at, attr })
            }
            OpRequest::Fsync(_) => ok!(FsyncRequest, FsyncResponse {}),
            OpRequest::Statfs(_) => ok!(
                StatfsRequest,
                StatfsResponse { handles_used: 3, handles_free: 10, ..Default::default() }
            ),
            other => panic!("the fake has no {}", other.op().name()),
        }
    }

    fn lookup(
        &mut self,
        session: u64,
        server: ServerId,
        r: &LookupRequest,
    ) -> Result<LookupResponse> {
        let mut steps = Vec::new();
        let mut dir = r.dir;
        for (i, name) in r.path.iter().enumerate() {
            let at = self.obj(dir)?;
            if !at.attr.is_dir() {
                if i == 0 {
                    return err(ErrorCode::NotDirectory);
                }
                break;
            }
            let handle = at.names.get(name).copied().unwrap_or(0);
            let here = self.map.meta_server_of(Handle(handle)) == Some(server);
            let attr = if handle != 0 && here { Some(self.attr(session, handle)?) } else { None };
            let goes_on = attr.as_ref().is_some_and(Attr::is_dir);
            steps.push(LookupStep { handle, attr });
            if !goes_on {
                break;
            }
            dir = handle;
        }
        Ok(LookupResponse { steps, ..Default::default() })
    }

    fn create(
        &mut self,
        cluster: &Cluster,
        session: u64,
        server: ServerId,
        r: &CreateRequest,
    ) -> Result<CreateResponse> {
        let there = self.obj(r.dir)?.names.get(&r.name).copied();
        let handle = match there {
            Some(_) if r.exclusive => return err(ErrorCode::Exists),
            Some(h) => {
                if r.truncate {
                    self.truncate(cluster, session, h, 0)?;
                }
                h
            }
            None => self.name(r.dir, &r.name, mode::S_IFREG | r.mode, server)?,
        };
        if !r.no_open {
            self.opened(session, handle, r.write)?;
        }
        Ok(CreateResponse {
            right: 0,
            attr: Some(self.attr(session, handle)?),
            created: there.is_none(),
            dir_attr: Some(self.attr(session, r.dir)?),
        })
    }

    fn rename(&mut self, r: &RenameRequest) -> Result<RenameResponse> {
        let Some(handle) = self.obj(r.dir)?.names.get(&r.name).copied() else {
            return err(ErrorCode::NotFound);
        };
        let other = self.obj(r.new_dir)?.names.get(&r.new_name).copied().unwrap_or(0);
        if r.no_replace && other != 0 {
            return err(ErrorCode::Exists);
        }
        self.obj(r.dir)?.names.remove(&r.name);
        self.obj(r.new_dir)?.names.insert(r.new_name.clone(), handle);
        if r.exchange {
            self.obj(r.dir)?.names.insert(r.name.clone(), other);
        } else if other != 0 {
            self.objects.remove(&other);
        }
        Ok(RenameResponse { handle, other, ..Default::default() })
    }

    fn readdir(
        &mut self,
        session: u64,
        server: ServerId,
        r: &ReaddirRequest,
    ) -> Result<ReaddirResponse> {
        let names = self.obj(r.dir)?.names.clone();
        // Cursors by handle: stable while names come and go.
        let mut all: Vec<(Bytes, u64)> = names.into_iter().collect();
        all.sort_by_key(|(_, h)| *h);
        let mut entries = Vec::new();
        let mut end = true;
        for (name, handle) in all.into_iter().filter(|(_, h)| *h > r.cursor) {
            if entries.len() == r.max as usize {
                end = false;
                break;
            }
            let here = r.plus && self.map.meta_server_of(Handle(handle)) == Some(server);
            let kind = self.obj(handle)?.attr.kind();
            let attr = if here { Some(self.attr(session, handle)?) } else { None };
            entries.push(Dirent { name, handle, kind, cursor: handle, attr });
        }
        Ok(ReaddirResponse { entries, end, parent: 1, map: None })
    }

    fn xattr(&mut self, session: u64, op: &OpRequest) -> Answer {
        let done = |r: OpResponse| Ok((r, Vec::new()));
        match op {
            OpRequest::Setxattr(r) => {
                let o = self.obj(r.handle)?;
                o.xattrs.insert(r.name.clone(), r.value.clone());
                o.attr.set(AttrFlags::HAS_XATTR, true);
                o.attr.change += 1;
                let attr = Some(self.attr(session, r.handle)?);
                done(SetxattrRequest::wrap_response(SetxattrResponse { attr }))
            }
            OpRequest::Getxattr(r) => match self.obj(r.handle)?.xattrs.get(&r.name).cloned() {
                Some(value) => done(GetxattrRequest::wrap_response(GetxattrResponse { value })),
                None => err(ErrorCode::NoAttribute),
            },
            OpRequest::Listxattr(r) => {
                let names = self.obj(r.handle)?.xattrs.keys().cloned().collect();
                done(ListxattrRequest::wrap_response(ListxattrResponse { names }))
            }
            OpRequest::Removexattr(r) => {
                let o = self.obj(r.handle)?;
                if o.xattrs.remove(&r.name).is_none() {
                    return err(ErrorCode::NoAttribute);
                }
                let any = !o.xattrs.is_empty();
                o.attr.set(AttrFlags::HAS_XATTR, any);
                o.attr.change += 1;
                let attr = Some(self.attr(session, r.handle)?);
                done(RemovexattrRequest::wrap_response(RemovexattrResponse { attr }))
            }
            other => panic!("{} is no xattr operation", other.op().name()),
        }
    }
}

fn write_at(to: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[at as usize..end].copy_from_slice(bytes);
}

/// Writes into datafiles byte by byte, by `locate` alone: independent of io_plan.
fn put(cluster: &Cluster, layout: &FileLayout, at: u64, bytes: &[u8]) {
    let n = layout.datahandles.len() as u32;
    let mut all = cluster.datafiles.borrow_mut();
    for (i, byte) in bytes.iter().enumerate() {
        let p = layout.dist.locate(n, at + i as u64);
        let df = all.entry(layout.datahandles[p.datafile as usize]).or_default();
        write_at(&mut df.bytes, p.physical_offset, &[*byte]);
        let len = df.bytes.len();
        df.written.resize(len, false);
        df.written[p.physical_offset as usize] = true;
        df.mtime_ns = cluster.clock.now_ns();
    }
}
