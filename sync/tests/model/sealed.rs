//! An encrypted folder in a simulated world, and what may lie plain at the server.
use pvfs2_sync::files::mem::Mem;
use pvfs2_sync::files::{Area, At, Files};
use pvfs2_sync::vault::content::MAGIC;
use pvfs2_sync::vault::key_file::KeyFile;
use pvfs2_sync::vault::{FolderKey, KEY_FILE, Vault};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

/// The key file takes a while to make; all worlds have the same.
fn text() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| {
        let (file, _) = KeyFile::make(&FolderKey::from_bytes([7; 32]), "correct horse").unwrap();
        file.text().into_bytes()
    })
}

/// The folder, and every content that ever lay outside of it.
pub struct Sealed {
    pub vault: Arc<Vault>,
    outside: BTreeSet<Vec<u8>>,
}

/// What our own area of a device or a server holds.
pub fn own(mem: &Mem, dir: &str) -> Vec<Vec<u8>> {
    let all = mem.list(At(Area::Own, dir)).unwrap().entries;
    all.iter()
        .filter_map(|(name, _)| mem.read(At(Area::Own, &format!("{dir}/{name}")), 0, 1 << 20).ok())
        .collect()
}

/// A device's files. A key file in a folder that lies in an encrypted one means nothing, and stays where it is.
pub fn seen(mem: &Mem) -> BTreeMap<String, Option<Vec<u8>>> {
    let all = mem.snapshot();
    let nested = |path: &str| {
        let dir = path.strip_suffix(KEY_FILE).and_then(|d| d.strip_suffix('/'));
        let mut above = dir.into_iter().flat_map(|d| d.match_indices('/').map(|(at, _)| &d[..at]));
        above.any(|dir| all.contains_key(&format!("{dir}/{KEY_FILE}")))
    };
    all.iter().filter(|(p, _)| !nested(p)).map(|(p, b)| (p.clone(), b.clone())).collect()
}

impl Sealed {
    pub fn new() -> Self {
        Self {
            vault: Arc::new(Vault::new(&FolderKey::from_bytes([7; 32]))),
            outside: BTreeSet::new(),
        }
    }

    /// Makes `V` on a device.
    pub fn encrypt(&self, mem: &Mem) {
        mem.user_mkdir("V");
        mem.user_write(&format!("V/{KEY_FILE}"), text(), None);
    }

    /// A user did something: what lies outside now may lie plain at the server from now on.
    pub fn look(&mut self, mem: &Mem) {
        let all = mem.snapshot();
        for (path, bytes) in &all {
            let mut dirs = path.match_indices('/').map(|(at, _)| &path[..at]);
            let inside = dirs.any(|dir| all.contains_key(&format!("{dir}/{KEY_FILE}")));
            if let (false, Some(bytes)) = (inside, bytes) {
                self.outside.insert(bytes.clone());
            }
        }
    }

    /// Something that lies plain at the server and never lay outside of the folder.
    pub fn leak(&self, server: &Mem) -> Option<String> {
        let mut all: Vec<Vec<u8>> = server.snapshot().into_values().flatten().collect();
        for dir in ["tmp", "versions", "trash", "foreign"] {
            all.extend(own(server, dir));
        }
        // What was cut off is the beginning of something.
        let may = |b: &Vec<u8>| {
            b.starts_with(MAGIC)
                || MAGIC.starts_with(b)
                || text().starts_with(b)
                || self.outside.iter().any(|o| o.starts_with(b))
        };
        all.iter().find(|b| !may(b)).map(|b| String::from_utf8_lossy(b).into_owned())
    }
}
