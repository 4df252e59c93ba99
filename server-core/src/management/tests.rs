//! The service over a real loopback port: gRPC round trips, the metrics page, what is refused.
use super::source::{ParamDef, ServerSource};
use super::{ManagementSource, bind, client, serve_on};
use crate::metrics::{Metrics, names};
use parking_lot::Mutex;
use pvfs2_proto::op::Op;
use pvfs2_proto::{ClusterMap, ErrorCode, HandleRange, PvfsError, ServerEntry};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

struct Running {
    address: String,
    drained: Arc<Mutex<Option<bool>>>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

async fn start() -> Running {
    let entry = ServerEntry {
        alias: "io0".into(),
        io_range: Some(HandleRange { first: 100, last: 200 }),
        ..Default::default()
    };
    let map = ClusterMap { servers: vec![entry], ..Default::default() };
    let metrics = Arc::new(Metrics::new());
    metrics.record(Op::IoWrite, 5_000, true);
    metrics.record(Op::IoWrite, 7_000, false);
    metrics.add_bytes_in(Op::IoWrite, 65_536);
    let drained = Arc::new(Mutex::new(None));
    let (seen, level) = (drained.clone(), Arc::new(Mutex::new("info".to_owned())));
    let level_set = level.clone();
    let source = ServerSource::new(
        0,
        &map,
        77,
        metrics,
        Box::new(|| vec![(names::SESSIONS, 3), (names::STORAGE_FREE, 1 << 30)]),
        Box::new(move |shutdown| *seen.lock() = Some(shutdown)),
    )
    .with_param(ParamDef {
        name: "log_level",
        help: "error, warn, info, debug or trace",
        get: Box::new(move || level.lock().clone()),
        set: Box::new(move |value| {
            if !["error", "warn", "info", "debug", "trace"].contains(&value) {
                return Err(PvfsError::new(ErrorCode::Invalid, "log_level takes names of levels"));
            }
            *level_set.lock() = value.to_owned();
            Ok(())
        }),
    });
    let listener = bind("0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = watch::channel(false);
    let source: Arc<dyn ManagementSource> = Arc::new(source);
    let task = tokio::spawn(serve_on(listener, source, stopped));
    Running { address, drained, stop, task }
}

async fn http1(address: &str, request: &str) -> String {
    let mut s = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
    s.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn tools_ask_status_and_counters() {
    let r = start().await;
    let s = client::status(&r.address).await.unwrap();
    assert_eq!((s.alias.as_str(), s.roles.as_str(), s.boot_id), ("io0", "io", 77));
    assert_eq!((s.sessions, s.storage_free_bytes, s.draining), (3, 1 << 30, false));
    assert_eq!(s.pid, std::process::id());
    let c = client::counters(&r.address).await.unwrap();
    assert_eq!(c.ops.len(), 1);
    let w = &c.ops[0];
    assert_eq!((w.op.as_str(), w.count, w.errors, w.bytes_in), ("io_write", 2, 1, 65_536));
    assert!(w.p50_ns >= 5_000 && w.p50_ns <= w.p99_ns && w.p99_ns <= w.max_ns);
    assert_eq!((w.max_ns, w.sum_ns), (7_000, 12_000));
}

#[tokio::test]
async fn parameters_change_and_refuse() {
    let r = start().await;
    assert_eq!(client::params(&r.address).await.unwrap()[0].value, "info");
    let after = client::set_param(&r.address, "log_level", "debug").await.unwrap();
    assert_eq!(after[0].value, "debug");
    let e = client::set_param(&r.address, "log_level", "loud").await.unwrap_err();
    assert_eq!(e.code, ErrorCode::Invalid);
    let e = client::set_param(&r.address, "colour", "red").await.unwrap_err();
    assert_eq!(e.code, ErrorCode::NotFound);
    assert!(e.detail.contains("log_level"), "{e}");
}

#[tokio::test]
async fn drain_reaches_the_server_and_stop_ends_the_port() {
    let r = start().await;
    client::drain(&r.address, true).await.unwrap();
    assert_eq!(*r.drained.lock(), Some(true));
    assert!(client::status(&r.address).await.unwrap().draining);
    r.stop.send(true).unwrap();
    r.task.await.unwrap();
    let e = client::status(&r.address).await.unwrap_err();
    assert_eq!(e.code, ErrorCode::Unreachable);
}

#[tokio::test]
async fn prometheus_reads_over_http_1() {
    let r = start().await;
    let text =
        http1(&r.address, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("pvfs2_requests_total{server=\"io0\",op=\"io_write\"} 2\n"), "{text}");
    assert!(text.contains("pvfs2_sessions{server=\"io0\"} 3\n"), "{text}");
    let text = http1(&r.address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 404"), "{text}");
}

#[tokio::test]
async fn a_browser_cannot_drain() {
    let r = start().await;
    let request = "POST /pvfs2.management.v1.Management/Drain HTTP/1.1\r\nHost: x\r\n\
                   Connection: close\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0";
    let text = http1(&r.address, request).await;
    assert!(text.starts_with("HTTP/1.1 404"), "{text}");
    assert_eq!(*r.drained.lock(), None);
}

#[test]
fn addresses_in_their_forms() {
    let parse = super::http::host_port;
    assert_eq!(parse("3335").unwrap(), "127.0.0.1:3335");
    assert_eq!(parse(":3335").unwrap(), "127.0.0.1:3335");
    assert_eq!(parse("http://h:1/").unwrap(), "h:1");
    assert_eq!(parse("[::1]:2").unwrap(), "[::1]:2");
    for bad in ["", "host", "http://host", "host:99999", "host:"] {
        assert_eq!(parse(bad).unwrap_err().code, ErrorCode::Invalid, "{bad}");
    }
}

#[test]
fn changes_come_from_loopback_only() {
    let mut request = tonic::Request::new(());
    assert!(super::only_from_loopback(&request).is_err());
    for (addr, ok) in [
        ("127.0.0.1:1", true),
        ("[::1]:1", true),
        ("[::ffff:127.0.0.1]:1", true),
        ("10.0.0.1:1", false),
    ] {
        request.extensions_mut().insert(super::Peer(addr.parse().unwrap()));
        assert_eq!(super::only_from_loopback(&request).is_ok(), ok, "{addr}");
    }
}
