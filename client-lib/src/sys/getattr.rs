//! getattr: attributes of an object, the size exact.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | cache (acache) | done | ask_attr |
//! | ask_attr (getattr) | done; ask_sizes when the size is dynamic and others write too | error |
//! | ask_sizes (df_stat to all I/O servers at once) | done | error |
//!
//! Changes nothing. Errors: `Stale`, `NotFound`.
use crate::attrs::{AttrFlow, cached};
use crate::machine::{Cx, Machine, Step};
use pvfs2_bmi::call::Net;
use pvfs2_proto::{Attr, Handle, Result};
use smallvec::{SmallVec, smallvec};

/// See the head of the file.
pub struct Getattr {
    handle: Handle,
    flow: Option<AttrFlow>,
}

impl Getattr {
    /// Attributes of `handle`, from the acache if it has them.
    pub fn new(handle: Handle) -> Getattr {
        Getattr { handle, flow: None }
    }
    /// Attributes of `handle`, from its server in any case.
    pub fn fresh(handle: Handle) -> Getattr {
        Getattr { handle, flow: Some(AttrFlow::Ask(handle)) }
    }
}

impl Machine for Getattr {
    type Out = Attr;
    const NAME: &'static str = "getattr";
    fn state(&self) -> &'static str {
        self.flow.as_ref().map_or("cache", AttrFlow::state)
    }
    fn touches(&self) -> SmallVec<[Handle; 2]> {
        smallvec![self.handle]
    }
    async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Step<Attr>> {
        let Some(flow) = &mut self.flow else {
            if let Some(attr) = cached(cx.client, self.handle) {
                return Ok(Step::Done(attr));
            }
            self.flow = Some(AttrFlow::Ask(self.handle));
            return Ok(Step::Next);
        };
        Ok(flow.step(cx).await?.map_or(Step::Next, Step::Done))
    }
}
