//! Memory that a client shares with a server of its machine: what is named instead of sent, what a server
//! takes and refuses, and that nothing changes below a server's eyes.
#![allow(clippy::unwrap_used)]
mod common;
use common::*;
use prost::Message;
use pvfs2_bmi::addr::Address;
use pvfs2_bmi::call::{Call, Net};
use pvfs2_bmi::client::{BlockingNet, ClientOptions, ClientShared, NoEvents};
use pvfs2_bmi::region::{MAPPED_BYTES_MAX, REGION_BYTES_MAX, SharedBuf, memory_file};
use pvfs2_bmi::server::ServerOptions;
use pvfs2_proto::frame::*;
use pvfs2_proto::op::*;
use pvfs2_proto::{ClusterMap, ErrorCode, HandleRange};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

/// Regions of all connections of a process count together.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner())
}

/// A client of I/O servers.
fn io_client(addresses: &[Address], change: impl FnOnce(&mut ClientOptions)) -> Arc<ClientShared> {
    let mut opts = options(addresses);
    let mut map = ClusterMap::clone(&opts.map);
    for (i, server) in map.servers.iter_mut().enumerate() {
        let first = 1 << (40 + i);
        server.io_range = Some(HandleRange { first, last: 2 * first - 1 });
    }
    opts.map = Arc::new(map);
    change(&mut opts);
    client_with(opts, Arc::new(NoEvents))
}

fn net(shared: &Arc<ClientShared>, buf: &SharedBuf) -> BlockingNet {
    let mut net = BlockingNet::new(shared.clone());
    net.share(buf.region().clone());
    net
}

fn call<'a>(net: &BlockingNet, datahandle: u64, body: &[&'a [u8]]) -> Call<'a> {
    let len = body.iter().map(|b| b.len() as u64).sum();
    let extents = vec![PhysicalExtent { physical_offset: 5, len }];
    let request = IoWriteRequest { datahandle, extents, ..Default::default() };
    let mut call = Call::new(0, request.into_request());
    call.body = body.iter().copied().collect();
    call.ticket = Some(now(net.ticket(&cx(), 0)).unwrap());
    call
}

fn write(net: &BlockingNet, datahandle: u64, body: &[&[u8]]) -> Result<(), ErrorCode> {
    let mut calls = [call(net, datahandle, body)];
    now(net.exchange(&cx(), &mut calls));
    let [call] = calls;
    net.done(call.ticket.unwrap());
    call.result.unwrap().map(|_| ()).map_err(|e| e.code)
}

fn stored(server: &TestServer, datahandle: u64) -> Vec<u8> {
    server.service.memory.lock().unwrap().stored.get(&datahandle).cloned().unwrap_or_default()
}

