//! The management service of one server: status, counters, parameters, drain, on a port of its own,
//! and the same numbers as Prometheus text at `GET /metrics` of that port.
//!
//! Beside the walks: nothing on a request's way waits for it. It only reads what a
//! [`ManagementSource`] shows; [`source::ServerSource`] puts one together from a server's parts.
//!
//! Invariants:
//! - requests that change something (a parameter, drain) are taken from loopback only, and only over
//!   HTTP/2: a page in a browser on the same machine can make none;
//! - `serve` ends when `shutdown` becomes true, after the answers under way have left.
//!
//! - [`source`]: the source for a real server
//! - [`client`]: asks a server (used by `pvfs2 perf-mon` and friends)
//! - [`pb`]: messages and stubs, generated
pub mod client;
mod http;
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
#[rustfmt::skip]
pub mod pb;
pub mod source;
#[cfg(test)]
mod tests;

pub use http::{bind, serve, serve_on};
pub use pb::{OpCounters, Param, StatusResponse as Status};

use crate::metrics::{Gauge, OpSnapshot, names, prometheus_text};
use pb::management_server::Management;
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a server shows to its management service. Called from the service's own threads, so it may
/// take a moment (free space of a slow disk), but must not wait for requests.
pub trait ManagementSource: Send + Sync + 'static {
    /// Who the server is and what it holds.
    fn status(&self) -> Status;
    /// What every operation has counted.
    fn counters(&self) -> Vec<OpSnapshot>;
    /// Parameters that can be changed while the server runs.
    fn params(&self) -> Vec<Param>;
    /// Changes one.
    ///
    /// # Errors
    /// `NotFound` for an unknown name, `Invalid` for a value that it does not take.
    fn set_param(&self, name: &str, value: &str) -> Result<()>;
    /// Begins to drain, and to end the process afterwards if `shutdown`. Returns at once.
    fn drain(&self, shutdown: bool);
}

/// The page at `GET /metrics`.
fn metrics_page(source: &dyn ManagementSource) -> String {
    let s = source.status();
    let gauge = |name, help, value| Gauge { name, help, value };
    let gauges = [
        gauge(names::UPTIME, "Seconds since the server's start.", s.uptime_s),
        gauge(names::SESSIONS, "Sessions of clients.", s.sessions),
        gauge(names::OPEN_FILES, "Opens that the sessions hold.", s.open_files),
        gauge(names::STORAGE_FREE, "Bytes free for users.", s.storage_free_bytes),
        gauge(names::STORAGE_TOTAL, "Bytes of the local file system.", s.storage_total_bytes),
        gauge(names::DATAFILES, "Datafiles in the storage space.", s.datafiles),
        gauge(names::DRAINING, "Whether the server is draining.", u64::from(s.draining)),
    ];
    prometheus_text(&s.alias, &source.counters(), &gauges)
}

/// Puts the address of a request's peer among its extensions.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

/// The generated service over a source.
struct Service {
    source: Arc<dyn ManagementSource>,
}

impl Service {
    /// Asks the source on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn ManagementSource) -> Result<T> + Send + 'static,
    ) -> Result<tonic::Response<T>, tonic::Status> {
        let source = self.source.clone();
        match tokio::task::spawn_blocking(move || question(&*source)).await {
            Ok(Ok(answer)) => Ok(tonic::Response::new(answer)),
            Ok(Err(e)) => Err(to_status(&e)),
            Err(e) => Err(tonic::Status::internal(format!("the server lost the request: {e}"))),
        }
    }
}

#[tonic::async_trait]
impl Management for Service {
    async fn status(
        &self,
        _: tonic::Request<pb::StatusRequest>,
    ) -> Result<tonic::Response<Status>, tonic::Status> {
        self.ask(|s| Ok(s.status())).await
    }

    async fn counters(
        &self,
        _: tonic::Request<pb::CountersRequest>,
    ) -> Result<tonic::Response<pb::CountersResponse>, tonic::Status> {
        self.ask(|s| {
            let ops = s.counters().iter().map(to_counters).collect();
            Ok(pb::CountersResponse { ops, uptime_s: s.status().uptime_s })
        })
        .await
    }

    async fn params(
        &self,
        request: tonic::Request<pb::ParamsRequest>,
    ) -> Result<tonic::Response<pb::ParamsResponse>, tonic::Status> {
        if !request.get_ref().name.is_empty() {
            only_from_loopback(&request)?;
        }
        let pb::ParamsRequest { name, value } = request.into_inner();
        self.ask(move |s| {
            if !name.is_empty() {
                s.set_param(&name, &value)?;
                tracing::info!(name, value, "parameter changed by the management service");
            }
            Ok(pb::ParamsResponse { params: s.params() })
        })
        .await
    }

    async fn drain(
        &self,
        request: tonic::Request<pb::DrainRequest>,
    ) -> Result<tonic::Response<pb::DrainResponse>, tonic::Status> {
        only_from_loopback(&request)?;
        let shutdown = request.get_ref().shutdown;
        tracing::info!(shutdown, "drain asked by the management service");
        self.ask(move |s| {
            s.drain(shutdown);
            Ok(pb::DrainResponse {})
        })
        .await
    }
}

fn only_from_loopback<T>(request: &tonic::Request<T>) -> Result<(), tonic::Status> {
    match request.extensions().get::<Peer>() {
        Some(Peer(addr)) if addr.ip().to_canonical().is_loopback() => Ok(()),
        _ => Err(tonic::Status::permission_denied(
            "changes are taken from the server's own machine only: run this command there",
        )),
    }
}

fn to_counters(s: &OpSnapshot) -> OpCounters {
    OpCounters {
        op: s.op.name().to_owned(),
        count: s.count,
        errors: s.errors,
        p50_ns: s.quantile_ns(0.50),
        p95_ns: s.quantile_ns(0.95),
        p99_ns: s.quantile_ns(0.99),
        max_ns: s.max_ns,
        sum_ns: s.sum_ns,
        bytes_in: s.bytes_in,
        bytes_out: s.bytes_out,
    }
}

fn to_status(e: &PvfsError) -> tonic::Status {
    let code = match e.code {
        ErrorCode::Invalid | ErrorCode::Range => tonic::Code::InvalidArgument,
        ErrorCode::NotFound => tonic::Code::NotFound,
        ErrorCode::NotPermitted | ErrorCode::Access => tonic::Code::PermissionDenied,
        ErrorCode::NotSupported => tonic::Code::Unimplemented,
        _ => tonic::Code::Internal,
    };
    tonic::Status::new(code, e.detail.to_string())
}
