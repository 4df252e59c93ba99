//! Hello and reclaim as steps without I/O, driven alike by both carriers.
//!
//! | state | response | next |
//! |---|---|---|
//! | hello sent | challenge, server's proof right | hello with our proof |
//! | hello sent | open, session as known | done |
//! | hello sent | open, session or boot id changed | reclaim, under the guard |
//! | reclaim sent | lost handles | next part, or adopt and done |
//!
//! Invariant: our proof is sent only to a server that has proven itself first.
use super::ClientOptions;
use super::shared::{ClientShared, Standing};
use crate::auth::{ClusterKey, Peer, secret_bytes};
use bytes::Bytes;
use pvfs2_proto::frame::{VERSION, VERSION_MIN};
use pvfs2_proto::op::{
    HelloRequest, HelloResponse, LockState, OpenState, ReclaimRequest, ReclaimResponse,
};
use pvfs2_proto::{ErrorCode, PvfsError, Result, ServerId};

/// Opens or locks that one reclaim request carries.
const RECLAIM_MAX: usize = 4096;

/// One connection's hello.
pub(super) struct Greeter {
    request: HelloRequest,
    key: Option<ClusterKey>,
    /// The server must prove the key.
    must_prove: bool,
    proven: bool,
}

impl Greeter {
    /// The hello of a connection to `server` for the client's session.
    pub(super) fn session(
        shared: &ClientShared,
        server: ServerId,
        peer: Peer,
        no_notices: bool,
    ) -> Greeter {
        let opts: &ClientOptions = &shared.opts;
        let request = HelloRequest {
            fs_id: opts.map.fs_id,
            client_id: shared.client_id(),
            session: shared.session(server),
            client_name: opts.client_name.clone(),
            peer_server: opts.peer_server.map_or(0, |s| s + 1),
            expect_server: server + 1,
            no_notices,
            ..Default::default()
        };
        Greeter::new(request, opts.key.clone(), peer)
    }

    /// The hello of a connection without session.
    pub(super) fn first_contact(fs_name: &str, key: Option<ClusterKey>, peer: Peer) -> Greeter {
        let request = HelloRequest {
            fs_name: fs_name.to_owned(),
            no_session: true,
            no_notices: true,
            ..Default::default()
        };
        Greeter::new(request, key, peer)
    }

    fn new(mut request: HelloRequest, key: Option<ClusterKey>, peer: Peer) -> Greeter {
        request.version_min = u32::from(VERSION_MIN);
        request.version_max = u32::from(VERSION);
        if peer != Peer::Mem {
            request.nonce = Bytes::copy_from_slice(&secret_bytes());
        }
        let must_prove = !peer.is_local() && key.is_some();
        Greeter { request, key, must_prove, proven: false }
    }

    /// The hello brings a region of so many bytes.
    pub(super) fn passes_region(&mut self, bytes: u64) {
        self.request.region_bytes = bytes;
    }

    /// What to send first.
    pub(super) fn first(&self) -> HelloRequest {
        self.request.clone()
    }

