//! What of a folder is synchronised on this device: patterns in the syntax of `.gitignore` (from the
//! device's settings and from the file [`IGNORE_FILE`] in the folder), and the folders that were chosen.
//!
//! What is left out is as if it were not there, on either side: it is neither sent nor fetched, and
//! forgotten from what was agreed on. So when it is let in again, both sides are united and nothing is
//! deleted. A folder that one side deletes while it holds something left out on the other comes back.
use super::base::{Agreed, Learnt};
use crate::error::{Result, SyncError};
use crate::files::{Area, At, Files};
use crate::tree::{Key, Kind, ROOT, Tree};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::collections::HashSet;

/// Patterns that all devices share: an ordinary file in the folder, synchronised like any other.
pub const IGNORE_FILE: &str = ".pvfs2syncignore";
/// More than this of it is not read.
const IGNORE_BYTES_MAX: usize = 1 << 20;

/// What is left out.
#[derive(Clone, Debug)]
pub struct Filter {
    patterns: Gitignore,
    only: Vec<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { patterns: Gitignore::empty(), only: Vec::new() }
    }
}

/// A folder's path as it is compared: no slashes at the ends.
#[must_use]
pub fn folder(path: &str) -> String {
    path.split('/').filter(|n| !n.is_empty() && *n != ".").collect::<Vec<_>>().join("/")
}

impl Filter {
    /// From patterns, one a line, and the chosen folders (none: all).
    ///
    /// # Errors
    /// [`SyncError::Invalid`] with the pattern that is none.
    pub fn new<'a>(lines: impl IntoIterator<Item = &'a str>, only: &[String]) -> Result<Self> {
        let mut all = GitignoreBuilder::new("");
        let bad = |line: &str, e: &dyn std::fmt::Display| {
            SyncError::Invalid(format!("ignore pattern {line:?}: {e}"))
        };
        for line in lines {
            all.add_line(None, line).map_err(|e| bad(line, &e))?;
        }
        let patterns = all.build().map_err(|e| bad("", &e))?;
        let only = only.iter().map(|f| folder(f)).filter(|f| !f.is_empty()).collect();
        Ok(Self { patterns, only })
    }

    /// The device's own rules, and those of [`IGNORE_FILE`] as it is now.
    ///
    /// # Errors
    /// I/O; a pattern that is none.
    pub fn with_file(files: &dyn Files, lines: &[String], only: &[String]) -> Result<Self> {
        let at = At(Area::Tree, IGNORE_FILE);
        let text = match files.stat(at)? {
            Some(_) => files.read(at, 0, IGNORE_BYTES_MAX)?,
            None => Vec::new(),
        };
        let text = String::from_utf8_lossy(&text);
        Self::new(text.lines().chain(lines.iter().map(String::as_str)), only)
    }

    /// Whether nothing is left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.only.is_empty()
    }

    /// Whether this path is left out; its directories are not asked about.
    #[must_use]
    pub fn leaves_out(&self, path: &str, dir: bool) -> bool {
        if path == IGNORE_FILE {
            return false;
        }
        let within = |a: &str, b: &str| {
            a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'))
        };
        let chosen = self.only.is_empty()
            || self.only.iter().any(|f| within(path, f) || (dir && within(f, path)));
        !chosen || self.patterns.matched(path, dir).is_ignore()
    }

    /// The entries of a tree that are left out, with all below them.
    fn left_out(&self, tree: &Tree) -> HashSet<Key> {
        let mut out = HashSet::new();
        let mut next = vec![(Key::Node(ROOT), String::new(), false)];
        while let Some((dir, path, gone)) = next.pop() {
            for key in tree.children(dir) {
                let Some(e) = tree.get(key) else { continue };
                let path = crate::files::join(&path, &e.name);
                let gone = gone || self.leaves_out(&path, e.kind == Kind::Dir);
                if gone {
                    out.insert(key);
                }
                if e.kind == Kind::Dir {
                    next.push((key, path, gone));
                }
            }
        }
        out
    }

    /// Takes what is left out from what both sides agreed on.
    pub(super) fn forget(&self, agreed: &mut Agreed) -> Learnt {
        let mut learnt = Learnt::default();
        if self.is_empty() {
            return learnt;
        }
        for key in self.left_out(&agreed.0) {
            if let Key::Node(id) = key {
                agreed.0.remove(key);
                agreed.1.remove(&id);
                learnt.forgotten.push(id);
            }
        }
        learnt
    }

    /// Takes it from the server's tree; returns the directories that hold some of it.
    pub(super) fn hide(&self, remote: &mut Tree) -> HashSet<Key> {
        let mut holders = HashSet::new();
        if self.is_empty() {
            return holders;
        }
        let out = self.left_out(remote);
        for key in &out {
            if let Some(e) = remote.get(*key)
                && !out.contains(&e.parent)
            {
                holders.insert(e.parent);
            }
        }
        for key in out {
            remote.remove(key);
        }
        holders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_gitignore() {
        let f = Filter::new(["# comment", "*.tmp", "!keep.tmp", "/top", "cache/", "a/**/z"], &[]);
        let f = f.unwrap();
        for (path, dir, out) in [
            ("x.tmp", false, true),
            ("deep/er/x.tmp", false, true),
            ("keep.tmp", false, false),
            ("top", false, true),
            ("d/top", false, false),
            ("cache", true, true),
            ("cache", false, false),
            ("a/b/c/z", false, true),
            (IGNORE_FILE, false, false),
        ] {
            assert_eq!(f.leaves_out(path, dir), out, "{path}");
        }
        assert!(Filter::new(["a{b"], &[]).is_err());
        assert!(Filter::default().is_empty());
    }

    #[test]
    fn chosen_folders_are_reached_by_those_above() {
        let f = Filter::new([], &["Photos".into(), "/docs/job/".into()]).unwrap();
        for (path, dir, out) in [
            ("Photos", true, false),
            ("Photos/a/b", false, false),
            ("docs", true, false),
            ("docs/job/x", false, false),
            ("docs/play", true, true),
            ("docs/x", false, true),
            ("Photos2", true, true),
            ("top", false, true),
            (IGNORE_FILE, false, false),
        ] {
            assert_eq!(f.leaves_out(path, dir), out, "{path}");
        }
    }
}
