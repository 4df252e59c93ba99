//! The WebDAV door, request by request, beside a device that looks at the same files.
use pvfs2_sync::api::NodeInfo;
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::running::{Options, Running};
use pvfs2_sync::server::users::{Worker, now_ms};
use std::sync::Arc;

const PASSWORD: &str = "correct horse battery";

struct Place {
    dir: tempfile::TempDir,
    server: Running,
    agent: ureq::Agent,
    /// Name and password.
    who: (String, String),
}

struct Got {
    status: u16,
    headers: ureq::http::HeaderMap,
    text: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

fn base64(text: &str) -> String {
    const SET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in text.as_bytes().chunks(3) {
        let n = part.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let six = SET[(n >> (18 - 6 * i) & 63) as usize];
            out.push(if i > part.len() { '=' } else { char::from(six) });
        }
    }
    out
}

impl Place {
    fn new(quota: Option<u64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            begin: Begin::New,
            ..Options::new(dir.path().to_owned(), "127.0.0.1:0".parse().unwrap())
        };
        let server = Running::start(&options).unwrap();
        server.app.accounts.create("ann", PASSWORD, false, quota, now_ms()).unwrap();
        let agent = crate::common::agent(&server);
        Self { dir, server, agent, who: ("ann".into(), PASSWORD.into()) }
    }

    fn ask(&self, method: &str, path: &str, more: &[(&str, &str)], body: impl AsRef<[u8]>) -> Got {
        let uri = if path.starts_with("/dav") {
            format!("https://{}{path}", self.server.addr)
        } else {
            format!("https://{}/dav/ann/{path}", self.server.addr)
        };
        let mut request = ureq::http::Request::builder().method(method).uri(uri);
        if !self.who.0.is_empty() {
            let basic = base64(&format!("{}:{}", self.who.0, self.who.1));
            request = request.header("authorization", format!("Basic {basic}"));
        }
        for (k, v) in more {
            request = request.header(*k, *v);
        }
        let mut answer = self.agent.run(request.body(body.as_ref()).unwrap()).unwrap();
        Got {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            text: answer.body_mut().read_to_string().unwrap(),
        }
    }

    fn put(&self, path: &str, bytes: &str) -> Got {
        self.ask("PUT", path, &[], bytes)
    }

    fn to(&self, path: &str) -> String {
        format!("https://{}/dav/ann/{path}", self.server.addr)
    }

    fn worker(&self) -> Arc<Worker> {
        self.server.app.worker(&self.server.app.accounts.user(1).unwrap()).unwrap()
    }

    fn node(&self, path: &str) -> NodeInfo {
        self.worker().store.lock().resolve(path).unwrap()
    }

    fn plain(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join("ann").join(path)).ok()
    }
}

#[test]
fn what_comes_through_webdav_is_as_what_comes_from_a_device() {
    let place = Place::new(Some(100));
    let made = place.ask("PUT", "a.txt", &[("x-oc-mtime", "981173106")], "first");
    assert_eq!((made.status, made.header("x-oc-mtime")), (201, "accepted"));
    let one = place.node("a.txt");
    assert_eq!(made.header("etag"), format!("\"{}\"", &one.hash[..32]));
    assert_eq!(one.mtime_ns, 981_173_106_000_000_000);
    assert_eq!(place.put("a.txt", "second").status, 204);
    let two = place.node("a.txt");
    assert!(two.id == one.id && two.rev > one.rev, "a new revision of the same file");
    let worker = place.worker();
    let versions = worker.store.lock().versions(one.id).unwrap();
    assert_eq!((versions.len(), versions[0].size), (1, 5), "the old content is a version");
    let news = worker.store.lock().changes("", 0).unwrap();
    assert_eq!(news.nodes, [two], "devices see it");
    assert_eq!(place.plain("a.txt").unwrap(), "second");

    // Quota: the length that is announced is refused before its first byte; the words say why.
    let much = place.put("much", &"x".repeat(90));
    assert!(much.status == 507 && much.text.contains("89 left"), "{}", much.text);
    assert_eq!(place.ask("DELETE", "a.txt", &[], "").status, 204);
    assert_eq!(worker.store.lock().trash().unwrap().len(), 1);
    assert_eq!(worker.store.lock().usage().unwrap().0, 11);
    // A name that some device could not tell apart.
    place.put("Name", "");
    let other = place.put("name", "");
    assert!(other.status == 409 && other.text.contains("taken"), "{} {}", other.status, other.text);
    assert_eq!(place.ask("MOVE", "Name", &[("destination", &place.to("name"))], "").status, 201);
    assert_eq!(place.ask("MKCOL", "no/dir", &[], "").status, 409);
    assert_eq!(place.put("no/file", "").status, 409);
    let part = place.ask("PUT", "name", &[("content-range", "bytes 0-1/9")], "xx");
    assert_eq!(part.status, 400, "{}", part.text);
}