/// A server on a unix socket; no other test's while it is there.
struct Rig {
    server: TestServer,
    _dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Rig {
    fn new() -> Rig {
        let alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let service = TestService::new(0, Default::default());
        let server = TestServer::start(&unix(dir.path(), "s"), service);
        Rig { server, _dir: dir, _alone: alone }
    }
}

/// A client of that one server.
fn client_of(server: &TestServer, change: impl FnOnce(&mut ClientOptions)) -> Arc<ClientShared> {
    io_client(std::slice::from_ref(&server.address), change)
}

#[test]
fn what_lies_in_the_region_is_named_and_all_else_is_sent() {
    let rig = Rig::new();
    let server = &rig.server;
    let shared = client_of(server, |_| {});
    let mut buf = SharedBuf::new(2 << 20).unwrap();
    buf.copy_from_slice(&pattern(2 << 20, 3));
    let net = net(&shared, &buf);
    let mut named = 0;
    for (datahandle, pieces) in [
        (1, vec![(0, 1 << 20)]),
        (2, vec![((1 << 20) + 7, (1 << 20) + 100_000), (3, 9_000)]),
        // More than one frame takes, and more than once.
        (3, vec![(0, 2 << 20), (0, 2 << 20)]),
    ] {
        let body: Vec<&[u8]> = pieces.iter().map(|&(from, to)| &buf[from..to]).collect();
        write(&net, datahandle, &body).unwrap();
        assert!(stored(server, datahandle) == body.concat(), "{datahandle}");
        named += body.concat().len() as u64;
        assert_eq!(shared.counters().bytes_shared, named);
    }
    assert_eq!(shared.counters().bytes_lent, 0);
    let own = pattern(100_000, 9);
    for body in [&[&own[..]][..], &[&buf[..50_000], &own], &[&buf[..100]]] {
        write(&net, 4, body).unwrap();
        assert!(stored(server, 4) == body.concat());
    }
    let counters = shared.counters();
    assert_eq!(counters.bytes_shared, named);
    assert_eq!(counters.bytes_lent, 250_000);
    assert_eq!(counters.bytes_out, named + 250_100);
}

#[test]
fn who_may_not_or_cannot_share_sends() {
    let rig = Rig::new();
    let local = &rig.server;
    let far = TestServer::start(&tcp(), TestService::new(0, Default::default()));
    let sends = |server: &TestServer, change: fn(&mut ClientOptions), len: usize| {
        let shared = client_of(server, change);
        let buf = SharedBuf::new(len).unwrap();
        write(&net(&shared, &buf), 1, &[&buf[..100_000]]).unwrap();
        assert!(stored(server, 1) == buf[..100_000]);
        let counters = shared.counters();
        assert_eq!(counters.bytes_out, 100_000);
        counters.bytes_shared == 0
    };
    assert!(!sends(local, |_| {}, 100_000));
    assert!(sends(local, |opts| opts.share_memory = false, 100_000), "switched off");
    assert!(sends(local, |_| {}, REGION_BYTES_MAX + 1), "too long");
    assert!(sends(&far, |_| {}, 100_000), "by TCP");
    let meta = |opts: &mut ClientOptions| {
        let mut map = ClusterMap::clone(&opts.map);
        map.servers[0].io_range = None;
        opts.map = Arc::new(map);
    };
    assert!(sends(local, meta, 100_000), "no I/O server");
}

#[test]
fn a_server_maps_so_much_and_no_more_and_lets_go_of_it() {
    let rig = Rig::new();
    let server = &rig.server;
    let shared = client_of(server, |_| {});
    let one = |data: u8| {
        let mut buf = SharedBuf::new(REGION_BYTES_MAX).unwrap();
        buf[..50_000].fill(data);
        let net = net(&shared, &buf);
        write(&net, 1, &[&buf[..50_000]]).unwrap();
        assert!(stored(server, 1) == [data; 50_000]);
        (net, buf)
    };
    let most = MAPPED_BYTES_MAX / REGION_BYTES_MAX as u64;
    let held: Vec<_> = (0..most as u8).map(one).collect();
    assert_eq!(shared.counters().bytes_shared, most * 50_000);
    drop(one(100));
    assert_eq!(shared.counters().bytes_shared, most * 50_000, "the server had enough");
    drop(held);
    wait_until("every connection is closed", || server.service.open.load(Ordering::Relaxed) == 0);
    let before = shared.counters().bytes_shared;
    wait_until("there is room again", || {
        drop(one(101));
        shared.counters().bytes_shared > before
    });
}

#[test]
fn what_a_call_named_that_was_given_up_stays_as_it_was() {
    let rig = Rig::new();
    let server = &rig.server;
    let shared = client_of(server, |opts| opts.stall_ms = 60);
    let mut buf = SharedBuf::new(300_000).unwrap();
    buf.fill(1);
    let net = net(&shared, &buf);
    server.service.hold.store(true, Ordering::Relaxed);
    assert_eq!(write(&net, 1, &[&buf]), Err(ErrorCode::Stalled));
    assert_eq!(shared.counters().bytes_shared, 300_000);
    // The server has not looked yet, and the buffer is the program's again.
    assert!(buf.iter().all(|b| *b == 1));
    buf.fill(2);
    assert!(stored(server, 1).is_empty());
    server.service.hold.store(false, Ordering::Relaxed);
    wait_until("the server has written", || !stored(server, 1).is_empty());
    assert!(stored(server, 1) == [1; 300_000], "it wrote what was put there later");
    // And goes on with what is there now, on a new connection.
    write(&net, 2, &[&buf]).unwrap();
    assert!(stored(server, 2) == [2; 300_000]);
    assert_eq!(shared.counters().bytes_shared, 600_000);
}

#[test]
fn a_server_that_is_killed_and_started_anew_is_shared_with_again() {
    let Rig { mut server, _dir, _alone } = Rig::new();
    let shared = client_of(&server, |opts| opts.stall_ms = 2000);
    let mut buf = SharedBuf::new(100_000).unwrap();
    buf.fill(4);
    let net = net(&shared, &buf);
    write(&net, 1, &[&buf]).unwrap();
    // Killed while a write is under way: the same call goes to the next one.
    server.service.hold.store(true, Ordering::Relaxed);
    let memory = server.service.memory.clone();
    let at = server.address.clone();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        server.kill();
        memory.lock().unwrap().replies.clear();
        TestServer::start(&at, TestService::new(0, memory))
    });
    let outcome = write(&net, 2, &[&buf]);
    let server = killer.join().unwrap();
    if outcome.is_err() {
        // Nobody listened for a moment.
        assert_eq!(outcome, Err(ErrorCode::Stalled));
        buf.fill(5);
        write(&net, 2, &[&buf]).unwrap();
    }
    assert!(stored(&server, 2) == buf[..]);
    assert!(shared.counters().bytes_shared >= 300_000);
}

#[test]
fn it_is_shared_where_the_key_is_asked_for_as_well() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let opts =
        ServerOptions { key: Some(key(1)), key_from_all: true, fs_id: 9, ..Default::default() };
    let service = TestService::new(0, Default::default());
    let server = TestServer::start_with(&unix(dir.path(), "s"), service, opts);
    let at = std::slice::from_ref(&server.address);
    let shared = io_client(at, |opts| opts.key = Some(key(1)));
    let buf = SharedBuf::new(20_000).unwrap();
    write(&net(&shared, &buf), 1, &[&buf]).unwrap();
    assert_eq!(shared.counters().bytes_shared, 20_000);
}

