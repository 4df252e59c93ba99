//! The listener: TLS always (rustls, TLS 1.2 and 1.3), with a certificate that is given or one that is
//! made at the first start and signed by itself. Connections are bounded in number, and in the time
//! that a handshake and a request's head may take.
use super::http::{self, App, Peer};
use crate::error::{Result, SyncError};
use axum::extract::Extension;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

const CONNECTIONS_MAX: usize = 2_000;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// Requests that are under way get so long when the server ends.
const DRAIN: Duration = Duration::from_secs(10);

/// Where certificate and key lie.
#[derive(Clone, Debug)]
pub struct Identity {
    /// PEM, the chain.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// The certificate in `dir`, made and signed by itself if there is none; it names `hosts`.
///
/// # Errors
/// I/O.
pub fn self_signed(dir: &Path, hosts: &[String]) -> Result<Identity> {
    let identity = Identity { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    if identity.cert.exists() && identity.key.exists() {
        return Ok(identity);
    }
    let fail = |e: rcgen::Error| SyncError::Invalid(format!("certificate: {e}"));
    let made = rcgen::generate_simple_self_signed(hosts.to_vec()).map_err(fail)?;
    let write = |path: &Path, text: String, mode: u32| {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(mode).open(path);
        file.and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
            .map_err(|e| SyncError::io(path.display().to_string(), e))
    };
    write(&identity.key, made.signing_key.serialize_pem(), 0o600)?;
    write(&identity.cert, made.cert.pem(), 0o644)?;
    Ok(identity)
}

/// The configuration of TLS for an identity.
///
/// # Errors
/// I/O; what is not a certificate or key.
pub fn tls(identity: &Identity) -> Result<Arc<ServerConfig>> {
    let bad = |path: &Path, e: &dyn std::fmt::Display| {
        SyncError::Invalid(format!("{}: {e}", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(&identity.cert)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|e| bad(&identity.cert, &e))?;
    let key = PrivateKeyDer::from_pem_file(&identity.key).map_err(|e| bad(&identity.key, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|b| b.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| bad(&identity.cert, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Binds an address.
///
/// # Errors
/// I/O, with the address.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|e| SyncError::io(format!("listen on {addr}"), e))
}

async fn ended(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|s| *s).await.map(|_| ());
}

/// Serves until `stop` says true, then lets requests that are under way end.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    app: App,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let router = http::router(app);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = tokio::select! {
            p = room.clone().acquire_owned() => p,
            () = ended(&mut stop) => break,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            a = listener.accept() => a,
            () = ended(&mut stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(found) => found,
            Err(e) => {
                // Out of descriptors, or the peer is gone already.
                tracing::warn!(error = %e, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, mut stop) = (acceptor.clone(), stop.clone());
        let router = router.clone().layer(Extension(Peer(peer)));
        tokio::spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await
            else {
                return;
            };
            let mut builder = Builder::new(TokioExecutor::new()).http1_only();
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
            let service = TowerToHyperService::new(router);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = ended(&mut stop) => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(DRAIN, connection).await;
                }
            }
        });
    }
    // All permits back: every connection has ended.
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(DRAIN, room.acquire_many(all)).await;
}
