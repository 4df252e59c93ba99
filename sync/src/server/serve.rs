//! The listener: TLS always (rustls, TLS 1.2 and 1.3), with a certificate that is given or one that is
//! made at the first start and signed by itself. Connections are bounded in number, and in the time
//! that a handshake and a request's head may take.
use super::http::Peer;
use crate::error::{Result, SyncError};
use axum::Router;
use axum::extract::Extension;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

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
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What a listener shares with the others and with who closes it.
#[derive(Debug)]
pub struct Doors {
    /// How many connections there may be, over all listeners.
    pub room: Arc<Semaphore>,
    /// How many this one has.
    pub open: Arc<AtomicUsize>,
    /// No more connections, and those that are there end after their request.
    pub drain: watch::Receiver<bool>,
    /// The server ends.
    pub end: watch::Receiver<bool>,
}

async fn said(what: &mut watch::Receiver<bool>) {
    // Whoever could have said it is gone: that says it too.
    let _ = what.wait_for(|s| *s).await.map(|_| ());
}

/// Counts a connection while it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Takes connections until it is told to drain, or the server ends.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    mut doors: Doors,
) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let permit = tokio::select! {
            p = doors.room.clone().acquire_owned() => p,
            () = said(&mut doors.drain) => return,
            () = said(&mut doors.end) => return,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            a = listener.accept() => a,
            () = said(&mut doors.drain) => return,
            () = said(&mut doors.end) => return,
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
        doors.open.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(doors.open.clone());
        let (acceptor, mut drain, mut end) =
            (acceptor.clone(), doors.drain.clone(), doors.end.clone());
        let router = router.clone().layer(Extension(Peer(peer)));
        tokio::spawn(async move {
            let _held = (permit, counted);
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
                _ = connection.as_mut() => return,
                () = said(&mut drain) => connection.as_mut().graceful_shutdown(),
                () = said(&mut end) => connection.as_mut().graceful_shutdown(),
            }
            tokio::select! {
                _ = connection.as_mut() => return,
                () = said(&mut end) => {}
            }
            let _ = tokio::time::timeout(DRAIN, connection).await;
        });
    }
}
