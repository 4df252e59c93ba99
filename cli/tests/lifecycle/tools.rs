//! The tools against a cluster of real server processes, without a mount.
use crate::{ok, pvfs2, refused};
use pvfs2_tests::wait::{exit_within, secs, until};
use pvfs2_tests::{Cluster, Spec, pattern};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

const TREE: &[(&str, usize)] = &[
    ("empty", 0),
    ("small", 100),
    ("just-small", 8_192),
    ("just-striped", 8_193),
    ("sub/one-strip", 65_536),
    ("sub/odd", 300_001),
    ("sub/deep/pieces", 9_000_000),
];

fn make_tree(root: &Path) {
    for (i, (name, len)) in TREE.iter().enumerate() {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, pattern::bytes(i as u64, 0, *len)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    }
    symlink("sub/odd", root.join("link")).unwrap();
}

fn check_tree(root: &Path) {
    for (i, (name, len)) in TREE.iter().enumerate() {
        pattern::check_file(&root.join(name), i as u64, *len as u64);
    }
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("sub/odd"));
}

pub fn a_tree_goes_in_and_comes_back() {
    let cluster = Cluster::start(Spec { io: 3, ..Spec::default() });
    let fs_spec = cluster.mount_spec();
    let (here, back) = (cluster.dir().join("here"), cluster.dir().join("back"));
    make_tree(&here);
    ok(&["cp", "--fs", &fs_spec, "-rp", here.to_str().unwrap(), "pvfs2:/t"]);
    ok(&["cp", "--fs", &fs_spec, "-rp", "pvfs2:/t", back.to_str().unwrap()]);
    check_tree(&back);
    let (a, b) =
        (fs::metadata(here.join("sub/odd")).unwrap(), fs::metadata(back.join("sub/odd")).unwrap());
    assert_eq!((a.mode(), a.mtime(), a.mtime_nsec()), (b.mode(), b.mtime(), b.mtime_nsec()), "-p");
    let empty = cluster.dir().join("dir");
    fs::create_dir(&empty).unwrap();
    ok(&["cp", "--fs", &fs_spec, "-r", empty.to_str().unwrap(), "pvfs2:/"]);
    // Within the file system, into a directory that is there; with odd sizes of pieces and workers.
    ok(&[
        "cp",
        "--fs",
        &fs_spec,
        "-r",
        "--buffer-size",
        "100001",
        "--threads",
        "3",
        "pvfs2:/t",
        "pvfs2:/dir",
    ]);
    refused(
        &["cp", "--fs", &fs_spec, "-r", "pvfs2:/t", "pvfs2:/t/sub"],
        &["into itself", "pvfs2:/t/sub"],
    );
    refused(&["cp", "--fs", &fs_spec, "pvfs2:/t/small", "pvfs2:/t/./small"], &["the same file"]);
    let again = cluster.dir().join("again");
    ok(&["cp", "--fs", &fs_spec, "-r", "pvfs2:/dir/t", again.to_str().unwrap()]);
    check_tree(&again);
    // Over a longer file.
    let (short, long) = (here.join("small"), here.join("sub/odd"));
    for source in [&long, &short] {
        ok(&["cp", "--fs", &fs_spec, "--sync", source.to_str().unwrap(), "pvfs2:/over"]);
    }
    let over = cluster.dir().join("over");
    ok(&["cp", "--fs", &fs_spec, "pvfs2:/over", over.to_str().unwrap()]);
    pattern::check_file(&over, 1, 100);
    let listed = ok(&["ls", "--fs", &fs_spec, "-l", "pvfs2:/t"]);
    assert!(listed.contains("just-striped") && listed.contains("link -> sub/odd"), "{listed}");
    // A pipe has no size.
    let mut child = pvfs2(&["cp", "--fs", &fs_spec, "/dev/stdin", "pvfs2:/piped"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = pattern::bytes(5, 0, 300_001);
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &bytes).unwrap();
    assert!(child.wait().unwrap().success());
    let piped = cluster.dir().join("piped");
    ok(&["cp", "--fs", &fs_spec, "pvfs2:/piped", piped.to_str().unwrap()]);
    assert!(fs::read(piped).unwrap() == bytes, "the pipe's bytes");
}

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&ok(args)).unwrap_or_else(|e| panic!("{args:?}: {e}"))
}

