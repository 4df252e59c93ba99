//! What a person sets on a device, on real devices and daemons with the real server: what is left out,
//! chosen folders, pause, schedules, limits, and the settings page on 127.0.0.1.
use crate::common::folder::until;
use crate::common::place::{Device, Place};
use pvfs2_sync::device::daemon::{self, Status};
use pvfs2_sync::device::filter::IGNORE_FILE;
use pvfs2_sync::device::page::Address;
use pvfs2_sync::device::settings::{Schedule, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

impl Place {
    fn there(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join("user/ann").join(path)).ok()
    }
}

impl Device {
    fn reads(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.join(path)).ok()
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.folder.join(path)).unwrap();
    }

    fn set(&self, f: impl FnOnce(&mut Settings)) {
        Settings::change(&self.state, f).unwrap();
    }
}

#[test]
fn what_is_left_out_stays_where_it_is_and_unites_when_it_comes_back() {
    let place = Place::new();
    let (a, b) = (place.device("a"), place.device("b"));
    a.write("keep", "1");
    a.write("x.tmp", "of a");
    a.write("d/y.tmp", "old");
    a.write("d/z", "2");
    a.pass();
    b.pass();
    assert_eq!(b.reads("d/y.tmp").as_deref(), Some("old"));

    // Left out on b alone: neither its deletion nor its edit travels, and nothing comes.
    b.set(|s| s.ignore.push("*.tmp".into()));
    b.remove("x.tmp");
    b.write("d/y.tmp", "edited on b");
    b.write("new.tmp", "only b");
    a.write("more.tmp", "only a");
    assert_eq!(b.pass().up, 0);
    a.pass();
    b.pass();
    assert_eq!(place.there("x.tmp").as_deref(), Some("of a"));
    assert_eq!(place.there("d/y.tmp").as_deref(), Some("old"));
    assert_eq!((place.there("new.tmp"), b.reads("more.tmp")), (None, None));

    // A folder that holds something left out is not taken away with what is synchronised in it.
    std::fs::remove_dir_all(a.folder.join("d")).unwrap();
    a.pass();
    b.pass();
    assert_eq!(b.reads("d/y.tmp").as_deref(), Some("edited on b"));
    assert_eq!(b.reads("d/z"), None);

    // Let in again: united, nothing deleted.
    b.set(|s| s.ignore.clear());
    b.pass();
    a.pass();
    assert_eq!(b.reads("x.tmp").as_deref(), Some("of a"));
    for d in [&a, &b] {
        assert_eq!(d.reads("new.tmp").as_deref(), Some("only b"));
        assert_eq!(d.reads("more.tmp").as_deref(), Some("only a"));
        assert_eq!(d.reads("d/y.tmp").as_deref(), Some("edited on b"));
    }

    // The file in the folder is for all devices.
    a.write(IGNORE_FILE, "# made by programs\n/build/\n");
    a.write("build/o", "o");
    a.write("src/build/kept", "k");
    a.pass();
    b.write("build/p", "p");
    b.pass();
    b.write("build/q", "q");
    b.pass();
    a.pass();
    assert_eq!((place.there("build/o"), place.there("build/q")), (None, None));
    assert_eq!(b.reads("src/build/kept").as_deref(), Some("k"));
}

#[test]
fn only_chosen_folders_are_here_and_leaving_one_deletes_nothing() {
    let place = Place::new();
    let (a, b) = (place.device("a"), place.device("b"));
    for path in ["Photos/1", "docs/job/w", "docs/play/p", "top"] {
        a.write(path, path);
    }
    a.pass();
    b.set(|s| s.only = vec!["/Photos/".into(), "docs/job".into()]);
    b.pass();
    assert!(b.reads("Photos/1").is_some() && b.reads("docs/job/w").is_some());
    assert_eq!((b.reads("docs/play/p"), b.reads("top")), (None, None));
    // No longer chosen, and its copy here removed to make room: it is still at the server.
    b.set(|s| s.only = vec!["docs/job".into()]);
    b.pass();
    std::fs::remove_dir_all(b.folder.join("Photos")).unwrap();
    b.pass();
    a.pass();
    assert!(a.reads("Photos/1").is_some());
    b.set(|s| s.only.clear());
    b.pass();
    for path in ["Photos/1", "docs/job/w", "docs/play/p", "top"] {
        assert_eq!(b.reads(path).as_deref(), Some(path), "{path}");
        assert_eq!(place.there(path).as_deref(), Some(path), "{path}");
    }
}

#[test]
fn a_limit_holds_bytes_back() {
    let place = Place::new();
    let a = place.device("a");
    a.set(|s| (s.up, s.down) = (200 << 10, 300 << 10));
    a.write("f", "x".repeat(150 << 10));
    let begin = Instant::now();
    a.pass();
    assert!(begin.elapsed() > Duration::from_millis(700), "150 KiB at 200 KiB/s");
    let b = place.device("b");
    b.set(|s| s.down = 300 << 10);
    let begin = Instant::now();
    b.pass();
    assert!(begin.elapsed() > Duration::from_millis(450), "150 KiB at 300 KiB/s");
    assert_eq!(b.reads("f"), a.reads("f"));
}

