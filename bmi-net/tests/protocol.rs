//! The wire as a stranger sees it: golden bytes of a hello, peers that break the protocol, credits
//! counted piece by piece, the cluster's key.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use prost::Message;
use pvfs2_bmi::addr::Address;
use pvfs2_bmi::call::Net;
use pvfs2_bmi::client::{BlockingNet, ClientOptions, NoEvents, fetch_map, ping};
use pvfs2_bmi::server::ServerOptions;
use pvfs2_proto::ErrorCode;
use pvfs2_proto::frame::*;
use pvfs2_proto::limits::*;
use pvfs2_proto::op::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

struct Raw(TcpStream);

impl Raw {
    fn connect(address: &Address) -> Raw {
        let Address::Tcp(place) = address else { panic!() };
        let stream = TcpStream::connect(place).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Raw(stream)
    }
    fn greeted(address: &Address) -> Raw {
        let mut raw = Raw::connect(address);
        raw.send(&frame(Kind::Request, 0, 1, &hello(), b""));
        assert_eq!(raw.response().1.status, 0);
        raw
    }
    fn send(&mut self, bytes: &[u8]) {
        // The server may have cut us already; the answer tells.
        self.0.write_all(bytes).ok();
    }
    fn frame(&mut self) -> Option<(Header, Vec<u8>, Vec<u8>)> {
        let mut header = [0; HEADER_LEN];
        self.0.read_exact(&mut header).ok()?;
        let header = Header::decode(&header).unwrap();
        let mut head = vec![0; header.head_len as usize];
        let mut body = vec![0; header.body_len as usize];
        self.0.read_exact(&mut head).unwrap();
        self.0.read_exact(&mut body).unwrap();
        header.check_head(&head).unwrap();
        header.check_body_crc(crc32fast::hash(&body)).unwrap();
        Some((header, head, body))
    }
    fn response(&mut self) -> (Header, ResponseHead) {
        let (header, head, _) = self.frame().unwrap();
        assert_eq!(header.kind, Kind::Response);
        (header, ResponseHead::decode(&head[..]).unwrap())
    }
    /// The one answer before the cut.
    fn refused(mut self) -> ErrorCode {
        let (_, head) = self.response();
        assert!(self.frame().is_none(), "the connection goes on");
        head.as_error().unwrap().code
    }
}

fn head_of(op: OpRequest) -> Vec<u8> {
    RequestHead { cred: Some(Cred::root()), op: Some(op), ..Default::default() }.encode_to_vec()
}

fn hello() -> Vec<u8> {
    head_of(OpRequest::Hello(HelloRequest {
        version_min: 1,
        version_max: 1,
        no_session: true,
        ..Default::default()
    }))
}

fn frame(kind: Kind, flags: u16, tag: u64, head: &[u8], body: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(body);
    let header = Header::new(kind, 1, flags, tag, head, body.len() as u32, crc);
    [&header.encode()[..], head, body].concat()
}

fn request(tag: u64, op: OpRequest) -> Vec<u8> {
    frame(Kind::Request, 0, tag, &head_of(op), b"")
}