#[test]
fn conditions_ranges_and_checksums() {
    let place = Place::new(None);
    let tag = place.put("f", "0123456789").header("etag").to_owned();
    let part = place.ask("GET", "f", &[("range", "bytes=2-4")], "");
    assert_eq!((part.status, part.text.as_str()), (206, "234"));
    assert_eq!(place.ask("GET", "f", &[("if-none-match", &tag)], "").status, 304);
    let head = place.ask("HEAD", "f", &[], "");
    assert_eq!((head.status, head.header("content-length")), (200, "10"));
    assert!(head.header("last-modified").ends_with("GMT") && head.text.is_empty());
    assert!(head.header("content-security-policy").starts_with("sandbox"), "trap 19");
    assert_eq!(place.ask("PUT", "f", &[("if-match", "\"other\"")], "x").status, 412);
    assert_eq!(place.ask("PUT", "f", &[("if-none-match", "*")], "x").status, 412);
    assert_eq!(place.ask("PUT", "f", &[("if-match", &tag)], "new").status, 204);
    assert_eq!(place.ask("DELETE", "f", &[("if-match", &tag)], "").status, 412);
    let sum = "SHA1:a9993e364706816aba3e25717850c26c9cd0d89d"; // of "abc"
    let wrong = place.ask("PUT", "f", &[("oc-checksum", sum)], "abd");
    assert!(wrong.status == 400 && wrong.text.contains("checksum"), "{}", wrong.text);
    assert_eq!(place.plain("f").unwrap(), "new", "nothing was changed");
    assert_eq!(place.worker().store.lock().usage().unwrap().0, 13, "and nothing is reserved");
    assert_eq!(place.ask("PUT", "f", &[("oc-checksum", sum)], "abc").status, 204);
    let ask = r#"<propfind xmlns="DAV:"><prop><o:checksums xmlns:o="http://owncloud.org/ns"/></prop></propfind>"#;
    let props = place.ask("PROPFIND", "f", &[("depth", "0")], ask);
    assert!(props.status == 207 && props.text.contains(sum), "{}", props.text);
    // A copy has the same content, so the same sum.
    place.ask("COPY", "f", &[("destination", &place.to("g"))], "");
    assert!(place.ask("PROPFIND", "g", &[("depth", "0")], ask).text.contains(sum));
    let endless = place.ask("PROPFIND", "", &[], "");
    assert!(endless.status == 403 && endless.text.contains("propfind-finite-depth"));
    assert_eq!(place.ask("GET", "", &[], "").status, 405);
}

#[test]
fn trees_move_copy_and_go_whole() {
    let place = Place::new(None);
    place.ask("MKCOL", "d", &[], "");
    place.ask("MKCOL", "d/e", &[], "");
    place.put("d/e/f", "bytes");
    let patch = r#"<propertyupdate xmlns="DAV:"><set><prop><x:color xmlns:x="urn:x">red</x:color></prop></set></propertyupdate>"#;
    for path in ["d/e", "d/e/f"] {
        assert_eq!(place.ask("PROPPATCH", path, &[], patch).status, 207);
    }
    let ask = r#"<propfind xmlns="DAV:"><prop><x:color xmlns:x="urn:x"/></prop></propfind>"#;
    let red =
        |path: &str| place.ask("PROPFIND", path, &[("depth", "0")], ask).text.contains(">red<");
    let before = place.node("d");
    let moved = place.ask("MOVE", "d", &[("destination", &place.to("m"))], "");
    assert_eq!((moved.status, place.node("m").id), (201, before.id), "the same node");
    assert!(red("m/e") && red("m/e/f"), "properties follow");
    assert_eq!(place.ask("COPY", "m", &[("destination", &place.to("c"))], "").status, 201);
    assert!(red("c/e") && red("c/e/f"), "properties are copied");
    assert_eq!(place.plain("c/e/f").unwrap(), "bytes");
    let onto = [("destination", place.to("c")), ("overwrite", "F".into())];
    let onto: Vec<_> = onto.iter().map(|(k, v)| (*k, v.as_str())).collect();
    assert_eq!(place.ask("MOVE", "m", &onto, "").status, 412);
    let within = place.ask("MOVE", "m", &[("destination", &place.to("m/e/x"))], "");
    assert!(within.status >= 400 && place.plain("m/e/f").is_some(), "{}", within.status);
    let rev = place.worker().store.lock().head().unwrap().0;
    assert_eq!(place.ask("DELETE", "c", &[], "").status, 204);
    assert_eq!(place.worker().store.lock().head().unwrap().0, rev + 3, "three nodes, one request");
    assert_eq!(place.worker().store.lock().trash().unwrap().len(), 1);
    assert!(place.ask("DELETE", "", &[], "").status >= 400, "never the user's own folder");
    assert!(place.plain("m/e/f").is_some());
}