/// A peer that says what it likes.
struct Raw(UnixStream, u64);

impl Raw {
    /// Says hello with `file`; and whether the server took it.
    fn hello(server: &TestServer, region_bytes: u64, files: &[&OwnedFd]) -> (Raw, bool) {
        let Address::Unix(path) = &server.address else { panic!() };
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let mut raw = Raw(stream, 0);
        let hello = HelloRequest {
            version_min: 1,
            version_max: 1,
            no_session: true,
            region_bytes,
            ..Default::default()
        };
        let bytes = raw.request(OpRequest::Hello(hello), b"");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files: Vec<_> = files.iter().map(|f| f.as_fd()).collect();
        if !files.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)));
        }
        let iov = [IoSlice::new(&bytes)];
        assert_eq!(sendmsg(&raw.0, &iov, &mut ancillary, SendFlags::empty()), Ok(bytes.len()));
        let Some(OpResponse::Hello(answer)) = raw.response().op else { panic!("no hello") };
        (raw, answer.takes_region)
    }
    fn request(&mut self, op: OpRequest, body: &[u8]) -> Vec<u8> {
        self.1 += 1;
        let (number, crc) = (op.op() as u16, crc32fast::hash(body));
        let head = RequestHead { cred: Some(Cred::root()), op: Some(op), ..Default::default() };
        let head = head.encode_to_vec();
        let len = body.len() as u32;
        let header = Header::new(Kind::Request, number, 0, self.1, &head, len, crc);
        [&header.encode()[..], &head, body].concat()
    }
    fn response(&mut self) -> ResponseHead {
        let mut header = [0; HEADER_LEN];
        self.0.read_exact(&mut header).unwrap();
        let header = Header::decode(&header).unwrap();
        let mut head = vec![0; header.head_len as usize];
        self.0.read_exact(&mut head).unwrap();
        ResponseHead::decode(&head[..]).unwrap()
    }
    fn write(&mut self, datahandle: u64, pieces: &[(u64, u64)], body: &[u8]) -> ResponseHead {
        let shared = pieces.iter().map(|&(offset, len)| SharedPiece { offset, len }).collect();
        let write = IoWriteRequest { datahandle, shared, ..Default::default() };
        let bytes = self.request(write.into_request(), body);
        self.0.write_all(&bytes).unwrap();
        self.response()
    }
}

fn code(head: &ResponseHead) -> Option<ErrorCode> {
    head.as_error().map(|e| e.code)
}

#[test]
fn a_client_that_lies_gets_an_error_and_nothing_is_written() {
    let rig = Rig::new();
    let server = &rig.server;
    let good = memory_file(8192).unwrap();
    let (mut raw, took) = Raw::hello(server, 8192, &[&good]);
    assert!(took);
    for lie in [(0, 8193), (8192, 1), (u64::MAX, 2), (1, u64::MAX), (4, 0)] {
        let answer = raw.write(1, &[(0, 8), lie], b"");
        assert_eq!(code(&answer), Some(ErrorCode::Invalid), "{lie:?}");
        assert!(answer.detail.contains("8192"), "{}", answer.detail);
    }
    let many = vec![(0, 1); 1025];
    assert_eq!(code(&raw.write(1, &many, b"")), Some(ErrorCode::Invalid));
    assert!(stored(server, 1).is_empty());
    // The connection is as good as before.
    assert_eq!(code(&raw.write(2, &[(0, 8192)], b"")), None);
    assert!(stored(server, 2) == [0; 8192]);
    // Both at once is no message.
    assert_eq!(code(&raw.write(3, &[(0, 8)], b"12345678")), Some(ErrorCode::Protocol));
    assert!(stored(server, 3).is_empty());
}

#[test]
fn a_server_takes_only_memory_that_is_safe_to_read() {
    let rig = Rig::new();
    let server = &rig.server;
    let good = memory_file(8192).unwrap();
    let unsealed = memfd_create(c"x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&unsealed, 8192).unwrap();
    let disk = OwnedFd::from(tempfile::tempfile().unwrap());
    rustix::fs::ftruncate(&disk, 8192).unwrap();
    for (why, bytes, files) in [
        ("unsealed", 8192, vec![&unsealed]),
        ("a file", 8192, vec![&disk]),
        ("of another size", 4096, vec![&good]),
        ("nothing comes along", 8192, vec![]),
        ("not said", 0, vec![&good]),
    ] {
        let (mut raw, took) = Raw::hello(server, bytes, &files);
        assert!(!took, "{why}");
        let answer = raw.write(1, &[(0, 8)], b"");
        assert_eq!(code(&answer), Some(ErrorCode::Invalid), "{why}");
        assert!(answer.detail.contains("none"), "{}", answer.detail);
        // It goes on as any other.
        assert_eq!(code(&raw.write(2, &[], b"12345678")), None);
        assert_eq!(stored(server, 2), b"12345678");
    }
    // Whatever else comes along is closed.
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let (raw, _) = Raw::hello(server, 8192, &[&good, &disk, &unsealed]);
    drop(raw);
    wait_until("what came along is closed", || open() <= before);
}
