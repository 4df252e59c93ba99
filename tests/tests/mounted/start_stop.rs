//! Quickstart and the tools at their edges: second start, crash, wrong folders, one clear message each.
use pvfs2_tests::cluster::program;
use pvfs2_tests::mount::is_mounted;
use pvfs2_tests::wait::{secs, until};
use pvfs2_tests::{Cluster, Spec, pattern};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A quickstart in the background that is stopped on drop.
struct Quick {
    dir: tempfile::TempDir,
}

impl Quick {
    fn new() -> Quick {
        Quick { dir: tempfile::Builder::new().prefix("pvfs2-quick.").tempdir().unwrap() }
    }
    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
    fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
    fn run(&self, more: &[&str]) -> Output {
        let mut c = Command::new(program());
        c.arg("quickstart").arg("--data").arg(self.data());
        if !more.contains(&"--stop") {
            c.arg("--mount").arg(self.mnt());
        }
        // Output into files: a detached child that kept a pipe would keep this waiting.
        let (out, err) = (self.dir.path().join("out"), self.dir.path().join("err"));
        c.args(more).stdin(Stdio::null());
        c.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let status = c.status().unwrap();
        Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() }
    }
    #[track_caller]
    fn ok(&self, more: &[&str]) -> String {
        let out = self.run(more);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        assert!(out.status.success(), "quickstart {more:?}: {} {text}", out.status);
        text
    }
    /// Processes that name the data folder in their arguments.
    fn processes(&self) -> Vec<u32> {
        let name = self.data();
        let mine = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&*name.to_string_lossy())
                && *pid != std::process::id()
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(mine).collect()
    }
}

