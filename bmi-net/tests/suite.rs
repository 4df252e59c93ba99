//! One suite over both carriers and all methods: request and response, bodies scattered and
//! gathered, flows in both directions, several servers at once.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use pvfs2_bmi::addr::Address;
use pvfs2_bmi::call::{Call, Net};
use pvfs2_bmi::client::{AsyncNet, BlockingNet, ClientShared, NoEvents};
use pvfs2_bmi::mem::{FaultPlan, MemNetwork};
use pvfs2_bmi::server::{ServerOptions, serve};
use pvfs2_proto::ErrorCode;
use pvfs2_proto::env::Env;
use pvfs2_proto::op::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

const SIZES: [usize; 9] =
    [1, 1000, 4096, 16_384, 65_536, 1 << 20, (1 << 20) + 1, 3_000_000, 5 << 20];

/// What every carrier must do with servers 0 to 3, each with `TestService`.
async fn suite<N: Net>(net: &N) {
    let cx = cx();
    // Ping, errors, an answer that is slow.
    let mut calls = [
        Call::new(0, PingRequest {}.into_request()),
        lookup(0, "missing"),
        lookup(0, "slow"),
        lookup(0, "x"),
    ];
    net.exchange(&cx, &mut calls).await;
    let [ping, missing, slow, x] = calls;
    let pong = PingRequest::take_response(ping.result.unwrap().unwrap().op).unwrap();
    assert_eq!(pong.alias, "s0");
    let error = missing.result.unwrap().unwrap_err();
    assert_eq!((error.code, &*error.detail), (ErrorCode::NotFound, "no 'missing' here"));
    assert!(slow.result.unwrap().is_ok() && x.result.unwrap().is_ok());

    // Bodies of all sizes there and back, into scattered pieces and into one reply.
    for (i, len) in SIZES.into_iter().enumerate() {
        let data = pattern(len, i as u8);
        write(net, 1, len as u64, &data).await.unwrap();
        let reply = one(net, read(1, len as u64)).await.unwrap();
        assert_eq!((reply.body_len, reply.body.len()), (len, len));
        assert!(reply.body == data, "{len} bytes in one piece");

        let mut back = vec![0xee; len + 10];
        let (a, rest) = back.split_at_mut(len / 7);
        let (b, c) = rest.split_at_mut(len / 2);
        let mut call = read(1, len as u64);
        call.into.extend([a, b, c]);
        let reply = one(net, call).await.unwrap();
        assert_eq!((reply.body_len, reply.body.len()), (len, 0));
        assert!(back[..len] == data[..], "{len} bytes scattered");
        assert_eq!(back[len..], [0xee; 10], "what the body does not reach stays as it is");
    }

    // Lent bodies: as any other, and where the checksum is not theirs the stream stays good.
    for (len, right) in [(65_536, true), (1 << 20, false), (65_536, false), (1 << 20, true)] {
        let before = one(net, read(1, 77_777)).await;
        assert!(before.is_ok());
        let mut back = vec![0xee; len + 10];
        let mut call = read_lent(1, len as u64, right);
        call.into.push(&mut back);
        let reply = one(net, call).await.unwrap();
        assert_eq!((reply.body_len, reply.is_changed), (len, !right));
        let i = SIZES.iter().position(|l| *l == len).unwrap();
        assert!(back[..len] == pattern(len, i as u8)[..], "{len} bytes lent");
        assert_eq!(back[len..], [0xee; 10]);
    }

    // An answer longer than the room for it is an error, not an overrun.
    let mut small = [0u8; 100];
    let mut call = read(1, 1000);
    call.into.push(&mut small);
    assert!(one(net, call).await.is_err());

    // Four servers at once, each with a body of its own in both directions.
    for server in 0..4 {
        write(net, server, 77, &pattern(2_000_000 + server as usize, server as u8)).await.unwrap();
    }
    let mut bufs: Vec<Vec<u8>> = (0..4).map(|s| vec![0; 2_000_000 + s]).collect();
    let mut calls: Vec<Call<'_>> = bufs
        .iter_mut()
        .enumerate()
        .map(|(server, buf)| {
            let mut call = read(server as u32, 77);
            call.into.push(buf);
            call
        })
        .collect();
    net.exchange(&cx, &mut calls).await;
    assert!(calls.iter().all(|c| c.result.as_ref().unwrap().is_ok()));
    drop(calls);
    for (server, buf) in bufs.iter().enumerate() {
        assert!(*buf == pattern(2_000_000 + server, server as u8), "server {server}");
    }
}

