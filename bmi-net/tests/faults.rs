//! What happens when servers hang, die, restart and forget, and when connections are cut: tickets
//! keep their meaning, threads are not held, exactly one connection reclaims.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use pvfs2_bmi::addr::Address;
use pvfs2_bmi::call::{CallCx, Net};
use pvfs2_bmi::client::{AsyncNet, BlockingNet, ClientOptions, NoEvents, SessionEvents};
use pvfs2_bmi::mem::{FaultPlan, MemNetwork};
use pvfs2_bmi::server::{ServerOptions, serve};
use pvfs2_proto::env::Env;
use pvfs2_proto::op::*;
use pvfs2_proto::{ErrorCode, ServerId};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A client that has one file open everywhere, and writes down what it is told.
#[derive(Default)]
struct Witness {
    lost: Mutex<Vec<u64>>,
    restarts: AtomicUsize,
    notices: Mutex<Vec<Notice>>,
}

impl SessionEvents for Witness {
    fn opens_of(&self, _: ServerId) -> Vec<OpenState> {
        vec![OpenState { handle: 42, readers: 1, writers: 2 }]
    }
    fn lost(&self, _: ServerId, handles: Vec<u64>) {
        self.lost.lock().unwrap().extend(handles);
    }
    fn restarted(&self, _: ServerId) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }
    fn notice(&self, _: ServerId, n: Notice) {
        self.notices.lock().unwrap().push(n);
    }
}

fn start() -> TestServer {
    TestServer::start(&tcp(), TestService::new(0, Default::default()))
}

/// The same server after a restart: what was on its disk is there, its boot id is new.
fn restart(old: &mut TestServer) -> TestServer {
    old.kill();
    TestServer::start(&old.address, TestService::new(0, old.service.memory.clone()))
}

fn executions(server: &TestServer) -> Vec<u32> {
    server.service.memory.lock().unwrap().executed.values().copied().collect()
}

#[test]
fn a_hanging_answer_stalls_in_time_and_goes_on_elsewhere_with_its_ticket() {
    let server = start();
    let shared = client(std::slice::from_ref(&server.address));
    let net = BlockingNet::new(shared.clone());
    let since = Instant::now();
    let error = now(one(&net, lookup(0, "hang"))).unwrap_err();
    let took = since.elapsed();
    assert_eq!(error.code, ErrorCode::Stalled);
    assert!(took >= Duration::from_millis(380) && took < Duration::from_millis(1500), "{took:?}");
    // The connection is closed, and the request dropped with it.
    wait_until("the hanging request is dropped", || {
        server.service.dropped.load(Ordering::Relaxed) == 1
    });
    now(one(&net, lookup(0, "x"))).unwrap();

    // A request that takes effect although nobody waited for its answer.
    let opts = ClientOptions { stall_ms: 20, ..options(std::slice::from_ref(&server.address)) };
    let shared = client_with(opts, Arc::new(NoEvents));
    let net = BlockingNet::new(shared.clone());
    let ticket = now(net.ticket(&cx(), 0)).unwrap();
    let mut call = mkdir(0, "slow");
    call.ticket = Some(ticket);
    assert_eq!(now(one(&net, call)).unwrap_err().code, ErrorCode::Stalled);
    run_local(async {
        let net = AsyncNet::new(shared.clone());
        let mut call = mkdir(0, "slow");
        call.ticket = Some(ticket);
        one(&*net, call).await.unwrap();
        net.done(ticket);
    });
    assert_eq!(executions(&server), [1]);
    assert_eq!(shared.counters().stalls, 1);
}

#[test]
fn nobody_there_stalls_at_once_and_a_frozen_server_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = Address::Tcp(listener.local_addr().unwrap().to_string());
    let net = BlockingNet::new(client(&[at]));
    for _ in 0..2 {
        // The kernel accepts for a frozen process; no hello is answered.
        let since = Instant::now();
        assert_eq!(now(one(&net, lookup(0, "x"))).unwrap_err().code, ErrorCode::Stalled);
        assert!(since.elapsed() < Duration::from_millis(1500));
    }
    drop(listener);
    let since = Instant::now();
    assert_eq!(now(one(&net, lookup(0, "x"))).unwrap_err().code, ErrorCode::Stalled);
    assert_eq!(now(net.ticket(&cx(), 0)).unwrap_err().code, ErrorCode::Stalled);
    assert!(since.elapsed() < Duration::from_millis(300));
}

#[test]
fn retries_of_a_dead_server_are_bounded() {
    let at: Address = "unix:///none/such".parse().unwrap();
    let shared = client(&[at]);
    run_local(async {
        let net = AsyncNet::new(shared);
        let since = Instant::now();
        assert_eq!(one(&*net, lookup(0, "x")).await.unwrap_err().code, ErrorCode::Unreachable);
        assert_eq!(net.ticket(&cx(), 0).await.unwrap_err().code, ErrorCode::Unreachable);
        let took = since.elapsed();
        assert!(took >= Duration::from_millis(600) && took < Duration::from_secs(3), "{took:?}");
    });
}

