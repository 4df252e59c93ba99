//! The service around a handler that counts: slots, repeats, peers, sessions.
use super::*;
use pvfs2_proto::op::*;
use std::cell::Cell;
use std::rc::Rc;
use tokio::sync::Semaphore;

struct Counting {
    done: Rc<Cell<u32>>,
    gate: Rc<Semaphore>,
    ended: Cell<u64>,
}

impl OpHandler for Counting {
    async fn op(&self, _cx: &OpCx, op: OpRequest, _body: Body) -> Result<Answer> {
        if let OpRequest::Unlink(_) = op {
            let _pass = self.gate.acquire().await.unwrap();
            self.done.set(self.done.get() + 1);
            let handle = u64::from(self.done.get());
            return Ok(Answer::new(OpResponse::Unlink(UnlinkResponse {
                handle,
                ..Default::default()
            })));
        }
        Err(PvfsError::new(ErrorCode::NotFound, "nothing"))
    }
    fn session_ended(&self, session: u64) {
        self.ended.set(session);
    }
}

struct Bench {
    service: SessionService<Counting>,
    done: Rc<Cell<u32>>,
    gate: Rc<Semaphore>,
    conn: Arc<Conn>,
}

fn bench(permits: usize) -> Bench {
    let (done, gate) = (Rc::new(Cell::new(0)), Rc::new(Semaphore::new(permits)));
    #[allow(clippy::arc_with_non_send_sync)]
    let handler =
        Arc::new(Counting { done: done.clone(), gate: gate.clone(), ended: Cell::new(0) });
    let map = ClusterMap { fs_id: 5, fs_name: "fs".into(), lease_ms: 1_000, ..Default::default() };
    let config = ServiceConfig {
        server: 0,
        map: Arc::new(map),
        env: Env::real(),
        metrics: Arc::default(),
        durable: None,
    };
    let service = SessionService::new(handler, config).unwrap();
    let conn = Arc::new(Conn {
        id: 1,
        peer: "test".into(),
        is_local: true,
        peer_uid: None,
        session: Default::default(),
        notifier: Arc::new(|_| {}),
    });
    Bench { service, done, gate, conn }
}

impl Bench {
    fn hello(&self) -> u64 {
        let hello = HelloRequest { client_id: 1, ..Default::default() };
        self.service.hello(&self.conn, &hello).unwrap().session
    }
    async fn ask(&self, session: u64, ticket: Option<(u32, u64)>, op: OpRequest) -> ResponseHead {
        let (slot, seq) = ticket.map_or((0, 0), |(slot, seq)| (slot + 1, seq));
        let head = RequestHead { session, slot, seq, op: Some(op), ..Default::default() };
        let conn = self.conn.clone();
        self.service.handle(Incoming { conn, head, body: Body::Empty }).await.head
    }
}

fn unlink() -> OpRequest {
    OpRequest::Unlink(UnlinkRequest::default())
}

#[tokio::test]
async fn a_repeat_takes_effect_once() {
    let b = bench(10);
    let s = b.hello();
    let first = b.ask(s, Some((0, 1)), unlink()).await;
    assert_eq!(b.ask(s, Some((0, 1)), unlink()).await, first);
    assert_eq!(b.done.get(), 1);
    assert_eq!(b.ask(s, Some((0, 2)), unlink()).await.status, 0);
    assert_eq!(b.done.get(), 2);
    assert_eq!(b.service.metrics().count(Op::Unlink), 3);
}

#[tokio::test]
async fn an_operation_outlives_its_connection() {
    let b = bench(0);
    let s = b.hello();
    tokio::task::LocalSet::new()
        .run_until(async {
            {
                let mut request = std::pin::pin!(b.ask(s, Some((0, 1)), unlink()));
                let lost = std::future::poll_fn(|cx| {
                    assert!(request.as_mut().poll(cx).is_pending());
                    Poll::Ready(())
                });
                lost.await;
            }
            let again = b.ask(s, Some((0, 1)), unlink());
            b.gate.add_permits(1);
            assert_eq!(again.await.status, 0);
            assert_eq!(b.done.get(), 1);
        })
        .await;
}

#[tokio::test]
async fn what_is_refused() {
    let b = bench(1);
    let s = b.hello();
    let status = |head: ResponseHead| ErrorCode::from_wire(head.status);
    assert_eq!(status(b.ask(s + 1, Some((0, 1)), unlink()).await), ErrorCode::BadSession);
    assert_eq!(status(b.ask(s, None, unlink()).await), ErrorCode::Protocol);
    let peer = OpRequest::Crdir(CrdirRequest::default());
    assert_eq!(status(b.ask(s, None, peer).await), ErrorCode::NotPermitted);
    let renew = OpRequest::Renew(RenewRequest {});
    assert_eq!(status(b.ask(s + 1, None, renew.clone()).await), ErrorCode::BadSession);
    assert_eq!(b.ask(s, None, renew).await.status, 0);
    let wrong = HelloRequest { fs_id: 6, ..Default::default() };
    assert_eq!(b.service.hello(&b.conn, &wrong).unwrap_err().code, ErrorCode::WrongFileSystem);
    assert_eq!(b.ask(s, None, OpRequest::Goodbye(GoodbyeRequest {})).await.status, 0);
    assert_eq!(b.service.handler().ended.get(), s);
    assert_eq!(status(b.ask(s, Some((0, 1)), unlink()).await), ErrorCode::BadSession);
}

#[tokio::test(start_paused = true)]
async fn an_unrenewed_session_ends() {
    let b = bench(1);
    let s = b.hello();
    tokio::task::LocalSet::new()
        .run_until(async {
            let _task = b.service.spawn_background();
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                assert_eq!(b.ask(s, None, OpRequest::Renew(RenewRequest {})).await.status, 0);
            }
            tokio::time::sleep(Duration::from_millis(1_600)).await;
            assert_eq!((b.service.session_count(), b.service.handler().ended.get()), (0, s));
        })
        .await;
}

#[tokio::test]
async fn notices_go_where_somebody_listens() {
    let b = bench(1);
    let told = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for (id, no_notices) in [(1, false), (2, true)] {
        let told = told.clone();
        let conn = Arc::new(Conn {
            id,
            peer: "test".into(),
            is_local: true,
            peer_uid: None,
            session: Default::default(),
            notifier: Arc::new(move |n| {
                assert!(n.draining);
                told.fetch_add(id, Ordering::Relaxed);
            }),
        });
        let hello = HelloRequest { client_id: 1, no_notices, ..Default::default() };
        b.service.hello(&conn, &hello).unwrap();
    }
    b.service.drain();
    assert_eq!(told.load(Ordering::Relaxed), 1);
    assert!(b.service.is_draining());
}
