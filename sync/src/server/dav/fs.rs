//! One request's view of a user's store, as dav-server asks for it. Paths are resolved to nodes by the
//! table, never by the disk.
//!
//! | asked | done | not done if |
//! |---|---|---|
//! | metadata | the node is looked up; its revision is remembered for what follows in this request | 404 |
//! | open to write | an upload begins (room reserved) at the revision that was seen; see [`super::file`] | 409, 412, 507 |
//! | create_dir | mkdir | 405 (there), 409 (parent) |
//! | remove_file, remove_dir | delete at the revision that was seen, a folder whole in one transaction | 412 |
//! | rename | move | 409 |
//! | copy | read into a new upload, with properties | 507 |
//!
//! dav-server knows few errors; the true one is kept aside ([`Call::error`]) and goes out instead.
use super::file::{Upload, new_id};
use crate::api::{Delete, Mkdir, Move, NodeInfo, UploadBegin};
use crate::error::{Result, SyncError};
use crate::files::{Area, At, PIECE_BYTES, name_of, parent_of};
use crate::server::users::{Worker, now_ms};
use crate::store::Prop;
use crate::tree::{Kind, NodeId, ROOT};
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use dav_server::davpath::DavPath;
use dav_server::fs::{
    DavDirEntry, DavFile, DavFileSystem, DavMetaData, DavProp, FsError, FsFuture, FsResult,
    FsStream, OpenOptions, ReadDirMeta,
};
use futures_util::stream;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// In the journal, for changes that came through this door.
pub const BY: &str = "webdav";
const OWNCLOUD: &str = "http://owncloud.org/ns";
/// The last second that an HTTP date can tell.
const TIME_S_MAX: u64 = 253_402_300_799;

/// A time as HTTP can tell it: from 1970 to 9999.
#[must_use]
pub fn time(mtime_ns: i64) -> SystemTime {
    let ns = u64::try_from(mtime_ns).unwrap_or(0);
    UNIX_EPOCH + Duration::from_nanos(ns).min(Duration::from_secs(TIME_S_MAX))
}

/// A file's tag: half of its hash, because programs keep tags in short places.
#[must_use]
pub fn etag(node: &NodeInfo) -> &str {
    node.hash.get(..32).unwrap_or(&node.hash)
}

/// A path as the store takes it.
#[must_use]
pub fn name(path: &DavPath) -> String {
    let raw = String::from_utf8_lossy(path.as_bytes());
    raw.trim_matches('/').to_owned()
}

/// One request.
pub struct Call {
    /// Whose.
    pub worker: Arc<Worker>,
    /// When what is written was changed last, as the client says (`X-OC-Mtime`, seconds).
    pub mtime_s: Option<i64>,
    method: Method,
    from: String,
    to: String,
    seen: Mutex<HashMap<NodeId, i64>>,
    error: Mutex<Option<SyncError>>,
}

