//! Who may do what, what a change takes away, access times, and handles of files that outlive the
//! kernel's memory of them.
use pvfs2_tests::wait::{secs, within};
use pvfs2_tests::{Cluster, Mount, Spec, pattern};
use rustix::fs::{self as rfs, CWD, XattrFlags};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A user without rights.
pub(crate) const NOBODY: u32 = 65_534;

fn start(options: &str) -> (Cluster, Mount) {
    let cluster = Cluster::start(Spec::default());
    // The temporary folder is its owner's alone; the user without rights has to get through.
    fs::set_permissions(cluster.dir(), fs::Permissions::from_mode(0o711)).unwrap();
    let mount = cluster.mount(options);
    (cluster, mount)
}

/// Runs Python as the user without rights; the path is its `p`. Its last line.
pub(crate) fn as_nobody(path: &Path, script: &str) -> String {
    let script = format!("import os,sys\np=sys.argv[1]\n{script}");
    let mut command = Command::new("/usr/bin/env");
    command.args(["python3", "-c", &script]).arg(path).current_dir("/");
    let out = command.uid(NOBODY).gid(NOBODY).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

pub fn changes_by_others_clear_suid_and_sgid() {
    let (_cluster, mount) = start(pvfs2_tests::mount::NO_CACHES);
    let changes = [
        ("O_TRUNC", "os.open(p, os.O_WRONLY|os.O_TRUNC)"),
        ("truncate", "os.truncate(p, 5)"),
        ("ftruncate", "os.ftruncate(os.open(p, os.O_RDWR), 5)"),
        ("write", "os.write(os.open(p, os.O_WRONLY), b'x')"),
        ("append", "os.write(os.open(p, os.O_WRONLY|os.O_APPEND), b'x')"),
        ("fallocate", "os.posix_fallocate(os.open(p, os.O_WRONLY), 0, 400000)"),
    ];
    for size in [10usize, 300_000] {
        for (name, script) in changes {
            let path = mount.path(name);
            fs::write(&path, pattern::bytes(1, 0, size)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
            assert_eq!(mode(&path), 0o6777);
            as_nobody(&path, script);
            assert_eq!(mode(&path), 0o777, "{name} of a file of {size} bytes");
            // By root they stay.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
            fs::OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
            assert_eq!(mode(&path), 0o6777, "{name}: root");
            fs::remove_file(&path).unwrap();
        }
    }
    // Set while the writer has the file open.
    let path = mount.path("later");
    fs::write(&path, pattern::bytes(1, 0, 300_000)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let mut writer = Command::new("/usr/bin/env");
    let script = "import os,sys\nf=os.open(sys.argv[1],os.O_WRONLY)\nos.write(f,b'x')\n\
                  print('open',flush=True)\nsys.stdin.readline()\nos.write(f,b'y')";
    writer.args(["python3", "-c", script]).arg(&path).current_dir("/").uid(NOBODY).gid(NOBODY);
    writer.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = writer.spawn().unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "open\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(mode(&path), 0o777, "suid that was set after the open");
    // chown takes them from files, and from root's too; not from directories.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    std::os::unix::fs::chown(&path, Some(7), None).unwrap();
    assert_eq!(mode(&path), 0o777);
    fs::create_dir(mount.path("d")).unwrap();
    fs::set_permissions(mount.path("d"), fs::Permissions::from_mode(0o2777)).unwrap();
    std::os::unix::fs::chown(mount.path("d"), None, Some(9)).unwrap();
    assert_eq!(mode(&mount.path("d")), 0o2777);
    // A directory with sgid gives its group, and to directories sgid too.
    as_nobody(&mount.path("d"), "os.mkdir(p+'/s')\nopen(p+'/f','w').close()");
    let inside = |n: &str| fs::metadata(mount.path("d").join(n)).unwrap();
    assert_eq!((inside("s").gid(), inside("s").mode() & 0o7000), (9, 0o2000));
    assert_eq!((inside("f").gid(), inside("f").uid(), inside("f").mode() & 0o7000), (9, NOBODY, 0));
}

pub fn sticky_directories_and_times_of_others() {
    let (_cluster, mount) = start("");
    let dir = mount.path("tmp");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(dir.join("root"), "x").unwrap();
    fs::set_permissions(dir.join("root"), fs::Permissions::from_mode(0o666)).unwrap();
    let refused = "\
def refused(f, *a, **k):
  try: f(*a, **k)
  except PermissionError as e: return e.errno
  return 0
";
    let script = format!(
        "{refused}open(p+'/mine','w').close()\nos.rename(p+'/mine',p+'/mine2')\nos.unlink(p+'/mine2')\n\
         open(p+'/mine','w').close()\n\
         print(refused(os.unlink,p+'/root'), refused(os.rename,p+'/root',p+'/r'), \
         refused(os.rename,p+'/mine',p+'/root'))"
    );
    assert_eq!(as_nobody(&dir, &script), "1 1 1", "EPERM");
    // Whoever may write may touch; one time alone, or a time of choice, is the owner's.
    let script = format!(
        "{refused}import ctypes\nl=ctypes.CDLL(None,use_errno=True)\n\
         NOW,OMIT=(1<<30)-1,(1<<30)-2\n\
         def ut(a,m):\n  t=(ctypes.c_long*4)(0,a,0,m)\n  \
         return 0 if l.utimensat(-100,(p+'/root').encode(),t,0)==0 else ctypes.get_errno()\n\
         print(ut(NOW,NOW), ut(OMIT,OMIT), ut(NOW,OMIT), ut(OMIT,NOW), refused(os.utime,p+'/root',(1,1)))"
    );
    assert_eq!(as_nobody(&dir, &script), "0 0 1 1 1");
}

pub fn access_times() {
    let (cluster, relatime) = start("acache-ms=0,ncache-ms=0");
    let path = |m: &Mount| m.path("f");
    fs::write(path(&relatime), "12345").unwrap();
    let set = |a: i64| {
        let time = |tv_sec| rfs::Timespec { tv_sec, tv_nsec: 5 };
        let times = rfs::Timestamps { last_access: time(a), last_modification: time(1_000) };
        rfs::utimensat(CWD, path(&relatime), &times, rfs::AtFlags::empty()).unwrap();
    };
    let atime = || {
        let m = fs::metadata(path(&relatime)).unwrap();
        (m.atime(), m.atime_nsec())
    };
    let moves_on = |m: &Mount| {
        let before = atime();
        fs::read(path(m)).unwrap();
        within(secs(3), || atime() != before)
    };
    let stays = |m: &Mount| {
        let before = atime();
        fs::read(path(m)).unwrap();
        !within(secs(1) + secs(1) / 2, || atime() != before)
    };
    set(500);
    assert!(moves_on(&relatime), "the first read after a change");
    assert!(stays(&relatime), "the second");
    let strict = cluster.mount("acache-ms=0,ncache-ms=0,strictatime");
    assert!(moves_on(&strict), "strictatime tells every read");
    set(500);
    let never = cluster.mount("acache-ms=0,ncache-ms=0,noatime");
    assert!(stays(&never), "noatime tells none");
    let script = "f=os.open(p,os.O_RDONLY|os.O_NOATIME)\nos.read(f,9)\nos.close(f)";
    std::os::unix::fs::chown(path(&relatime), Some(NOBODY), None).unwrap();
    set(500);
    as_nobody(&path(&strict), script);
    std::thread::sleep(secs(1));
    assert_eq!(atime().0, 500, "O_NOATIME leaves none");
}

pub fn largest_attributes_and_names() {
    let (cluster, mount) = start("");
    let path = mount.path(&"x".repeat(255));
    fs::write(&path, "x").unwrap();
    let value = pattern::bytes(4, 0, 65_536);
    let name = format!("user.{}", "n".repeat(250));
    rfs::setxattr(&path, &name, &value, XattrFlags::empty()).unwrap();
    // Another client, which has it from the servers.
    let other = cluster.mount("");
    let mut buf = vec![0; 65_536];
    let there = other.path(&"x".repeat(255));
    assert_eq!(rfs::getxattr(&there, &name, buf.as_mut_slice()).unwrap(), 65_536);
    assert!(buf == value);
    let set = |name: &str, value: &[u8]| rfs::setxattr(&path, name, value, XattrFlags::empty());
    let too_big = set("user.b", &vec![0; 65_537]).unwrap_err();
    assert_eq!(too_big, rustix::io::Errno::TOOBIG);
    let long = set(&format!("user.{}", "n".repeat(251)), b"").unwrap_err();
    assert_eq!(long, rustix::io::Errno::RANGE);
    let mut list = vec![0; 10];
    let short = rfs::listxattr(&path, list.as_mut_slice()).unwrap_err();
    assert_eq!(short, rustix::io::Errno::RANGE);
    // Every byte that a name may have, and a path as long as paths get.
    let odd: Vec<u8> = (1..=255u8).filter(|b| *b != b'/').collect();
    let odd = mount.dir.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&odd));
    fs::write(&odd, "odd").unwrap();
    assert_eq!(fs::read(&odd).unwrap(), b"odd");
    let mut deep = mount.dir.clone();
    while deep.as_os_str().len() + 201 < 4_000 {
        deep.push("d".repeat(200));
    }
    fs::create_dir_all(&deep).unwrap();
    let left = 4_095 - deep.as_os_str().len() - 1;
    let file = deep.join("f".repeat(left.min(255)));
    fs::write(&file, "deep").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"deep");
}

