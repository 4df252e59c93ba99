//! Every page as a browser asks for it: links and forms, cookies, no JavaScript.
use crate::common::browser::{Browser, Got, id_before, server};

fn rev(text: &str) -> String {
    let at = text.find("name=\"rev\" value=\"").unwrap() + 18;
    text[at..].split('"').next().unwrap().to_owned()
}

#[test]
fn a_user_walks_every_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut b = Browser::new(&server);
    assert_eq!(b.get("/files/1").location, "/login");
    assert!(b.get("/signup").text.contains("New account"));
    let short = b.post("/signup", "user=ann&password=short");
    assert!(short.status == 400 && short.text.contains("at least 10"), "{}", short.text);
    let done = b.post("/signup", "user=ann&password=correct+horse");
    assert_eq!((done.status, done.location.as_str()), (303, "/files/1"));
    assert!(b.get("/files/1").text.contains("Nothing here yet"));

    // Folders, files, a name that is no HTML.
    b.post("/files/1/mkdir", "name=docs");
    let text = b.get("/files/1").text;
    let docs = id_before(&text, "/files/", "docs/");
    assert_eq!(b.upload(docs, "a.txt", "first").status, 303);
    assert_eq!(b.upload(docs, "a.txt", "second, longer").status, 303);
    b.upload(docs, "<img src=x>.html", "<script>1</script>");
    let text = b.get(&format!("/files/{docs}")).text;
    assert!(text.contains("&#60;img src=x&#62;.html") && !text.contains("<img"), "{text}");
    let file = id_before(&text, "/download/", "a.txt");
    assert_eq!(std::fs::read(dir.path().join("ann/docs/a.txt")).unwrap(), b"second, longer");

    // Download: whole, a part, not changed; never run by a browser.
    let path = format!("/download/{file}");
    let whole = b.get(&path);
    assert_eq!(whole.text, "second, longer");
    let header = |g: &Got, n: &str| g.headers.get(n).unwrap().to_str().unwrap().to_owned();
    assert!(header(&whole, "content-disposition").starts_with("attachment"));
    assert!(header(&whole, "content-security-policy").starts_with("sandbox"));
    let part = b.ask("GET", &path, "", &[("range", "bytes=8-")], b"");
    assert_eq!((part.status, part.text.as_str()), (206, "longer"));
    let etag = header(&whole, "etag");
    assert_eq!(b.ask("GET", &path, "", &[("if-none-match", &etag)], b"").status, 304);

    // Versions, rename, trash.
    let page = b.get(&format!("/node/{file}")).text;
    let old = page.split(&format!("/download/{file}/")).nth(1).unwrap();
    let version = old.split('"').next().unwrap().to_owned();
    assert_eq!(b.get(&format!("{path}/{version}")).text, "first");
    b.post(&format!("/node/{file}/restore"), &format!("rev={version}"));
    assert_eq!(b.get(&path).text, "first");
    let now = rev(&b.get(&format!("/node/{file}")).text);
    let stale = b.post(&format!("/node/{file}/delete"), "rev=1");
    assert_eq!(stale.status, 412, "a page that is out of date deletes nothing");
    b.post(&format!("/node/{file}/rename"), &format!("name=b.txt&rev={now}"));
    let now = rev(&b.get(&format!("/node/{file}")).text);
    assert_eq!(b.post(&format!("/node/{file}/delete"), &format!("rev={now}")).status, 303);
    assert!(b.get("/trash").text.contains("b.txt"));
    b.post(&format!("/node/{file}/restore"), "");
    assert!(b.get(&format!("/files/{docs}")).text.contains("b.txt"));
    assert!(b.get("/conflicts").text.contains("Nothing."));
    let full = b.upload(1, "big", &"x".repeat(1 << 20));
    assert_eq!(full.status, 507, "quota: {}", full.text);

    // A new password ends other sessions.
    let mut other = Browser::new(&server);
    other.post("/login", "user=ann&password=correct+horse");
    assert_eq!(other.get("/account").status, 200);
    let wrong = b.post("/account/password", "old=wrong&new=another+horse");
    assert!(wrong.text.contains("wrong"), "{}", wrong.text);
    assert_eq!(b.post("/account/password", "old=correct+horse&new=another+horse").status, 303);
    assert_eq!(b.get("/account").status, 200);
    assert_eq!(other.get("/account").location, "/login");
    assert_eq!(b.get("/admin").status, 404, "not for users");
    b.post("/logout", "");
    assert_eq!(b.get("/files/1").location, "/login");
}

