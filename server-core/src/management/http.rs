//! The management port: HTTP/2 carries gRPC, HTTP/1 answers `GET /metrics`.
//!
//! Invariants: at most [`CONNECTIONS_MAX`] connections at once (more wait in the listener's queue);
//! HTTP/1 never reaches the gRPC service.
use super::pb::management_server::ManagementServer;
use super::{ManagementSource, Peer, Service, metrics_page};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tonic::body::Body;
use tonic::codegen::http::{Method, Request, Response, StatusCode, Version, header};
use tonic::codegen::{Body as HttpBody, StdError};

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Time for the head of an HTTP/1 request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the answers under way when the server stops.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the management port. `address` is `http://host:port` as in the cluster file, `host:port`, or
/// a bare port, which listens on loopback. Port 0 picks a free one.
///
/// # Errors
/// `Invalid` when it does not parse, `InUse` when the port is taken, `Io` otherwise.
pub async fn bind(address: &str) -> Result<TcpListener> {
    let host_port = host_port(address)?;
    TcpListener::bind(&host_port).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => PvfsError::new(
            ErrorCode::InUse,
            format!("management port {host_port} is taken: end its owner or name another port"),
        ),
        _ => PvfsError::new(ErrorCode::Io, format!("cannot listen on {host_port}: {e}")),
    })
}

/// `host:port` out of the forms that [`bind`] takes.
pub(super) fn host_port(address: &str) -> Result<String> {
    let bare = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let (host, port) = bare.rsplit_once(':').unwrap_or(("", bare));
    if port.parse::<u16>().is_err() {
        return Err(PvfsError::new(
            ErrorCode::Invalid,
            format!("'{address}' is no management address: write http://HOST:PORT or HOST:PORT"),
        ));
    }
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    Ok(format!("{host}:{port}"))
}

/// Binds `address` (see [`bind`]) and serves until `shutdown` is true.
///
/// # Errors
/// Those of [`bind`].
pub async fn serve(
    address: &str,
    source: Arc<dyn ManagementSource>,
    shutdown: watch::Receiver<bool>,
) -> Result<()> {
    serve_on(bind(address).await?, source, shutdown).await;
    Ok(())
}

/// Serves a bound port until `shutdown` is true (or its sender is gone). Runs on any tokio runtime
/// with I/O and time.
///
/// # Cancel safety
/// Dropping the future closes the port; connections go on until their peers leave.
pub async fn serve_on(
    listener: TcpListener,
    source: Arc<dyn ManagementSource>,
    mut shutdown: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Never closed, so a place always comes.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let (source, shutdown) = (source.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection(stream, peer, source, shutdown).await;
                    drop(place);
                });
            }
            Err(e) => {
                tracing::warn!("management port: cannot accept: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(END_TIMEOUT, ended).await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    source: Arc<dyn ManagementSource>,
    mut shutdown: watch::Receiver<bool>,
) {
    let grpc = ManagementServer::new(Service { source: source.clone() });
    let front = TowerToHyperService::new(Front { grpc, source, peer });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().max_concurrent_streams(16);
    let running = builder.serve_connection(TokioIo::new(stream), front);
    tokio::pin!(running);
    let stop = async move { drop(shutdown.wait_for(|stop| *stop).await) };
    let ended = tokio::select! {
        ended = running.as_mut() => ended,
        () = stop => {
            running.as_mut().graceful_shutdown();
            running.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(%peer, "management connection ended: {e}");
    }
}

/// Tells gRPC from `GET /metrics`.
#[derive(Clone)]
struct Front {
    grpc: ManagementServer<Service>,
    source: Arc<dyn ManagementSource>,
    peer: SocketAddr,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<B> tonic::codegen::Service<Request<B>> for Front
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Answering {
        if request.method() == Method::POST && request.version() == Version::HTTP_2 {
            request.extensions_mut().insert(Peer(self.peer));
            return Box::pin(tonic::codegen::Service::call(&mut self.grpc, request));
        }
        let is_metrics = request.method() == Method::GET && request.uri().path() == "/metrics";
        let source = self.source.clone();
        Box::pin(async move {
            Ok(if is_metrics {
                match tokio::task::spawn_blocking(move || metrics_page(&*source)).await {
                    Ok(page) => page_response(StatusCode::OK, page),
                    Err(e) => page_response(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
                }
            } else {
                let hint = "this port answers GET /metrics and the pvfs2 management tools\n";
                page_response(StatusCode::NOT_FOUND, hint.to_owned())
            })
        })
    }
}

fn page_response(status: StatusCode, page: String) -> Response<Body> {
    const TEXT: header::HeaderValue =
        header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    let mut response = Response::new(Body::new(page));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}