/// `struct file_handle` with room for its bytes.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

fn handle_of(path: &Path) -> RawHandle {
    let mut raw = RawHandle { bytes: 128, kind: 0, handle: [0; 128] };
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let mut mount_id = 0i32;
    // SAFETY: the name ends in zero, `raw` has room for the 128 bytes that it says, and both live
    // until the call returns.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            name.as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            0,
        )
    };
    assert_eq!(rc, 0, "name_to_handle_at: {}", std::io::Error::last_os_error());
    raw
}

fn open_handle(mount: &fs::File, raw: &mut RawHandle) -> std::io::Result<fs::File> {
    // SAFETY: `raw` is a handle as the kernel made it; the descriptor that comes back is ours alone.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut *raw,
            libc::O_RDONLY,
        );
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(<fs::File as std::os::fd::FromRawFd>::from_raw_fd(fd)),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

pub fn file_handles_outlive_the_kernels_memory() {
    let (cluster, mount) = start("");
    fs::create_dir_all(mount.path("a/b")).unwrap();
    fs::write(mount.path("a/b/f"), "by handle").unwrap();
    let mut file = handle_of(&mount.path("a/b/f"));
    let mut dir = handle_of(&mount.path("a/b"));
    // A mount whose kernel has never seen either of them: as after it has forgotten all.
    let fresh = cluster.mount("");
    let at = fs::File::open(&fresh.dir).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut open_handle(&at, &mut file).unwrap(), &mut text).unwrap();
    assert_eq!(text, "by handle");
    let opened = open_handle(&at, &mut dir).unwrap();
    let through = format!("/proc/self/fd/{}", opened.as_raw_fd());
    // The way up to the root was found by "..".
    assert_eq!(fs::read_link(&through).unwrap(), fresh.path("a/b"));
    let names: Vec<_> = fs::read_dir(&through).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["f"]);
    fs::remove_file(mount.path("a/b/f")).unwrap();
    // The last close is told a little later; until then the object lives on.
    let is_stale = || {
        let gone = cluster.mount("");
        let at = fs::File::open(&gone.dir).unwrap();
        let opened = open_handle(&at, &mut file);
        opened.is_err_and(|e| e.raw_os_error() == Some(libc::ESTALE))
    };
    assert!(within(secs(10), is_stale), "a handle of what is gone");
}
