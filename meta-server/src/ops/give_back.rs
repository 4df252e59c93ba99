//! give_back: a session has written out what it held back of a file, and gives the right to do so back.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | the right of that number ends (unless it was only asked about), whoever waits for it goes on | answer whether it was held | - |
//!
//! Nothing is durable. Given back twice, or a right that has ended: nothing happens. Errors: none.
use crate::server::MetaServer;
use pvfs2_proto::op::{GiveBackRequest, GiveBackResponse, OpResponse};
use pvfs2_proto::{Handle, Result};
use pvfs2_server_core::service::{Answer, OpCx};

pub(crate) fn give_back(server: &MetaServer, cx: &OpCx, r: GiveBackRequest) -> Result<Answer> {
    let mut held = false;
    for rights in [&server.rights, &server.name_rights] {
        let mut rights = rights.borrow_mut();
        if rights.holds(cx.session, Handle(r.handle), r.right) {
            held = true;
            if !r.keep {
                rights.give_back(cx.session, Handle(r.handle), Some(r.right));
            }
        }
    }
    Ok(Answer::new(OpResponse::GiveBack(GiveBackResponse { held })))
}
