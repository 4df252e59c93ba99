//! First contact with a server, before there is a cluster map or a session: `get_config`, `ping`.
use super::NoEvents;
use super::greet::Greeter;
use super::link::Link;
use super::pump::Pump;
use crate::addr::Address;
use crate::auth::ClusterKey;
use crate::mem::MemNetwork;
use crate::stream::Stream;
use pvfs2_proto::op::{GetConfigRequest, HelloResponse, PingRequest, PingResponse};
use pvfs2_proto::{ClusterMap, ErrorCode, PvfsError, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long first contact may take.
const FIRST_MS: u64 = 5000;

/// What a server answers to [`ping`].
#[derive(Clone, Debug)]
pub struct Pong {
    /// Who it is.
    pub response: PingResponse,
    /// Its file system's id.
    pub fs_id: u64,
    /// Its number in the cluster map.
    pub server: u32,
    /// How long the ping alone took, hello not included.
    pub latency: Duration,
}

/// Takes the cluster map from the server at `address`; `fs_name` empty: whatever file system it has.
///
/// # Errors
/// `Unreachable`, `Unauthenticated`, `WrongFileSystem`, `Version`.
pub async fn fetch_map(
    address: &Address,
    fs_name: &str,
    key: Option<ClusterKey>,
) -> Result<ClusterMap> {
    fetch_map_over(address, fs_name, key, None).await
}

/// As [`fetch_map`], also for `mem://` addresses.
///
/// # Errors
/// As [`fetch_map`].
pub async fn fetch_map_over(
    address: &Address,
    fs_name: &str,
    key: Option<ClusterKey>,
    mem: Option<&Arc<MemNetwork>>,
) -> Result<ClusterMap> {
    let map = in_time(address, async {
        let (mut link, _) = contact(address, fs_name, key, mem).await?;
        Ok(link.one(GetConfigRequest {}, 0, &NoEvents).await?.map)
    });
    let Some(map) = map.await? else {
        let detail = format!("the server at {address} has no cluster map");
        return Err(PvfsError::new(ErrorCode::Protocol, detail));
    };
    if !fs_name.is_empty() && map.fs_name != fs_name {
        let detail = format!(
            "the server at {address} belongs to file system '{}', not '{fs_name}'; \
             mount {address}/{} instead",
            map.fs_name, map.fs_name
        );
        return Err(PvfsError::new(ErrorCode::WrongFileSystem, detail));
    }
    Ok(map)
}

/// Asks the server at `address` whether it is there.
///
/// # Errors
/// As [`fetch_map`].
pub async fn ping(
    address: &Address,
    key: Option<ClusterKey>,
    mem: Option<&Arc<MemNetwork>>,
) -> Result<Pong> {
    in_time(address, async {
        let (mut link, hello) = contact(address, "", key, mem).await?;
        let asked = Instant::now();
        let response = link.one(PingRequest {}, 0, &NoEvents).await?;
        Ok(Pong { response, fs_id: hello.fs_id, server: hello.server, latency: asked.elapsed() })
    })
    .await
}

async fn in_time<T>(address: &Address, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_millis(FIRST_MS), work).await.unwrap_or_else(|_| {
        let detail = format!("nobody answers at {address} within {FIRST_MS} ms");
        Err(PvfsError::new(ErrorCode::Unreachable, detail))
    })
}

async fn contact(
    address: &Address,
    fs_name: &str,
    key: Option<ClusterKey>,
    mem: Option<&Arc<MemNetwork>>,
) -> Result<(Link, HelloResponse)> {
    let fail = |e: std::io::Error| {
        let detail = format!("no server answers at {address} ({e}); is it running?");
        PvfsError::new(ErrorCode::Unreachable, detail)
    };
    let stream = Stream::connect(address, mem).await.map_err(fail)?;
    let peer = stream.peer().map_err(fail)?;
    let mut link = Link { stream, pump: Pump::new(0) };
    let hello = link.hello(Greeter::first_contact(fs_name, key, peer), &NoEvents).await?;
    Ok((link, hello))
}
