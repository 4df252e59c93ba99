//! The metadata server: its state, its start and stop, and the way from an operation's number to its
//! file.
//!
//! Lives on one thread (current-thread runtime, `LocalSet`): operations that do not wait run whole
//! between two polls, so the keyval and the tables need no locks of their own; see
//! `server_core::scheduler` for those that wait.
//!
//! Owner of: the keyval's content, the open table, the layout turn. Place in the walks: between
//! `server_core::service` and the operations' files.
use crate::locks::{Event, LockTable};
use crate::opens::OpenTable;
use crate::store::Store;
use crate::{keys, ops};
use pvfs2_bmi::auth::ClusterKey;
use pvfs2_bmi::client::{AsyncNet, ClientOptions, ClientShared, NoEvents};
use pvfs2_bmi::mem::MemNetwork;
use pvfs2_bmi::service::Body;
use pvfs2_proto::attr::DATA_IN_FLUX;
use pvfs2_proto::env::Env;
use pvfs2_proto::op::{LockState, Notice, Op, OpRequest, OpResponse, OpenState, Repeat};
use pvfs2_proto::{
    Attr, AttrFlags, ClusterMap, ErrorCode, Handle, HandleRange, PvfsError, Result, ServerId,
};
use pvfs2_server_core::peer::{NetPeers, Peers};
use pvfs2_server_core::scheduler::{Mode, Scheduler};
use pvfs2_server_core::service::{Answer, Notifier, OpCx, OpHandler};
use pvfs2_server_core::session::DurableSessions;
use pvfs2_trove::Collection;
use pvfs2_trove::bstreams::Bstreams;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::{Arc, Weak};

/// Bits of an intent number below the server's part.
const INTENT_SHIFT: u32 = 48;
/// Files made since the start and not synced since: at most this many are remembered.
const YOUNG_MAX: usize = 65_536;

/// What a metadata server is made of.
pub struct MetaConfig {
    /// This server.
    pub server: ServerId,
    /// The cluster.
    pub map: Arc<ClusterMap>,
    /// Its keyval.
    pub collection: Arc<Collection>,
    /// Its bstreams, for the free space of its disk; `None`: statfs tells nothing of it.
    pub bstreams: Option<Arc<Bstreams>>,
    /// Whether the last stop was clean.
    pub clean_stop: bool,
    /// Every change waits for the disk before its reply leaves (TroveSyncMeta).
    pub sync_meta: bool,
    /// Clock and chance.
    pub env: Env,
}

/// How a metadata server reaches the others.
pub struct PeerConfig {
    /// The cluster's key.
    pub key: Option<ClusterKey>,
    /// The in-process network, for `mem://` addresses.
    pub mem: Option<Arc<MemNetwork>>,
}

/// A metadata server's logic.
pub struct MetaServer {
    pub(crate) id: ServerId,
    pub(crate) index: u32,
    pub(crate) range: HandleRange,
    pub(crate) map: Arc<ClusterMap>,
    pub(crate) env: Env,
    pub(crate) store: Store,
    pub(crate) bstreams: Option<Arc<Bstreams>>,
    pub(crate) sched: Scheduler,
    pub(crate) opens: RefCell<OpenTable>,
    pub(crate) locks: RefCell<LockTable>,
    pub(crate) rights: RefCell<crate::rights::Rights>,
    pub(crate) name_rights: RefCell<crate::rights::Rights>,
    pub(crate) names: RefCell<crate::name_rights::Names>,
    notifier: RefCell<Option<Notifier>>,
    pub(crate) in_grace: Cell<bool>,
    /// Files whose size is being asked of their datafiles, or shall be after the grace time.
    pub(crate) settling: RefCell<HashSet<Handle>>,
    /// Stuffed files made since the start whose bytes nobody was promised to survive loss of power.
    pub(crate) young: RefCell<HashSet<Handle>>,
    pub(crate) held: RefCell<crate::peer_steps::Held>,
    pub(crate) lingering: crate::linger::Lingering,
    /// The tree lock, where another server's intent has it (first metadata server).
    pub(crate) tree_held: RefCell<crate::peer_steps::Held>,
    /// One request for room at a time.
    pub(crate) quota_asking: tokio::sync::Mutex<()>,
    /// Metadata servers that have not heard of the present limits.
    pub(crate) quota_untold: RefCell<HashSet<ServerId>>,
    pub(crate) quota_wake: std::rc::Rc<tokio::sync::Notify>,
    pub(crate) quota_version: Cell<u64>,
    /// Directories that were split since the start.
    pub(crate) splits: Cell<u64>,
    recovered: RefCell<Vec<crate::intents::Recovery>>,
    collection: Arc<Collection>,
    peers: Box<dyn Peers>,
    net: Option<std::rc::Rc<AsyncNet>>,
    turn: Cell<u64>,
    sync_meta: bool,
    me: Weak<MetaServer>,
}