#[test]
fn the_killed_caller_is_noticed_by_both_carriers() {
    let server = start();
    let opts = ClientOptions {
        stall_ms: 60_000,
        retry_limit: None,
        ..options(std::slice::from_ref(&server.address))
    };
    let shared = client_with(opts, Arc::new(NoEvents));
    for blocking in [true, false] {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let cx = CallCx { caller_tid: child.id(), ..cx() };
        let mut calls = [lookup(0, "hang")];
        let since = Instant::now();
        let killer = std::thread::spawn({
            let pid = child.id() as i32;
            move || {
                std::thread::sleep(Duration::from_millis(300));
                // SAFETY: a signal to a child of our own that is not yet waited for.
                assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
            }
        });
        if blocking {
            now(BlockingNet::new(shared.clone()).exchange(&cx, &mut calls));
        } else {
            run_local(async { AsyncNet::new(shared.clone()).exchange(&cx, &mut calls).await });
        }
        let took = since.elapsed();
        assert_eq!(calls[0].result.take().unwrap().unwrap_err().code, ErrorCode::Interrupted);
        assert!(
            took >= Duration::from_millis(300) && took < Duration::from_millis(1000),
            "{took:?}"
        );
        killer.join().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn after_a_restart_exactly_one_connection_reclaims() {
    let mut old = start();
    let witness = Arc::new(Witness::default());
    let shared = client_with(options(std::slice::from_ref(&old.address)), witness.clone());
    let nets: Vec<BlockingNet> = (0..8).map(|_| BlockingNet::new(shared.clone())).collect();
    for net in &nets {
        now(one(net, lookup(0, "x"))).unwrap();
    }
    let session = shared.session(0);
    let ticket = now(nets[0].ticket(&cx(), 0)).unwrap();
    let new = restart(&mut old);
    *new.service.lost.lock().unwrap() = vec![42];
    std::thread::scope(|scope| {
        for net in nets {
            scope.spawn(move || now(one(&net, lookup(0, "x"))).unwrap());
        }
        let shared = shared.clone();
        scope.spawn(move || {
            run_local(async { one(&*AsyncNet::new(shared), lookup(0, "x")).await.unwrap() })
        });
    });
    let reclaimed = new.service.memory.lock().unwrap().reclaimed.clone();
    let open = OpenState { handle: 42, readers: 1, writers: 2 };
    assert_eq!(reclaimed, [(session, vec![open], true)]);
    assert_eq!(witness.restarts.load(Ordering::Relaxed), 1);
    assert_eq!(*witness.lost.lock().unwrap(), [42]);
    // The session went on: so does the ticket from before.
    let mut call = mkdir(0, "d");
    call.ticket = Some(ticket);
    now(one(&BlockingNet::new(shared.clone()), call)).unwrap();
    assert_eq!(shared.session(0), session);
}

#[test]
fn a_blocking_thread_survives_a_restart_in_one_call() {
    let mut old = start();
    let shared = client(std::slice::from_ref(&old.address));
    let net = BlockingNet::new(shared.clone());
    now(write(&net, 0, 1, b"before")).unwrap();
    let new = restart(&mut old);
    now(write(&net, 0, 2, &pattern(300_000, 1))).unwrap();
    assert_eq!(executions(&new), [1, 1]);
    assert_eq!(now(one(&net, read(0, 1))).unwrap().body, &b"before"[..]);
    let counts = shared.counters();
    assert_eq!((counts.requests, counts.resends, counts.connects), (4, 1, 2));
    assert_eq!((counts.bytes_out, counts.bytes_in), (6 + 2 * 300_000, 6));
}

#[test]
fn an_ended_session_is_made_anew() {
    let server = start();
    let shared =
        client_with(options(std::slice::from_ref(&server.address)), Arc::new(Witness::default()));
    let net = BlockingNet::new(shared.clone());
    now(write(&net, 0, 1, b"a")).unwrap();
    let first = shared.session(0);

    // Harmless, and not yet sent: sent again in the new session, under a new ticket.
    server.service.expire();
    now(one(&net, lookup(0, "x"))).unwrap();
    assert_ne!(shared.session(0), first);
    assert_eq!(server.service.memory.lock().unwrap().reclaimed.len(), 1);
    for round in 0..10 {
        // More rounds than slots: replaced tickets give their slots back.
        let ticket = now(net.ticket(&cx(), 0)).unwrap();
        server.service.expire();
        let mut calls = [mkdir(0, "d")];
        calls[0].ticket = Some(ticket);
        now(net.exchange(&cx(), &mut calls));
        assert!(calls[0].result.as_ref().unwrap().is_ok(), "round {round}");
        assert_ne!(calls[0].ticket, Some(ticket));
        net.done(ticket);
    }
    run_local(async {
        let net = AsyncNet::new(shared.clone());
        for _ in 0..10 {
            let ticket = net.ticket(&cx(), 0).await.unwrap();
            server.service.expire();
            let mut call = mkdir(0, "d");
            call.ticket = Some(ticket);
            one(&*net, call).await.unwrap();
            net.done(ticket);
        }
    });

    // Durable and sent before: nobody knows whether it took effect.
    for blocking in [true, false] {
        let ticket = now(net.ticket(&cx(), 0)).unwrap();
        let send = || {
            let mut call = mkdir(0, "d");
            call.ticket = Some(ticket);
            match blocking {
                true => now(one(&net, call)),
                false => run_local(async { one(&*AsyncNet::new(shared.clone()), call).await }),
            }
        };
        send().unwrap();
        server.service.expire();
        assert_eq!(send().unwrap_err().code, ErrorCode::Io);
        net.done(ticket);
    }
}

#[test]
fn slots_run_out_and_come_back() {
    let server = start();
    let shared = client(std::slice::from_ref(&server.address));
    let net = BlockingNet::new(shared.clone());
    let tickets: Vec<_> = (0..4).map(|_| now(net.ticket(&cx(), 0)).unwrap()).collect();
    assert_eq!(now(net.ticket(&cx(), 0)).unwrap_err().code, ErrorCode::Stalled);
    run_local(async {
        let net = AsyncNet::new(shared.clone());
        let cx = cx();
        let waits = net.ticket(&cx, 0);
        let (ticket, ()) = tokio::join!(waits, async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            net.done(tickets[2]);
        });
        assert_eq!(ticket.unwrap().slot, tickets[2].slot);
        net.done(tickets[1]);
        net.ticket(&cx, 0).await.unwrap();
    });
}

#[test]
fn a_dropped_exchange_is_cancelled_at_the_server() {
    let server = start();
    let shared = client(std::slice::from_ref(&server.address));
    run_local(async {
        let net = AsyncNet::new(shared);
        let hang = one(&*net, lookup(0, "hang"));
        assert!(tokio::time::timeout(Duration::from_millis(50), hang).await.is_err());
        // The connection goes on.
        one(&*net, lookup(0, "x")).await.unwrap();
    });
    wait_until("the request is dropped", || server.service.dropped.load(Ordering::Relaxed) == 1);
    assert_eq!(server.service.hellos.load(Ordering::Relaxed), 1);
}

#[test]
fn leases_are_renewed_notices_heard_and_goodbye_said() {
    let mut old = start();
    let witness = Arc::new(Witness::default());
    let shared = client_with(options(std::slice::from_ref(&old.address)), witness.clone());
    // A blocking connection's notices would come too late: it hears none.
    now(one(&BlockingNet::new(shared.clone()), lookup(0, "notice"))).unwrap();
    run_local(async {
        let net = AsyncNet::new(shared.clone());
        let keep = tokio::task::spawn_local(net.clone().keepalive());
        one(&*net, lookup(0, "notice")).await.unwrap();
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if !witness.notices.lock().unwrap().is_empty() {
                break;
            }
        }
        let heard: Vec<Vec<u64>> =
            witness.notices.lock().unwrap().iter().map(|n| n.invalidate.clone()).collect();
        assert_eq!(heard, [[7]]);
        // A restart is found by the keepalive alone.
        let new = restart(&mut old);
        let give_up = Instant::now() + Duration::from_secs(8);
        while witness.restarts.load(Ordering::Relaxed) == 0 && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(new.service.memory.lock().unwrap().reclaimed.len(), 1);
        keep.abort();
        net.goodbye().await;
        assert!(new.service.memory.lock().unwrap().sessions.is_empty());
        assert_eq!(shared.session(0), 0);
        // A client that goes on after its goodbye has a new session.
        write(&*net, 0, 1, b"again").await.unwrap();
    });
}