#[test]
fn an_app_password_is_made_shown_once_and_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut b = Browser::new(&server);
    b.post("/signup", "user=ann&password=correct+horse");
    assert!(b.post("/account/apps", "name=+").text.contains("say what"));
    let page = b.post("/account/apps", "name=my+tablet").text;
    let secret = page[page.find("app-1-").unwrap()..].split('<').next().unwrap().to_owned();
    let page = b.get("/account").text;
    assert!(page.contains("my tablet") && !page.contains(&secret), "shown once");
    let works = || server.app.accounts.check_basic("ann", &secret, "1.1.1.1", 1).is_ok();
    assert!(works());
    let mut bob = Browser::new(&server);
    bob.post("/signup", "user=bob&password=correct+horse");
    assert_eq!(bob.post("/account/apps/1/revoke", "").status, 404);
    assert!(works());
    assert_eq!(b.post("/account/apps/1/revoke", "").location, "/account");
    assert!(!works() && !b.get("/account").text.contains("my tablet"));
}

#[test]
fn trap19_forms_of_other_sites_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut b = Browser::new(&server);
    b.post("/signup", "user=ann&password=correct+horse");
    for origin in [None, Some("https://evil.example".to_owned()), Some("null".into())] {
        b.origin = origin;
        assert_eq!(b.post("/files/1/mkdir", "name=x").status, 403);
        assert_eq!(b.post("/login", "user=ann&password=correct+horse").status, 403);
    }
    assert!(!dir.path().join("ann/x").exists());
    let page = b.get("/files/1");
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
    ] {
        let value = page.headers.get(name).unwrap().to_str().unwrap();
        assert!(value.contains(part), "{name}: {value}");
    }
}

#[test]
fn trap20_guessing_passwords_is_answered_with_wait() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut b = Browser::new(&server);
    let tries: Vec<u16> =
        (0..7).map(|_| b.post("/login", "user=nobody&password=x").status).collect();
    assert_eq!(tries, [401, 401, 401, 401, 401, 429, 429]);
}

#[test]
fn trap18_nobody_reaches_another_users_files() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let (mut ann, mut bob) = (Browser::new(&server), Browser::new(&server));
    ann.post("/signup", "user=ann&password=correct+horse");
    bob.post("/signup", "user=bob&password=correct+horse");
    ann.upload(1, "secret", "s");
    let id = id_before(&ann.get("/files/1").text, "/download/", "secret");
    assert_eq!(bob.get(&format!("/download/{id}")).status, 404);
    for name in ["../ann/x", "..%2Fann%2Fx", ".", "..", "a%00b"] {
        let got = bob.post("/files/1/mkdir", &format!("name={name}"));
        assert_eq!(got.status, 400, "{name}");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("ann")).unwrap().count(), 1);
}

