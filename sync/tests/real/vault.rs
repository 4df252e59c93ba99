//! Encrypted folders over TLS: the real server on a real directory, two daemons, a device without the key,
//! a browser and WebDAV. The server's root is searched for names and contents.
use crate::common::browser::{Browser, id_before};
use crate::common::folder::{tree, until};
use crate::common::place::{Device, PASSWORD, Place};
use base64::Engine as _;
use pvfs2_sync::device::daemon::{self, Status};
use pvfs2_sync::device::keys;
use pvfs2_sync::device::page::Address;
use pvfs2_sync::error::SyncError;
use pvfs2_sync::vault::key_file::By;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PASSPHRASE: &str = "several words in a row";

impl Place {
    /// Searches all that the server has on its disk, tables and what is left of logbooks included.
    fn unseen(&self, what: &[&str]) {
        let (mut dirs, mut files) = (vec![self.dir.path().join("user")], 0);
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                for one in what {
                    assert!(!path.to_string_lossy().contains(one), "{one:?} in {path:?}");
                }
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                files += 1;
                let bytes = std::fs::read(&path).unwrap();
                for one in what {
                    let has = bytes.windows(one.len()).any(|w| w == one.as_bytes());
                    assert!(!has, "{one:?} in {path:?}");
                }
            }
        }
        assert!(files > 5, "the search found the store");
    }
}

impl Device {
    fn has(&self, path: &str, bytes: &[u8]) -> bool {
        std::fs::read(self.folder.join(path)).is_ok_and(|b| b == bytes)
    }

    fn closed(&self) -> Option<String> {
        Some(Status::load(&self.state).ok()?.vaults.first()?.closed.clone())
    }
}

/// What a device's page on 127.0.0.1 shows.
fn settings_page(of: &Device) -> String {
    let url = Address::load(&of.state).unwrap().url;
    let (base, token) = url.split_once("/?token=").unwrap();
    let mut answer =
        ureq::get(base).header("cookie", format!("pvfs2-sync-page={token}")).call().unwrap();
    answer.body_mut().read_to_string().unwrap()
}

#[test]
fn two_daemons_and_a_server_that_sees_nothing() {
    let place = Place::new();
    let (a, b) = (place.device("a"), place.device("b"));
    let stop = Arc::new(AtomicBool::new(false));
    let daemons = [&a, &b].map(|d| {
        let (state, stop) = (d.state.clone(), stop.clone());
        std::thread::spawn(move || daemon::run(&state, Duration::from_secs(600), true, &stop))
    });
    until("both watch", || {
        [&a, &b].iter().all(|d| Status::load(&d.state).is_ok_and(|s| s.passes > 0 && s.watching))
    });
    let recovery = keys::encrypt(&a.state, "Private", PASSPHRASE).unwrap();
    let large = b"nobody shall read this line\n".repeat(60_000);
    a.write("Private/diary/monday.txt", b"dear diary");
    a.write("Private/manuscript.txt", &large);
    a.write("public.txt", b"for everybody");
    until("the locked device knows of it", || {
        b.closed().is_some_and(|c| c.starts_with("locked")) && b.has("public.txt", b"for everybody")
    });
    assert!(settings_page(&b).contains("Private: locked"));
    until("its owner's page says so", || settings_page(&a).contains("Private: unlocked"));
    // Locked: what is put there stays there.
    b.write("Private/put here by mistake.txt", b"a plain mistake");
    let wrong = keys::unlock(&b.state, "Private", By::Passphrase, "several words in a rov");
    assert!(matches!(wrong, Err(SyncError::Denied(_))), "{wrong:?}");
    assert!(!b.folder.join("Private/diary").exists());
    keys::unlock(&b.state, "Private", By::Passphrase, PASSPHRASE).unwrap();
    daemon::wish(&b.state, false).unwrap();
    until("unlocked, it has all of it", || {
        b.has("Private/diary/monday.txt", b"dear diary") && b.has("Private/manuscript.txt", &large)
    });
    until("the other has the mistake, as a file like others", || {
        a.has("Private/put here by mistake.txt", b"a plain mistake")
    });
    // Changes travel both ways.
    b.write("Private/diary/monday.txt", b"dear diary, it is tuesday");
    std::fs::rename(b.folder.join("Private/diary"), b.folder.join("Private/logbook")).unwrap();
    std::fs::remove_file(b.folder.join("Private/put here by mistake.txt")).unwrap();
    until("edits, renames and deletions travel", || {
        a.has("Private/logbook/monday.txt", b"dear diary, it is tuesday")
            && !a.folder.join("Private/diary").exists()
            && !a.folder.join("Private/put here by mistake.txt").exists()
    });
    // Another passphrase; the old one opens nothing any more, the recovery key does.
    let text =
        keys::passphrase(&b.state, "Private", By::Passphrase, PASSPHRASE, "quite other words")
            .unwrap();
    until("the other has the new key file", || a.has("Private/.pvfs2-vault", &text));
    let c = place.device("c");
    c.pass();
    assert!(keys::unlock(&c.state, "Private", By::Passphrase, PASSPHRASE).is_err());
    keys::unlock(&c.state, "Private", By::Recovery, &recovery).unwrap();
    let report = c.pass();
    assert!(report.bytes_down > large.len() as u64, "{report:?}");
    stop.store(true, Ordering::Relaxed);
    for d in daemons {
        d.join().unwrap().unwrap();
    }
    a.pass();
    assert_eq!(tree(&a.folder), tree(&b.folder));
    assert_eq!(tree(&a.folder), tree(&c.folder));
    let report = c.pass();
    assert_eq!((report.up, report.down, report.bytes_down), (0, 0, 0), "{report:?}");
    place.unseen(&[
        "monday",
        "diary",
        "manuscript",
        "logbook",
        "mistake",
        "nobody shall",
        "tuesday",
        PASSPHRASE,
        "quite other words",
    ]);
    // Locked again: the files stay, and nothing happens to them.
    assert!(keys::lock(&c.state, "Private").unwrap());
    std::fs::remove_dir_all(c.folder.join("Private/logbook")).unwrap();
    c.write("Private/manuscript.txt", b"edited while locked");
    let report = c.pass();
    assert_eq!((report.up, report.down), (0, 0), "{report:?}");
    assert!(c.closed().unwrap().starts_with("locked"));
    assert!(a.has("Private/manuscript.txt", &large));
}