impl Call {
    /// For a request below `prefix`.
    #[must_use]
    pub fn new(worker: Arc<Worker>, request: &Request, prefix: &str, mtime_s: Option<i64>) -> Self {
        let below = |text: &str| {
            let path =
                DavPath::new(text).ok().and_then(|mut p| p.set_prefix(prefix).ok().map(|()| p));
            path.map_or(String::new(), |p| name(&p))
        };
        let to = super::text(request.headers(), "destination").unwrap_or_default();
        let to = to.split_once("://").map_or(to, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
        Self {
            worker,
            mtime_s,
            method: request.method().clone(),
            from: below(request.uri().path()),
            to: below(to),
            seen: Mutex::default(),
            error: Mutex::default(),
        }
    }

    /// What went wrong, to be told instead of what dav-server makes of it.
    #[must_use]
    pub fn error(&self) -> Option<SyncError> {
        self.error.lock().take()
    }

    /// Keeps an error aside; returns what dav-server takes for it.
    pub fn failed(&self, e: SyncError) -> FsError {
        let known = match &e {
            SyncError::NotFound(_) => return FsError::NotFound,
            SyncError::Full(_) => FsError::InsufficientStorage,
            SyncError::Taken(_) => FsError::Exists,
            SyncError::Invalid(_) => FsError::Forbidden,
            _ => FsError::GeneralFailure,
        };
        self.error.lock().get_or_insert(e);
        known
    }

    fn look(&self, path: &str) -> Result<NodeInfo> {
        let node = self.worker.store.lock().resolve(path)?;
        self.seen.lock().entry(node.id).or_insert(node.rev);
        Ok(node)
    }

    /// The node at the revision that this request has seen first.
    fn at_first(&self, mut node: NodeInfo) -> NodeInfo {
        if let Some(rev) = self.seen.lock().get(&node.id) {
            node.rev = *rev;
        }
        node
    }

    /// The directory for something at `path`, and its name there; 409 if there is none.
    fn place(&self, path: &str) -> Result<std::result::Result<(NodeInfo, String), FsError>> {
        match self.worker.store.lock().resolve(parent_of(path)) {
            Ok(dir) if dir.kind == Kind::Dir => Ok(Ok((dir, name_of(path).to_owned()))),
            Ok(_) | Err(SyncError::NotFound(_)) => Ok(Err(FsError::NotFound)),
            Err(e) => Err(e),
        }
    }

    fn there(&self, path: &str) -> Result<Option<NodeInfo>> {
        match self.worker.store.lock().resolve(path) {
            Ok(node) => Ok(Some(self.at_first(node))),
            Err(SyncError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn begin(self: &Arc<Self>, path: &str, o: &OpenOptions) -> Result<FsResult<Box<dyn DavFile>>> {
        let (dir, name) = match self.place(path)? {
            Ok(found) => found,
            Err(e) => return Ok(Err(e)),
        };
        let there = self.there(path)?;
        match &there {
            Some(n) if o.create_new || n.kind == Kind::Dir => return Ok(Err(FsError::Exists)),
            None if !(o.create || o.create_new) => return Ok(Err(FsError::NotFound)),
            _ => {}
        }
        let lock = self.method.as_str() == "LOCK";
        if !o.truncate && !lock {
            let why = "a part of a file cannot be replaced: send it whole";
            return Err(SyncError::Invalid(why.into()));
        }
        let mtime_ns = self
            .mtime_s
            .map_or(now_ms().saturating_mul(1_000_000), |s| s.saturating_mul(1_000_000_000));
        let req = UploadBegin {
            id: new_id()?,
            parent: dir.id,
            name,
            exec: there.as_ref().is_some_and(|n| n.exec),
            replace: there.map(|n| (n.id, n.rev)),
            size: o.size.filter(|_| !lock).unwrap_or(0),
            hash: String::new(),
            mtime_ns,
        };
        if lock {
            // A lock on a name that is free makes an empty file.
            self.worker.change(|s| s.put(&req, b"", BY))?;
            return Ok(Ok(Box::new(Upload::none(self.clone()))));
        }
        self.worker.store.lock().upload_begin(&req)?;
        Ok(Ok(Box::new(Upload::new(self.clone(), req, o.size.is_some(), o.checksum.clone()))))
    }

    fn mkdir(&self, path: &str) -> Result<FsResult<()>> {
        let (dir, name) = match self.place(path)? {
            Ok(found) => found,
            Err(e) => return Ok(Err(e)),
        };
        if self.there(path)?.is_some() {
            return Ok(Err(FsError::Exists));
        }
        let req = Mkdir { parent: dir.id, name, key: String::new() };
        let made = self.worker.change(|s| s.mkdir(&req, BY))?;
        if self.method.as_str() == "COPY"
            && let Some(rest) = path.strip_prefix(&self.to)
        {
            let from = self.look(&format!("{}{rest}", self.from))?;
            self.worker.store.lock().copy_props(from.id, made.id)?;
        }
        Ok(Ok(()))
    }

    fn remove(&self, path: &str) -> Result<()> {
        let node = self.at_first(self.look(path)?);
        if node.id == ROOT {
            return Err(SyncError::Invalid("the user's own folder cannot be deleted".into()));
        }
        let req = Delete { node: node.id, rev: node.rev, tree: true, key: String::new() };
        self.worker.change(|s| s.delete(&req, BY)).map(drop)
    }

    fn rename(&self, from: &str, to: &str) -> Result<FsResult<()>> {
        let node = self.at_first(self.look(from)?);
        let (dir, name) = match self.place(to)? {
            Ok(found) => found,
            Err(e) => return Ok(Err(e)),
        };
        let key = String::new();
        let req = Move { node: node.id, rev: node.rev, parent: dir.id, name, key };
        self.worker.change(|s| s.move_node(&req, BY))?;
        Ok(Ok(()))
    }

    /// Copies a file. Its bytes are read from what it was at the beginning.
    fn copy(&self, from: &str, to: &str) -> Result<FsResult<()>> {
        let (dir, name) = match self.place(to)? {
            Ok(found) => found,
            Err(e) => return Ok(Err(e)),
        };
        let worker = &self.worker;
        let (old, file) = {
            let store = worker.store.lock();
            let old = store.resolve(from)?;
            let file = worker.files.open_file(At(Area::Tree, &store.path(old.id)?))?;
            (old, file)
        };
        let req = UploadBegin {
            id: new_id()?,
            parent: dir.id,
            name,
            replace: self.there(to)?.map(|n| (n.id, n.rev)),
            size: old.size,
            hash: old.hash,
            mtime_ns: old.mtime_ns,
            exec: old.exec,
        };
        worker.store.lock().upload_begin(&req)?;
        let copied = || -> Result<NodeInfo> {
            let progress = worker.progress(&req.id)?;
            let mut buf = vec![0; PIECE_BYTES];
            let mut pos = 0;
            loop {
                let n = std::os::unix::fs::FileExt::read_at(&file, &mut buf, pos)
                    .map_err(|e| SyncError::io(format!("read {from}"), e))?;
                if n == 0 {
                    return worker.commit(&req.id, BY);
                }
                let bytes = buf.get(..n).unwrap_or_default();
                progress.lock().append(&*worker.files, &req.id, pos, bytes)?;
                pos += n as u64;
            }
        };
        match copied() {
            Ok(made) => {
                worker.store.lock().copy_props(old.id, made.id)?;
                Ok(Ok(()))
            }
            Err(e) => {
                let _ = worker.drop_upload(&req.id);
                Err(e)
            }
        }
    }

    fn children(&self, path: &str) -> Result<Vec<NodeInfo>> {
        // What is deleted goes whole: nothing is to be deleted one by one before it.
        if matches!(self.method.as_str(), "DELETE" | "MOVE") {
            return Ok(Vec::new());
        }
        let store = self.worker.store.lock();
        let dir = store.resolve(path)?;
        store.children(dir.id)
    }

    fn prop(&self, path: &str, ns: &str, prop: &str) -> Result<Option<Vec<u8>>> {
        let store = self.worker.store.lock();
        let node = store.resolve(path)?;
        if ns != OWNCLOUD {
            return store.prop(node.id, ns, prop);
        }
        let text = match prop {
            "checksums" => match store.sums(&node.hash)? {
                Some(sums) => format!("<oc:checksum>{sums}</oc:checksum>"),
                None => return Ok(None),
            },
            "id" | "fileid" => node.id.to_string(),
            "size" if node.kind == Kind::File => node.size.to_string(),
            "permissions" if node.kind == Kind::Dir => "RDNVCK".into(),
            "permissions" => "RDNVW".into(),
            _ => return store.prop(node.id, ns, prop),
        };
        Ok(Some(format!("<oc:{prop} xmlns:oc=\"{OWNCLOUD}\">{text}</oc:{prop}>").into_bytes()))
    }
}

fn key(prop: &DavProp) -> Prop {
    Prop {
        ns: prop.namespace.clone().unwrap_or_default(),
        name: prop.name.clone(),
        xml: prop.xml.clone().unwrap_or_default(),
    }
}

/// The store, for one request.
#[derive(Clone)]
pub struct Fs(pub Arc<Call>);

impl std::fmt::Debug for Fs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fs").field("method", &self.0.method).finish_non_exhaustive()
    }
}

impl Fs {
    /// Runs what may block where that is allowed.
    fn run<'a, T: Send + 'static>(
        &self,
        f: impl FnOnce(&Arc<Call>) -> Result<FsResult<T>> + Send + 'static,
    ) -> FsFuture<'a, T> {
        let call = self.0.clone();
        Box::pin(async move {
            let inner = call.clone();
            match tokio::task::spawn_blocking(move || f(&inner)).await {
                Ok(Ok(done)) => done,
                Ok(Err(e)) => Err(call.failed(e)),
                Err(e) => Err(call.failed(SyncError::Net(format!("the worker ended: {e}")))),
            }
        })
    }
}

impl DavFileSystem for Fs {
    fn open<'a>(
        &'a self,
        path: &'a DavPath,
        options: OpenOptions,
    ) -> FsFuture<'a, Box<dyn DavFile>> {
        let path = name(path);
        if !options.write {
            return Box::pin(std::future::ready(Err(FsError::NotImplemented)));
        }
        self.run(move |call| call.begin(&path, &options))
    }

    fn read_dir<'a>(
        &'a self,
        path: &'a DavPath,
        _meta: ReadDirMeta,
    ) -> FsFuture<'a, FsStream<Box<dyn DavDirEntry>>> {
        let path = name(path);
        self.run(move |call| {
            let entry = |n| Ok(Box::new(Meta(n)) as Box<dyn DavDirEntry>);
            let all: Vec<_> = call.children(&path)?.into_iter().map(entry).collect();
            Ok(Ok(Box::pin(stream::iter(all)) as FsStream<Box<dyn DavDirEntry>>))
        })
    }

    fn metadata<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, Box<dyn DavMetaData>> {
        let path = name(path);
        self.run(move |call| Ok(Ok(Box::new(Meta(call.look(&path)?)) as Box<dyn DavMetaData>)))
    }

    fn create_dir<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        let path = name(path);
        self.run(move |call| call.mkdir(&path))
    }

    fn remove_dir<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        let path = name(path);
        self.run(move |call| call.remove(&path).map(Ok))
    }

    fn remove_file<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        let path = name(path);
        self.run(move |call| call.remove(&path).map(Ok))
    }

    fn rename<'a>(&'a self, from: &'a DavPath, to: &'a DavPath) -> FsFuture<'a, ()> {
        let (from, to) = (name(from), name(to));
        self.run(move |call| call.rename(&from, &to))
    }

    fn copy<'a>(&'a self, from: &'a DavPath, to: &'a DavPath) -> FsFuture<'a, ()> {
        let (from, to) = (name(from), name(to));
        self.run(move |call| call.copy(&from, &to))
    }

    fn have_props<'a>(
        &'a self,
        _path: &'a DavPath,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(std::future::ready(true))
    }

    fn patch_props<'a>(
        &'a self,
        path: &'a DavPath,
        patch: Vec<(bool, DavProp)>,
    ) -> FsFuture<'a, Vec<(StatusCode, DavProp)>> {
        let path = name(path);
        self.run(move |call| {
            let mut store = call.worker.store.lock();
            let node = store.resolve(&path)?;
            let all: Vec<_> = patch.iter().map(|(set, p)| (*set, key(p))).collect();
            store.patch_props(node.id, &all)?;
            let done = |(_, p): (bool, DavProp)| (StatusCode::OK, DavProp { xml: None, ..p });
            Ok(Ok(patch.into_iter().map(done).collect()))
        })
    }

    fn get_props<'a>(&'a self, path: &'a DavPath, content: bool) -> FsFuture<'a, Vec<DavProp>> {
        let path = name(path);
        self.run(move |call| {
            let store = call.worker.store.lock();
            let node = store.resolve(&path)?;
            let one = |p: Prop| DavProp {
                name: p.name,
                prefix: None,
                namespace: (!p.ns.is_empty()).then_some(p.ns),
                xml: content.then_some(p.xml),
            };
            Ok(Ok(store.props(node.id)?.into_iter().map(one).collect()))
        })
    }

    fn get_prop<'a>(&'a self, path: &'a DavPath, prop: DavProp) -> FsFuture<'a, Vec<u8>> {
        let path = name(path);
        self.run(move |call| {
            let p = key(&prop);
            Ok(call.prop(&path, &p.ns, &p.name)?.ok_or(FsError::NotFound))
        })
    }

    fn get_quota(&self) -> FsFuture<'_, (u64, Option<u64>)> {
        self.run(|call| {
            let (used, quota) = call.worker.store.lock().usage()?;
            // dav-server takes what is used off the whole only at the top.
            let whole = |q: u64| if call.from.is_empty() { q } else { q.saturating_sub(used) };
            Ok(Ok((used, quota.map(whole))))
        })
    }
}

