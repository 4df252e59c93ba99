//! Names that a mount knows to be absent without asking, in directories that it has filled: what that
//! saves, and that nobody ever misses a name that another mount has made.
use pvfs2_tests::mount::NO_CACHES;
use pvfs2_tests::wait::{secs, until};
use pvfs2_tests::{Cluster, Mount, Spec};
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::time::Instant;

/// Only what must be asked is asked.
const CACHES: &str = "acache-ms=60000,ncache-ms=60000";

fn make(path: PathBuf) {
    OpenOptions::new().write(true).create_new(true).open(path).unwrap();
}

fn lookups(cluster: &Cluster, work: impl FnOnce()) -> u64 {
    let before = cluster.counters();
    work();
    (&cluster.counters() - &before).of("lookup")
}

/// Makes a directory, and looks for what is not in it until that costs one question less: there is no
/// right in a server's grace time.
fn filled(cluster: &Cluster, mount: &Mount, dir: &str) {
    fs::create_dir(mount.path(dir)).unwrap();
    let mut probes = 0..;
    let mut probe = || {
        let none = mount.path(&format!("{dir}/none{}", probes.next().unwrap_or_default()));
        lookups(cluster, || assert!(!none.exists()))
    };
    let first = probe();
    until(secs(20), "names that are not there are no more asked for", || probe() < first);
}

pub fn new_names_are_not_asked_for() {
    const FILES: u64 = 40;
    let cluster = Cluster::start(Spec { meta: 3, ..Spec::default() });
    let mount = cluster.mount(CACHES);
    for n in 0..6 {
        let dir = format!("d{n}");
        filled(&cluster, &mount, &dir);
        let path = |word: &str, i: u64| mount.path(&format!("{dir}/{word}{i}"));
        let asked = lookups(&cluster, || {
            for i in 0..FILES {
                make(path("f", i));
                fs::create_dir(path("sub", i)).unwrap();
                std::os::unix::fs::symlink("f", path("sym", i)).unwrap();
                assert!(!path("absent", i).exists());
            }
        });
        assert_eq!(asked, 0, "{dir}");
        // Renamed away and made again, unlinked and made again: all of it is seen.
        for i in 0..FILES {
            fs::rename(path("f", i), path("g", i)).unwrap();
            assert!(path("g", i).exists() && !path("f", i).exists());
            make(path("f", i));
            fs::remove_file(path("g", i)).unwrap();
            assert!(path("f", i).exists() && !path("g", i).exists());
        }
    }
    let without = cluster.mount(&format!("{CACHES},nodirrights"));
    fs::create_dir(without.path("other")).unwrap();
    let asked =
        lookups(&cluster, || (0..5).for_each(|i| make(without.path(&format!("other/{i}")))));
    assert!(asked >= 5, "{asked}: switched off");
}

pub fn what_another_mount_makes_is_seen_at_once() {
    let cluster = Cluster::start(Spec { meta: 2, ..Spec::default() });
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    fs::write(b.path("source"), "x").unwrap();
    for n in 0..4 {
        let dir = format!("d{n}");
        filled(&cluster, &a, &dir);
        let name = |word: &str| format!("{dir}/{word}");
        let makes: [(&str, &dyn Fn(PathBuf)); 5] = [
            ("create", &make),
            ("mkdir", &|path| fs::create_dir(path).unwrap()),
            ("symlink", &|path| std::os::unix::fs::symlink("x", path).unwrap()),
            ("link", &|path| fs::hard_link(b.path("source"), path).unwrap()),
            ("rename", &|path| {
                fs::write(b.path("moved"), "x").unwrap();
                fs::rename(b.path("moved"), path).unwrap();
            }),
        ];
        for i in 0..makes.len() {
            // Each way of making a name is once the one that ends the right.
            let sub = name(&format!("sub{i}"));
            filled(&cluster, &a, &sub);
            for (word, how) in makes.iter().cycle().skip(i).take(makes.len()) {
                let path = format!("{sub}/{word}");
                let started = Instant::now();
                how(b.path(&path));
                assert!(started.elapsed() < secs(5), "{path}: a recall takes long");
                assert!(fs::symlink_metadata(a.path(&path)).is_ok(), "{path}: not seen");
            }
        }
    }
}

pub fn a_killed_holder_delays_others_for_its_lease_at_most() {
    let cluster = Cluster::start(Spec { lease_ms: 2_000, ..Spec::default() });
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    filled(&cluster, &a, "d");
    a.kill();
    let started = Instant::now();
    make(b.path("d/x"));
    assert!(started.elapsed() < secs(5), "{:?}", started.elapsed());
    assert!(b.path("d/x").exists());
}

pub fn a_killed_metadata_server_ends_them() {
    let mut cluster = Cluster::start(Spec::default());
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    for round in 0..3 {
        let dir = format!("d{round}");
        filled(&cluster, &a, &dir);
        cluster.kill(0);
        cluster.restart(0);
        let name = format!("{dir}/x");
        make(b.path(&name));
        assert!(a.path(&name).exists(), "{name}");
        make(a.path(&format!("{dir}/y")));
        assert!(b.path(&format!("{dir}/y")).exists());
    }
}

pub fn a_holder_that_was_stopped_asks_again() {
    let cluster = Cluster::start(Spec { lease_ms: 2_000, ..Spec::default() });
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    for round in 0..3 {
        let dir = format!("d{round}");
        filled(&cluster, &a, &dir);
        a.freeze(true);
        // Waits for the lease of the one that does not answer.
        make(b.path(&format!("{dir}/x")));
        a.freeze(false);
        assert!(a.path(&format!("{dir}/x")).exists(), "round {round}");
    }
}