impl Drop for Quick {
    fn drop(&mut self) {
        // Must not panic: the test may be panicking already.
        let mut stop = Command::new(program());
        let _ = stop.args(["quickstart", "--stop", "--data"]).arg(self.data()).output();
        for dir in [self.mnt(), self.dir.path().join("mnt2")] {
            if is_mounted(&dir) {
                let _ = Command::new("umount").arg("-l").arg(&dir).status();
            }
        }
        for pid in self.processes() {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[track_caller]
fn refused(out: &Output, words: &[&str]) {
    let text =
        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(!out.status.success(), "should have been refused: {text}");
    assert!(out.status.code().is_some(), "ended by a signal: {}", out.status);
    assert!(!text.contains("panicked"), "{text}");
    let lower = text.to_lowercase();
    assert!(words.iter().any(|w| lower.contains(w)), "none of {words:?} in: {text}");
    assert!(text.trim().lines().count() <= 4, "one clear message, not: {text}");
}

pub fn quickstart_keeps_data_and_leaves_nothing_behind() {
    let quick = Quick::new();
    let mnt2 = quick.dir.path().join("mnt2");
    for processes in [&[][..], &["--processes"]] {
        let first = processes.is_empty();
        let mut args = vec!["--detach", "--mount2", mnt2.to_str().unwrap()];
        args.extend(processes);
        let said = quick.ok(&args);
        assert!(said.contains("--stop"), "says how to stop: {said}");
        assert!(is_mounted(&quick.mnt()) && is_mounted(&mnt2));
        let path = quick.mnt().join("f");
        if first {
            fs::write(&path, pattern::bytes(1, 0, 1 << 20)).unwrap();
            fs::write(quick.mnt().join("small"), "yesterday").unwrap();
        }
        pattern::check_file(&path, 1, 1 << 20);
        assert_eq!(
            fs::read(mnt2.join("small")).unwrap(),
            b"yesterday",
            "the other mount, or the second start"
        );
        quick.ok(&["--stop"]);
        assert!(!is_mounted(&quick.mnt()) && !is_mounted(&mnt2), "a mount is left");
        until(secs(10), "no process is left", || quick.processes().is_empty());
    }
}

pub fn a_stale_mount_is_mended() {
    let quick = Quick::new();
    quick.ok(&["--detach"]);
    fs::write(quick.mnt().join("f"), pattern::bytes(2, 0, 500_000)).unwrap();
    for pid in quick.processes() {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    until(secs(10), "killed", || quick.processes().is_empty());
    assert!(is_mounted(&quick.mnt()), "the crashed run left its mount, or this test shows nothing");
    quick.ok(&["--detach"]);
    pattern::check_file(&quick.mnt().join("f"), 2, 500_000);
}

pub fn a_second_quickstart_is_refused() {
    let quick = Quick::new();
    quick.ok(&["--detach"]);
    refused(&quick.run(&["--detach"]), &["running", "in use", "already"]);
    fs::write(quick.mnt().join("f"), "still works").unwrap();
    // A data folder that holds something else.
    let other = Quick::new();
    fs::create_dir(other.data()).unwrap();
    fs::write(other.data().join("thesis.txt"), "precious").unwrap();
    refused(&other.run(&["--detach"]), &["not empty", "empty"]);
    assert_eq!(fs::read(other.data().join("thesis.txt")).unwrap(), b"precious");
    // A busy mount point: another file system is mounted there.
    let third = Quick::new();
    let out = Command::new(program())
        .args(["quickstart", "--detach", "--data"])
        .arg(third.data())
        .arg("--mount")
        .arg(quick.mnt())
        .output()
        .unwrap();
    refused(&out, &["mounted", "busy", "in use", "mount point"]);
    quick.ok(&["--stop"]);
    // Nothing to stop is no crash either.
    let out = quick.run(&["--stop"]);
    assert!(
        out.status.code().is_some() && !String::from_utf8_lossy(&out.stderr).contains("panicked")
    );
}

pub fn mkfs_refuses_a_folder_that_is_not_empty() {
    let cluster = Cluster::start(Spec { io: 1, ..Spec::default() });
    let again = cluster.command("mkfs").args(["--alias", "io0"]).output().unwrap();
    refused(&again, &["already", "not empty", "exists"]);
    let unknown = cluster.command("mkfs").args(["--alias", "io77"]).output().unwrap();
    refused(&unknown, &["io77"]);
}

pub fn a_server_refuses_storage_of_another_file_system() {
    let mut cluster = Cluster::start(Spec { io: 1, ..Spec::default() });
    cluster.terminate(0);
    cluster.terminate(1);
    let start = |config: &Path, alias: &str| {
        Command::new(program())
            .args(["server", "--config"])
            .arg(config)
            .args(["--alias", alias])
            .output()
            .unwrap()
    };
    let text = fs::read_to_string(cluster.config()).unwrap();
    let other = cluster.dir().join("other.toml");
    let id = format!("{:#018x}", cluster.file.fs_id);
    assert!(text.contains(&id));
    fs::write(&other, text.replace(&id, "0x0000000000c0ffee")).unwrap();
    refused(&start(&other, "meta0"), &["another file system", "file system", "fs_id"]);
    // A format that this program does not know.
    let format = cluster.servers[1].storage.join("FORMAT");
    let old = fs::read(&format).unwrap();
    fs::write(&format, b"PVFS2 something from the future 999\n").unwrap();
    refused(&start(&cluster.config(), "io0"), &["version", "format"]);
    fs::write(&format, old).unwrap();
    cluster.restart(0);
    cluster.restart(1);
    // Its port is taken.
    refused(&start(&cluster.config(), "io0"), &["in use", "another process"]);
    fs::write(&other, "version = 1\n[filesystem]\nname = 3\n").unwrap();
    refused(&start(&other, "meta0"), &["line 3"]);
}

pub fn two_servers_cannot_open_one_storage_space() {
    let cluster = Cluster::start(Spec { io: 1, ..Spec::default() });
    // The same storage under other ports.
    let text = fs::read_to_string(cluster.config()).unwrap();
    let port = cluster.servers[0].tcp.rsplit(':').next().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let other = cluster.dir().join("other.toml");
    fs::write(&other, text.replace(port, &free.to_string())).unwrap();
    let out = Command::new(program())
        .args(["server", "--config"])
        .arg(&other)
        .args(["--alias", "meta0"])
        .output()
        .unwrap();
    refused(&out, &["another process"]);
}

pub fn mount_of_nothing_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mount = |spec: &str, dir: &Path| {
        Command::new(program()).args(["mount", spec]).arg(dir).output().unwrap()
    };
    refused(
        &mount(&format!("tcp://127.0.0.1:{port}/pvfs2-fs"), dir.path()),
        &["refused", "reach", "answer"],
    );
    refused(&mount("http://here/x", dir.path()), &["tcp://"]);
    let ping = Command::new(program())
        .args(["ping", "--fs", &format!("tcp://127.0.0.1:{port}/pvfs2-fs")])
        .output()
        .unwrap();
    refused(&ping, &["refused", "reach", "answer", "down"]);
}
