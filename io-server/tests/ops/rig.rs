//! An I/O server without a network, over memory or over a temporary directory, and typed calls.
use pvfs2_bmi::buf::PooledBuf;
use pvfs2_bmi::flow::FlowBody;
use pvfs2_bmi::lent::Lent;
use pvfs2_bmi::service::{Body, OutBody};
use pvfs2_io::{IoConfig, IoServer};
use pvfs2_proto::env::{Clock, Env};
use pvfs2_proto::op::{
    CopyExtent, Cred, DfCopyRequest, DfFallocateRequest, DfListRequest, DfListResponse,
    DfMapRequest, DfMapResponse, DfRemoveRequest, DfStat, DfStatRequest, DfSyncRequest,
    DfTruncateRequest, IoReadRequest, IoReadResponse, IoStatfsRequest, IoStatfsResponse,
    IoWriteRequest, OpMessage, OpRequest, OpResponse, PhysicalExtent,
};
use pvfs2_proto::{ClusterMap, HandleRange, Result, ServerEntry};
use pvfs2_server_core::metrics::Metrics;
use pvfs2_server_core::service::{OpCx, OpHandler};
use pvfs2_trove::{Bstreams, FormatInfo, StorageSpace, TroveOptions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// First datahandle of the server in these tests.
pub const FIRST: u64 = 1 << 56;
/// A datahandle of the server in these tests.
pub const H: u64 = FIRST + 7;

/// A clock that tests set; it goes on by 1 us whenever it is asked.
pub struct TestClock(pub AtomicI64);
impl Clock for TestClock {
    fn now_ns(&self) -> i64 {
        self.0.fetch_add(1_000, Ordering::Relaxed)
    }
}

/// A server and what it stands on.
pub struct Rig {
    pub name: &'static str,
    pub server: Arc<IoServer>,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<TestClock>,
    pub rt: tokio::runtime::Runtime,
    pub space: Option<StorageSpace>,
    dir: Option<tempfile::TempDir>,
}

/// Runs `test` over memory and over a disk.
pub fn on_both(test: impl Fn(&Rig)) {
    test(&Rig::memory());
    test(&Rig::disk());
}

pub fn map() -> Arc<ClusterMap> {
    let entry = ServerEntry {
        alias: "io0".into(),
        io_range: Some(HandleRange { first: FIRST, last: FIRST + (1 << 48) }),
        ..Default::default()
    };
    Arc::new(ClusterMap { fs_id: 9, servers: vec![entry], ..Default::default() })
}

fn env() -> (Arc<TestClock>, Env) {
    let clock = Arc::new(TestClock(AtomicI64::new(1_700_000_000_000_000_000)));
    (clock.clone(), Env::seeded(1, clock))
}

impl Rig {
    pub fn memory() -> Rig {
        let (clock, env) = env();
        let bstreams = Arc::new(Bstreams::memory(env.clone()).unwrap());
        Rig::over("memory", bstreams, clock, env, None, None)
    }

    pub fn disk() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::disk_at(dir.path());
        rig.dir = Some(dir);
        rig
    }

    /// Over a storage space in `path`, made there unless there is one.
    pub fn disk_at(path: &Path) -> Rig {
        let (clock, env) = env();
        let info = FormatInfo {
            fs_id: 9,
            server_id: 0,
            server_alias: "io0".into(),
            keyval: Default::default(),
        };
        if !path.join("FORMAT").exists() {
            StorageSpace::format(path, &info).unwrap();
        }
        let space = StorageSpace::open(path, &info, TroveOptions::default(), env.clone()).unwrap();
        let bstreams = space.bstreams.clone();
        Rig::over("disk", bstreams, clock, env, Some(space), None)
    }

    fn over(
        name: &'static str,
        bstreams: Arc<Bstreams>,
        clock: Arc<TestClock>,
        env: Env,
        space: Option<StorageSpace>,
        dir: Option<tempfile::TempDir>,
    ) -> Rig {
        let metrics = Arc::new(Metrics::new());
        let config = IoConfig::new(0, map(), bstreams, env, metrics.clone());
        let server = IoServer::open(config).unwrap();
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Rig { name, server, metrics, clock, rt, space, dir }
    }

    /// The same server from another event loop.
    pub fn sharing(other: &Rig) -> Rig {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (server, metrics) = (other.server.clone(), other.metrics.clone());
        Rig {
            name: other.name,
            server,
            metrics,
            clock: other.clock.clone(),
            rt,
            space: None,
            dir: None,
        }
    }

    /// One operation; the body of the answer in one piece.
    pub fn raw(&self, op: OpRequest, body: Body) -> Result<(OpResponse, Vec<u8>)> {
        let cx = OpCx::internal(Cred::root());
        let answer = self.rt.block_on(self.server.op(&cx, op, body))?;
        assert!(answer.error.is_none());
        Ok((answer.op, flat(answer.body)))
    }

    fn call<M: OpMessage>(&self, request: M) -> Result<M::Response> {
        let (response, body) = self.raw(request.into_request(), Body::Empty)?;
        assert!(body.is_empty());
        M::take_response(Some(response))
    }

    /// Writes `data` at each offset, all in one request.
    pub fn write(&self, h: u64, parts: &[(u64, &[u8])]) -> Result<i64> {
        let body: Vec<u8> = parts.iter().flat_map(|p| p.1).copied().collect();
        let extents = parts.iter().map(|p| (p.0, p.1.len() as u64)).collect::<Vec<_>>();
        self.write_body(h, &extents, Body::Whole(PooledBuf::from_vec(body)))
    }

    pub fn write_body(&self, h: u64, extents: &[(u64, u64)], body: Body) -> Result<i64> {
        let request =
            IoWriteRequest { datahandle: h, extents: list(extents), ..Default::default() };
        let (response, out) = self.raw(request.into_request(), body)?;
        assert!(out.is_empty());
        Ok(IoWriteRequest::take_response(Some(response))?.mtime_ns)
    }

    /// Reads extents; what `got` says, and the body.
    pub fn read(&self, h: u64, extents: &[(u64, u64)]) -> Result<(Vec<u64>, Vec<u8>)> {
        let request = IoReadRequest {
            datahandle: h,
            extents: list(extents),
            may_lend: false,
            ..Default::default()
        };
        let (response, body) = self.raw(request.into_request(), Body::Empty)?;
        let IoReadResponse { got } = IoReadRequest::take_response(Some(response))?;
        let sum: u64 =
            if got.is_empty() { extents.iter().map(|e| e.1).sum() } else { got.iter().sum() };
        assert_eq!(sum, body.len() as u64, "got and body disagree");
        Ok((got, body))
    }

    /// The body of a read that may be lent, if it was.
    pub fn read_lent(&self, h: u64, extents: &[(u64, u64)]) -> Option<Lent> {
        let request = IoReadRequest {
            datahandle: h,
            extents: list(extents),
            may_lend: true,
            ..Default::default()
        };
        let (cx, op) = (OpCx::internal(Cred::root()), request.into_request());
        match self.rt.block_on(self.server.op(&cx, op, Body::Empty)).unwrap().body {
            OutBody::Lent(lent) => Some(lent),
            _ => None,
        }
    }

    pub fn stat(&self, h: u64) -> DfStat {
        self.call(DfStatRequest { datahandles: vec![h] }).unwrap().stats[0]
    }
    pub fn truncate(&self, datahandle: u64, size: u64, extend: bool) -> Result<()> {
        self.call(DfTruncateRequest { datahandle, size, extend }).map(drop)
    }
    pub fn fallocate(&self, datahandle: u64, extents: &[(u64, u64)], punch: bool) -> Result<()> {
        self.call(DfFallocateRequest { datahandle, extents: list(extents), punch }).map(drop)
    }
    /// Pieces as (source, offset there, offset here, length).
    pub fn copy(&self, datahandle: u64, pieces: &[(u64, u64, u64, u64)]) -> Result<()> {
        let piece = |&(source, source_offset, physical_offset, len): &(u64, u64, u64, u64)| {
            CopyExtent { source, source_offset, physical_offset, len }
        };
        let pieces = pieces.iter().map(piece).collect();
        self.call(DfCopyRequest { datahandle, pieces }).map(drop)
    }
    pub fn map(&self, datahandle: u64, physical_offset: u64, max: u32) -> DfMapResponse {
        self.call(DfMapRequest { datahandle, physical_offset, max }).unwrap()
    }
    pub fn sync(&self, datahandles: Vec<u64>) -> Result<()> {
        self.call(DfSyncRequest { datahandles }).map(drop)
    }
    pub fn remove(&self, datahandles: Vec<u64>) -> Result<u32> {
        self.call(DfRemoveRequest { datahandles }).map(|r| r.removed)
    }
    pub fn list(&self, after: u64, max: u32) -> DfListResponse {
        self.call(DfListRequest { after, max }).unwrap()
    }
    pub fn statfs(&self) -> IoStatfsResponse {
        self.call(IoStatfsRequest {}).unwrap()
    }
}

