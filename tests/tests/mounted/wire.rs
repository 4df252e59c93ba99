//! Peers that break the protocol: answered once at most, cut off, and nobody else notices.
use pvfs2_proto::frame::{HEADER_LEN, Header, Kind};
use pvfs2_tests::wait::secs;
use pvfs2_tests::{Cluster, Spec};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

/// Sends `bytes`; whether the server ends the connection by itself within a few seconds.
fn is_cut_off(address: &str, bytes: &[u8]) -> bool {
    let mut s = TcpStream::connect(address).unwrap();
    s.set_read_timeout(Some(secs(5))).unwrap();
    // The server may cut while this still writes.
    let _ = s.write_all(bytes);
    let mut rest = Vec::new();
    match s.read_to_end(&mut rest) {
        Ok(_) => rest.len() < 4096,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Memory that the servers hold.
fn resident_kib(cluster: &Cluster) -> u64 {
    let of = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    cluster.servers.iter().filter_map(|s| s.process_id()).map(of).sum()
}

fn header(kind: u8, op: u16, head: &[u8], body_len: u32) -> [u8; HEADER_LEN] {
    let mut bytes = Header::new(Kind::Request, op, 0, 1, head, body_len, 0).encode();
    bytes[3] = kind;
    bytes
}

/// `pvfs2 ping` finds every server up.
fn assert_all_up(cluster: &Cluster) {
    let out = std::process::Command::new(pvfs2_tests::cluster::program())
        .args(["ping", "--fs", &cluster.mount_spec()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "ping: {text}{}", String::from_utf8_lossy(&out.stderr));
    for server in &cluster.servers {
        assert!(text.contains(&server.alias), "{} is not up: {text}", server.alias);
    }
}

pub fn garbage_is_cut_off_and_harms_nobody() {
    let cluster = Cluster::start(Spec { io: 1, ..Spec::default() });
    for server in &cluster.servers {
        let hello = header(Kind::Request as u8, 1, b"", 0);
        let mut wrong_version = hello;
        wrong_version[2] = 99;
        let mut wrong_crc = hello;
        wrong_crc[25] ^= 1;
        let mut no_message = Vec::from(header(Kind::Request as u8, 1, &[0xff; 40], 0));
        no_message.extend([0xff; 40]);
        let mut before_hello = Vec::from(header(Kind::Request as u8, 13, b"", 0));
        before_hello.extend(b"");
        for (what, bytes) in [
            ("text", b"GET / HTTP/1.1\r\nHost: here\r\n\r\n................".to_vec()),
            ("zeros", vec![0; 4096]),
            ("wrong version", wrong_version.to_vec()),
            ("wrong checksum", wrong_crc.to_vec()),
            ("unknown kind", header(77, 1, b"", 0).to_vec()),
            ("a head that is no message", no_message),
            ("a create before hello", before_hello),
        ] {
            assert!(is_cut_off(&server.tcp, &bytes), "{}: {what} is not cut off", server.alias);
        }
        // Half a header, and gone.
        let mut s = TcpStream::connect(&server.tcp).unwrap();
        s.write_all(&hello[..17]).unwrap();
        s.shutdown(Shutdown::Both).unwrap();
    }
    assert_all_up(&cluster);
}

pub fn declared_lengths_are_checked_before_anything_is_allocated() {
    let cluster = Cluster::start(Spec { io: 1, ..Spec::default() });
    let before = resident_kib(&cluster);
    for server in &cluster.servers {
        for at in [16, 20] {
            let mut bytes = header(Kind::Request as u8, 1, b"", 0);
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(is_cut_off(&server.tcp, &bytes), "{}: 4 GiB at {at}", server.alias);
        }
        // The longest head that is allowed, declared by many and sent by none.
        let held: Vec<TcpStream> = (0..50)
            .map(|_| {
                let mut s = TcpStream::connect(&server.tcp).unwrap();
                let mut bytes = header(Kind::Request as u8, 1, b"", 0);
                bytes[16..20]
                    .copy_from_slice(&(pvfs2_proto::limits::HEAD_MAX as u32).to_le_bytes());
                s.write_all(&bytes).unwrap();
                s
            })
            .collect();
        assert_eq!(held.len(), 50);
        assert_all_up(&cluster);
        let now = resident_kib(&cluster);
        assert!(now < before + 64 * 1024, "{before} KiB before, {now} KiB now");
    }
}
