//! Peers over a carrier that forgets a session once.
use super::*;
use pvfs2_bmi::call::{Reply, Ticket};
use pvfs2_proto::op::{DfTruncateRequest, DfTruncateResponse, IntentStatusRequest};
use std::cell::{Cell, RefCell};

#[derive(Default)]
struct Forgetful {
    rounds: Cell<u64>,
    seen: RefCell<Vec<(ServerId, Option<u64>)>>,
    open: Cell<i32>,
}

impl Net for Forgetful {
    async fn exchange(&self, _cx: &CallCx, calls: &mut [Call<'_>]) {
        self.rounds.set(self.rounds.get() + 1);
        for call in calls {
            self.seen.borrow_mut().push((call.server, call.ticket.map(|t| t.seq)));
            let bad = call.server == 2 && self.rounds.get() == 1;
            call.result = Some(if bad {
                Err(ErrorCode::BadSession.into())
            } else {
                let op = Some(OpResponse::DfTruncate(DfTruncateResponse {}));
                Ok(Reply { op, ..Default::default() })
            });
        }
    }
    async fn ticket(&self, _cx: &CallCx, server: ServerId) -> Result<Ticket> {
        self.open.set(self.open.get() + 1);
        Ok(Ticket { server, session: 1, slot: 0, seq: self.rounds.get() + 1 })
    }
    fn done(&self, _ticket: Ticket) {
        self.open.set(self.open.get() - 1);
    }
}

#[tokio::test]
async fn a_forgotten_session_costs_one_more_round_for_its_server_only() {
    let peers = NetPeers::new(Rc::new(Forgetful::default()));
    let cut = DfTruncateRequest { datahandle: 1, size: 0, extend: false };
    let asked = vec![(1, cut.clone()), (2, cut)];
    ask_all(&peers, &Cred::root(), 0, asked).await.unwrap();
    assert_eq!(*peers.net.seen.borrow(), [(1, Some(1)), (2, Some(1)), (2, Some(2))]);
    assert_eq!(peers.net.open.get(), 0, "every ticket went back");
}

#[tokio::test]
async fn an_answer_to_something_else_is_an_error() {
    let peers = NetPeers::new(Rc::new(Forgetful::default()));
    let error = ask(&peers, &Cred::root(), 0, 1, IntentStatusRequest { intent: 1 }).await;
    assert_eq!(error.unwrap_err().code, ErrorCode::Protocol);
    assert_eq!(*peers.net.seen.borrow(), [(1, None)], "no ticket for what is harmless");
}