#[test]
fn a_daemon_pauses_goes_on_and_keeps_its_schedule_and_its_page_is_for_its_owner_alone() {
    let place = Place::new();
    let a = place.device("a");
    let stop = Arc::new(AtomicBool::new(false));
    let daemon = {
        let (state, stop) = (a.state.clone(), stop.clone());
        std::thread::spawn(move || daemon::run(&state, Duration::from_secs(300), true, &stop))
    };
    a.write("one", "1");
    until("one is there", || place.there("one").is_some());

    a.set(|s| s.paused = true);
    std::thread::sleep(Duration::from_millis(300));
    a.write("two", "2");
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(place.there("two"), None, "paused");
    a.set(|s| s.paused = false);
    until("two is there", || place.there("two").is_some());

    a.set(|s| s.schedule = Schedule::Manual);
    std::thread::sleep(Duration::from_millis(300));
    a.write("three", "3");
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(place.there("three"), None, "by hand only");
    daemon::wish(&a.state, false).unwrap();
    until("three is there", || place.there("three").is_some());

    // The page.
    let url = Address::load(&a.state).unwrap().url;
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(a.state.join("page.json")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let (base, token) = url.split_once("/?token=").unwrap();
    let host = base.strip_prefix("http://").unwrap().to_owned();
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .build()
        .new_agent();
    let ask = |method: &str, path: &str, body: &str, more: &[(&str, &str)]| {
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("{base}{path}"));
        for (k, v) in more {
            request = request.header(*k, *v);
        }
        if method == "POST" {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        let mut answer = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        let cookie = answer.headers().get("set-cookie").map(|c| c.to_str().unwrap().to_owned());
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap(), cookie)
    };
    let cookie = format!("pvfs2-sync-page={token}");
    let origin = format!("http://{host}");
    let (status, _, set) = ask("GET", &format!("/?token={token}"), "", &[]);
    assert_eq!(status, 303);
    let set = set.unwrap();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    let (status, page, _) = ask("GET", "/", "", &[("cookie", &cookie)]);
    assert!(status == 200 && page.contains("manual"), "{status}: {page}");
    // Whoever does not know the token, comes by another name, or from another page.
    assert_eq!(ask("GET", "/", "", &[]).0, 403);
    assert_eq!(ask("GET", "/?token=00", "", &[]).0, 403);
    assert_eq!(ask("GET", "/", "", &[("cookie", "pvfs2-sync-page=00")]).0, 403);
    assert_eq!(ask("GET", "/", "", &[("cookie", &cookie), ("host", "evil.example")]).0, 403);
    assert_eq!(ask("GET", &format!("/?token={token}"), "", &[("host", "evil.example")]).0, 403);
    for path in ["/pause", "/now", "/set"] {
        let body = "schedule=always&up=0&down=0&ignore=&only=";
        for bad in [
            vec![("cookie", cookie.as_str())],
            vec![("cookie", cookie.as_str()), ("origin", "http://evil.example")],
            vec![("cookie", cookie.as_str()), ("origin", "null")],
            vec![("origin", origin.as_str())],
        ] {
            assert_eq!(ask("POST", path, body, &bad).0, 403, "{path} {bad:?}");
        }
    }
    assert_eq!(Settings::load(&a.state).unwrap().schedule, Schedule::Manual);
    let ours = [("cookie", cookie.as_str()), ("origin", origin.as_str())];
    let body = "schedule=every+2h&up=100&down=0&ignore=*.tmp%0D%0A%0D%0A%2Fx&only=";
    assert_eq!(ask("POST", "/set", body, &ours).0, 303);
    let now = Settings::load(&a.state).unwrap();
    assert_eq!((now.schedule, now.up), (Schedule::Every(120), 100 << 10));
    assert_eq!(now.ignore, ["*.tmp", "/x"]);
    let (status, page, _) = ask("POST", "/set", &body.replace("every+2h", "sometimes"), &ours);
    assert!(status == 400 && page.contains("sometimes"), "{page}");
    assert_eq!(ask("POST", "/pause", "", &ours).0, 303);
    assert!(Settings::load(&a.state).unwrap().paused);
    assert_eq!(ask("POST", "/pause", "", &ours).0, 303);
    let before = Status::load(&a.state).unwrap().passes;
    assert_eq!(ask("POST", "/now", "", &ours).0, 303);
    until("a pass", || Status::load(&a.state).is_ok_and(|s| s.passes > before));
    stop.store(true, Ordering::Relaxed);
    daemon.join().unwrap().unwrap();
    assert!(Address::load(&a.state).is_err(), "the page goes with the daemon");
}