fn four_servers(mut at: impl FnMut(u32) -> Address) -> (Vec<TestServer>, Vec<Address>) {
    let servers: Vec<TestServer> = (0..4)
        .map(|i| TestServer::start(&at(i), TestService::new(i, Default::default())))
        .collect();
    let addresses = servers.iter().map(|s| s.address.clone()).collect();
    (servers, addresses)
}

fn both_carriers(servers: &[TestServer], shared: Arc<ClientShared>) {
    now(suite(&BlockingNet::new(shared.clone())));
    // Of SIZES those from 64 KiB to a frame; longer ones are flows, which are not lent.
    let is_unix = servers.iter().all(|s| matches!(s.address, Address::Unix(_)));
    let lent = if is_unix { 65_536 + (1 << 20) } else { 0 };
    assert_eq!(shared.counters().bytes_lent, lent);
    run_local(async {
        let net = AsyncNet::new(shared.clone());
        suite(&*net).await;
        net.goodbye().await;
    });
    for server in servers {
        wait_until("every connection is closed", || {
            server.service.open.load(Ordering::Relaxed) == 0
        });
    }
}

#[test]
fn over_tcp() {
    let (servers, addresses) = four_servers(|_| tcp());
    both_carriers(&servers, client(&addresses));
}

#[test]
fn over_unix() {
    let dir = tempfile::tempdir().unwrap();
    let (servers, addresses) = four_servers(|i| unix(dir.path(), &format!("s{i}")));
    both_carriers(&servers, client(&addresses));
}

#[test]
fn over_mem_with_a_paused_clock() {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async {
        let plan = FaultPlan { delay_us_max: 500, ..Default::default() };
        let mem = MemNetwork::new(Env::seeded(5, Env::real().clock), plan);
        let (_stop, stopped) = watch::channel(false);
        let names = ["s0", "s1", "s2", "s3"];
        for (i, name) in names.iter().enumerate() {
            let service = TestService::new(i as u32, Default::default());
            let opts = Arc::new(ServerOptions { fs_id: 9, ..Default::default() });
            tokio::task::spawn_local(serve(mem.listen(name), service, opts, stopped.clone()));
        }
        let shared = client_with(mem_options(&mem, &names), Arc::new(NoEvents));
        let net = AsyncNet::new(shared);
        suite(&*net).await;
    });
}

#[test]
fn unix_is_preferred_and_tcp_is_taken_when_its_socket_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let service = TestService::new(0, Default::default());
    let server = TestServer::start(&tcp(), service.clone());
    let near = TestServer::start(&unix(dir.path(), "s"), service.clone());
    let map = Arc::new(map_of(&[vec![server.address.clone(), near.address.clone()]]));
    let opts = pvfs2_bmi::client::ClientOptions::new(map, Env::real());
    for (gone, expected) in [(false, "unix:"), (true, "tcp:")] {
        if gone {
            std::fs::remove_file(dir.path().join("s")).unwrap();
        }
        let net = BlockingNet::new(ClientShared::new(opts.clone(), Arc::new(NoEvents)));
        let mut calls = [lookup(0, "x")];
        now(net.exchange(&cx(), &mut calls));
        assert!(calls[0].result.as_ref().unwrap().is_ok());
        let conns = service.conns.lock().unwrap();
        assert!(conns.last().unwrap().peer.starts_with(expected));
    }
}

#[test]
fn one_listener_serves_on_two_loops() {
    let (stop, stopped) = watch::channel(false);
    let service = TestService::new(0, Default::default());
    let (tx, rx) = std::sync::mpsc::channel();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = rt.block_on(pvfs2_bmi::server::Listener::bind(&tcp())).unwrap();
    let second = first.try_clone().unwrap();
    let address = first.address().unwrap();
    let threads: Vec<_> = [first, second]
        .into_iter()
        .map(|listener| {
            let (service, stopped, tx) = (service.clone(), stopped.clone(), tx.clone());
            std::thread::spawn(move || {
                run_local(async move {
                    tx.send(()).unwrap();
                    serve(listener, service, Arc::new(ServerOptions::default()), stopped).await;
                });
            })
        })
        .collect();
    rx.recv().unwrap();
    rx.recv().unwrap();
    let nets: Vec<BlockingNet> =
        (0..8).map(|_| BlockingNet::new(client(std::slice::from_ref(&address)))).collect();
    for net in &nets {
        let mut calls = [lookup(0, "x")];
        now(net.exchange(&cx(), &mut calls));
        calls[0].result.take().unwrap().unwrap();
    }
    assert_eq!(service.open.load(Ordering::Relaxed), 8);
    stop.send(true).unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(service.open.load(Ordering::Relaxed), 0, "a stopped server closes its connections");
}
