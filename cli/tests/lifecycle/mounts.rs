//! Quickstart and mounts as processes. Every process that a case starts ends with it.
use crate::{ok, pvfs2, refused};
use pvfs2_tests::mount::is_mounted;
use pvfs2_tests::wait::{exit_within, secs, until, within};
use pvfs2_tests::{Cluster, Spec, pattern};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A quickstart's folders; ended on drop.
struct Quick {
    dir: tempfile::TempDir,
}

impl Quick {
    fn new() -> Quick {
        Quick { dir: tempfile::Builder::new().prefix("pvfs2-cli.").tempdir().unwrap() }
    }
    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
    fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
    fn start(&self, more: &[&str]) -> String {
        let (data, mnt) = (self.data(), self.mnt());
        let mut args =
            vec!["quickstart", "--data", data.to_str().unwrap(), "--mount", mnt.to_str().unwrap()];
        args.extend(more);
        ok(&args)
    }
    fn pid_of(&self, alias: &str) -> Pid {
        let text = fs::read_to_string(self.data().join(format!("run/{alias}.pid"))).unwrap();
        Pid::from_raw(text.split_whitespace().next().unwrap().parse().unwrap()).unwrap()
    }
}

impl Drop for Quick {
    fn drop(&mut self) {
        let _ = pvfs2(&["quickstart", "--stop", "--data"]).arg(self.data()).output();
        if is_mounted(&self.mnt()) {
            let _ = Command::new("umount").arg("-l").arg(self.mnt()).status();
        }
    }
}

/// A child that is killed on drop.
struct Held(Child);
impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn a_killed_server_comes_back_by_hand() {
    let quick = Quick::new();
    quick.start(&["--detach", "--processes", "--io", "2"]);
    let file = quick.mnt().join("f");
    fs::write(&file, pattern::bytes(1, 0, 3_000_000)).unwrap();
    for alias in ["io1", "meta0"] {
        let old = quick.pid_of(alias);
        kill_process(old, Signal::KILL).unwrap();
        let waiting = std::thread::spawn({
            let file = quick.mnt().join(format!("while-{alias}-is-down"));
            move || fs::write(file, pattern::bytes(2, 0, 1_000_000))
        });
        let config = quick.data().join("cluster.toml");
        let log = fs::File::create(quick.dir.path().join("log")).unwrap();
        let server = pvfs2(&["server", "--config", config.to_str().unwrap(), "--alias", alias])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        // Quickstart ends it; the guard is for a case that fails before that.
        let mut server = Held(server);
        let back = within(secs(30), || {
            let text = fs::read_to_string(quick.data().join(format!("run/{alias}.pid"))).unwrap();
            text.starts_with(&format!("{} ", server.0.id()))
        });
        let log = fs::read_to_string(quick.dir.path().join("log")).unwrap();
        assert!(back, "{alias} is not back: {log}");
        waiting.join().unwrap().unwrap();
        pattern::check_file(&quick.mnt().join(format!("while-{alias}-is-down")), 2, 1_000_000);
        pattern::check_file(&file, 1, 3_000_000);
        if alias == "meta0" {
            let data = quick.data();
            ok(&["quickstart", "--stop", "--data", data.to_str().unwrap()]);
            let status = exit_within(&mut server.0, secs(5));
            assert!(status.is_some_and(|s| s.success()), "{alias} was not stopped: {status:?}");
        } else {
            std::mem::forget(server);
        }
    }
    assert!(!is_mounted(&quick.mnt()));
    quick.start(&["--detach"]);
    pattern::check_file(&file, 1, 3_000_000);
}

