//! The first exchange of a connection, as the server sees it: versions, the cluster's key, the file
//! system's id, then the service's own hello.
//!
//! | state | on | goes to |
//! |---|---|---|
//! | start | hello, key not needed | the service's hello |
//! | start | hello, key needed | challenged: answer challenge and our proof |
//! | challenged | hello with the right proof | the service's hello |
//! | any | anything else | answered once, cut |
//!
//! Invariant: the service sees a hello only from a peer that may talk to it.
use super::ServerOptions;
use crate::auth::{Peer, key_needed, secret_bytes};
use crate::service::{Conn, Service};
use bytes::Bytes;
use pvfs2_proto::frame::{VERSION, VERSION_MIN};
use pvfs2_proto::op::{HelloRequest, HelloResponse};
use pvfs2_proto::{ErrorCode, PvfsError, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Least bytes of a client's nonce where a proof is asked for.
const NONCE_MIN: usize = 16;

/// State of a connection's hello.
#[derive(Default)]
pub(super) struct Greeting {
    challenge: Option<[u8; 32]>,
}

/// What to do with the response.
pub(super) enum Greeted {
    /// Send it and wait for the second hello.
    Challenge(HelloResponse),
    /// Send it; the connection is open.
    Open(HelloResponse),
}

impl Greeting {
    /// One hello.
    pub(super) fn step<S: Service>(
        &mut self,
        service: &S,
        conn: &Arc<Conn>,
        peer: Peer,
        opts: &ServerOptions,
        hello: &HelloRequest,
    ) -> Result<Greeted> {
        check_version(hello)?;
        if opts.key_from_all || key_needed(peer, rustix::process::geteuid().as_raw()) {
            let refuse = |why: &'static str| PvfsError::new(ErrorCode::Unauthenticated, why);
            let Some(key) = &opts.key else {
                return Err(refuse(
                    "this server has no cluster key, so it serves only loopback and unix sockets of \
                     its own user; give all servers and clients the same key file",
                ));
            };
            let nonce = &hello.nonce;
            if nonce.len() < NONCE_MIN {
                return Err(refuse("the client's nonce is too short"));
            }
            let Some(challenge) = self.challenge.take() else {
                let challenge = secret_bytes();
                self.challenge = Some(challenge);
                let proof = key.server_proof(opts.fs_id, &challenge, nonce);
                return Ok(Greeted::Challenge(HelloResponse {
                    version: u32::from(VERSION),
                    fs_id: opts.fs_id,
                    challenge: Bytes::copy_from_slice(&challenge),
                    proof: proof.into(),
                    ..Default::default()
                }));
            };
            if !key.is_client_proof(opts.fs_id, nonce, &challenge, &hello.proof) {
                tracing::warn!(peer = conn.peer, "a peer did not prove the cluster's key");
                return Err(refuse("the cluster key is wrong; compare the key files"));
            }
        }
        if hello.fs_id != 0 && opts.fs_id != 0 && hello.fs_id != opts.fs_id {
            let detail = format!(
                "this server belongs to the file system with id {:016x}, not {:016x}",
                opts.fs_id, hello.fs_id
            );
            return Err(PvfsError::new(ErrorCode::WrongFileSystem, detail));
        }
        let mut response = service.hello(conn, hello)?;
        response.version = u32::from(VERSION);
        if response.session != 0 {
            conn.session.store(response.session, Ordering::Relaxed);
        }
        Ok(Greeted::Open(response))
    }
}

fn check_version(hello: &HelloRequest) -> Result<()> {
    let (min, max) = (u32::from(VERSION_MIN), u32::from(VERSION));
    if hello.version_max < min || hello.version_min > max {
        let detail = format!(
            "this server speaks protocol versions {min} to {max}, the client {} to {}; \
             update the older one",
            hello.version_min, hello.version_max
        );
        return Err(PvfsError::new(ErrorCode::Version, detail));
    }
    Ok(())
}
