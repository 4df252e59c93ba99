//! Asks a server's management service: what `pvfs2 perf-mon` and other tools use.
//!
//! `address` is `http://host:port` as in the cluster file, or `host:port`. Every function makes one
//! connection and waits at most [`TIMEOUT`].
use super::http::host_port;
use super::pb::management_client::ManagementClient;
use super::pb::{CountersResponse, DrainRequest, Param, ParamsRequest};
use super::{Status, pb};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// Time for connecting, and again for the answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Who the server is and what it holds.
///
/// # Errors
/// `Unreachable` when nobody answers; what the server says otherwise.
pub async fn status(address: &str) -> Result<Status> {
    let answer = connect(address).await?.status(pb::StatusRequest {}).await;
    answer.map(tonic::Response::into_inner).map_err(|s| refused(address, &s))
}

/// What every operation has counted.
///
/// # Errors
/// As [`status`].
pub async fn counters(address: &str) -> Result<CountersResponse> {
    let answer = connect(address).await?.counters(pb::CountersRequest {}).await;
    answer.map(tonic::Response::into_inner).map_err(|s| refused(address, &s))
}

/// The parameters that can be changed while the server runs.
///
/// # Errors
/// As [`status`].
pub async fn params(address: &str) -> Result<Vec<Param>> {
    set_param(address, "", "").await
}

/// Changes a parameter; returns all of them afterwards.
///
/// # Errors
/// As [`status`]; `NotFound` or `Invalid` for what the server does not take; `NotPermitted` from
/// another machine.
pub async fn set_param(address: &str, name: &str, value: &str) -> Result<Vec<Param>> {
    let request = ParamsRequest { name: name.to_owned(), value: value.to_owned() };
    let answer = connect(address).await?.params(request).await;
    answer.map(|a| a.into_inner().params).map_err(|s| refused(address, &s))
}

/// Drains the server, and ends it if `shutdown`.
///
/// # Errors
/// As [`status`]; `NotPermitted` from another machine.
pub async fn drain(address: &str, shutdown: bool) -> Result<()> {
    let answer = connect(address).await?.drain(DrainRequest { shutdown }).await;
    answer.map(drop).map_err(|s| refused(address, &s))
}

async fn connect(address: &str) -> Result<ManagementClient<Channel>> {
    let unreachable = |e: tonic::transport::Error| {
        // tonic's own sentence is "transport error"; the reason is its source.
        let reason = std::error::Error::source(&e).map_or(e.to_string(), ToString::to_string);
        PvfsError::new(
            ErrorCode::Unreachable,
            format!("no management service answers at {address}: {reason}; is the server up?"),
        )
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", host_port(address)?))
        .map_err(unreachable)?
        .connect_timeout(TIMEOUT)
        .timeout(TIMEOUT);
    Ok(ManagementClient::new(endpoint.connect().await.map_err(unreachable)?))
}

fn refused(address: &str, status: &tonic::Status) -> PvfsError {
    let code = match status.code() {
        tonic::Code::InvalidArgument => ErrorCode::Invalid,
        tonic::Code::NotFound => ErrorCode::NotFound,
        tonic::Code::PermissionDenied => ErrorCode::NotPermitted,
        tonic::Code::Unimplemented => ErrorCode::NotSupported,
        tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::DeadlineExceeded => {
            ErrorCode::Unreachable
        }
        _ => ErrorCode::Io,
    };
    PvfsError::new(code, format!("management service at {address}: {}", status.message()))
}
