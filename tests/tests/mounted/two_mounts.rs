//! Two mounts of one file system: what one does, the other sees.
use pvfs2_tests::mount::NO_CACHES;
use pvfs2_tests::wait::{secs, until};
use pvfs2_tests::{Cluster, Mount, Spec};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;

/// Every kind of change by `a`, each looked for through `b` by `seen`, which waits as long as the
/// promise allows.
fn changes(a: &Mount, b: &Mount, seen: impl Fn(&str, &dyn Fn() -> bool)) {
    let read = |name: &str| fs::read(b.path(name)).ok();
    let exists = |name: &str| fs::symlink_metadata(b.path(name)).is_ok();
    assert!(!exists("f"), "nothing there yet; this also makes b remember that there is no f");
    fs::write(a.path("f"), "one").unwrap();
    seen("create", &|| read("f").as_deref() == Some(b"one"));
    fs::write(a.path("f"), "three").unwrap();
    seen("overwrite, small", &|| read("f").as_deref() == Some(b"three"));
    let large: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
    fs::write(a.path("f"), &large).unwrap();
    seen("small becomes striped", &|| read("f").as_ref() == Some(&large));
    OpenOptions::new().write(true).open(a.path("f")).unwrap().set_len(70_001).unwrap();
    seen("truncate", &|| read("f").as_deref() == Some(&large[..70_001]));
    OpenOptions::new().append(true).open(a.path("f")).unwrap().write_all(b"tail").unwrap();
    seen("append", &|| fs::metadata(b.path("f")).unwrap().len() == 70_005);
    fs::rename(a.path("f"), a.path("g")).unwrap();
    seen("rename", &|| !exists("f") && exists("g"));
    fs::create_dir(a.path("d")).unwrap();
    seen("mkdir", &|| b.path("d").is_dir());
    fs::write(a.path("d/x"), "x").unwrap();
    seen("create in it", &|| read("d/x").as_deref() == Some(b"x"));
    let names = || {
        fs::read_dir(b.path("")).unwrap().map(|e| e.unwrap().file_name()).collect::<BTreeSet<_>>()
    };
    seen("listing", &|| names() == BTreeSet::from(["d".into(), "g".into()]));
    fs::set_permissions(a.path("g"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mode = || {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(b.path("g")).unwrap().permissions())
    };
    seen("chmod", &|| mode() & 0o777 == 0o600);
    fs::hard_link(a.path("g"), a.path("h")).unwrap();
    let links = || std::os::unix::fs::MetadataExt::nlink(&fs::metadata(b.path("g")).unwrap());
    seen("link", &|| links() == 2);
    fs::write(a.path("new"), "other").unwrap();
    fs::rename(a.path("new"), a.path("g")).unwrap();
    seen("rename over", &|| read("g").as_deref() == Some(b"other"));
    fs::remove_file(a.path("g")).unwrap();
    fs::remove_file(a.path("h")).unwrap();
    seen("unlink", &|| !exists("g") && !exists("h"));
    fs::remove_dir_all(a.path("d")).unwrap();
    seen("rmdir", &|| !exists("d"));
}

pub fn without_caches_changes_are_seen_at_once() {
    let cluster = Cluster::start(Spec::default());
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    let at_once =
        |what: &str, check: &dyn Fn() -> bool| assert!(check(), "{what} is not seen at once");
    changes(&a, &b, at_once);
    changes(&b, &a, at_once);
}

pub fn with_caches_changes_are_seen_within_the_timeouts() {
    let cluster = Cluster::start(Spec { meta: 2, ..Spec::default() });
    let (a, b) = (cluster.mount(""), cluster.mount(""));
    // 1,000 ms here and in the kernel, one after the other at worst, and some air.
    changes(&a, &b, |what, check| until(secs(3), what, check));
}

pub fn appended_records_are_all_there() {
    const RECORDS: usize = 1_000;
    let cluster = Cluster::start(Spec::default());
    for options in ["", NO_CACHES] {
        let mounts = [cluster.mount(options), cluster.mount(options)];
        let name = format!("log{}", options.len());
        // Records of several lengths, beginning small (stuffed) and growing over the strips.
        let record = |who: usize, n: usize| format!("{who}:{n:05}:{}\n", "r".repeat(10 + n % 90));
        std::thread::scope(|s| {
            for (who, mount) in mounts.iter().enumerate() {
                let path = mount.path(&name);
                s.spawn(move || {
                    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
                    for n in 0..RECORDS {
                        assert_eq!(
                            file.write(record(who, n).as_bytes()).unwrap(),
                            record(who, n).len()
                        );
                    }
                });
            }
        });
        for mount in &mounts {
            let want: usize = (0..2)
                .flat_map(|w| (0..RECORDS).map(move |n| (w, n)))
                .map(|(w, n)| record(w, n).len())
                .sum();
            until(secs(3), "the size is known", || {
                fs::metadata(mount.path(&name)).unwrap().len() == want as u64
            });
            let text = fs::read_to_string(mount.path(&name)).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 2 * RECORDS, "records");
            for who in 0..2 {
                // Each writer's records in its own order, whole.
                let own: Vec<String> = lines
                    .iter()
                    .filter(|l| l.starts_with(&format!("{who}:")))
                    .map(|l| format!("{l}\n"))
                    .collect();
                let all: Vec<String> = (0..RECORDS).map(|n| record(who, n)).collect();
                assert!(own == all, "records of writer {who} with options '{options}'");
            }
        }
    }
}

pub fn exclusive_create_has_one_winner() {
    let cluster = Cluster::start(Spec::default());
    let mounts = [cluster.mount(""), cluster.mount("")];
    let wins: Vec<Vec<bool>> = std::thread::scope(|s| {
        let run = |m: &Mount| {
            let dir = m.dir.clone();
            move || {
                (0..200)
                    .map(|i| {
                        OpenOptions::new()
                            .write(true)
                            .create_new(true)
                            .open(dir.join(format!("x{i}")))
                            .is_ok()
                    })
                    .collect::<Vec<_>>()
            }
        };
        let handles: Vec<_> = mounts.iter().map(|m| s.spawn(run(m))).collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    });
    for (i, (a, b)) in wins[0].iter().zip(&wins[1]).enumerate() {
        assert!(a ^ b, "x{i}: created by {}", if *a { "both" } else { "none" });
    }
}
