//! intent_status: whether an intent of this server is over (between metadata servers).
//!
//! Changes nothing. An intent without a record is over: it was on disk before anybody else heard of
//! it, and its record goes only after every server has answered its last step.
use crate::intents::IntentRecord;
use crate::keys;
use crate::server::MetaServer;
use prost::Message;
use pvfs2_proto::Result;
use pvfs2_proto::op::{IntentStatusRequest, IntentStatusResponse, OpResponse};
use pvfs2_server_core::service::Answer;

pub(crate) fn intent_status(server: &MetaServer, r: IntentStatusRequest) -> Result<Answer> {
    let record = server.store.get(keys::intent(r.intent))?;
    let committed = match &record {
        Some(value) => IntentRecord::decode(value.as_ref()).is_ok_and(|r| r.committed),
        None => false,
    };
    let response = IntentStatusResponse { committed, pending: record.is_some() };
    Ok(Answer::new(OpResponse::IntentStatus(response)))
}
