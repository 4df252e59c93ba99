//! Where the body of a write is, and how it is cut.
//!
//! Place in the walks: a write, on the server, before the service sees it. Invariant: nothing of a client's
//! memory is named to the service that was not found to be in what the connection has mapped.
use crate::region::{Mapping, SharedBody};
use crate::service::{Body, Conn};
use pvfs2_proto::Result;
use pvfs2_proto::crc::STRIP_BYTES;
use pvfs2_proto::op::{HelloRequest, OpRequest, RequestHead};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Where the first strip ends in the body of a write of one extent: the disk wants a checksum for
/// each strip.
pub(super) fn first_cut(head: &RequestHead) -> Option<usize> {
    let Some(OpRequest::IoWrite(write)) = &head.op else { return None };
    let [extent] = &write.extents[..] else { return None };
    Some((STRIP_BYTES - extent.physical_offset % STRIP_BYTES) as usize)
}

/// Maps what a peer passed with its hello. None: it passed nothing, or nothing that may be mapped; its
/// bodies come through the socket.
pub(super) fn mapped(
    conn: &Conn,
    hello: &HelloRequest,
    passed: Option<OwnedFd>,
) -> Option<Arc<Mapping>> {
    let file = passed.filter(|_| hello.region_bytes != 0)?;
    match Mapping::new(&file, hello.region_bytes) {
        Ok(mapping) => Some(Arc::new(mapping)),
        Err(why) => {
            tracing::info!(peer = conn.peer, "a client's shared memory is not mapped: {why}");
            None
        }
    }
}

/// The body of a request that names shared memory.
pub(super) fn shared_body(op: &OpRequest, region: Option<&Arc<Mapping>>) -> Option<Result<Body>> {
    match op {
        OpRequest::IoWrite(write) if !write.shared.is_empty() => {
            Some(SharedBody::new(region, &write.shared).map(Body::Shared))
        }
        _ => None,
    }
}