#[test]
fn pages_and_webdav_show_it_as_encrypted_and_put_nothing_in() {
    let place = Place::new();
    let a = place.device("a");
    keys::encrypt(&a.state, "Private", PASSPHRASE).unwrap();
    a.write("Private/diary.txt", b"dear diary");
    a.pass();
    let before = tree(&place.dir.path().join("user/ann"));
    let mut w = Browser::new(&place.server);
    assert_eq!(
        w.post("/login", &format!("user=ann&password={}", PASSWORD.replace(' ', "+"))).status,
        303
    );
    let top = w.get("/files/1").text;
    assert!(top.contains("encrypted"), "{top}");
    let dir = id_before(&top, "/files/", "Private");
    let inside = w.get(&format!("/files/{dir}")).text;
    assert!(inside.contains("encrypted end to end") && inside.contains(".pv1"), "{inside}");
    assert!(!inside.contains("diary") && !inside.contains("type=\"file\""), "{inside}");
    let got = w.upload(dir, "plain.txt", "plain");
    assert_eq!(got.status, 400, "{}", got.text);
    assert!(got.text.contains("encrypted end to end"), "{}", got.text);
    assert_eq!(w.post(&format!("/files/{dir}/mkdir"), "name=plain").status, 400);
    let got = w.post(&format!("/node/{dir}/share"), "password=&days=");
    assert!(got.status == 400 && got.text.contains("cannot be shared"), "{}", got.text);
    let page = w.get(&format!("/node/{dir}")).text;
    assert!(page.contains("encrypted end to end") && !page.contains("Make a link"), "{page}");
    // A download is what the server has.
    let listed = inside.split("/download/").nth(2).unwrap();
    let file: String = listed.chars().take_while(char::is_ascii_digit).collect();
    let (status, bytes) = w.get_bytes(&format!("/download/{file}"));
    assert!(status == 200 && !bytes.windows(5).any(|b| b == b"diary"));
    // WebDAV: listed, and nothing plain gets in.
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("ann:{PASSWORD}"));
    let dav = |method: &str, path: &str, to: &str| {
        let uri = format!("https://{}/dav/ann/{path}", place.server.addr);
        let mut r = ureq::http::Request::builder().method(method).uri(uri);
        r = r.header("authorization", format!("Basic {auth}")).header("depth", "1");
        if !to.is_empty() {
            r = r.header("destination", format!("https://{}/dav/ann/{to}", place.server.addr));
        }
        let answer = w.agent.run(r.body(&b"plain"[..]).unwrap()).unwrap();
        answer.status().as_u16()
    };
    for (method, path, to) in [
        ("PUT", "Private/plain.txt", ""),
        ("PUT", "Private/.pvfs2-vault", ""),
        ("MKCOL", "Private/plain", ""),
        ("MOVE", "Private/.pvfs2-vault", "key"),
        ("DELETE", "Private/.pvfs2-vault", ""),
    ] {
        let status = dav(method, path, to);
        assert!((400..500).contains(&status), "{method} {path}: {status}");
    }
    assert_eq!(tree(&place.dir.path().join("user/ann")), before);
}

#[test]
fn a_zip_of_a_shared_folder_holds_an_encrypted_one_sealed() {
    let place = Place::new();
    let a = place.device("a");
    a.write("Shared/public.txt", b"for everybody");
    a.pass();
    keys::encrypt(&a.state, "Shared/Private", PASSPHRASE).unwrap();
    a.write("Shared/Private/diary.txt", b"dear diary");
    a.pass();
    let mut w = Browser::new(&place.server);
    w.post("/login", &format!("user=ann&password={}", PASSWORD.replace(' ', "+")));
    let dir = id_before(&w.get("/files/1").text, "/files/", "Shared");
    let page = w.post(&format!("/node/{dir}/share"), "password=&days=").text;
    let link = page.split("/s/").nth(1).unwrap().split('"').next().unwrap();
    let mut guest = Browser::new(&place.server);
    for (who, path) in
        [(&mut guest, format!("/s/{link}/zip/{dir}")), (&mut w, format!("/zip/{dir}"))]
    {
        let (status, zip) = who.get_bytes(&path);
        let has = |what: &str| zip.windows(what.len()).any(|part| part == what.as_bytes());
        assert!(
            status == 200 && has("Shared/public.txt") && has("for everybody"),
            "{path}: {status}"
        );
        assert!(has(".pv1") && !has("diary") && !has(PASSPHRASE), "{path}: sealed names and bytes");
    }
}
