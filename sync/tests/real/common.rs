//! What the tests over TLS share.
pub mod browser;
pub mod folder;
pub mod place;

use pvfs2_sync::server::running::Running;
use std::sync::Arc;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// Asks this server, whose certificate is the only one trusted; any status is an answer.
pub fn agent(server: &Running) -> ureq::Agent {
    let pem = std::fs::read(&server.cert).unwrap();
    let certs = parse_pem(&pem).filter_map(|i| match i.unwrap() {
        PemItem::Certificate(c) => Some(c),
        _ => None,
    });
    let roots = RootCerts::Specific(Arc::new(certs.collect()));
    ureq::Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .max_redirects(0)
        // A refusal that does not wait for a body closes the connection: none is used twice.
        .max_idle_connections(0)
        .build()
        .new_agent()
}