/// A node, as metadata and as an entry of a directory.
#[derive(Clone, Debug)]
pub struct Meta(pub NodeInfo);

impl DavMetaData for Meta {
    fn len(&self) -> u64 {
        self.0.size
    }

    fn modified(&self) -> FsResult<SystemTime> {
        Ok(time(self.0.mtime_ns))
    }

    fn is_dir(&self) -> bool {
        self.0.kind == Kind::Dir
    }

    fn etag(&self) -> Option<String> {
        Some(match self.0.kind {
            Kind::File => etag(&self.0).to_owned(),
            Kind::Dir => format!("{}-{}", self.0.id, self.0.rev),
        })
    }

    fn executable(&self) -> FsResult<bool> {
        if self.0.kind == Kind::Dir { Err(FsError::NotImplemented) } else { Ok(self.0.exec) }
    }
}

impl DavDirEntry for Meta {
    fn name(&self) -> Vec<u8> {
        self.0.name.clone().into_bytes()
    }

    fn metadata(&self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        Box::pin(std::future::ready(Ok(Box::new(self.clone()) as Box<dyn DavMetaData>)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_such_as_http_can_tell() {
        assert_eq!(time(-5), UNIX_EPOCH);
        assert_eq!(httpdate::fmt_http_date(time(i64::MAX)), "Fri, 11 Apr 2262 23:47:16 GMT");
    }
}