/// One server over mem in this runtime.
fn mem_server(net: &Arc<MemNetwork>, service: Arc<TestService>) -> watch::Sender<bool> {
    let (stop, stopped) = watch::channel(false);
    let opts = Arc::new(ServerOptions { fs_id: 9, ..Default::default() });
    tokio::task::spawn_local(serve(net.listen("s0"), service, opts, stopped));
    stop
}

fn paused<F: Future>(future: F) -> F::Output {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&rt, future)
}

#[test]
fn cut_connections_do_not_double_or_lose_requests() {
    for seed in 0..40 {
        let counts = paused(async {
            let env = Env::seeded(seed, Env::real().clock);
            let plan = FaultPlan {
                delay_us_max: 3000,
                cut_per_million: 80_000,
                refuse_per_million: 200_000,
            };
            let mem = MemNetwork::new(env, plan);
            let service = TestService::new(0, Default::default());
            let _stop = mem_server(&mem, service.clone());
            let opts = ClientOptions { retry_limit: None, ..mem_options(&mem, &["s0"]) };
            let shared = client_with(opts, Arc::new(NoEvents));
            let net = AsyncNet::new(shared.clone());
            for i in 0..30u64 {
                let len = [10, 5000, 100_000, 1_500_000][i as usize % 4];
                let data = pattern(len, i as u8);
                write(&*net, 0, i, &data).await.unwrap();
                let back = one(&*net, read(0, i)).await.unwrap();
                assert!(back.body == data, "seed {seed}, request {i}");
                let ticket = net.ticket(&cx(), 0).await.unwrap();
                let mut call = mkdir(0, "slow");
                call.ticket = Some(ticket);
                one(&*net, call).await.unwrap();
                net.done(ticket);
            }
            let memory = service.memory.lock().unwrap();
            assert!(memory.executed.values().all(|n| *n == 1), "seed {seed}: executed twice");
            assert_eq!(memory.executed.len(), 60, "seed {seed}");
            shared.counters()
        });
        assert!(counts.resends > 0, "seed {seed} had no faults");
    }
}

