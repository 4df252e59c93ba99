//! Servers that join an existing file system: new directories and files use them, what was there stays.
use pvfs2_tests::cluster::program;
use pvfs2_tests::{Cluster, Spec, pattern};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

const LARGE: u64 = 1 << 20;

fn write(path: &Path, seed: u64) {
    fs::write(path, pattern::bytes(seed, 0, LARGE as usize)).unwrap();
}

pub fn servers_join_an_existing_file_system() {
    let mut cluster = Cluster::start(Spec { meta: 1, io: 2, ..Spec::default() });
    {
        let mount = cluster.mount("");
        fs::create_dir(mount.path("old")).unwrap();
        write(&mount.path("old/large"), 1);
        fs::write(mount.path("old/small"), b"small").unwrap();
    }
    let before = cluster.all_datafiles();
    assert_eq!(before.len(), 2, "{before:?}");
    cluster.add_servers(1, 1);
    let mount = cluster.mount("");
    let added = |path: &Path| fs::metadata(path).unwrap().ino();
    let meta_range = cluster.file.servers[3].meta_range.unwrap();
    let io_storage = cluster.servers[4].storage.clone();
    // What was there stays.
    pattern::check_file(&mount.path("old/large"), 1, LARGE);
    assert_eq!(fs::read(mount.path("old/small")).unwrap(), b"small");
    assert_eq!(cluster.all_datafiles(), before, "old files stay as they are");
    // New directories are spread over both metadata servers, new files over all I/O servers.
    let mut on_new = 0;
    for i in 0..40 {
        let dir = mount.path(&format!("d{i}"));
        fs::create_dir(&dir).unwrap();
        on_new += u32::from(meta_range.contains(pvfs2_proto::Handle(added(&dir))));
        fs::write(dir.join("f"), b"beside its name").unwrap();
    }
    assert!((5..36).contains(&on_new), "{on_new} of 40 directories on the new server");
    write(&mount.path("old/new"), 2);
    write(&mount.path("d0/new"), 3);
    let there = |p: &std::path::PathBuf| p.starts_with(&io_storage);
    assert_eq!(cluster.all_datafiles().iter().filter(|p| there(p)).count(), 2);
    fs::rename(mount.path("old/large"), mount.path("d1/large")).unwrap();
    for (path, seed) in [("old/new", 2), ("d0/new", 3), ("d1/large", 1)] {
        pattern::check_file(&mount.path(path), seed, LARGE);
    }
    cluster.fsck();
    // A file in which servers have changed places, or are gone, is refused with the remedy.
    cluster.terminate(0);
    let good = fs::read_to_string(cluster.config()).unwrap();
    for drop_it in [false, true] {
        let mut wrong = cluster.file.clone();
        if drop_it {
            wrong.servers.pop();
        } else {
            wrong.servers.swap(3, 4);
        }
        fs::write(cluster.config(), wrong.to_toml()).unwrap();
        let out = cluster.command("server").args(["--alias", "meta0"]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("at the end"), "{said}");
    }
    fs::write(cluster.config(), good).unwrap();
    cluster.restart(0);
    cluster.fsck();
}

pub fn a_quickstart_grows() {
    let dir = tempfile::tempdir().unwrap();
    let (data, at) = (dir.path().join("data"), dir.path().join("mnt"));
    let text = |p: &Path| p.to_str().unwrap().to_owned();
    let (data, mnt) = (text(&data), text(&at));
    let run = |more: &[&str]| {
        let mut all = vec!["quickstart", "--data", &data];
        all.extend(more);
        let out = Command::new(program()).args(all).output().unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        (out.status.success(), said)
    };
    let (ok, said) = run(&["--mount", &mnt, "--io", "2", "--detach"]);
    assert!(ok, "{said}");
    write(&at.join("old"), 1);
    assert!(run(&["--stop"]).0);
    let (ok, said) = run(&["--mount", &mnt, "--meta", "2", "--io", "3", "--detach"]);
    assert!(ok, "{said}");
    let result = std::panic::catch_unwind(|| {
        pattern::check_file(&at.join("old"), 1, LARGE);
        write(&at.join("new"), 2);
        pattern::check_file(&at.join("new"), 2, LARGE);
        for i in 0..20 {
            fs::create_dir(at.join(format!("d{i}"))).unwrap();
            fs::write(at.join(format!("d{i}/f")), b"x").unwrap();
        }
        let new_io = Path::new(&data).join("storage/io2/bstreams");
        let has = |p: fs::DirEntry| fs::read_dir(p.path()).is_ok_and(|d| d.count() > 0);
        assert!(fs::read_dir(new_io).unwrap().any(|p| has(p.unwrap())), "the new server is used");
        let out = Command::new(program()).args(["fsck", "--check", "--fs", &mnt]).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    });
    let (stopped, said) = run(&["--stop"]);
    if let Err(e) = result {
        std::panic::resume_unwind(e);
    }
    assert!(stopped, "{said}");
    let (ok, said) = run(&["--mount", &mnt, "--io", "1", "--detach"]);
    assert!(!ok && said.contains("cannot be taken away"), "{said}");
}