/// A small file system in memory, unmounted on drop.
pub struct SmallDisk(tempfile::TempDir);
impl SmallDisk {
    pub fn mount(size_bytes: u64) -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size_bytes}");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path());
        assert!(mount.status().unwrap().success(), "cannot mount a tmpfs: run this as root");
        SmallDisk(dir)
    }
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// A flow of `data` in pieces of `piece_bytes`, cut off at the end if `failed`.
pub fn flow(data: &[u8], piece_bytes: usize, failed: Option<pvfs2_proto::PvfsError>) -> Body {
    let pieces = data.chunks(piece_bytes).map(|c| PooledBuf::from_vec(c.to_vec())).collect();
    Body::Flow(FlowBody::of_pieces(pieces, failed))
}

pub fn list(extents: &[(u64, u64)]) -> Vec<PhysicalExtent> {
    let extent = |&(physical_offset, len): &(u64, u64)| PhysicalExtent { physical_offset, len };
    extents.iter().map(extent).collect()
}

fn flat(body: OutBody) -> Vec<u8> {
    match body {
        OutBody::Empty => Vec::new(),
        OutBody::Bytes(b) => b.to_vec(),
        OutBody::Pooled(b) => b.to_vec(),
        OutBody::Pieces(pieces) => pieces.iter().flat_map(|p| p.iter().copied()).collect(),
        OutBody::Lent(lent) => lent.to_bytes().to_vec(),
        OutBody::Silent => panic!("an operation answered nothing"),
    }
}

/// Bytes that differ from place to place and from `seed` to seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8 | 1
    };
    (0..len).map(|_| next()).collect()
}
