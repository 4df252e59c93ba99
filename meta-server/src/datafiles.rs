//! The metadata server as a client of the I/O servers: sizes, truncation, bytes of striped files.
//!
//! Every function works on all datafiles of a file at once, one request per datafile or server.
//! Since a distribution places bytes in ascending order on each datafile, a logical range covers one
//! physical range per datafile: from `physical_size` of its begin to `physical_size` of its end.
use crate::server::MetaServer;
use bytes::{Bytes, BytesMut};
use pvfs2_proto::op::{
    DfFallocateRequest, DfStatRequest, DfSyncRequest, DfTruncateRequest, IoWriteRequest, OpMessage,
    OpRequest, PhysicalExtent,
};
use pvfs2_proto::{Attr, ErrorCode, FileLayout, Handle, PvfsError, Result, ServerId};
use pvfs2_server_core::peer::{self, PeerCall};
use pvfs2_server_core::service::OpCx;
use std::collections::BTreeMap;

/// A file's size and the newest write to its datafiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Logical end of the datafiles.
    pub size: u64,
    /// Newest mtime of a datafile; 0: none exists.
    pub mtime_ns: i64,
}

/// A change of a datafile: to which server, what.
pub type Step = (ServerId, OpRequest);

impl MetaServer {
    fn io_server(&self, datahandle: u64) -> Result<ServerId> {
        self.map.io_server_of(Handle(datahandle)).ok_or_else(|| {
            PvfsError::new(
                ErrorCode::Io,
                format!("no I/O server of the cluster file owns datahandle {}", Handle(datahandle)),
            )
        })
    }

    /// Asks the datafiles for their sizes and times.
    pub(crate) async fn datafile_extent(&self, cx: &OpCx, layout: &FileLayout) -> Result<Extent> {
        let mut by_server: BTreeMap<ServerId, Vec<usize>> = BTreeMap::new();
        for (i, datahandle) in layout.datahandles.iter().enumerate() {
            by_server.entry(self.io_server(*datahandle)?).or_default().push(i);
        }
        let requests = by_server
            .iter()
            .map(|(server, places)| {
                let datahandles = places.iter().map(|i| layout.datahandles[*i]).collect();
                (*server, DfStatRequest { datahandles })
            })
            .collect();
        let replies = peer::ask_all(self.peers(), &cx.cred, cx.op_id, requests).await?;
        let mut sizes = vec![0; layout.datahandles.len()];
        let mut mtime_ns = 0;
        for (places, reply) in by_server.values().zip(replies) {
            if places.len() != reply.stats.len() {
                return Err(PvfsError::new(
                    ErrorCode::Protocol,
                    "an I/O server told the sizes of more or fewer datafiles than asked",
                ));
            }
            for (i, stat) in places.iter().zip(reply.stats) {
                sizes[*i] = stat.size;
                mtime_ns = mtime_ns.max(stat.mtime_ns);
            }
        }
        Ok(Extent { size: layout.dist.logical_size(&sizes), mtime_ns })
    }

    /// The steps that cut the datafiles to a logical size.
    pub(crate) fn truncate_steps(&self, layout: &FileLayout, size: u64) -> Result<Vec<Step>> {
        let n = layout.datahandles.len() as u32;
        let mut steps = Vec::with_capacity(layout.datahandles.len());
        for (d, &datahandle) in layout.datahandles.iter().enumerate() {
            let size = layout.dist.physical_size(n, d as u32, size);
            let request = DfTruncateRequest { datahandle, size, extend: false };
            steps.push((self.io_server(datahandle)?, request.into_request()));
        }
        Ok(steps)
    }

