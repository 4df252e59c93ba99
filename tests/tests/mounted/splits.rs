//! A directory that grows over three metadata servers while two mounts fill it.
use pvfs2_tests::wait::{secs, until};
use pvfs2_tests::{Cluster, Mount, Spec};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Files of each mount.
const FILES: usize = 12_500;

/// The servers that hold the directory's names.
fn holders(dir: &Path) -> usize {
    let mut buf = [0; 256];
    let len = rustix::fs::getxattr(dir, "user.pvfs2.dir_parts", buf.as_mut_slice()).unwrap();
    buf[..len].split(|b| *b == b':').count()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let all: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let unique: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(unique.len(), all.len(), "a name twice");
    unique
}

fn fill(mount: &Mount, who: usize) {
    for i in 0..FILES {
        File::create(mount.path(&format!("d/{who}-{i:05}"))).unwrap();
    }
}

pub fn two_mounts_fill_a_directory_that_splits() {
    let cluster = Cluster::start(Spec { meta: 3, ..Spec::default() });
    let mounts = [cluster.mount(""), cluster.mount("")];
    let dir = mounts[0].path("d");
    fs::create_dir(&dir).unwrap();
    assert_eq!(holders(&dir), 1);
    std::thread::scope(|s| {
        for (who, mount) in mounts.iter().enumerate() {
            s.spawn(move || fill(mount, who));
        }
        // Listings meanwhile: no name twice, and what was there before is there.
        let mut before = BTreeSet::new();
        while before.len() < 2 * FILES {
            let now = names(&mounts[1].path("d"));
            assert!(now.is_superset(&before), "{:?}", before.difference(&now).next());
            before = now;
        }
    });
    until(secs(30), "the directory is on three servers", || holders(&dir) == 3);
    let want: BTreeSet<String> =
        (0..2).flat_map(|w| (0..FILES).map(move |i| format!("{w}-{i:05}"))).collect();
    for mount in &mounts {
        assert!(names(&mount.path("d")) == want);
        until(secs(3), "its size is known", || {
            let meta = fs::metadata(mount.path("d")).unwrap();
            (meta.size(), meta.nlink()) == (2 * FILES as u64, 2)
        });
    }
    // `ls -l` by a client that knows nothing yet.
    let fresh = cluster.mount("acache-ms=60000,ncache-ms=60000");
    let before = cluster.counters();
    let entries = fs::read_dir(fresh.path("d")).unwrap();
    let listed = entries.map(|e| e.unwrap().metadata().unwrap().len()).filter(|l| *l == 0).count();
    let cost = &cluster.counters() - &before;
    assert_eq!(listed, 2 * FILES);
    let pages = (2 * FILES).div_ceil(1_000) as u64;
    let asked = cost.of("readdir") + cost.of("listattr");
    println!("ls -l of {listed}: {} readdir, {} listattr", cost.of("readdir"), cost.of("listattr"));
    assert!(asked <= 2 * (pages + 3), "{cost:?}");
    assert!(cost.of("getattr") + cost.of("lookup") <= 12, "{cost:?}");
    // The time of the last change is seen at once by whoever made it.
    let old = fs::metadata(&dir).unwrap().mtime_nsec();
    File::create(dir.join("last")).unwrap();
    assert_ne!(fs::metadata(&dir).unwrap().mtime_nsec(), old);
    fs::remove_file(dir.join("last")).unwrap();
    // Removed by both; the directory goes, and nothing is left of it.
    std::thread::scope(|s| {
        for (who, mount) in mounts.iter().enumerate() {
            s.spawn(move || {
                for i in 0..FILES {
                    fs::remove_file(mount.path(&format!("d/{who}-{i:05}"))).unwrap();
                }
            });
        }
    });
    until(secs(3), "it is empty", || fs::metadata(&dir).unwrap().size() == 0);
    fs::remove_dir(&dir).unwrap();
    assert!(!dir.exists());
}
