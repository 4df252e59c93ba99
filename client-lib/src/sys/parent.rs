//! parent: the directory above a directory, for those who hold no more than a handle (NFS, and
//! `open_by_handle_at` after the kernel has forgotten the path).
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | readdir (its answer names the parent) | attr | error |
//! | ask_attr, ask_sizes (getattr of the parent) | done | error |
//!
//! Changes nothing; fills the acache. Errors: `NotDirectory`, `Access`, `Stale`.
use crate::attrs::AttrFlow;
use crate::machine::{Cx, Machine, Step};
use crate::sys::readdir::{DirHandle, Readdir};
use pvfs2_bmi::call::Net;
use pvfs2_proto::{Attr, Handle, Result};

enum State {
    Readdir(Readdir),
    Flow(AttrFlow),
}

/// See the head of the file. Results in the parent's attributes; the root is its own parent.
pub struct Parent {
    state: State,
}

impl Parent {
    /// What `..` in `dir` names.
    pub fn new(dir: Handle) -> Parent {
        Parent { state: State::Readdir(Readdir::new(DirHandle::new(dir), 0, false, false)) }
    }
}

impl Machine for Parent {
    type Out = Attr;
    const NAME: &'static str = "parent";
    fn state(&self) -> &'static str {
        match &self.state {
            State::Readdir(_) => "readdir",
            State::Flow(flow) => flow.state(),
        }
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        match &mut self.state {
            State::Readdir(readdir) => {
                if let Step::Done(page) = readdir.step(cx).await? {
                    self.state = State::Flow(AttrFlow::Ask(page.parent()));
                }
                Ok(Step::Next)
            }
            State::Flow(flow) => Ok(flow.step(cx).await?.map_or(Step::Next, Step::Done)),
        }
    }
}