    /// What to send next; `None`: the connection is open.
    ///
    /// # Errors
    /// `Unauthenticated`, `Version`, `WrongFileSystem`: no use in trying again.
    pub(super) fn next(&mut self, response: &HelloResponse) -> Result<Option<HelloRequest>> {
        let refuse = |why: &'static str| Err(PvfsError::new(ErrorCode::Unauthenticated, why));
        if !response.challenge.is_empty() {
            let Some(key) = &self.key else {
                return refuse(
                    "the server asks for the cluster key; give this client the key file",
                );
            };
            if self.proven {
                return refuse("the server asks for the cluster key a second time");
            }
            let (challenge, nonce) = (&response.challenge, &self.request.nonce);
            if !key.is_server_proof(response.fs_id, challenge, nonce, &response.proof) {
                return refuse("the server did not prove the cluster key; compare the key files");
            }
            self.proven = true;
            let mut second = self.request.clone();
            second.proof = key.client_proof(response.fs_id, nonce, challenge).into();
            return Ok(Some(second));
        }
        if self.must_prove && !self.proven {
            return refuse("the server did not prove the cluster key; give it the key file too");
        }
        if !(u32::from(VERSION_MIN)..=u32::from(VERSION)).contains(&response.version) {
            let detail = format!("the server chose protocol version {}", response.version);
            return Err(PvfsError::new(ErrorCode::Version, detail));
        }
        let (want, got) = (self.request.fs_id, response.fs_id);
        if want != 0 && got != 0 && want != got {
            let detail = format!("a server of file system {got:016x} answers, not of {want:016x}");
            return Err(PvfsError::new(ErrorCode::WrongFileSystem, detail));
        }
        let expect = self.request.expect_server;
        if expect != 0 && response.server + 1 != expect {
            let detail = format!(
                "server number {} answers at the address of number {}; \
                 compare the cluster files",
                response.server,
                expect - 1
            );
            return Err(PvfsError::new(ErrorCode::WrongFileSystem, detail));
        }
        Ok(None)
    }
}

/// What is to be said again after a restart. Made and driven under the guard.
pub(super) struct Reclaim {
    parts: std::vec::IntoIter<ReclaimRequest>,
    lost: Vec<u64>,
    lost_locks: Vec<LockState>,
    restarted: bool,
}

impl Reclaim {
    /// `None`: nothing to do (any more); the response has been adopted if need be.
    pub(super) fn begin(
        shared: &ClientShared,
        server: ServerId,
        hello: &HelloResponse,
    ) -> Option<Reclaim> {
        match shared.standing(server, hello) {
            Standing::Same => None,
            Standing::First => {
                shared.adopt(server, hello);
                None
            }
            Standing::Changed { restarted } => {
                // Whatever the server had given to the session before is gone.
                shared.events.cut(server);
                let opens = shared.events.opens_of(server);
                let parts = parts_of(&opens, &shared.events.locks_of(server)).into_iter();
                Some(Reclaim { parts, lost: Vec::new(), lost_locks: Vec::new(), restarted })
            }
        }
    }

    /// The next request; `None`: all is said.
    pub(super) fn next(&mut self) -> Option<ReclaimRequest> {
        self.parts.next()
    }

    /// The response to the last request.
    pub(super) fn answered(&mut self, response: ReclaimResponse) {
        self.lost.extend(response.lost);
        self.lost_locks.extend(response.lost_locks);
    }

    /// Everything has been said: the session goes on.
    pub(super) fn end(self, shared: &ClientShared, server: ServerId, hello: &HelloResponse) {
        shared.adopt(server, hello);
        tracing::info!(
            server = shared.opts.map.alias(server),
            restarted = self.restarted,
            lost = self.lost.len(),
            lost_locks = self.lost_locks.len(),
            "the session goes on"
        );
        if !self.lost.is_empty() {
            shared.events.lost(server, self.lost);
        }
        if !self.lost_locks.is_empty() {
            shared.events.locks_lost(server, self.lost_locks);
        }
        if self.restarted {
            shared.events.restarted(server);
        }
    }
}

fn parts_of(opens: &[OpenState], locks: &[LockState]) -> Vec<ReclaimRequest> {
    let mut parts: Vec<ReclaimRequest> = opens
        .chunks(RECLAIM_MAX)
        .map(|part| ReclaimRequest { opens: part.to_vec(), ..Default::default() })
        .collect();
    parts.extend(
        locks
            .chunks(RECLAIM_MAX)
            .map(|part| ReclaimRequest { locks: part.to_vec(), ..Default::default() }),
    );
    match parts.last_mut() {
        Some(last) => last.done = true,
        None => parts.push(ReclaimRequest { done: true, ..Default::default() }),
    }
    parts
}
