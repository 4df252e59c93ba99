//! A client's half of BMI: its sessions, and the two carriers of calls.
//!
//! - `shared`: what all carriers of one client share: sessions, slots, the guard of reclaims
//! - `greet`: hello and reclaim as steps, without I/O
//! - `pump`: calls over one connection, without waiting
//! - `blocking`: [`BlockingNet`], one per FUSE thread; `socket`, `lender`: how it sends
//! - `sharing`: what of a body the server finds in memory that it shares with the client
//! - `async_net`, `mux`: [`AsyncNet`], for background work, tools and servers
//! - `spin`: [`Spin`], looking for an answer before sleeping
//! - `first`: [`fetch_map`] and [`ping`], before there is a session
//!
//! Place in the walks: between an operation's state machine and the sockets.
mod async_net;
mod blocking;
mod first;
mod greet;
mod killed;
mod lender;
mod link;
mod mux;
mod pump;
mod shared;
mod sharing;
mod slots;
mod socket;
mod spin;

pub use async_net::AsyncNet;
pub use blocking::BlockingNet;
pub use first::{Pong, fetch_map, fetch_map_over, ping};
pub use killed::{Signal, signalled};
pub use shared::{ClientCounters, ClientShared};
pub use spin::Spin;

use crate::auth::ClusterKey;
use crate::mem::MemNetwork;
use pvfs2_proto::env::Env;
use pvfs2_proto::op::{LockState, Notice, OpenState};
use pvfs2_proto::{ClusterMap, ServerId};
use std::sync::Arc;

/// How a client behaves.
#[derive(Clone)]
pub struct ClientOptions {
    /// The servers.
    pub map: Arc<ClusterMap>,
    /// Clock and chance.
    pub env: Env,
    /// The cluster's key, for servers off loopback.
    pub key: Option<ClusterKey>,
    /// For messages and tools: host name, pid, mount point.
    pub client_name: String,
    /// The client is this server of the same cluster.
    pub peer_server: Option<ServerId>,
    /// The in-process network, for `mem://` addresses.
    pub mem: Option<Arc<MemNetwork>>,
    /// `None`: for ever. Otherwise a server that does not answer is given up after this many
    /// retries (by [`AsyncNet`]), but not before `retry_limit * retry_delay_ms` have passed.
    pub retry_limit: Option<u32>,
    /// Longest pause between retries (the first ones are shorter).
    pub retry_delay_ms: u32,
    /// How long [`BlockingNet`] waits for an answer before the call is `Stalled`.
    pub stall_ms: u32,
    /// How long [`BlockingNet`] looks for an answer before it sleeps for it; 0: not at all.
    pub spin_us: u32,
    /// What is to be written, and lies in a region that a carrier was given, is shared with servers of
    /// the same machine instead of sent.
    pub share_memory: bool,
    /// How long [`AsyncNet`] waits for a connection, hello included.
    pub connect_ms: u32,
    /// [`AsyncNet`] asks a silent server whether it is there after this long, and gives the
    /// connection up after twice that.
    pub silence_ms: u32,
}

impl ClientOptions {
    /// The defaults, with the map's own numbers for retries.
    pub fn new(map: Arc<ClusterMap>, env: Env) -> ClientOptions {
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        ClientOptions {
            retry_limit: Some(or(map.retry_limit, 5)),
            retry_delay_ms: or(map.retry_delay_ms, 2000),
            map,
            env,
            key: None,
            client_name: String::new(),
            peer_server: None,
            mem: None,
            stall_ms: 400,
            spin_us: 30,
            share_memory: true,
            connect_ms: 5000,
            silence_ms: 5000,
        }
    }
}

/// What the owner of a client's state is asked and told about its sessions. Called from any thread
/// that carries calls; must not block.
pub trait SessionEvents: Send + Sync {
    /// What the client has open at `server`, to be said again after the server's restart.
    fn opens_of(&self, server: ServerId) -> Vec<OpenState>;
    /// What the client has locked at `server`, to be said again as well.
    fn locks_of(&self, _server: ServerId) -> Vec<LockState> {
        Vec::new()
    }
    /// These locks are lost: others may have had them meanwhile.
    fn locks_lost(&self, _server: ServerId, _locks: Vec<LockState>) {}
    /// These opens are gone for good.
    fn lost(&self, server: ServerId, handles: Vec<u64>);
    /// The server has restarted, and what was open is open again (but for what was lost).
    fn restarted(&self, server: ServerId);
    /// The server says something unasked.
    fn notice(&self, server: ServerId, notice: Notice);
    /// The connection on which the server says something unasked has ended, or the session has. Called
    /// again at any time; must not block.
    fn cut(&self, _server: ServerId) {}
}

/// [`SessionEvents`] of a client that has nothing open and caches nothing.
pub struct NoEvents;
impl SessionEvents for NoEvents {
    fn opens_of(&self, _: ServerId) -> Vec<OpenState> {
        Vec::new()
    }
    fn lost(&self, _: ServerId, _: Vec<u64>) {}
    fn restarted(&self, _: ServerId) {}
    fn notice(&self, _: ServerId, _: Notice) {}
}