#[test]
fn a_partition_is_noticed_and_outlived() {
    paused(async {
        let mem = MemNetwork::new(Env::seeded(1, Env::real().clock), FaultPlan::default());
        let _stop = mem_server(&mem, TestService::new(0, Default::default()));
        let bounded = client_with(mem_options(&mem, &["s0"]), Arc::new(NoEvents));
        let hard = ClientOptions { retry_limit: None, ..mem_options(&mem, &["s0"]) };
        let hard = client_with(hard, Arc::new(NoEvents));
        let (bounded, hard) = (AsyncNet::new(bounded), AsyncNet::new(hard));
        for net in [&bounded, &hard] {
            write(&**net, 0, 1, &pattern(100_000, 1)).await.unwrap();
        }
        mem.partition("s0", true);
        let since = tokio::time::Instant::now();
        let small = one(&*bounded, lookup(0, "x"));
        let bulk = write(&*bounded, 0, 2, &[0; 100_000]);
        let (small, bulk) = tokio::join!(small, bulk);
        assert_eq!(small.unwrap_err().code, ErrorCode::Unreachable);
        assert_eq!(bulk.unwrap_err().code, ErrorCode::Unreachable);
        assert!(since.elapsed() < Duration::from_secs(90), "{:?}", since.elapsed());
        let waiting = tokio::task::spawn_local(async move { write(&*hard, 0, 3, b"late").await });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!waiting.is_finished());
        mem.partition("s0", false);
        waiting.await.unwrap().unwrap();
    });
}

#[test]
fn a_slow_server_is_not_a_dead_one() {
    paused(async {
        let mem = MemNetwork::new(Env::seeded(1, Env::real().clock), FaultPlan::default());
        let service = TestService::new(0, Default::default());
        // Twelve pieces, each taken after twenty seconds: longer than any patience with silence.
        service.piece_ms.store(20_000, Ordering::Relaxed);
        let _stop = mem_server(&mem, service.clone());
        let net = AsyncNet::new(client_with(mem_options(&mem, &["s0"]), Arc::new(NoEvents)));
        write(&*net, 0, 1, &pattern(3 << 20, 1)).await.unwrap();
        assert_eq!(service.flow_pieces.load(Ordering::Relaxed), 12);
        let hang = one(&*net, lookup(0, "hang"));
        assert!(tokio::time::timeout(Duration::from_secs(600), hang).await.is_err());
        assert_eq!(net.shared().counters().resends, 0);
    });
}

#[test]
fn a_killed_mem_server_comes_back() {
    paused(async {
        let mem = MemNetwork::new(Env::seeded(3, Env::real().clock), FaultPlan::default());
        let memory = Arc::new(Mutex::default());
        let _old = mem_server(&mem, TestService::new(0, Arc::clone(&memory)));
        let witness = Arc::new(Witness::default());
        let net = AsyncNet::new(client_with(mem_options(&mem, &["s0"]), witness.clone()));
        write(&*net, 0, 1, b"one").await.unwrap();
        mem.kill("s0");
        let (mem, memory) = (&mem, &memory);
        let (written, _new) = tokio::join!(write(&*net, 0, 2, b"two"), async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            mem_server(mem, TestService::new(0, Arc::clone(memory)))
        });
        written.unwrap();
        assert_eq!(witness.restarts.load(Ordering::Relaxed), 1);
        assert_eq!(memory.lock().unwrap().stored.len(), 2);
    });
}
