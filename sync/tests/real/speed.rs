//! Many small files between real devices and the real server: that they travel many in a request, how
//! often files are synced, and how fast it is. `PVFS2_SYNC_FILES=N` sets how many files (default 600);
//! `PVFS2_SYNC_MIB=N` the size of one large file (default 8). Times are printed, counts are asserted.
use pvfs2_sync::api::Login;
use pvfs2_sync::device::config::Config;
use pvfs2_sync::device::daemon;
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::running::{Options, Running};
use pvfs2_sync::server::users::now_ms;
use std::path::PathBuf;
use std::time::Instant;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

/// How many requests of a route there were.
fn requests(server: &Running, route: &str) -> usize {
    let text = crate::common::agent(server)
        .get(format!("https://{}/metrics", server.addr))
        .call()
        .unwrap();
    let text = text.into_body().read_to_string().unwrap();
    let line = format!("pvfs2_sync_requests_total{{route=\"/api/v1{route}\",");
    text.lines()
        .filter(|l| l.starts_with(&line))
        .map(|l| l.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
        .sum()
}

#[test]
fn many_small_files_are_few_requests() {
    let (count, mib) = (number("PVFS2_SYNC_FILES", 600), number("PVFS2_SYNC_MIB", 8));
    let dir = match std::env::var("PVFS2_SYNC_DIR") {
        Ok(dir) => tempfile::tempdir_in(dir).unwrap(),
        Err(_) => tempfile::tempdir().unwrap(),
    };
    let root = dir.path().join("user");
    std::fs::create_dir(&root).unwrap();
    let options =
        Options { begin: Begin::New, ..Options::new(root, "127.0.0.1:0".parse().unwrap()) };
    let server = Running::start(&options).unwrap();
    server.app.accounts.create("ann", "correct horse battery", false, None, now_ms()).unwrap();
    let ca = std::fs::read_to_string(&server.cert).unwrap();
    let device = |name: &str| -> (PathBuf, PathBuf) {
        let (state, folder) = (dir.path().join(format!("{name}.state")), dir.path().join(name));
        let login = Login {
            user: "ann".into(),
            password: "correct horse battery".into(),
            device: name.into(),
        };
        let url = format!("https://{}", server.addr);
        Config::set_up(&state, &url, Some(ca.clone()), &login, &folder).unwrap();
        (state, folder)
    };
    let timed = |what: &str, unit: &str, many: usize, state: &PathBuf| {
        let begin = Instant::now();
        let report = daemon::once(state, true).unwrap();
        let secs = begin.elapsed().as_secs_f64();
        assert!(report.problems.is_empty(), "{what}: {:?}", report.problems);
        println!("{what}: {secs:.3} s, {:.0} {unit}/s", many as f64 / secs);
        report
    };
    let ((a, from), (b, to)) = (device("a"), device("b"));
    for n in 0..count {
        let sub = from.join(format!("d{}", n / 100));
        std::fs::create_dir_all(&sub).unwrap();
        let bytes: Vec<u8> = (0..4096_usize).map(|i| (i * 31 + n * 7 + (n >> 8)) as u8).collect();
        std::fs::write(sub.join(format!("f{n}")), bytes).unwrap();
    }
    let dirs = count.div_ceil(100);
    assert_eq!(timed("small files up", "files", count, &a).up, count + dirs);
    assert_eq!(timed("small files down", "files", count, &b).down, count + dirs);
    let groups = count.div_ceil(250);
    let sent = (requests(&server, "/files"), requests(&server, "/contents"));
    assert_eq!(sent, (groups, groups), "250 in a request");
    assert_eq!(requests(&server, "/batch"), dirs.div_ceil(250));
    for n in [0, count / 2, count - 1] {
        let path = format!("d{}/f{n}", n / 100);
        assert_eq!(
            std::fs::read(from.join(&path)).unwrap(),
            std::fs::read(to.join(&path)).unwrap()
        );
    }
    for pass in ["first pass after", "pass with nothing to do"] {
        // Signatures of what changed within the last second are not trusted (trap 2).
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        let report = timed(pass, "files", count, &a);
        assert_eq!((report.up, report.down), (0, 0));
    }

    let big: Vec<u8> =
        (0..mib << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(from.join("big"), &big).unwrap();
    assert_eq!(timed("large file up", "MiB", mib, &a).bytes_up, (mib << 20) as u64);
    assert_eq!(timed("large file down", "MiB", mib, &b).bytes_down, (mib << 20) as u64);
    assert_eq!(std::fs::read(to.join("big")).unwrap(), big);

    for n in 0..count {
        std::fs::remove_file(from.join(format!("d{}/f{n}", n / 100))).unwrap();
    }
    assert_eq!(timed("deletions up", "files", count, &a).up, count);
    assert_eq!(timed("deletions down", "files", count, &b).down, count);
    assert_eq!(requests(&server, "/batch"), dirs.div_ceil(250) + groups);
}