    /// The steps that reserve or punch a logical range.
    pub(crate) fn fallocate_steps(
        &self,
        layout: &FileLayout,
        logical_offset: u64,
        len: u64,
        punch: bool,
    ) -> Result<Vec<Step>> {
        let n = layout.datahandles.len() as u32;
        let mut steps = Vec::new();
        for (d, &datahandle) in layout.datahandles.iter().enumerate() {
            let from = layout.dist.physical_size(n, d as u32, logical_offset);
            let to = layout.dist.physical_size(n, d as u32, logical_offset.saturating_add(len));
            if to > from {
                let extents = vec![PhysicalExtent { physical_offset: from, len: to - from }];
                let request = DfFallocateRequest { datahandle, extents, punch };
                steps.push((self.io_server(datahandle)?, request.into_request()));
            }
        }
        Ok(steps)
    }

    /// Writes bytes at a logical offset into the datafiles; returns the newest mtime.
    pub(crate) async fn write_datafiles(
        &self,
        cx: &OpCx,
        layout: &FileLayout,
        logical_offset: u64,
        bytes: &Bytes,
    ) -> Result<i64> {
        let n = layout.datahandles.len() as u32;
        let mut parts: BTreeMap<u32, (u64, BytesMut)> = BTreeMap::new();
        let mut done = 0usize;
        while done < bytes.len() {
            let place = layout.dist.locate(n, logical_offset + done as u64);
            let take = place.contiguous_bytes.min((bytes.len() - done) as u64) as usize;
            let part = parts
                .entry(place.datafile)
                .or_insert_with(|| (place.physical_offset, BytesMut::new()));
            part.1.extend_from_slice(&bytes[done..done + take]);
            done += take;
        }
        let mut calls = Vec::with_capacity(parts.len());
        for (d, (physical_offset, body)) in parts {
            let datahandle = *layout.datahandles.get(d as usize).ok_or(ErrorCode::Io)?;
            let extents = vec![PhysicalExtent { physical_offset, len: body.len() as u64 }];
            let op = IoWriteRequest { datahandle, extents, ..Default::default() }.into_request();
            calls.push(PeerCall { server: self.io_server(datahandle)?, op, body: body.freeze() });
        }
        let mut mtime_ns = 0;
        for reply in self.peers().call(&cx.cred, cx.op_id, calls).await {
            mtime_ns = mtime_ns.max(IoWriteRequest::take_response(reply?.op)?.mtime_ns);
        }
        Ok(mtime_ns)
    }

    /// Empties the datafiles, those that exist.
    pub(crate) async fn empty_datafiles(&self, cx: &OpCx, layout: &FileLayout) -> Result<()> {
        let mut requests = Vec::with_capacity(layout.datahandles.len());
        for &datahandle in &layout.datahandles {
            let request = DfTruncateRequest { datahandle, size: 0, extend: false };
            requests.push((self.io_server(datahandle)?, request));
        }
        peer::ask_all(self.peers(), &cx.cred, cx.op_id, requests).await.map(|_| ())
    }

    /// Makes the datafiles survive loss of power.
    pub(crate) async fn sync_datafiles(&self, cx: &OpCx, layout: &FileLayout) -> Result<()> {
        let mut by_server: BTreeMap<ServerId, Vec<u64>> = BTreeMap::new();
        for datahandle in &layout.datahandles {
            by_server.entry(self.io_server(*datahandle)?).or_default().push(*datahandle);
        }
        let requests = by_server
            .into_iter()
            .map(|(server, datahandles)| (server, DfSyncRequest { datahandles }))
            .collect();
        peer::ask_all(self.peers(), &cx.cred, cx.op_id, requests).await.map(|_| ())
    }
}

/// The size rule: the stored size and the datafiles' end, whichever is larger; their time, unless
/// the mtime was set explicitly after it.
pub(crate) fn merge(attr: &mut Attr, extent: Extent) {
    attr.size = attr.size.max(extent.size);
    if extent.mtime_ns > attr.mtime_set_ns && extent.mtime_ns > attr.mtime_ns {
        attr.mtime_ns = extent.mtime_ns;
        attr.ctime_ns = attr.ctime_ns.max(extent.mtime_ns);
    }
}