pub fn ctrl_c_ends_everything() {
    let quick = Quick::new();
    let out = quick.dir.path().join("out");
    let mut child = Held(
        pvfs2(&["quickstart", "--processes", "--meta", "2", "--io", "1", "--data"])
            .arg(quick.data())
            .arg("--mount")
            .arg(quick.mnt())
            .stdout(fs::File::create(&out).unwrap())
            .spawn()
            .unwrap(),
    );
    until(secs(60), "it is mounted", || fs::read_to_string(&out).unwrap().contains("Ctrl-C"));
    let servers: Vec<Pid> = ["meta0", "meta1", "io0"].iter().map(|a| quick.pid_of(a)).collect();
    for i in 0..8 {
        fs::create_dir(quick.mnt().join(format!("dir{i}"))).unwrap();
    }
    fs::write(quick.mnt().join("dir3/f"), "last words").unwrap();
    // A file that is open keeps no quickstart from ending.
    let open = fs::File::open(quick.mnt().join("dir3/f")).unwrap();
    kill_process(Pid::from_child(&child.0), Signal::INT).unwrap();
    let status = exit_within(&mut child.0, secs(40));
    assert!(status.is_some_and(|s| s.success()), "{status:?}");
    drop(open);
    assert!(!is_mounted(&quick.mnt()));
    for pid in servers {
        assert!(rustix::process::test_kill_process(pid).is_err(), "a server is left");
    }
    quick.start(&["--detach"]);
    assert_eq!(fs::read(quick.mnt().join("dir3/f")).unwrap(), b"last words");
}

pub fn a_full_mount_point_is_refused() {
    let quick = Quick::new();
    fs::create_dir(quick.mnt()).unwrap();
    fs::write(quick.mnt().join("mine"), "x").unwrap();
    let (data, mnt) = (quick.data(), quick.mnt());
    let start = ["quickstart", "--data", data.to_str().unwrap(), "--mount", mnt.to_str().unwrap()];
    refused(&start, &["not empty", "--mount"]);
    assert!(!quick.data().join("cluster.toml").exists(), "nothing was made for it");
    refused(&[&start[..], &["-o", "colour=blue"]].concat(), &["colour=blue", "known options"]);
    refused(&["quickstart", "--stop", "--data", "/nonexistent/data"], &["no data directory"]);
    let file = quick.mnt().join("mine");
    refused(&["quickstart", "--data", file.to_str().unwrap()], &["no directory", "--data"]);
}

pub fn mount_helpers_mount_remount_and_unmount() {
    let cluster = Cluster::start(Spec { io: 1, ..Spec::default() });
    let dir = cluster.dir().join("mnt");
    fs::create_dir(&dir).unwrap();
    let helper = cluster.dir().join("mount.pvfs2");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pvfs2"), &helper).unwrap();
    let mount = |spec: &str, args: &[&str]| {
        let out = Command::new(&helper).arg(spec).arg(&dir).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let options = || {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();

        table.lines().find(|l| l.split(' ').nth(1) == dir.to_str()).unwrap().to_owned()
    };
    let spec = cluster.mount_spec();
    mount(&spec, &["-f", "-o", "rw"]);
    assert!(!is_mounted(&dir), "-f mounts nothing");
    mount(&spec, &["-n", "-o", "rw,noatime,_netdev"]);
    let unmount_on_panic = Unmount(dir.clone());
    assert!(
        options().starts_with(&format!("{spec} ")) && options().contains("fuse.pvfs2"),
        "{}",
        options()
    );
    fs::create_dir_all(dir.join("home/me")).unwrap();
    fs::write(dir.join("home/me/f"), "text").unwrap();
    mount(&spec, &["-o", "remount,ro"]);
    assert!(fs::write(dir.join("g"), "x").is_err(), "read-only");
    let dir_text = dir.to_str().unwrap();
    assert!(ok(&["stat", &format!("{dir_text}/home/me/f")]).contains("/home/me/f"));
    ok(&["umount", dir_text]);
    refused(&["umount", dir_text], &["nothing is mounted"]);
    mount(&format!("pvfs2#{spec}/home/me"), &["-o", "ro"]);
    assert_eq!(fs::read(dir.join("f")).unwrap(), b"text", "a directory of the file system");
    assert!(
        ok(&["stat", &format!("{dir_text}/f")]).contains("/home/me/f"),
        "its path in the whole"
    );
    refused(&["mount", &spec, dir_text], &["already", "unmount"]);
    ok(&["umount", dir_text]);
    refused(&["mount", &format!("{spec}/nowhere"), dir_text], &["nowhere"]);
    refused(&["mount", &spec, "/nonexistent/dir"], &["/nonexistent/dir", "mkdir"]);
    assert!(!is_mounted(&dir));
    drop(unmount_on_panic);
}

struct Unmount(PathBuf);
impl Drop for Unmount {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}