pub fn every_tool_speaks_json() {
    let cluster = Cluster::start(Spec { io: 2, strip_size_bytes: 1000, ..Spec::default() });
    let s = cluster.mount_spec();
    let local = cluster.dir().join("f");
    fs::write(&local, pattern::bytes(3, 0, 12_345)).unwrap();
    let done = json(&["cp", "--json", "--fs", &s, local.to_str().unwrap(), "pvfs2:/f"]);
    assert_eq!((done["files"].as_u64(), done["bytes"].as_u64()), (Some(1), Some(12_345)));
    let dist = json(&["viewdist", "--json", "--fs", &s, "pvfs2:/f"]);
    assert_eq!(dist["params"], "strip_size:1000");
    let files = dist["datafiles"].as_array().unwrap();
    let bytes: u64 = files.iter().map(|d| d["bytes"].as_u64().unwrap()).sum();
    let strips: u64 = files.iter().map(|d| d["strips"].as_u64().unwrap()).sum();
    assert_eq!((files.len(), bytes, strips), (2, 12_345, 13));
    // What it says is what lies beside the server.
    for d in files {
        let server = cluster.servers.iter().find(|x| d["server"] == x.alias.as_str()).unwrap();
        let name = d["datahandle"].as_str().unwrap();
        let path = server.storage.join("bstreams").join(&name[14..]).join(name);
        assert_eq!(Some(fs::metadata(path).unwrap().len()), d["bytes"].as_u64());
    }
    let stat = json(&["stat", "--json", "--fs", &s, "pvfs2:/f"]);
    assert_eq!(
        (stat[0]["size"].as_u64(), &stat[0]["kind"]),
        (Some(12_345), &"regular file".into())
    );
    let ls = json(&["ls", "--json", "--fs", &s]);
    assert_eq!(ls[0]["name"], "f");
    let ping = json(&["ping", "--json", "--fs", &s]);
    assert!(ping.as_array().unwrap().iter().all(|r| r["up"] == true) && ping[2]["roles"] == "io");
    let space = json(&["statfs", "--json", "--fs", &s]);
    assert!(
        space["bytes_free"].as_u64() > Some(0) && space["servers"].as_array().unwrap().len() == 3
    );
    let perf = json(&["perf-mon", "--json", "--fs", &s, "--server", "meta0"]);
    assert!(
        perf.as_array().unwrap().iter().any(|r| r["op"] == "create" && r["count"] == 1),
        "{perf}"
    );
    assert_eq!(json(&["perror", "--json", "26"])[0]["name"], "BadSession");
    // The same by way of the environment and of the cluster file.
    let out = pvfs2(&["ls"]).env("PVFS2_FS", &s).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "f\n");
    assert_eq!(ok(&["ls", "--fs", cluster.config().to_str().unwrap()]), "f\n");
}

pub fn cp_refuses_what_it_cannot_do() {
    let cluster = Cluster::start(Spec { io: 1, ..Spec::default() });
    let s = cluster.mount_spec();
    let dir = cluster.dir().join("dir");
    fs::create_dir(&dir).unwrap();
    let (dir, none) = (dir.to_str().unwrap(), "/nonexistent/x");
    refused(&["cp", "--fs", &s, dir, none], &["none of these paths is in PVFS2", "pvfs2:/"]);
    refused(&["cp", "--fs", &s, dir, "pvfs2:/d"], &["is a directory", "-r"]);
    refused(&["cp", "--fs", &s, none, "pvfs2:/d"], &["does not exist"]);
    refused(&["cp", "--fs", &s, "pvfs2:/none", "/tmp"], &["pvfs2:/none does not exist"]);
    refused(&["cp", "--fs", &s, dir, dir, "pvfs2:/none", "-r"], &["no directory"]);
    refused(&["cp", "--fs", &s, "-r", dir, "pvfs2:/no/such/place"], &["pvfs2:/no/such"]);
    refused(&["stat", "--fs", &s, "pvfs2:/none"], &["pvfs2:/none"]);
    refused(&["viewdist", "--fs", &s, "pvfs2:/"], &["no regular file"]);
    refused(&["perf-mon", "--fs", &s, "--server", "io9"], &["io9", "meta0"]);
    refused(&["stat", "/etc/passwd"], &["lies on no PVFS2 mount", "--fs"]);
}

pub fn genconfig_to_a_server_with_both_roles_and_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (file, key) = (dir.path().join("cluster.toml"), dir.path().join("key"));
    let (file, key) = (file.to_str().unwrap(), key.to_str().unwrap());
    let at = format!("127.0.0.1:{port}");
    let storage = dir.path().join("storage");
    let args = [
        "genconfig",
        "--meta",
        &at,
        "--io",
        &at,
        "--key-file",
        key,
        "--management-offset",
        "0",
        "--storage",
        storage.to_str().unwrap(),
        "-O",
        file,
    ];
    ok(&args);
    assert_eq!(fs::metadata(key).unwrap().mode() & 0o777, 0o600);
    refused(&args, &["exists already"]);
    refused(&["server", "--config", file, "--alias", "io7"], &["no server 'io7'", "meta0"]);
    ok(&["mkfs", "--config", file, "--all"]);
    let pid_file = dir.path().join("pid");
    let mut server = pvfs2(&["server", "--config", file, "--alias", "meta0", "--pid-file"])
        .arg(&pid_file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until(secs(30), "the server is ready", || pid_file.exists());
    let s = format!("tcp://{at}/pvfs2-fs");
    let ping = ok(&["ping", "--fs", &s, "--key-file", key]);
    assert!(ping.contains("meta,io"), "{ping}");
    let local = dir.path().join("f");
    fs::write(&local, pattern::bytes(9, 0, 200_000)).unwrap();
    ok(&["cp", "--fs", &s, "--key-file", key, local.to_str().unwrap(), "pvfs2:/f"]);
    let back = dir.path().join("back");
    ok(&["cp", "--fs", &s, "--key-file", key, "pvfs2:/f", back.to_str().unwrap()]);
    pattern::check_file(&back, 9, 200_000);
    let _ = rustix::process::kill_process(
        pvfs2_tests::cluster::pid(&server),
        rustix::process::Signal::TERM,
    );
    let status = exit_within(&mut server, secs(20));
    if status.is_none() {
        server.kill().unwrap();
    }
    assert!(status.is_some_and(|s| s.success()), "{status:?}");
    assert!(!pid_file.exists());
}

pub fn a_server_without_storage_says_mkfs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cluster.toml");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let at = format!("127.0.0.1:{port}");
    ok(&[
        "genconfig",
        "--meta",
        &at,
        "--io",
        &at,
        "--storage",
        dir.path().join("s").to_str().unwrap(),
        "-O",
        file.to_str().unwrap(),
    ]);
    refused(&["server", "--config", file.to_str().unwrap(), "--alias", "meta0"], &["mkfs"]);
    refused(
        &["server", "--config", "/nonexistent.toml", "--alias", "meta0"],
        &["/nonexistent.toml", "genconfig"],
    );
}
