//! All I/O servers of a test in one: datafiles in memory, and what was asked of them.
use super::harness::Cluster;
use pvfs2_proto::op::*;
use pvfs2_proto::{Attr, Handle, ServerId};
use std::collections::BTreeMap;

/// Datafiles of all I/O servers, by datahandle.
#[derive(Default)]
pub struct FakeIo {
    pub files: BTreeMap<u64, (Vec<u8>, i64)>,
    pub requests: Vec<(ServerId, Op)>,
}

impl FakeIo {
    /// Runs a request of one server: a list has only what is its (and what is nobody's, on the
    /// first).
    pub fn run_on(&mut self, c: &Cluster, on: ServerId, op: OpRequest, now_ns: i64) -> OpResponse {
        let first = c.map.io_servers().next();
        let mut response = self.run(op, b"", now_ns);
        if let OpResponse::DfList(list) = &mut response {
            let is_here = |h: &u64| c.map.io_server_of(Handle(*h)).or(first) == Some(on);
            list.datahandles.retain(is_here);
        }
        response
    }

    pub fn run(&mut self, op: OpRequest, body: &[u8], now_ns: i64) -> OpResponse {
        match op {
            OpRequest::IoWrite(r) => {
                let (data, mtime) = self.files.entry(r.datahandle).or_default();
                let mut rest = body;
                for e in &r.extents {
                    let (from, to) =
                        (e.physical_offset as usize, (e.physical_offset + e.len) as usize);
                    data.resize(data.len().max(to), 0);
                    data[from..to].copy_from_slice(&rest[..e.len as usize]);
                    rest = &rest[e.len as usize..];
                }
                *mtime = now_ns;
                OpResponse::IoWrite(IoWriteResponse { mtime_ns: now_ns })
            }
            OpRequest::DfStat(r) => {
                let stat = |h: &u64| {
                    self.files.get(h).map_or(DfStat::default(), |(data, mtime_ns)| DfStat {
                        size: data.len() as u64,
                        mtime_ns: *mtime_ns,
                        allocated: 0,
                    })
                };
                OpResponse::DfStat(DfStatResponse {
                    stats: r.datahandles.iter().map(stat).collect(),
                })
            }
            OpRequest::DfTruncate(r) => {
                if let Some((data, _)) = self.files.get_mut(&r.datahandle) {
                    data.truncate(r.size as usize);
                }
                OpResponse::DfTruncate(DfTruncateResponse {})
            }
            OpRequest::DfFallocate(r) => {
                if let Some((data, _)) = self.files.get_mut(&r.datahandle).filter(|_| r.punch) {
                    for e in &r.extents {
                        let to = data.len().min((e.physical_offset + e.len) as usize);
                        data[to.min(e.physical_offset as usize)..to].fill(0);
                    }
                }
                OpResponse::DfFallocate(DfFallocateResponse {})
            }
            OpRequest::DfSync(_) => OpResponse::DfSync(DfSyncResponse {}),
            OpRequest::DfList(r) => {
                let after = r.after + 1;
                let mut of: Vec<u64> = self.files.range(after..).map(|(h, _)| *h).collect();
                let end = of.len() <= r.max as usize;
                of.truncate(r.max as usize);
                OpResponse::DfList(DfListResponse { datahandles: of, end })
            }
            OpRequest::DfRemove(r) => {
                let there = |h: &&u64| self.files.remove(*h).is_some();
                let removed = r.datahandles.iter().filter(there).count() as u32;
                OpResponse::DfRemove(DfRemoveResponse { removed })
            }
            other => panic!("the fake I/O server does not do {:?}", other.op()),
        }
    }

    /// The file's bytes as its layout places them.
    pub fn contents(&self, attr: &Attr, size: u64) -> Vec<u8> {
        let layout = attr.layout.as_ref().unwrap();
        let n = layout.datahandles.len() as u32;
        (0..size)
            .map(|at| {
                let p = layout.dist.locate(n, at);
                let file = self.files.get(&layout.datahandles[p.datafile as usize]);
                file.and_then(|f| f.0.get(p.physical_offset as usize)).copied().unwrap_or(0)
            })
            .collect()
    }
}