#[test]
fn locks_hold_other_clients_off() {
    let place = Place::new(None);
    let want = r#"<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype><owner>ann</owner></lockinfo>"#;
    let lock = place.ask("LOCK", "new", &[("timeout", "Second-60"), ("depth", "0")], want);
    assert_eq!((lock.status, place.plain("new").as_deref()), (201, Some("")));
    let token = lock.header("lock-token").to_owned();
    assert_eq!(place.put("new", "x").status, 423);
    assert_eq!(place.ask("DELETE", "new", &[], "").status, 423);
    assert_eq!(place.ask("LOCK", "new", &[("depth", "0")], want).status, 423);
    let held = format!("({token})");
    assert_eq!(place.ask("PUT", "new", &[("if", &held)], "mine").status, 204);
    assert_eq!(place.ask("UNLOCK", "new", &[("lock-token", &token)], "").status, 204);
    assert_eq!(place.ask("PUT", "new", &[("if", &held)], "late").status, 412, "no such lock now");
    let cut = place.ask("PUT", "new", &[("if", "(<a:b> [\"x")], "");
    assert_eq!(cut.status, 400, "{}", cut.text);
    assert_eq!(place.put("new", "free").status, 204);
}

#[test]
fn trap20_the_door_opens_to_the_right_name_and_password_only() {
    let mut place = Place::new(None);
    place.put("f", "secret");
    let accounts = &place.server.app.accounts;
    accounts.create("bob", PASSWORD, false, None, now_ms()).unwrap();
    let app = accounts.make_app_password(1, "rclone", now_ms()).unwrap();
    place.who.1 = app;
    assert_eq!(place.ask("GET", "f", &[], "").text, "secret");
    let evil = place.ask("PUT", "f", &[("origin", "https://evil.example")], "x");
    assert_eq!(evil.status, 403, "another site's page");
    place.server.app.accounts.revoke_app_password(1, 1).unwrap();
    let gone = place.ask("GET", "f", &[], "");
    assert!(gone.status == 401 && gone.header("www-authenticate").starts_with("Basic"));
    place.who.1 = PASSWORD.into();
    assert_eq!(place.ask("GET", "/dav/bob/", &[], "").status, 404, "trap 18");
    assert_eq!(place.ask("PROPFIND", "/dav/bob/f", &[("depth", "0")], "").status, 404);
    let out = [("destination", "https://x/dav/bob/f")];
    assert!(place.ask("COPY", "f", &out, "").status >= 400);
    for path in ["../bob/f", "%2e%2e/bob/f", "..%2fbob%2ff", "f%00"] {
        let got = place.ask("GET", path, &[], "");
        assert!(matches!(got.status, 400 | 404), "{path}: {}", got.status);
    }
    place.who.0 = "bob".into();
    assert_eq!(place.ask("GET", "f", &[], "").status, 404);
    place.who.0 = String::new();
    assert_eq!(place.ask("OPTIONS", "", &[], "").status, 401);
    place.who = ("ann".into(), "guess".into());
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(place.ask("GET", "f", &[], "").status);
    }
    assert!(seen[0] == 401 && seen[6] == 429, "{seen:?}");
}

#[test]
fn an_upload_without_a_length_or_cut_off_leaves_nothing_behind() {
    use std::io::Write;
    let place = Place::new(Some(40 << 20));
    // Without a length: room is reserved in steps, and given back.
    let big = vec![7_u8; 5 << 20];
    let basic = base64(&format!("ann:{PASSWORD}"));
    let chunked = ureq::http::Request::builder()
        .method("PUT")
        .uri(place.to("big"))
        .header("authorization", format!("Basic {basic}"))
        .header("transfer-encoding", "chunked");
    let mut reader = &big[..];
    let body = ureq::SendBody::from_reader(&mut reader);
    let answer = place.agent.run(chunked.body(body).unwrap()).unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(place.node("big").size, 5 << 20);
    assert_eq!(place.worker().store.lock().usage().unwrap().0, 5 << 20);
    // Cut off in the middle.
    let pem = std::fs::read(&place.server.cert).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::pem::PemObject;
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = std::net::TcpStream::connect(place.server.addr).unwrap();
    let mut wire = rustls::Stream::new(&mut tls, &mut tcp);
    write!(
        wire,
        "PUT /dav/ann/cut HTTP/1.1\r\nhost: x\r\nauthorization: Basic {basic}\r\n\
         content-length: 9000000\r\n\r\n"
    )
    .unwrap();
    wire.write_all(&big[..3 << 20]).unwrap();
    wire.flush().unwrap();
    let tmp = place.dir.path().join(".sync/1/tmp");
    let count = || std::fs::read_dir(&tmp).unwrap().count();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let wait = |what: &str, f: &dyn Fn() -> bool| {
        while !f() {
            assert!(std::time::Instant::now() < end, "{what}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    wait("it begins", &|| count() == 1);
    drop(tcp);
    wait("it is given up", &|| count() == 0);
    assert!(place.plain("cut").is_none());
    let room = "x".repeat(30 << 20);
    assert_eq!(place.put("room", &room).status, 201, "nothing is reserved any more");
}
