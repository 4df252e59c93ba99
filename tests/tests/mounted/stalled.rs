//! Servers that do not answer: nobody waits forever without a word.
use pvfs2_tests::wait::{exit_within, secs, within};
use pvfs2_tests::{Cluster, Spec, pattern};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a command in which `@` stands for the mount. Not from inside it: starting would wait already.
fn shell(script: &str, dir: &std::path::Path) -> Child {
    Command::new("sh")
        .args(["-c", &format!("exec {}", script.replace('@', &format!("{}/", dir.display())))])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub fn a_waiting_process_can_be_killed() {
    // A short lease would let the frozen servers' sessions expire meanwhile.
    let cluster = Cluster::start(Spec { lease_ms: 60_000, ..Spec::default() });
    // Without caches, so that every command needs a server.
    for options in ["acache-ms=0,ncache-ms=0", "acache-ms=0,ncache-ms=0,hard"] {
        let mount = cluster.mount(options);
        fs::write(mount.path("large"), pattern::bytes(1, 0, 3 << 20)).unwrap();
        fs::write(mount.path("small"), "small").unwrap();
        let reader = cluster.mount(options);
        for script in [
            "cat @large",
            "cat @small",
            "stat @large",
            "ls -l @",
            "mkdir @new",
            "touch @fresh",
            "rm @small",
            "dd if=/dev/zero of=@large bs=1M count=2 conv=notrunc,fsync",
            "mv @small @other",
        ] {
            cluster.freeze(true);
            let mut child = shell(script, &reader.dir);
            let ended = exit_within(&mut child, Duration::from_millis(700));
            let waits = ended.is_none();
            let begin = Instant::now();
            let _ = child.kill();
            let gone = exit_within(&mut child, secs(10)).is_some();
            let took = begin.elapsed();
            cluster.freeze(false);
            assert!(waits, "'{script}' ended although no server answers: {ended:?}");
            assert!(
                gone && took <= Duration::from_millis(1_100),
                "'{script}' ({options}) died after {took:?}"
            );
            // The mount lives on.
            assert!(
                within(secs(20), || fs::metadata(reader.path("large")).is_ok()),
                "after '{script}'"
            );
            fs::write(mount.path("small"), "small").unwrap();
        }
    }
}

pub fn unmount_works_with_dead_servers() {
    for options in ["", "hard"] {
        let mut cluster = Cluster::start(Spec::default());
        let (mut one, mut two) = (cluster.mount(options), cluster.mount(options));
        fs::write(one.path("f"), pattern::bytes(1, 0, 1 << 20)).unwrap();
        fs::read(two.path("f")).unwrap();
        (0..cluster.servers.len()).for_each(|i| cluster.kill(i));
        let begin = Instant::now();
        one.unmount(secs(20)).unwrap_or_else(|e| panic!("umount ({options}): {e}"));
        assert!(two.terminate(secs(20)), "SIGTERM ({options}) did not unmount");
        assert!(begin.elapsed() < secs(30), "took {:?}", begin.elapsed());
    }
}

pub fn a_dead_server_costs_bounded_retries() {
    let mut cluster = Cluster::start(Spec { retry_delay_ms: 100, ..Spec::default() });
    let mount = cluster.mount("acache-ms=0,ncache-ms=0");
    fs::write(mount.path("f"), pattern::bytes(1, 0, 1 << 20)).unwrap();
    fs::write(mount.path("small"), "s").unwrap();
    let victim = cluster.io_servers().start;
    cluster.kill(victim);
    let begin = Instant::now();
    let error = fs::read(cluster.mount("").path("f")).expect_err("a strip's server is dead");
    // retry_limit 5 at 100 ms, and some air for the attempts themselves.
    assert!(begin.elapsed() < secs(15), "took {:?}", begin.elapsed());
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    // What does not need that server works meanwhile.
    assert_eq!(fs::read(mount.path("small")).unwrap(), b"s");
    fs::write(mount.path("small2"), "t").unwrap();
    cluster.restart(victim);
    pattern::check_file(&mount.path("f"), 1, 1 << 20);
}
