//! give_back: a session has written out what it held back of a file, and gives the right to do so back.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | the right of that number ends, whoever waits for it goes on | answer | - |
//!
//! Nothing is durable. Given back twice, or a right that has ended: nothing happens. Errors: none.
use crate::server::MetaServer;
use pvfs2_proto::op::{GiveBackRequest, GiveBackResponse, OpResponse};
use pvfs2_proto::{Handle, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) fn give_back(server: &MetaServer, cx: &OpCx, r: GiveBackRequest) -> Result<Answer> {
    server.rights.borrow_mut().give_back(cx.session, Handle(r.handle), Some(r.right));
    Ok(Answer::new(OpResponse::GiveBack(GiveBackResponse {})))
}
