//! `pvfs2 bench`: its clients as real processes, without a mount, through agents, and through a mount.
//! Sizes are small: what is checked is that everything is measured, compared and cleaned up.
use pvfs2_tests::cluster::program;
use pvfs2_tests::wait::{secs, until};
use pvfs2_tests::{Cluster, Spec};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn pvfs2(args: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(args).env_remove("PVFS2_FS").stdin(Stdio::null());
    command.output().unwrap()
}

/// Runs to a good end; what it printed.
fn good(args: &[&str]) -> String {
    let out = pvfs2(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{args:?}: {}\n{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

/// Runs to a bad end; what it complained about.
fn bad(args: &[&str]) -> String {
    let out = pvfs2(args);
    assert!(!out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// The number of times that `word` stands in a JSON file: enough to count rows without a parser.
fn count(path: &Path, word: &str) -> usize {
    std::fs::read_to_string(path).unwrap().matches(word).count()
}

fn cluster() -> Cluster {
    Cluster::start(Spec { io: 2, ..Spec::default() })
}

pub fn ior_without_a_mount_verifies_and_finds_damage() {
    let cluster = cluster();
    let (config, json) = (cluster.config(), cluster.dir().join("r.json"));
    let fs = config.to_str().unwrap();
    let summary = format!("summaryFile={},summaryFormat=JSON", json.display());
    let common = ["bench", "ior", "-a", "PVFS2", "--fs", fs, "-t", "47008", "-b", "94016"];
    let run = |more: &[&str]| good(&[&common[..], more].concat());
    for kind in [&["-C", "-z"][..], &["-F"][..]] {
        let more = ["-N", "3", "-s", "3", "-o", "/f", "-e", "-W", "-R", "-i", "2", "-O", &summary];
        let text = run(&[&more[..], kind].concat());
        assert!(text.contains("every byte that was read back"), "{text}");
        assert!(text.contains("99.9 %") && text.contains("access    bw(MiB/s)"), "{text}");
        assert_eq!(count(&json, "\"access\": \"write\""), 2);
        assert_eq!(count(&json, "\"access\": \"read\""), 2);
        // 3 clients, 3 segments, 94,016 bytes each.
        assert_eq!(count(&json, "\"bytes\": 846144"), 4);
        assert!(!good(&["ls", "--fs", fs, "pvfs2:/"]).contains('f'), "it cleans up");
    }

    let keep = ["-N", "2", "-s", "2", "-o", "/kept"];
    run(&[&keep[..], &["-w", "-k", "--stamp", "-i", "2"]].concat());
    run(&[&keep[..], &["-r", "-R", "-k", "-C"]].concat());
    let local = cluster.dir().join("copy");
    let local = local.to_str().unwrap();
    good(&["cp", "--fs", fs, "pvfs2:/kept", local]);
    let file = std::fs::File::options().read(true).write(true).open(local).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 200_000).unwrap();
    file.write_all_at(&[!byte[0]], 200_000).unwrap();
    good(&["cp", "--fs", fs, local, "pvfs2:/kept"]);
    let told = bad(&[&common[..], &keep, &["-r", "-R", "-k"]].concat());
    assert!(told.contains("1 transfers hold wrong bytes") && told.contains("200000"), "{told}");
    // Without comparing, nobody notices; a file that is too short everybody does.
    run(&[&keep[..], &["-r", "-k"]].concat());
    let told = bad(&[&common[..], &["-N", "2", "-s", "9", "-o", "/kept", "-r", "-k"]].concat());
    assert!(told.contains("ends at"), "{told}");
}

pub fn mdtest_without_a_mount_leaves_nothing_behind() {
    let cluster = cluster();
    let (config, json) = (cluster.config(), cluster.dir().join("r.json"));
    let fs = config.to_str().unwrap();
    let summary = format!("summaryFile={},summaryFormat=JSON", json.display());
    let common = ["bench", "mdtest", "-a", "PVFS2", "--fs", fs, "-d", "/md", "-N", "2"];
    let tree = ["-u", "-z", "1", "-b", "2", "-I", "5", "-w", "100", "-e", "100", "-y"];
    for kind in [&["-i", "2", "-O", &summary][..], &["--stride", "1"]] {
        let text = good(&[&common[..], &tree, kind].concat());
        assert!(text.contains("SUMMARY rate (in ops/sec): (of"), "{text}");
        assert!(text.contains("File creation") && text.contains("Tree removal"), "{text}");
    }
    // 2 clients, 3 directories, 5 items in each.
    assert_eq!(count(&json, "\"ops\": 30"), 2 * 7);
    assert_eq!(good(&["ls", "--fs", fs, "pvfs2:/md"]).trim(), "");
    let told = bad(&[&common[..], &["-F", "-T", "-n", "3"]].concat());
    assert!(told.contains("client") && told.contains("test-dir.0-0"), "{told}");
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent(key: &Path) -> (Agent, String) {
    let mut command = Command::new(program());
    command.args(["bench", "agent", "--listen", "127.0.0.1:0", "--key-file"]).arg(key);
    pvfs2_tests::cluster::die_with_parent(&mut command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut agent = Agent(child);
    let mut line = String::new();
    BufReader::new(agent.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    (agent, address)
}

pub fn clients_on_other_hosts_need_the_key() {
    let cluster = cluster();
    let (config, dir) = (cluster.config(), cluster.dir());
    let (key, other) = (dir.join("key"), dir.join("other"));
    std::fs::write(&key, "17".repeat(32)).unwrap();
    std::fs::write(&other, "18".repeat(32)).unwrap();
    let (first, second) = (agent(&key), agent(&key));
    let hosts = format!("{},{}", first.1, second.1);
    let fs = config.to_str().unwrap();
    let run = |key: Option<&Path>| {
        let mut args =
            vec!["bench", "ior", "-a", "PVFS2", "--fs", fs, "-o", "/f", "-N", "4", "--hosts"];
        args.extend([hosts.as_str(), "-C", "-w", "-R", "-t", "64k", "-b", "128k"]);
        args.extend(key.into_iter().flat_map(|k| ["--key-file", k.to_str().unwrap()]));
        pvfs2(&args)
    };
    let out = run(Some(&key));
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("nodes               : 2") && text.contains("every byte"), "{text}");
    // A coordinator that is killed leaves nobody behind who writes on.
    let file = dir.join("posix");
    let mut lead = Command::new(program());
    lead.args(["bench", "ior", "-w", "--duration", "600", "-k", "-o", file.to_str().unwrap()]);
    lead.args(["--hosts", &first.1, "--key-file", key.to_str().unwrap(), "-F"]);
    let mut lead = Agent(lead.stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap());
    let written = dir.join("posix.00000000");
    until(secs(20), "it writes", || written.exists());
    // A process's children are listed by the threads that started them.
    let workers = || -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", first.0.0.id())).unwrap();
        let lists = tasks.flatten().map(|t| std::fs::read_to_string(t.path().join("children")));
        lists.map(Result::unwrap_or_default).collect()
    };
    assert!(!workers().trim().is_empty(), "there is one");
    lead.0.kill().unwrap();
    until(secs(20), "the worker has ended", || workers().trim().is_empty());
    for (key, words) in [(Some(other.as_path()), "another key"), (None, "--key-file")] {
        let out = run(key);
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && told.contains(words), "{told}");
    }
    let told = bad(&["bench", "agent", "--key-file", dir.join("none").to_str().unwrap()]);
    assert!(told.contains("key file"), "{told}");
}

pub fn the_articles_experiments_are_measured_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("paper");
    let out_name = out.to_str().unwrap();
    let told = good(&["bench", "paper", "--out", out_name, "--quick", "-i", "2", "--quiet"]);
    assert!(told.trim().ends_with("report.html"), "{told}");
    let read = |name: &str| std::fs::read(out.join(name)).unwrap();
    for n in 7..=10 {
        assert!(read(&format!("fig{n}.png")).starts_with(b"\x89PNG"));
        assert!(String::from_utf8(read(&format!("fig{n}.svg"))).unwrap().contains("64 MiB"));
    }
    // 8 sizes; PVFS2 and local, then 1, 2 and 4 clients; write and read; 2 repetitions.
    let csv = String::from_utf8(read("paper.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 8 * 5 * 2 * 2, "{csv}");
    let seconds = csv.lines().skip(1).map(|l| l.split(',').nth(6).unwrap().parse::<f64>().unwrap());
    assert!(seconds.into_iter().all(|s| s > 1e-6 && s < 60.0), "{csv}");
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 11, "no scratch is left: {left:?}");
    let page = read("report.html");
    good(&[
        "bench",
        "paper",
        "--out",
        out_name,
        "--from",
        out.join("paper.json").to_str().unwrap(),
    ]);
    assert_eq!(read("report.html"), page, "drawn again alike");
}

pub fn all_of_it_through_a_mount() {
    let cluster = cluster();
    let mount = cluster.mount("");
    let ceiling = cluster.dir().join("ceiling.json");
    let out = ceiling.to_str().unwrap();
    let scratch = cluster.dir().to_str().unwrap();
    let text = good(&[
        "bench",
        "ceiling",
        "-t",
        "4k",
        "-N",
        "1,2",
        "-b",
        "64k",
        "-n",
        "10",
        "-i",
        "1",
        "--seconds",
        "0.05",
        "-d",
        scratch,
        "-o",
        out,
    ]);
    assert!(text.contains("FUSE, nothing behind it") && text.contains("unix sockets"), "{text}");
    assert!(count(&ceiling, "\"write-direct\"") == 2 && count(&ceiling, "\"File stat\"") >= 4);

    let file = mount.path("f");
    let text = good(&[
        "bench",
        "ior",
        "-o",
        file.to_str().unwrap(),
        "-N",
        "2",
        "-t",
        "4k",
        "-b",
        "64k",
        "-s",
        "2",
        "-C",
        "-e",
        "-W",
        "-R",
        "--ceiling",
        out,
    ]);
    assert!(text.contains("every byte") && text.contains("% of limit"), "{text}");
    let text = good(&[
        "bench",
        "ior",
        "-o",
        file.to_str().unwrap(),
        "-B",
        "-F",
        "-t",
        "4k",
        "-b",
        "64k",
        "-w",
        "-R",
        "--duration",
        "0.2",
    ]);
    assert!(text.contains("every byte"), "{text}");
    let text = good(&[
        "bench",
        "mdtest",
        "-d",
        mount.path("md").to_str().unwrap(),
        "-N",
        "2",
        "-n",
        "20",
        "-w",
        "64",
        "-e",
        "64",
        "--ceiling",
        out,
    ]);
    assert!(text.contains("FUSE + a round trip"), "{text}");
    assert_eq!(std::fs::read_dir(mount.path("md")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(&mount.dir).unwrap().count(), 1, "only md is left");
}