#[test]
fn an_administrator_manages_users() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let password = server.first_admin().unwrap().unwrap();
    assert!(server.first_admin().unwrap().is_none(), "told once");
    let mut b = Browser::new(&server);
    b.post("/login", &format!("user=admin&password={password}"));
    let made = b.post("/admin/users", "user=bob&password=correct+horse&quota=5");
    assert_eq!(made.location, "/admin");
    let page = b.get("/admin").text;
    assert!(page.contains("bob") && page.contains("made user bob"), "{page}");
    let mut bob = Browser::new(&server);
    bob.post("/login", "user=bob&password=correct+horse");
    assert!(bob.get("/account").text.contains("of 5.0 MiB"));
    assert_eq!(bob.get("/admin").status, 404);
    assert_eq!(bob.post("/admin/users/2", "quota=").status, 404);
    let page = b.get("/admin").text;
    assert!(page.contains("name=\"trash_days\" value=\"30\"") && page.contains("Last dropped"));
    let keep = "trash_days=7&version_days=0&mark_days=90&device_days=180";
    assert_eq!(bob.post("/admin/keep", keep).status, 404);
    assert_eq!(b.post("/admin/keep", keep).status, 303);
    let page = b.get("/admin").text;
    assert!(page.contains("name=\"trash_days\" value=\"7\""), "{page}");
    assert!(page.contains("name=\"version_days\" value=\"0\""), "{page}");
    let bad = b.post("/admin/keep", "trash_days=-1&version_days=0&mark_days=90&device_days=180");
    assert!(bad.status == 400 && bad.text.contains("36500"), "{}", bad.text);
    b.post("/admin/users/2", "quota=7&disabled=yes");
    assert_eq!(bob.get("/account").location, "/login", "kept out at once");
    assert_eq!(bob.post("/login", "user=bob&password=correct+horse").status, 401);
    let own = b.post("/admin/users/1", "quota=&disabled=yes");
    assert!(own.status == 400 && own.text.contains("yourself"));
}

#[test]
fn an_administrator_manages_storage_ports_and_backups() {
    let dir = tempfile::tempdir().unwrap();
    let (root, other) = (dir.path().join("root"), dir.path().join("other"));
    for path in [&root, &other] {
        std::fs::create_dir(path).unwrap();
    }
    let server = server(&root);
    let password = server.first_admin().unwrap().unwrap();
    let mut b = Browser::new(&server);
    b.post("/login", &format!("user=admin&password={password}"));
    let mut ann = Browser::new(&server);
    ann.post("/signup", "user=ann&password=correct+horse");
    ann.upload(1, "a.txt", "hello");
    let pages = ["routes", "ports", "backups", "audit", "live"].map(|p| format!("/admin/{p}"));
    for path in &pages {
        assert_eq!(b.get(path).status, 200, "{path}");
        assert_eq!(ann.get(path).status, 404, "{path}");
    }
    let ended = |b: &mut Browser, what: &str| loop {
        let text = b.get("/admin/live").text;
        if !text.contains("under way</td>") {
            assert!(text.contains(what) && !text.contains("class=\"bad\""), "{text}");
            return;
        }
        std::thread::yield_now();
    };
    let form = format!("name=disk2&path={}", other.display());
    assert_eq!(ann.post("/admin/routes", &form).status, 404);
    let again = b.post("/admin/routes", "name=xx&path=/nowhere");
    assert!(again.status == 503 && again.text.contains("no directory"), "{}", again.text);
    assert_eq!(b.post("/admin/routes", &form).location, "/admin/routes");
    let text = b.get("/admin/routes").text;
    assert!(text.contains("disk2") && text.contains("free of"), "{text}");
    assert_eq!(b.post("/admin/users/2/move", "route=1").location, "/admin/routes");
    ended(&mut b, "move the store of ann to disk2");
    assert!(other.join("ann/a.txt").exists() && !root.join("ann").exists());
    let file = id_before(&ann.get("/files/1").text, "/download/", "a.txt");
    assert_eq!(ann.get(&format!("/download/{file}")).text, "hello");
    b.post("/admin/routes/1/default", "");
    let mut bob = Browser::new(&server);
    bob.post("/signup", "user=bob&password=correct+horse");
    bob.upload(1, "b.txt", "hello");
    assert!(other.join("bob/b.txt").exists(), "new users' stores begin there");

    assert_eq!(b.post("/admin/backups", "user=").location, "/admin/backups");
    ended(&mut b, "backup of all users");
    let text = b.get("/admin/backups").text;
    let at = text.find("/admin/backups/2").unwrap() + 15;
    let name = text[at..].split('/').next().unwrap().to_owned();
    ann.upload(1, "later.txt", "x");
    let unsure = b.post(&format!("/admin/backups/{name}/load"), "user=ann");
    assert_eq!(unsure.status, 400, "{}", unsure.text);
    assert_eq!(b.post("/admin/backups/..%2Fx/load", "user=&sure=yes").status, 404);
    b.post(&format!("/admin/backups/{name}/load"), "user=ann&sure=yes");
    ended(&mut b, "load backup");
    assert!(!ann.get("/files/1").text.contains("later.txt"));
    b.post(&format!("/admin/backups/{name}/verify"), "");
    ended(&mut b, "every byte is as it was written");
    b.post(&format!("/admin/backups/{name}/drop"), "");
    ended(&mut b, "removed");
    assert!(!b.get("/admin/backups").text.contains(&format!("/admin/backups/{name}/load")));

    let old = server.addr.to_string();
    assert_eq!(b.post("/admin/ports/drain", &format!("address={old}")).status, 400);
    assert_eq!(b.post("/admin/ports", "address=nonsense").status, 400);
    b.post("/admin/ports", "address=127.0.0.1%3A0");
    let text = b.get("/admin/ports").text;
    assert_eq!(text.matches("<td>open</td>").count(), 2, "{text}");
    // Management goes on when the administrator's own store is away.
    b.post("/admin/users/1/move", "route=1");
    ended(&mut b, "move the store of admin to disk2");
    assert_eq!(b.get("/files/1").status, 200);
    std::fs::rename(&other, dir.path().join("away")).unwrap();
    assert_eq!(b.get("/files/1").status, 503);
    let text = b.get("/admin/routes").text;
    assert!(text.contains("class=\"bad\"") && text.contains("disk2"), "{text}");
    assert_eq!(b.post("/admin/users/2", "quota=7").location, "/admin", "users too");
    std::fs::rename(dir.path().join("away"), &other).unwrap();
    assert_eq!(b.get("/files/1").status, 200);
    let audit = b.get("/admin/audit?who=admin").text;
    assert!(audit.contains("opened port 127.0.0.1:") && !audit.contains("account made"), "{audit}");
    assert!(b.get("/admin/audit").text.contains("account made"));
}

