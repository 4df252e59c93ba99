//! `pvfs2 fsck` against real servers: its exit codes, its report, and what it says of damage on disk.
use crate::{ok, pvfs2};
use pvfs2_tests::{Cluster, Spec, pattern};
use std::fs;

fn fsck(spec: &str, more: &[&str]) -> (i32, String) {
    let mut args = vec!["fsck", "--fs", spec, "--pause", "50"];
    args.extend(more);
    let out = pvfs2(&args).output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.code().unwrap(), String::from_utf8(said).unwrap())
}

pub fn fsck_finds_what_is_wrong_on_disk() {
    let mut cluster = Cluster::start(Spec { meta: 2, io: 2, ..Spec::default() });
    let spec = cluster.mount_spec();
    let here = cluster.dir().join("here");
    fs::create_dir_all(here.join("a/b")).unwrap();
    for (i, name) in ["x", "a/y", "a/b/z"].iter().enumerate() {
        fs::write(here.join(name), pattern::bytes(i as u64, 0, 300_000)).unwrap();
    }
    ok(&["cp", "--fs", &spec, "-r", here.to_str().unwrap(), "pvfs2:/tree"]);
    let (code, said) = fsck(&spec, &["--check"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said, "7 objects, 6 names, 6 datafiles: clean\n");
    // A datafile that no metafile has.
    let io = &cluster.servers[2];
    let name = format!("{:016x}", io.io_range.unwrap().first + 0x77_7777);
    let folder = io.storage.join("bstreams").join(&name[14..]);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(&name), b"nobody's").unwrap();
    let (code, said) = fsck(&spec, &["--check"]);
    assert_eq!(code, 4, "{said}");
    let line = said.lines().next().unwrap();
    for part in ["surplus-datafile", &name, "io0"] {
        assert!(line.contains(part), "{said}");
    }
    assert!(said.ends_with(": 1 problem\n"), "{said}");
    let (code, said) = fsck(&spec, &["--check", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, report["problems"].as_array().unwrap().len()), (4, 1), "{said}");
    assert_eq!(report["problems"][0]["handle"], name.as_str());
    fs::remove_file(folder.join(&name)).unwrap();
    // It checks only, and says so; without all servers it checks nothing.
    let (code, said) = fsck(&spec, &[]);
    assert!(code == 2 && said.contains("--check"), "{code}: {said}");
    cluster.terminate(3);
    let (code, said) = fsck(&spec, &["--check"]);
    assert!(code == 8 && said.contains("io1"), "{code}: {said}");
}