fn server() -> TestServer {
    TestServer::start(&tcp(), TestService::new(0, Default::default()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn golden_hello_over_the_wire() {
    let server = server();
    server.service.boot_id.store(3, Ordering::Relaxed);
    let sent = frame(Kind::Request, 0, 7, &hello(), b"");
    assert_eq!(
        hex(&sent),
        "505601010100000007000000000000000d000000000000000804aed4000000002a022001aa0606080110015801",
        "the bytes of protocol version 1 do not change"
    );
    let mut raw = Raw::connect(&server.address);
    raw.send(&sent);
    let mut answer = vec![0; HEADER_LEN + 14];
    raw.0.read_exact(&mut answer).unwrap();
    assert_eq!(
        hex(&answer),
        "505601020100000007000000000000000e000000000000003b6f1ef800000000aa060b08011009200338d8044004"
    );
}

#[test]
fn protocol_breakers_are_answered_once_and_cut() {
    let server = server();
    let at = &server.address;
    let good = hello();
    let mut cases: Vec<(&str, ErrorCode, Vec<u8>)> = Vec::new();
    let mut bad = frame(Kind::Request, 0, 1, &good, b"");
    bad[0] = b'X';
    cases.push(("magic", ErrorCode::Protocol, bad));
    cases.push((
        "http",
        ErrorCode::Protocol,
        b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n".to_vec(),
    ));
    let mut bad = frame(Kind::Request, 0, 1, &good, b"");
    bad[2] = 99;
    cases.push(("version", ErrorCode::Version, bad));
    let mut bad = frame(Kind::Request, 0, 1, &good, b"");
    bad[24] ^= 1;
    cases.push(("head crc", ErrorCode::Damaged, bad));
    let mut bad = frame(Kind::Request, 0, 1, &good, b"");
    bad[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    cases.push(("head length", ErrorCode::Protocol, bad));
    let mut bad = frame(Kind::Request, 0, 1, &good, b"");
    bad[16..20].copy_from_slice(&(1u32 << 20).to_le_bytes());
    cases.push(("head too long before hello", ErrorCode::Protocol, bad));
    let mut bad = frame(Kind::Request, 0, 1, &good, b"");
    bad[20..24].copy_from_slice(&(BODY_MAX as u32 + 1).to_le_bytes());
    cases.push(("body length", ErrorCode::Protocol, bad));
    let ping = OpRequest::Ping(PingRequest {});
    cases.push(("no hello", ErrorCode::Protocol, request(1, ping)));
    cases.push(("body in hello", ErrorCode::Protocol, frame(Kind::Request, 0, 1, &good, b"x")));
    cases.push((
        "rubbish head",
        ErrorCode::Protocol,
        frame(Kind::Request, 0, 1, b"\xff\xff\xff", b""),
    ));
    cases.push(("a response", ErrorCode::Protocol, frame(Kind::Response, 0, 1, b"", b"")));
    let old = HelloRequest { version_min: 7, version_max: 8, ..Default::default() };
    cases.push(("old client", ErrorCode::Version, request(1, OpRequest::Hello(old))));
    let other = HelloRequest { version_min: 1, version_max: 1, fs_id: 5, ..Default::default() };
    cases.push(("other fs", ErrorCode::WrongFileSystem, request(1, OpRequest::Hello(other))));
    for (name, code, bytes) in cases {
        let mut raw = Raw::connect(at);
        raw.send(&bytes);
        assert_eq!(raw.refused(), code, "{name}");
    }

    let mut damaged =
        frame(Kind::Request, 0, 2, &head_of(OpRequest::IoWrite(Default::default())), b"body");
    *damaged.last_mut().unwrap() ^= 1;
    let later: Vec<(&str, ErrorCode, Vec<u8>)> = vec![
        ("body crc", ErrorCode::Damaged, damaged),
        ("second hello", ErrorCode::Protocol, frame(Kind::Request, 0, 2, &good, b"")),
        ("a notice", ErrorCode::Protocol, frame(Kind::Notice, 0, 0, b"", b"")),
        ("a piece of no flow", ErrorCode::Protocol, frame(Kind::Flow, 0, 5, b"", b"x")),
    ];
    for (name, code, bytes) in later {
        let mut raw = Raw::greeted(at);
        raw.send(&bytes);
        assert_eq!(raw.refused(), code, "{name}");
    }
    assert!(server.service.memory.lock().unwrap().executed.is_empty());
    wait_until("every connection is closed", || server.service.open.load(Ordering::Relaxed) == 0);
    // And the server is as well as before.
    now(one(&BlockingNet::new(client(std::slice::from_ref(at))), lookup(0, "x"))).unwrap();
}

#[test]
fn an_unknown_operation_is_refused_alone() {
    let server = server();
    let mut raw = Raw::greeted(&server.address);
    let head = RequestHead { cred: Some(Cred::root()), ..Default::default() }.encode_to_vec();
    raw.send(&frame(Kind::Request, 0, 2, &head, b""));
    assert_eq!(raw.response().1.as_error().unwrap().code, ErrorCode::NotSupported);
    raw.send(&request(3, OpRequest::Ping(PingRequest {})));
    let (header, head) = raw.response();
    assert_eq!((header.tag, head.status), (3, 0));
}

#[test]
fn a_peer_that_stops_halfway_is_cut() {
    let opts = ServerOptions { progress_ms: 150, ..Default::default() };
    let server = TestServer::start_with(&tcp(), TestService::new(0, Default::default()), opts);
    let half = request(2, OpRequest::Ping(PingRequest {}));
    let silent = Raw::connect(&server.address);
    let mut halfway = Raw::greeted(&server.address);
    halfway.send(&half[..20]);
    let mut idle = Raw::greeted(&server.address);
    for mut raw in [silent, halfway] {
        let since = Instant::now();
        assert!(raw.frame().is_none());
        assert!(since.elapsed() < Duration::from_secs(3));
    }
    idle.send(&half);
    assert_eq!(idle.response().1.status, 0, "an idle connection is left alone");
}

#[test]
fn a_reader_that_grants_no_credits_gets_eight_pieces() {
    let server = server();
    let data = pattern(20 * FLOW_BUFFER_BYTES, 1);
    server.service.memory.lock().unwrap().stored.insert(5, data.clone());
    let mut raw = Raw::greeted(&server.address);
    raw.send(&request(
        2,
        OpRequest::IoRead(IoReadRequest {
            datahandle: 5,
            extents: vec![],
            may_lend: false,
            ..Default::default()
        }),
    ));
    let (header, _) = raw.response();
    assert_eq!((header.flags, header.body_len), (FLAG_FLOW, 0));
    let mut got = Vec::new();
    for _ in 0..FLOW_BUFFERS {
        got.extend(raw.frame().unwrap().2);
    }
    let grant = |n: u16| Header::new(Kind::Flow, n, FLAG_CREDIT, 2, b"", 0, 0).encode();
    raw.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(raw.frame().is_none(), "a ninth piece without credit");
    raw.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    raw.send(&grant(1));
    got.extend(raw.frame().unwrap().2);
    raw.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(raw.frame().is_none(), "one credit, one piece");
    raw.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    loop {
        raw.send(&grant(1));
        let (header, _, body) = raw.frame().unwrap();
        got.extend(body);
        if header.flags & FLAG_FLOW_END != 0 {
            break;
        }
    }
    assert!(got == data);
}

#[test]
fn a_sender_without_credit_is_cut_and_a_slow_taker_holds_eight_pieces() {
    let server = server();
    server.service.piece_ms.store(10_000, Ordering::Relaxed);
    let mut raw = Raw::greeted(&server.address);
    let write = head_of(OpRequest::IoWrite(Default::default()));
    raw.send(&frame(Kind::Request, FLAG_FLOW, 2, &write, b""));
    let piece = vec![1; FLOW_BUFFER_BYTES];
    for _ in 0..FLOW_BUFFERS {
        raw.send(&frame(Kind::Flow, 0, 2, b"", &piece));
    }
    // The taker has taken one and granted it.
    let (header, ..) = raw.frame().unwrap();
    assert_eq!((header.kind, header.flags, header.op), (Kind::Flow, FLAG_CREDIT, 1));
    raw.send(&frame(Kind::Flow, 0, 2, b"", &piece));
    raw.send(&frame(Kind::Flow, 0, 2, b"", &piece));
    assert_eq!(raw.refused(), ErrorCode::Protocol);
    assert_eq!(server.service.flow_pieces.load(Ordering::Relaxed), 1);
}

#[test]
fn requests_beyond_the_limit_wait_and_are_answered() {
    let opts = ServerOptions { in_flight_max: 3, ..Default::default() };
    let server = TestServer::start_with(&tcp(), TestService::new(0, Default::default()), opts);
    let mut raw = Raw::greeted(&server.address);
    let slow = LookupRequest {
        dir: 1,
        path: vec!["slow".into()],
        want_bytes: false,
        ..Default::default()
    };
    let all: Vec<u8> =
        (0..12).flat_map(|tag| request(10 + tag, OpRequest::Lookup(slow.clone()))).collect();
    let since = Instant::now();
    raw.send(&all);
    let mut tags: Vec<u64> = (0..12).map(|_| raw.response().0.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (10..22).collect::<Vec<u64>>());
    assert!(since.elapsed() >= Duration::from_millis(4 * 50), "three at a time, 50 ms each");
}

#[test]
fn an_orderly_stop_answers_what_is_under_way() {
    let mut server = server();
    let mut raw = Raw::greeted(&server.address);
    let slow = LookupRequest {
        dir: 1,
        path: vec!["slow".into()],
        want_bytes: false,
        ..Default::default()
    };
    raw.send(&request(2, OpRequest::Lookup(slow)));
    std::thread::sleep(Duration::from_millis(20));
    server.stop();
    let (header, head, _) = raw.frame().unwrap();
    assert_eq!(header.kind, Kind::Notice);
    assert!(Notice::decode(&head[..]).unwrap().draining);
    assert_eq!(raw.response().0.tag, 2);
    assert!(raw.frame().is_none());
}

#[test]
fn the_key_is_asked_for_proven_and_compared() {
    let opts =
        ServerOptions { key: Some(key(1)), key_from_all: true, fs_id: 9, ..Default::default() };
    let server = TestServer::start_with(&tcp(), TestService::new(0, Default::default()), opts);
    let at = server.address.clone();
    let with = |key| ClientOptions { key, ..options(std::slice::from_ref(&at)) };
    for (own, expected) in [
        (Some(key(1)), None),
        (Some(key(2)), Some(ErrorCode::Unauthenticated)),
        (None, Some(ErrorCode::Unauthenticated)),
    ] {
        let shared = client_with(with(own.clone()), Arc::new(NoEvents));
        let result = now(one(&BlockingNet::new(shared.clone()), lookup(0, "x")));
        assert_eq!(result.err().map(|e| e.code), expected, "blocking, {own:?}");
        let got = run_local(async {
            let net = pvfs2_bmi::client::AsyncNet::new(shared);
            one(&*net, lookup(0, "x")).await.err().map(|e| e.code)
        });
        assert_eq!(got, expected, "async, {own:?}");
        let got = run_local(fetch_map(&at, "fs", own.clone())).err().map(|e| e.code);
        assert_eq!(got, expected, "fetch_map, {own:?}");
        let got = run_local(ping(&at, own.clone(), None)).err().map(|e| e.code);
        assert_eq!(got, expected, "ping, {own:?}");
    }
    // A proof that is merely random is refused, and no session was made by any of the refused.
    let mut raw = Raw::connect(&at);
    let mut hello = HelloRequest {
        version_min: 1,
        version_max: 1,
        nonce: vec![1; 32].into(),
        ..Default::default()
    };
    raw.send(&request(1, OpRequest::Hello(hello.clone())));
    assert_eq!(raw.response().1.status, 0);
    hello.proof = vec![2; 32].into();
    raw.send(&request(2, OpRequest::Hello(hello)));
    assert_eq!(raw.refused(), ErrorCode::Unauthenticated);
    assert_eq!(server.service.memory.lock().unwrap().sessions.len(), 1);
}

#[test]
fn without_a_key_strangers_are_refused() {
    let opts = ServerOptions { key_from_all: true, ..Default::default() };
    let server = TestServer::start_with(&tcp(), TestService::new(0, Default::default()), opts);
    let net = BlockingNet::new(client(std::slice::from_ref(&server.address)));
    let error = now(one(&net, lookup(0, "x"))).unwrap_err();
    assert_eq!(error.code, ErrorCode::Unauthenticated);
    assert!(now(net.ticket(&cx(), 0)).is_err());
}

#[test]
fn first_contact() {
    let server = server();
    let map = run_local(fetch_map(&server.address, "", None)).unwrap();
    assert_eq!(map.fs_name, "fs");
    let error = run_local(fetch_map(&server.address, "other", None)).unwrap_err();
    assert_eq!(error.code, ErrorCode::WrongFileSystem);
    let pong = run_local(ping(&server.address, None, None)).unwrap();
    assert_eq!((pong.response.alias.as_str(), pong.server, pong.fs_id), ("s0", 0, 9));
    let nobody: Address = "unix:///none/such".parse().unwrap();
    let error = run_local(ping(&nobody, None, None)).unwrap_err();
    assert_eq!(error.code, ErrorCode::Unreachable);
}

#[test]
fn another_server_at_the_address_is_noticed() {
    let server = TestServer::start(&tcp(), TestService::new(1, Default::default()));
    let net = BlockingNet::new(client(std::slice::from_ref(&server.address)));
    let error = now(one(&net, lookup(0, "x"))).unwrap_err();
    assert_eq!(error.code, ErrorCode::WrongFileSystem);
}
