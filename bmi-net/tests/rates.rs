//! Round trips per second and MiB per second of the carriers, for profiling; run with
//! `cargo test --release -p pvfs2-bmi --test rates -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use pvfs2_bmi::addr::Address;
use pvfs2_bmi::call::Net;
use pvfs2_bmi::client::{AsyncNet, BlockingNet, ClientOptions, NoEvents};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_millis(700);

async fn rates<N: Net>(name: &str, net: &N) {
    let (since, mut n) = (Instant::now(), 0u32);
    while since.elapsed() < TIME {
        one(net, lookup(0, "x")).await.unwrap();
        n += 1;
    }
    let us = since.elapsed().as_secs_f64() * 1e6 / f64::from(n);
    let data = pattern(1 << 20, 1);
    let (since, mut n) = (Instant::now(), 0u32);
    while since.elapsed() < TIME {
        write(net, 0, 1, &data).await.unwrap();
        n += 1;
    }
    let up = f64::from(n) / since.elapsed().as_secs_f64();
    let mut back = vec![0; 1 << 20];
    let (since, mut n) = (Instant::now(), 0u32);
    while since.elapsed() < TIME {
        let mut call = read(0, 1);
        call.into.push(&mut back);
        one(net, call).await.unwrap();
        n += 1;
    }
    let down = f64::from(n) / since.elapsed().as_secs_f64();
    println!("{name:24} round trip {us:7.1} us   write {up:6.0} MiB/s   read {down:6.0} MiB/s");
}

#[test]
#[ignore = "prints rates; checks nothing"]
fn rates_of_all_carriers() {
    let dir = tempfile::tempdir().unwrap();
    let places: [(&str, Address); 2] = [("unix", unix(dir.path(), "s")), ("tcp", tcp())];
    for (method, at) in places {
        let server = TestServer::start(&at, TestService::new(0, Default::default()));
        for spin_us in [0, 30] {
            let opts = ClientOptions { spin_us, ..options(std::slice::from_ref(&server.address)) };
            let net = BlockingNet::new(client_with(opts, Arc::new(NoEvents)));
            now(rates(&format!("{method} blocking spin {spin_us}"), &net));
        }
        let shared = client(std::slice::from_ref(&server.address));
        run_local(async { rates(&format!("{method} async"), &*AsyncNet::new(shared)).await });
    }
}
