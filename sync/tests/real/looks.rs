//! Signing in in two steps, looking at files, what was done lately, and the pages as an app.
use crate::common::browser::{Browser, Got, id_before, server};
use totp_rs::{Algorithm, Secret, TOTP};

fn header(g: &Got, name: &str) -> String {
    g.headers.get(name).map_or(String::new(), |v| v.to_str().unwrap().to_owned())
}

/// The code of a key in the step `steps` from now.
fn code(key: &str, steps: i64) -> String {
    let key = Secret::Encoded(key.to_owned()).to_bytes().unwrap();
    let totp = TOTP::new(Algorithm::SHA1, 6, 1, 30, key).unwrap();
    let now = pvfs2_sync::server::users::now_ms() / 1_000;
    totp.generate((now + steps * 30) as u64)
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let at = text.find(before).unwrap_or_else(|| panic!("{before} in {text}")) + before.len();
    text[at..].split(after).next().unwrap()
}

#[test]
fn trap20_an_account_with_two_steps_needs_both() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut b = Browser::new(&server);
    b.post("/signup", "user=ann&password=correct+horse");
    assert!(b.get("/account/two-step").text.contains("It is off"));
    let page = b.post("/account/two-step/begin", "").text;
    assert!(page.contains("<svg") && !page.contains("script>1"), "{page}");
    let key = between(&page, "Key: <strong class=\"hash\">", "<").to_owned();
    let wrong = b.post("/account/two-step/on", "code=000000").text;
    assert!(wrong.contains("code is wrong") && wrong.contains(&key), "the same key again");
    let page = b.post("/account/two-step/on", &format!("code={}", code(&key, -1))).text;
    let recovery = between(&page, "<li class=\"hash\">", "<").to_owned();
    assert!(!b.get("/account/two-step").text.contains(&recovery), "shown once");

    // The password alone opens nothing, on the pages, by the API, by WebDAV.
    let mut other = Browser::new(&server);
    let asked = other.post("/login", "user=ann&password=correct+horse");
    assert!(asked.status == 200 && other.cookie.is_empty(), "{}", asked.text);
    assert_eq!(other.get("/files/1").location, "/login");
    let waiting = between(&asked.text, "name=\"waiting\" value=\"", "\"").to_owned();
    let form = |code: &str| format!("waiting={waiting}&code={code}");
    assert_eq!(other.post("/login/code", &form("123456")).status, 401);
    assert_eq!(other.post("/login/code", "waiting=guess&code=1").location, "/login");
    let mut evil = Browser::new(&server);
    evil.origin = Some("https://evil.example".into());
    assert_eq!(evil.post("/login/code", &form(&code(&key, 0))).status, 403);
    let done = other.post("/login/code", &form(&code(&key, 0)));
    assert_eq!((done.status, done.location.as_str()), (303, "/files/1"));
    assert_eq!(other.get("/files/1").status, 200);
    assert_eq!(other.post("/login/code", &form(&code(&key, 1))).location, "/login", "used up");
    let api = |body: String| {
        let url = format!("https://{}/api/v1/login", server.addr);
        let r = crate::common::agent(&server).post(url).header("content-type", "application/json");
        r.send(body).unwrap().status().as_u16()
    };
    let login = |code: &str| {
        api(format!(r#"{{"user":"ann","password":"correct horse","device":"d","code":"{code}"}}"#))
    };
    assert_eq!(api(r#"{"user":"ann","password":"correct horse"}"#.into()), 401);
    assert_eq!(login(""), 401);
    assert_eq!(login(&recovery), 200);
    assert_eq!(login(&recovery), 401, "counts once");
    assert!(server.app.accounts.check_basic("ann", "correct horse", "9.9.9.9", 1).is_err());

    // What else is signed in is seen and ended; then it is turned off with the password.
    let page = b.get("/account").text;
    assert!(page.contains("Sign everything else out"), "{page}");
    b.post("/account/sessions/end-others", "");
    assert_eq!(other.get("/account").location, "/login");
    assert!(!b.get("/account").text.contains("Sign everything else out"));
    let new = b.post("/account/two-step/recovery", "password=correct+horse").text;
    assert!(new.contains("<li class=\"hash\">"), "{new}");
    assert!(b.post("/account/two-step/off", "password=wrong").text.contains("It is on"));
    assert!(b.post("/account/two-step/off", "password=correct+horse").text.contains("It is off"));
    assert_eq!(other.post("/login", "user=ann&password=correct+horse").location, "/files/1");

    // An administrator helps somebody who lost both.
    let key = between(&b.post("/account/two-step/begin", "").text, "hash\">", "<").to_owned();
    b.post("/account/two-step/on", &format!("code={}", code(&key, 0)));
    server.app.accounts.create("boss", "correct horse", true, None, 1).unwrap();
    let mut boss = Browser::new(&server);
    boss.post("/login", "user=boss&password=correct+horse");
    assert!(boss.get("/admin").text.contains("turn two-step sign-in off"));
    boss.post("/admin/users/1", "quota=&one_step=yes");
    assert_eq!(other.post("/login", "user=ann&password=correct+horse").location, "/files/1");
    assert!(boss.get("/admin/audit").text.contains("turned two-step sign-in of ann off"));
}

/// A PNG of one colour.
fn png(w: u32, h: u32) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(w, h).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

#[test]
fn trap19_files_are_looked_at_and_never_run() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut b = Browser::new(&server);
    b.post("/signup", "user=ann&password=correct+horse");
    b.upload_bytes(1, "photo.png", &png(400, 200));
    b.upload(1, "note.md", "<script>1</script> & more");
    b.upload(1, "paper.pdf", "%PDF-1.4\nnot much of one");
    b.upload(1, "fake.pdf", "<script>1</script>");
    b.upload(1, "fake.png", "<svg onload=alert(1)>");
    let list = b.get("/files/1").text;
    let id = |name: &str| id_before(&list, "/download/", name);
    assert!(list.contains(&format!("src=\"/thumb/{}\"", id("photo.png"))), "{list}");

    let thumb = b.get_bytes(&format!("/thumb/{}", id("photo.png")));
    assert_eq!(thumb.0, 200);
    let small = image::load_from_memory(&thumb.1).unwrap();
    assert_eq!((small.width(), small.height()), (96, 48));
    let got = b.ask("GET", &format!("/thumb/{}", id("fake.png")), "", &[], b"");
    assert_eq!(got.status, 400, "{}", got.text);
    assert!(b.get(&format!("/view/{}", id("photo.png"))).text.contains("?side=1280"));
    let text = b.get(&format!("/view/{}", id("note.md"))).text;
    assert!(text.contains("&#60;script&#62;1") && !text.contains("<script>1"), "{text}");
    let pdf = b.get(&format!("/pdf/{}", id("paper.pdf")));
    assert_eq!(header(&pdf, "content-type"), "application/pdf");
    assert!(header(&pdf, "content-disposition").starts_with("inline"));
    assert_eq!(header(&pdf, "x-content-type-options"), "nosniff");
    let fake = format!("/pdf/{}", id("fake.pdf"));
    assert_eq!(b.get(&fake).location, format!("/download/{}", id("fake.pdf")));
    let mut bob = Browser::new(&server);
    bob.post("/signup", "user=bob&password=correct+horse");
    for path in ["thumb", "view", "pdf"] {
        assert_eq!(bob.get(&format!("/{path}/{}", id("paper.pdf"))).status, 404, "{path}");
    }

    // What was done lately; a conflict copy is told on every page.
    assert!(!list.contains("conflict copy"));
    b.upload(1, "plan (conflict laptop 2026-01-02).txt", "x");
    let text = b.get("/files/1").text;
    assert!(text.contains("One conflict copy waits") && text.contains("class=\"count\">1<"));
    assert!(b.get("/account").text.contains("class=\"count\">1<"));
    let text = b.get("/activity").text;
    assert!(text.contains("content sent") && text.contains("note.md"), "{text}");
    assert!(!bob.get("/activity").text.contains("note.md"));
}

#[test]
fn the_pages_install_as_an_app_that_keeps_nothing_of_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut b = Browser::new(&server);
    let page = b.get("/login");
    assert!(page.text.contains("rel=\"manifest\""), "{}", page.text);
    assert!(header(&page, "content-security-policy").contains("script-src 'self'"));
    let manifest = b.get("/manifest.webmanifest");
    let manifest: serde_json::Value = serde_json::from_str(&manifest.text).unwrap();
    for icon in manifest["icons"].as_array().unwrap() {
        let (status, bytes) = b.get_bytes(icon["src"].as_str().unwrap());
        assert_eq!(status, 200, "{icon}");
        if icon["type"] == "image/png" {
            let image = image::load_from_memory(&bytes).unwrap();
            assert_eq!(icon["sizes"], format!("{0}x{0}", image.width()));
        }
    }
    let worker = b.get("/sw.js").text;
    let kept = between(&worker, "KEPT = [", "]");
    let kept: Vec<&str> = kept.split(',').map(|k| k.trim().trim_matches('"')).collect();
    assert_eq!(kept, ["/style.css", "/icon.svg", "/icon-192.png", "/offline"]);
    for path in kept {
        let got = b.get_bytes(path);
        assert_eq!(got.0, 200, "{path}: the shell is there without signing in");
    }
    assert!(!worker.contains("cache.put") && !worker.contains(".put("), "{worker}");
}
