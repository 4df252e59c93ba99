//! Writes with a ticket through `server-core`: what a repeat of one gets.
use crate::rig::{H, Rig, flow, list, map, pattern};
use pvfs2_bmi::buf::PooledBuf;
use pvfs2_bmi::service::{Body, Conn, Incoming, Outgoing, Service};
use pvfs2_io::IoServer;
use pvfs2_proto::env::Env;
use pvfs2_proto::op::{
    Cred, HelloRequest, IoWriteRequest, Op, OpMessage, RequestHead, ResponseHead,
};
use pvfs2_proto::{ErrorCode, PvfsError};
use pvfs2_server_core::service::{ServiceConfig, SessionService};
use std::sync::Arc;

async fn send(
    service: &SessionService<IoServer>,
    conn: &Arc<Conn>,
    session: u64,
    seq: u64,
    body: Body,
) -> ResponseHead {
    let write =
        IoWriteRequest { datahandle: H, extents: list(&[(0, 300_000)]), ..Default::default() };
    let head = RequestHead {
        session,
        slot: 1,
        seq,
        op_id: 1,
        cred: Some(Cred::root()),
        op: Some(write.into_request()),
    };
    let Outgoing { head, .. } = service.handle(Incoming { conn: conn.clone(), head, body }).await;
    head
}

#[test]
fn a_write_that_was_cut_off_runs_again_and_an_answered_one_does_not() {
    let r = Rig::memory();
    let config = ServiceConfig {
        server: 0,
        map: map(),
        env: Env::real(),
        metrics: r.metrics.clone(),
        durable: None,
    };
    let service = SessionService::new(r.server.clone(), config).unwrap();
    let conn = Arc::new(Conn {
        id: 1,
        peer: "test".into(),
        is_local: true,
        peer_uid: None,
        session: Default::default(),
        notifier: Arc::new(|_| {}),
    });
    let hello = HelloRequest { client_id: 5, ..Default::default() };
    let session = service.hello(&conn, &hello).unwrap().session;
    let (first, second) = (pattern(1, 300_000), pattern(2, 300_000));
    let whole = |data: &[u8]| Body::Whole(PooledBuf::from_vec(data.to_vec()));
    tokio::task::LocalSet::new().block_on(&r.rt, async {
        let cut = PvfsError::new(ErrorCode::Unreachable, "cut");
        let half = flow(&first[..150_000], 50_000, Some(cut));
        let head = send(&service, &conn, session, 1, half).await;
        assert_eq!(head.as_error().unwrap().code, ErrorCode::Unreachable);
        // The same ticket on another connection: executed, not refused for ever.
        let again = send(&service, &conn, session, 1, flow(&first, 100_000, None)).await;
        assert_eq!(again.as_error(), None);
        // Once more, as a late repeat would come: the kept answer, and nothing is written.
        let repeat = send(&service, &conn, session, 1, whole(&second)).await;
        assert_eq!(repeat, again);
        let next = send(&service, &conn, session, 2, whole(&first)).await;
        assert_eq!(next.as_error(), None);
        assert_ne!(next, again, "a new ticket has its own answer");
    });
    assert!(r.read(H, &[(0, 300_000)]).unwrap().1 == first, "the repeat wrote");
    let counted = r.metrics.snapshot_of(Op::IoWrite);
    assert_eq!((counted.count, counted.errors), (4, 1));
}