impl MetaServer {
    /// Opens the server's keyval and connects it (lazily) to the other servers. The first metadata
    /// server makes the root directory at its first start. To be called on the thread that serves.
    ///
    /// # Errors
    /// `Invalid` when the cluster map gives this server no handle range; Trove's.
    pub fn open(config: MetaConfig, peers: PeerConfig) -> Result<Arc<MetaServer>> {
        let mut options = ClientOptions::new(config.map.clone(), config.env.clone());
        options.key = peers.key;
        options.mem = peers.mem;
        options.peer_server = Some(config.server);
        options.client_name = format!("server {}", config.map.alias(config.server));
        let net = AsyncNet::new(ClientShared::new(options, Arc::new(NoEvents)));
        let peers = Box::new(NetPeers::new(net.clone()));
        MetaServer::build(config, peers, Some(net))
    }

    /// As [`MetaServer::open`], with another way to reach the other servers.
    ///
    /// # Errors
    /// As [`MetaServer::open`].
    pub fn open_with(config: MetaConfig, peers: Box<dyn Peers>) -> Result<Arc<MetaServer>> {
        MetaServer::build(config, peers, None)
    }

    fn build(
        config: MetaConfig,
        peers: Box<dyn Peers>,
        net: Option<std::rc::Rc<AsyncNet>>,
    ) -> Result<Arc<MetaServer>> {
        let MetaConfig { server: id, map, collection, bstreams, clean_stop, sync_meta, env } =
            config;
        let entry = map.server(id);
        let (Some(range), Some(index)) = (
            entry.and_then(|e| e.meta_range),
            map.meta_servers().position(|s| s == id).map(|i| i as u32),
        ) else {
            return Err(PvfsError::new(
                ErrorCode::Invalid,
                format!(
                    "server {} has no handle range for metadata in the cluster file",
                    map.alias(id)
                ),
            ));
        };
        let is_first = range.contains(Handle::ROOT);
        let root = is_first
            .then(|| (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()));
        let base = u64::from(id + 1) << INTENT_SHIFT;
        let store = Store::open(collection.clone(), env.clone(), range, base, root, clean_stop)?;
        let locks = RefCell::new(LockTable::new(env.now_ns().max(1) as u64));
        let rights = RefCell::new(crate::rights::Rights::new(false, env.now_ns()));
        let name_rights = RefCell::new(crate::rights::Rights::new(true, env.now_ns()));
        let server = Arc::new_cyclic(|me| MetaServer {
            id,
            index,
            range,
            turn: Cell::new(env.rand_u64() >> 32),
            map,
            env,
            store,
            bstreams,
            sched: Scheduler::new(),
            opens: RefCell::default(),
            locks,
            rights,
            name_rights,
            names: RefCell::default(),
            notifier: RefCell::default(),
            in_grace: Cell::new(true),
            settling: RefCell::default(),
            young: RefCell::default(),
            held: RefCell::default(),
            lingering: Default::default(),
            tree_held: RefCell::default(),
            quota_asking: tokio::sync::Mutex::new(()),
            quota_untold: RefCell::default(),
            quota_wake: std::rc::Rc::default(),
            quota_version: Cell::new(0),
            splits: Cell::new(0),
            recovered: RefCell::default(),
            collection,
            peers,
            net,
            sync_meta,
            me: me.clone(),
        });
        let recovered = server.recover_intents()?;
        *server.recovered.borrow_mut() = recovered;
        server.recover_holds()?;
        server.recover_splits()?;
        Ok(server)
    }

    /// Where the sessions of this server are kept.
    pub fn durable_sessions(&self) -> DurableSessions {
        DurableSessions { collection: self.collection.clone(), keys: keys::SESSION_KEYS }
    }

