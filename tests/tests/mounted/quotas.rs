//! Quotas, as a user without rights meets them.
use crate::rights::{NOBODY, as_nobody};
use pvfs2_tests::mount::NO_CACHES;
use pvfs2_tests::wait::{secs, within};
use pvfs2_tests::{Cluster, Mount, Spec};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// `pvfs2 quota ARGS`; what it printed.
fn quota(cluster: &Cluster, args: &[&str]) -> String {
    let mut command = std::process::Command::new(pvfs2_tests::cluster::program());
    command.arg("quota").args(args).args(["--fs", &cluster.mount_spec()]);
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "quota {args:?}: {said}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Bytes and files that are used, and the limits, as `get` tells them.
fn used(cluster: &Cluster, whose: &[&str]) -> (u64, u64) {
    let text = quota(cluster, &[&["get", "--json"], whose].concat());
    let number = |name: &str| -> u64 {
        let (_, rest) =
            text.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{text}"));
        let end = rest.find([',', '}', '\n']).unwrap();
        rest[..end].trim().parse().unwrap()
    };
    (number("bytes_used"), number("files_used"))
}

fn start(meta: usize) -> (Cluster, Mount, Mount) {
    let cluster = Cluster::start(Spec { meta, ..Spec::default() });
    fs::set_permissions(cluster.dir(), fs::Permissions::from_mode(0o711)).unwrap();
    let (a, b) = (cluster.mount(NO_CACHES), cluster.mount(NO_CACHES));
    fs::create_dir(a.path("d")).unwrap();
    fs::set_permissions(a.path("d"), fs::Permissions::from_mode(0o777)).unwrap();
    (cluster, a, b)
}

/// Writes `mib` MiB as the user without rights, in pieces of 64 KiB; the errno, and MiB written.
fn write(path: &Path, mib: u64) -> (i32, u64) {
    let script = format!(
        "n=0\ne=0\nf=os.open(p,os.O_WRONLY|os.O_CREAT,0o644)\ntry:\n  \
         while n < {mib}<<20: n+=os.write(f,b'x'*65536)\nexcept OSError as x: e=x.errno\n\
         try: os.close(f)\nexcept OSError as x: e=e or x.errno\nprint(e,n>>20)"
    );
    let said = as_nobody(path, &script);
    let (errno, mib) = said.split_once(' ').unwrap();
    (errno.parse().unwrap(), mib.parse().unwrap())
}

pub fn a_user_meets_the_limit() {
    let (cluster, a, b) = start(1);
    let user = NOBODY.to_string();
    let whose = ["--user", user.as_str()];
    quota(&cluster, &[&["set", "--bytes", "24M", "--files", "5"], &whose[..]].concat());
    // One file, beyond the limit: the writer hears of it, and never more than the limit is there.
    assert_eq!(write(&a.path("d/one"), 40), (libc::EDQUOT, 24));
    assert_eq!(fs::metadata(a.path("d/one")).unwrap().len(), 24 * MIB);
    assert_eq!(used(&cluster, &whose), (24 * MIB, 1));
    // Through another mount too, small files, append, truncation upwards.
    assert_eq!(write(&b.path("d/two"), 1), (libc::EDQUOT, 0));
    let edquot = format!("print({})", libc::EDQUOT);
    let refused = |path: &Path, what: &str| {
        let script = format!("try:\n  {what}\nexcept OSError as e: print(e.errno)");
        assert_eq!(as_nobody(path, &script), libc::EDQUOT.to_string(), "{what} {edquot}");
    };
    refused(&b.path("d/two"), "os.write(os.open(p,os.O_WRONLY),b'small')");
    refused(&b.path("d/one"), "os.write(os.open(p,os.O_WRONLY|os.O_APPEND),b'more')");
    refused(&b.path("d/one"), "os.truncate(p,30<<20)");
    refused(&b.path("d/two"), "os.posix_fallocate(os.open(p,os.O_WRONLY),0,1<<20)");
    // Freed by truncation and removal, used again.
    as_nobody(&b.path("d/one"), "os.truncate(p,10<<20)");
    assert_eq!(write(&a.path("d/two"), 14), (0, 14));
    assert_eq!(write(&a.path("d/three"), 1), (libc::EDQUOT, 0));
    as_nobody(&a.path("d/one"), "os.unlink(p)");
    assert!(within(secs(10), || used(&cluster, &whose).0 == 14 * MIB));
    assert_eq!(write(&b.path("d/three"), 10), (0, 10));
    // Files.
    as_nobody(&a.path("d/s"), "os.symlink('x',p)\nos.mkdir(p+'d')\nopen(p+'f','w')");
    refused(&a.path("d/more"), "open(p,'w')");
    refused(&b.path("d/more"), "os.mkdir(p)");
    // Root is not concerned, and no limit is no limit.
    fs::write(a.path("d/roots"), vec![1; 1 << 20]).unwrap();
    quota(&cluster, &[&["set", "--bytes", "0", "--files", "0"], &whose[..]].concat());
    assert_eq!(write(&a.path("d/more"), 30), (0, 30));
    assert!(quota(&cluster, &["report"]).contains("user"));
    assert_eq!(used(&cluster, &whose), (54 * MIB, 6));
}

pub fn a_tree_over_three_metadata_servers() {
    let (mut cluster, a, b) = start(3);
    let dir = a.path("d");
    let whose = ["--dir", dir.to_str().unwrap()];
    fs::create_dir_all(dir.join("x/y")).unwrap();
    fs::set_permissions(dir.join("x/y"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(dir.join("x/y/old"), vec![1; 1 << 20]).unwrap();
    quota(&cluster, &[&["set", "--bytes", "16M", "--files", "100"], &whose[..]].concat());
    assert_eq!(used(&cluster, &whose), (MIB, 4));
    assert_eq!(write(&a.path("d/x/y/new"), 20), (libc::EDQUOT, 15));
    assert_eq!(write(&b.path("d/other"), 1), (libc::EDQUOT, 0));
    // In and out only by copying.
    let rename = |from: &Path, to: &Path| fs::rename(from, to).unwrap_err().raw_os_error();
    fs::write(a.path("out"), "x").unwrap();
    assert_eq!(rename(&a.path("out"), &a.path("d/in")), Some(libc::EXDEV));
    assert_eq!(rename(&a.path("d/x/y/old"), &a.path("old")), Some(libc::EXDEV));
    let linked = fs::hard_link(a.path("out"), a.path("d/in")).unwrap_err();
    assert_eq!(linked.raw_os_error(), Some(libc::EXDEV));
    fs::rename(a.path("d/x/y/old"), a.path("d/old")).unwrap();
    // kill -9 of all metadata servers: usage and limits are what they were.
    let before = used(&cluster, &whose);
    (0..3).for_each(|i| cluster.kill(i));
    cluster.restart_all(&[0, 1, 2]);
    assert_eq!(used(&cluster, &whose), before);
    assert_eq!(write(&b.path("d/x/y/more"), 1).0, libc::EDQUOT);
    let report = quota(&cluster, &["report", "--recount"]);
    assert!(report.contains("dir"), "{report}");
    fs::remove_file(a.path("d/old")).unwrap();
    // What is removed in the grace time after a restart goes at its end.
    assert!(within(secs(20), || write(&b.path("d/x/y/more"), 1) == (0, 1)));
    fs::rename(a.path("d"), a.path("moved")).unwrap();
}
