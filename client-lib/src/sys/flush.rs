//! flush: a program closes one of its descriptors.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | check (no request) | done | the error that nobody was waiting for |
//!
//! All bytes were sent when they were written; size and mtime travel with the release. So there is
//! nothing to send, only an error to tell that background work met. Errors: those of writing.
use crate::machine::{Cx, Machine, Step};
use crate::open_table::OpenFile;
use pvfs2_bmi::call::Net;
use pvfs2_proto::Result;
use std::sync::Arc;

/// See the head of the file.
pub struct Flush {
    file: Arc<OpenFile>,
}

impl Flush {
    /// Flushes `file`.
    pub fn new(file: Arc<OpenFile>) -> Flush {
        Flush { file }
    }
}

impl Machine for Flush {
    type Out = ();
    const NAME: &'static str = "flush";
    fn state(&self) -> &'static str {
        "check"
    }
    async fn step<N: Net>(&mut self, _cx: &mut Cx<'_, N>) -> Result<Step<()>> {
        match self.file.state.take_error() {
            Some(e) => Err(e),
            None => Ok(Step::Done(())),
        }
    }
}