    /// Starts the background work on the current `LocalSet`: the reaper, what intents of an earlier
    /// run are left, the sessions with other servers.
    pub fn spawn_background(&self) {
        let Some(me) = self.arc() else { return };
        for recovery in self.recovered.take() {
            let me = me.clone();
            tokio::task::spawn_local(async move { me.run_recovery(recovery).await });
        }
        tokio::task::spawn_local(crate::reaper::run(self.me.clone()));
        tokio::task::spawn_local(crate::peer_steps::prune(self.me.clone()));
        if self.is_first() && self.map.meta_servers().nth(1).is_some() {
            // Some of them may have missed a limit before the last stop.
            if !matches!(self.store.get(keys::quota_limits_set()), Ok(None)) {
                self.quota_untold.borrow_mut().extend(self.other_metas());
            }
            tokio::task::spawn_local(crate::quota::tell_others(self.me.clone()));
        }
        tokio::task::spawn_local(crate::split::run(self.me.clone()));
        if let Some(net) = self.net.clone() {
            tokio::task::spawn_local(async move { net.keepalive().await });
        }
    }

    /// Ends the sessions with other servers and writes what a clean stop leaves. The storage space
    /// is closed by its owner afterwards.
    ///
    /// # Errors
    /// Trove's.
    pub async fn shutdown(&self) -> Result<()> {
        if let Some(net) = &self.net {
            net.goodbye().await;
        }
        self.store.close()?;
        self.store.sync_now().await
    }

    /// Whether an object lives on this server.
    pub(crate) fn owns(&self, handle: Handle) -> bool {
        self.range.contains(handle)
    }

    /// # Errors
    /// `Stale` for a handle that another server owns.
    pub(crate) fn must_own(&self, handle: Handle) -> Result<()> {
        if self.owns(handle) {
            return Ok(());
        }
        Err(PvfsError::new(
            ErrorCode::Stale,
            format!("object {handle} does not live on server {}", self.map.alias(self.id)),
        ))
    }

    /// The metadata server of an object.
    pub(crate) fn owner(&self, handle: Handle) -> Result<ServerId> {
        self.map.meta_server_of(handle).ok_or_else(|| {
            PvfsError::new(ErrorCode::Stale, format!("no metadata server owns object {handle}"))
        })
    }

    pub(crate) fn now_ns(&self) -> i64 {
        self.env.now_ns()
    }

    pub(crate) fn peers(&self) -> &dyn Peers {
        self.peers.as_ref()
    }

    pub(crate) fn weak(&self) -> Weak<MetaServer> {
        self.me.clone()
    }

    pub(crate) fn arc(&self) -> Option<Arc<MetaServer>> {
        self.me.upgrade()
    }

    /// Tells a session something unasked.
    pub(crate) fn notify(&self, session: u64, notice: Notice) {
        if let Some(notifier) = &*self.notifier.borrow() {
            notifier(session, notice);
        }
    }

