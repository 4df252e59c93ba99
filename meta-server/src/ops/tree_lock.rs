//! tree_lock: the lock under which directories change parents, at the first metadata server (Linux'
//! `s_vfs_rename_mutex`, Lustre's rename lock).
//!
//! | step | does | on failure |
//! |---|---|---|
//! | Try, Take | lock (Take waits up to `WAIT`), mark; synced; held over a restart too | nothing happened |
//! | Release | mark; synced; let go | repeated by the coordinator |
//!
//! Whether a directory would come to lie below itself is found by walking from its new parent to the
//! root, over servers. While that walk and what it decides are under way, no other directory may
//! change its parent, or each of two renames could find the tree as the other is about to leave it.
//! Everybody takes this lock before the handles of directories, or by Try: so nobody who holds
//! a directory waits for it. A coordinator that dies keeps it until its intent has been undone or
//! finished (or `prune` hears that it is over): a parent may be written late, and the walk would
//! miss it.
//!
//! Where all of it is on the first metadata server, a rename runs in one piece and only looks
//! whether the lock is free (`rename`); with one metadata server there is no lock.
//!
//! Repeated, a step answers the same. Errors: `Busy` (somebody else has it), `Invalid` (taken back
//! before it came), `Stale` (not the first metadata server).
use crate::intents::{self, StepCall};
use crate::peer_steps::{StepKind, StepRecord, StepState, taken_back};
use crate::server::MetaServer;
use crate::store::Change;
use pvfs2_proto::op::{
    Cred, OpMessage, OpResponse, TreeLockRequest, TreeLockResponse, TreeLockStep,
};
use pvfs2_proto::{ErrorCode, Handle, PvfsError, Result};
use pvfs2_server_core::peer;
use pvfs2_server_core::scheduler::{Guard, Mode};
use pvfs2_server_core::service::Answer;
use std::time::Duration;

/// What the lock is in the scheduler: no object has this handle.
pub(crate) const TREE: Handle = Handle::NULL;
/// How long Take waits; who asked tries again (`MetaServer::until_free`).
const WAIT: Duration = Duration::from_millis(500);

pub(crate) async fn tree_lock(server: &MetaServer, r: TreeLockRequest) -> Result<Answer> {
    server.must_own(Handle::ROOT)?;
    let state = || -> Result<Option<StepState>> {
        Ok(server.mark(r.intent, StepKind::Tree, TREE.0)?.map(|m| m.state()))
    };
    let put = async |state: StepState| {
        let mut change = Change::new();
        let record = StepRecord { state: state as i32, ..Default::default() };
        server.put_mark(&mut change, r.intent, StepKind::Tree, TREE.0, &record);
        server.commit_step(change).await
    };
    let done = || Ok(Answer::new(OpResponse::TreeLock(TreeLockResponse {})));
    if r.step() == TreeLockStep::Release {
        put(StepState::Undone).await?;
        server.tree_held.borrow_mut().remove(&r.intent);
        return done();
    }
    let guard = match state()? {
        Some(StepState::Prepared) => return done(),
        Some(_) => return Err(taken_back()),
        None => server.tree_guard(r.step() == TreeLockStep::Take).await?,
    };
    // While it waited, a repeat may have taken it, or Release may have come.
    match state()? {
        Some(StepState::Prepared) => return done(),
        Some(_) => return Err(taken_back()),
        None => {}
    }
    // From here on, so that a Release that comes while the mark is being synced finds it.
    server.tree_held.borrow_mut().insert(r.intent, guard);
    if let Err(e) = put(StepState::Prepared).await {
        server.tree_held.borrow_mut().remove(&r.intent);
        return Err(e);
    }
    done()
}

impl MetaServer {
    async fn tree_guard(&self, wait: bool) -> Result<Guard> {
        let taken = match wait {
            true => tokio::time::timeout(WAIT, self.sched.lock(&[(TREE, Mode::Write)])).await.ok(),
            false => self.sched.try_lock(TREE, Mode::Write),
        };
        taken.ok_or_else(|| {
            PvfsError::new(
                ErrorCode::Busy,
                "another directory is being moved to another parent: ask again",
            )
        })
    }

    /// Whether a directory may change its parent here in one piece, without asking anybody.
    pub(crate) fn tree_is_free(&self) -> bool {
        self.map.meta_servers().nth(1).is_none()
            || self.owns(Handle::ROOT) && self.sched.is_free(&[(TREE, Mode::Write)])
    }

    /// Takes the tree lock for an intent of this server: from itself (then the guard is returned), or
    /// from the first metadata server: then the step that gives it back joins `undo`, and the
    /// intent's record (`locked`: its handles), before it is asked for. After an error too the
    /// caller runs `undo`.
    pub(crate) async fn take_tree(
        &self,
        intent: u64,
        undo: &mut Vec<StepCall>,
        locked: &[Handle],
        wait: bool,
    ) -> Result<Option<Guard>> {
        if self.owns(Handle::ROOT) {
            return self.tree_guard(wait).await.map(Some);
        }
        undo.push(self.tree_release(intent)?);
        self.begin_intent(intent, undo.clone(), locked).await?;
        let step = if wait { TreeLockStep::Take } else { TreeLockStep::Try } as i32;
        let ask = TreeLockRequest { intent, step };
        let first = self.owner(Handle::ROOT)?;
        peer::ask(self.peers(), &Cred::root(), 0, first, ask).await?;
        Ok(None)
    }

    /// The step that gives the tree lock back to the first metadata server, after all others.
    pub(crate) fn tree_release(&self, intent: u64) -> Result<StepCall> {
        let release = TreeLockRequest { intent, step: TreeLockStep::Release as i32 };
        let step = intents::step(self.owner(Handle::ROOT)?, release.into_request());
        Ok(StepCall { last: true, ..step })
    }
}
