//! A device's folder, looked at from outside.
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Files with their bytes and folders (`None`) below `dir`, without our own.
pub fn tree(dir: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let (mut out, mut dirs) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(d) = dirs.pop() {
        // A daemon may take away what was just listed.
        let Ok(listing) = std::fs::read_dir(&d) else { continue };
        for e in listing {
            let Ok(e) = e else { continue };
            let path = e.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if path == ".pvfs2-sync" {
                continue;
            }
            if e.file_type().is_ok_and(|t| t.is_dir()) {
                dirs.push(e.path());
                out.insert(path, None);
            } else if let Ok(bytes) = std::fs::read(e.path()) {
                out.insert(path, Some(bytes));
            }
        }
    }
    out
}

/// Waits until something holds, a minute at most.
pub fn until(what: &str, mut f: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !f() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