    /// Counts files, for `round_robin`.
    pub(crate) fn next_turn(&self) -> u64 {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    /// Whether somebody may have the object open.
    pub(crate) fn may_be_open(&self, handle: Handle) -> bool {
        self.in_grace.get() || self.opens.borrow().is_open(handle)
    }

    /// Attributes as the asking session sees them.
    pub(crate) fn seen(&self, cx: &OpCx, attr: Attr) -> Attr {
        let handle = attr.handle();
        let mut attr = self.seen_by_holder(cx, attr);
        if attr.is_file() && !self.sched.is_free(&[(handle, Mode::Read)]) {
            // An operation of several steps is at the bytes, and its version is out already.
            attr.data_others = DATA_IN_FLUX;
        }
        attr
    }

    /// The same, for an operation that holds the object itself.
    pub(crate) fn seen_by_holder(&self, cx: &OpCx, mut attr: Attr) -> Attr {
        attr.data_as_seen_by(cx.session);
        if self.store.quota.borrow().is_limited(&attr) {
            attr.set(AttrFlags::QUOTA, true);
        }
        if attr.has(AttrFlags::SIZE_DYNAMIC) && !self.in_grace.get() {
            let opens = self.opens.borrow();
            if opens.is_sole_writer(cx.session, attr.handle()) {
                attr.set(AttrFlags::SOLE_WRITER, true);
            } else if !opens.has_writers(attr.handle()) {
                // Left by a writer that never told: whoever looks next shall find it settled.
                self.settle_later(attr.handle());
            }
        }
        attr
    }

    /// Remembers a stuffed file that nobody was promised to survive loss of power.
    pub(crate) fn remember_young(&self, handle: Handle) {
        let mut young = self.young.borrow_mut();
        if young.len() < YOUNG_MAX {
            young.insert(handle);
        }
    }

    /// Commits an operation's change with its reply.
    pub(crate) fn answer(
        &self,
        cx: &OpCx,
        mut change: crate::store::Change,
        response: OpResponse,
    ) -> Result<Answer> {
        change.reply(cx, &response);
        self.store.commit(change)?;
        Ok(Answer::new(response))
    }

    /// Stands back while an operation of several steps holds a handle for itself.
    pub(crate) async fn pass(
        &self,
        handles: &[(u64, Mode)],
    ) -> Option<pvfs2_server_core::scheduler::Guard> {
        let handles: smallvec::SmallVec<[(Handle, Mode); 4]> =
            handles.iter().map(|(h, m)| (Handle(*h), *m)).collect();
        self.sched.pass(&handles).await
    }

    async fn run(&self, cx: &OpCx, op: OpRequest, body: Body) -> Result<Answer> {
        self.recall_all(cx, &crate::rights::asked_about(&op)).await?;
        let _adding = self.adding(cx, &op).await?;
        self.quota_check(cx, &op, &body).await?;
        match op {
            OpRequest::Lookup(r) => ops::lookup::lookup(self, cx, r).await,
            OpRequest::Getattr(r) => ops::getattr::getattr(self, cx, r),
            OpRequest::Setattr(r) => ops::setattr::setattr(self, cx, r).await,
            OpRequest::Create(r) => ops::create::create(self, cx, r).await,
            OpRequest::Mkdir(r) => ops::mkdir::mkdir(self, cx, r).await,
            OpRequest::Mknod(r) => ops::mknod::mknod(self, cx, r).await,
            OpRequest::Symlink(r) => ops::symlink::symlink(self, cx, r).await,
            OpRequest::Readlink(r) => ops::readlink::readlink(self, cx, r),
            OpRequest::Link(r) => ops::link::link(self, cx, r).await,
            OpRequest::Unlink(r) => ops::unlink::unlink(self, cx, r).await,
            OpRequest::Rmdir(r) => ops::rmdir::rmdir(self, cx, r).await,
            OpRequest::Rename(r) => ops::rename::rename(self, cx, r).await,
            OpRequest::Readdir(r) => ops::readdir::readdir(self, cx, r).await,
            OpRequest::Open(r) => ops::open::open(self, cx, r).await,
            OpRequest::Release(r) => ops::release::release(self, cx, r).await,
            OpRequest::Report(r) => ops::report::report(self, cx, r).await,
            OpRequest::Lock(r) => ops::lock::lock(self, cx, r),
            OpRequest::Getlk(r) => ops::getlk::getlk(self, cx, r),
            OpRequest::ReadSmall(r) => ops::read_small::read_small(self, cx, r).await,
            OpRequest::WriteSmall(r) => ops::write_small::write_small(self, cx, r, body).await,
            OpRequest::Append(r) => ops::append::append(self, cx, r, body).await,
            OpRequest::QuotaSet(r) => ops::quota_set::quota_set(self, cx, r).await,
            OpRequest::QuotaGet(r) => ops::quota_get::quota_get(self, cx, r).await,
            OpRequest::QuotaReserve(r) => ops::quota_reserve::quota_reserve(self, cx, r).await,
            OpRequest::QuotaMark(r) => ops::quota_mark::quota_mark(self, cx, r).await,
            OpRequest::QuotaTell(r) => ops::quota_tell::quota_tell(self, r).await,
            OpRequest::QuotaAsk(r) => ops::quota_ask::quota_ask(self, cx, r).await,
            OpRequest::CopySmall(r) => ops::copy_small::copy_small(self, cx, r).await,
            OpRequest::Unstuff(r) => ops::unstuff::unstuff(self, cx, r).await,
            OpRequest::Fallocate(r) => ops::fallocate::fallocate(self, cx, r).await,
            OpRequest::Fsync(r) => ops::fsync::fsync(self, cx, r).await,
            OpRequest::Statfs(_) => ops::statfs::statfs(self),
            OpRequest::Getxattr(r) => ops::getxattr::getxattr(self, cx, r),
            OpRequest::Setxattr(r) => ops::setxattr::setxattr(self, cx, r).await,
            OpRequest::Listxattr(r) => ops::listxattr::listxattr(self, cx, r),
            OpRequest::Removexattr(r) => ops::removexattr::removexattr(self, cx, r).await,
            OpRequest::Listattr(r) => ops::listattr::listattr(self, cx, r),
            OpRequest::Crdir(r) => ops::crdir::crdir(self, cx, r).await,
            OpRequest::LinkCount(r) => ops::link_count::link_count(self, cx, r).await,
            OpRequest::RmdirPeer(r) => ops::rmdir_peer::rmdir_peer(self, cx, r).await,
            OpRequest::RenamePeer(r) => ops::rename_peer::rename_peer(self, cx, r).await,
            OpRequest::IntentStatus(r) => ops::intent_status::intent_status(self, r),
            OpRequest::FsckScan(r) => ops::fsck_scan::fsck_scan(self, cx, r),
            OpRequest::GiveBack(r) => ops::give_back::give_back(self, cx, r),
            OpRequest::TreeLock(r) => ops::tree_lock::tree_lock(self, r).await,
            OpRequest::SplitDirent(r) => ops::split_dirent::split_dirent(self, r).await,
            OpRequest::PartAttr(r) => ops::part_attr::part_attr(self, r).await,
            other => Err(PvfsError::new(
                ErrorCode::NotSupported,
                format!(
                    "server {} is a metadata server and does not do {}",
                    self.map.alias(self.id),
                    other.op().name()
                ),
            )),
        }
    }

    fn forget_appends(&self, session: u64) -> Result<()> {
        let mut change = crate::store::Change::new();
        let notes = self.store.first(&keys::append_notes(session), usize::from(u8::MAX))?;
        if notes.is_empty() {
            return Ok(());
        }
        for (key, _) in notes {
            change.delete(key);
        }
        self.store.commit(change).map(|_| ())
    }

    /// An open file has lost its last open: an orphan goes.
    pub(crate) fn closed_last(&self, handle: Handle) {
        if self.lingering.has(handle) {
            return;
        }
        if let Err(e) = self.reap_nameless(handle) {
            tracing::error!("cannot remove object {handle}, which has no name and is closed: {e}");
        }
    }
}

/// Whether an operation may change something that `sync_meta` promises to be on disk.
fn changes(op: Op) -> bool {
    op.repeat() != Repeat::Harmless && op != Op::Lock
}

impl OpHandler for MetaServer {
    async fn op(&self, cx: &OpCx, op: OpRequest, body: Body) -> Result<Answer> {
        let kind = op.op();
        let answer = self.run(cx, op, body).await?;
        if self.sync_meta && changes(kind) {
            self.store.sync_now().await?;
        }
        Ok(answer)
    }