#[test]
fn a_folder_comes_as_a_zip_that_programs_open() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut b = Browser::new(&server);
    b.post("/signup", "user=ann&password=correct+horse");
    b.post("/files/1/mkdir", "name=d%C3%B6cs");
    let docs = id_before(&b.get("/files/1").text, "/files/", "döcs/");
    b.upload(docs, "a.txt", "first");
    b.upload(docs, "b.txt", &"long ".repeat(180_000));
    let page = b.get(&format!("/files/{docs}")).text;
    assert!(page.contains(&format!("/zip/{docs}")), "{page}");
    for (id, prefix) in [(docs, ""), (1, "files/")] {
        let uri = format!("{}/zip/{id}", b.url);
        let request = ureq::http::Request::get(uri).header("cookie", &b.cookie).body(()).unwrap();
        let mut answer = b.agent.run(request).unwrap();
        assert_eq!(answer.status(), 200);
        let bytes = answer.body_mut().with_config().limit(1 << 26).read_to_vec().unwrap();
        let file = dir.path().join("z.zip");
        std::fs::write(&file, &bytes).unwrap();
        let script = "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1])\n\
                      assert z.testzip() is None\nprint(sorted(z.namelist()))\n\
                      print(z.read(sys.argv[2] + 'd\u{f6}cs/a.txt'))";
        let Ok(run) = std::process::Command::new("python3")
            .args(["-c", script, file.to_str().unwrap(), prefix])
            .env("PYTHONUTF8", "1")
            .output()
        else {
            eprintln!("skipped: no python3 here to open the zip");
            return;
        };
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        assert!(said.contains("b.txt") && said.contains("b'first'"), "{said}");
    }
    let mut other = Browser::new(&server);
    assert_eq!(other.get(&format!("/zip/{docs}")).location, "/login");
    other.post("/signup", "user=bob&password=correct+horse");
    assert_eq!(other.get(&format!("/zip/{docs}")).status, 404, "trap 18");
}