    fn attach(&self, notifier: Notifier) {
        *self.notifier.borrow_mut() = Some(notifier);
    }

    fn session_ended(&self, session: u64) {
        self.lock_step(Event::EndSession(session));
        self.rights.borrow_mut().end_session(session);
        self.name_rights.borrow_mut().end_session(session);
        if let Err(e) = self.forget_appends(session) {
            tracing::error!(session, "cannot remove notes of appends: {e}");
        }
        let ended = self.opens.borrow_mut().end_session(session);
        for (handle, closed) in ended {
            if closed.last_writer {
                self.store.quota.borrow_mut().release(handle);
                if self.is_dynamic(handle) {
                    self.settle_later(handle);
                }
            }
            if closed.last {
                self.closed_last(handle);
            }
        }
    }

    fn reclaim(&self, session: u64, opens: &[OpenState]) -> Vec<u64> {
        let mut lost = Vec::new();
        for open in opens {
            let handle = Handle(open.handle);
            // An error of the disk is no proof that the object is gone.
            if self.owns(handle) && matches!(self.store.attr(handle), Ok(None)) {
                lost.push(open.handle);
            } else {
                self.opens.borrow_mut().reclaim(session, handle, open.readers, open.writers);
            }
        }
        lost
    }

    fn reclaim_locks(&self, session: u64, locks: &[LockState], allowed: bool) -> Vec<LockState> {
        self.reclaim_held(session, locks, allowed)
    }

    fn answered_before(&self, session: u64, op: &OpRequest, response: &OpResponse) {
        let (OpRequest::Create(r), OpResponse::Create(made)) = (op, response) else { return };
        let Some(handle) = made.attr.as_ref().map(Attr::handle) else { return };
        // The client could not reclaim an open of which it had not heard.
        if !r.no_open && (r.read || r.write) && matches!(self.store.attr(handle), Ok(Some(_))) {
            self.opens.borrow_mut().open(session, handle, r.write);
        }
    }

    fn grace_ended(&self) {
        self.in_grace.set(false);
        self.lock_step(Event::GraceEnded);
        for handle in self.settling.take() {
            self.settle_later(handle);
        }
        if let Err(e) = self.reap_orphans() {
            tracing::error!("cannot remove objects without names after the grace time: {e}");
        }
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("objects", self.store.objects()),
            ("open_files", self.opens.borrow().len() as u64),
            ("dir_splits", self.splits.get()),
            ("dir_parts", self.store.parts_here()),
        ]
    }
}