#[test]
fn a_link_opens_what_is_shared_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let mut b = Browser::new(&server);
    b.post("/signup", "user=ann&password=correct+horse");
    b.post("/files/1/mkdir", "name=shared");
    let shared = id_before(&b.get("/files/1").text, "/files/", "shared/");
    b.post(&format!("/files/{shared}/mkdir"), "name=below");
    let below = id_before(&b.get(&format!("/files/{shared}")).text, "/files/", "below/");
    b.upload(below, "a.txt", "for you");
    b.upload(1, "private", "not for you");
    let secret = id_before(&b.get("/files/1").text, "/download/", "private");
    let file = id_before(&b.get(&format!("/files/{below}")).text, "/download/", "a.txt");
    let link = |b: &mut Browser, form: &str| {
        let page = b.post(&format!("/node/{shared}/share"), form).text;
        let at = page.find("/s/").unwrap_or_else(|| panic!("{page}"));
        page[at..].split('"').next().unwrap().to_owned()
    };
    let open = link(&mut b, "password=&days=1");
    let mut guest = Browser::new(&server);
    assert!(guest.get(&open).text.contains("below/"));
    assert_eq!(guest.get(&format!("{open}/get/{file}")).text, "for you");
    assert!(guest.get(&format!("{open}/d/{below}")).text.contains("a.txt"));
    let zip = guest.agent.get(format!("{}{open}/zip/{below}", guest.url)).call().unwrap();
    assert_eq!(zip.headers().get("content-type").unwrap(), "application/zip");
    for path in [format!("get/{secret}"), "d/1".into(), "zip/1".into(), format!("d/{}", 99)] {
        assert_eq!(guest.get(&format!("{open}/{path}")).status, 404, "trap 18: {path}");
    }
    // With a password: asked for, remembered for this link alone, not guessed.
    let closed = link(&mut b, "password=open+sesame&days=");
    let ask = guest.get(&closed);
    assert!(ask.text.contains("has a password"));
    // With no-referrer a browser sends `Origin: null` along with the form, which is refused.
    assert_eq!(ask.headers.get("referrer-policy").unwrap(), "same-origin");
    assert_eq!(guest.get(&format!("{closed}/get/{file}")).location, closed);
    assert_eq!(guest.post(&closed, "password=guess").status, 401);
    let entered = guest.plain_post(&closed, "password=open+sesame");
    let cookie = entered.headers.get("set-cookie").unwrap().to_str().unwrap();
    assert!(cookie.contains(&format!("Path={closed};")) && cookie.contains("HttpOnly"), "{cookie}");
    guest.cookie = cookie.split(';').next().unwrap().to_owned();
    assert_eq!(guest.get(&format!("{closed}/get/{file}")).text, "for you");
    let two = link(&mut b, "password=another+one&days=");
    assert!(guest.get(&two).text.contains("has a password"), "another link's proof is none");
    guest.origin = Some("https://evil.example".into());
    assert_eq!(guest.post(&closed, "password=open+sesame").status, 403);
    // It follows the node, and ends with it or when it is ended.
    let rev = rev(&b.get(&format!("/node/{shared}")).text);
    b.post(&format!("/node/{shared}/rename"), &format!("name=renamed&rev={rev}"));
    assert!(guest.get(&open).text.contains("renamed"));
    let list = b.get("/shares").text;
    assert!(list.contains("renamed") && list.contains("never"), "{list}");
    assert!(!list.contains("/s/"), "the link is shown once");
    b.post("/shares/1/end", "");
    assert_eq!(guest.get(&open).status, 404);
    let rev = self::rev(&b.get(&format!("/node/{shared}")).text);
    b.post(&format!("/node/{shared}/delete"), &format!("rev={rev}"));
    assert_eq!(guest.get(&format!("{closed}/get/{file}")).status, 404, "deleted");
    assert_eq!(guest.get("/s/0123456789abcdef0123456789abcdef").status, 404);
}
