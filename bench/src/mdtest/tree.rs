//! The directories and items of mdtest.
//!
//! Layout: `DIR/test-dir.R-I/mdtest_tree.R.0/...`, R the rank that owns the tree (0 without -u), I the
//! repetition. Directories of a tree are numbered as a heap is: the parent of k is (k - 1) / branch.
//! Items go round the directories in equal parts: `dir.mdtest.RANK.i` and `file.mdtest.RANK.i`.
use serde::{Deserialize, Serialize};

/// Most directories of one tree.
pub const DIRS_MAX: u64 = 1 << 20;

/// What all phases of a run share.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Spec {
    /// Items of each client in each directory that has items.
    pub per_dir: u64,
    /// A tree for each client (-u).
    pub unique: bool,
    /// Bytes written to a new file (-w), and read (-e).
    pub write_bytes: u64,
    #[allow(missing_docs)]
    pub read_bytes: u64,
    /// fsync after the write (-y).
    pub fsync: bool,
    /// Depth of the tree (-z) and directories in each (-b).
    pub depth: u32,
    #[allow(missing_docs)]
    pub branch: u64,
    /// Items at the leaves alone (-L).
    pub leaf_only: bool,
    /// Others' items are asked for, so many ranks on.
    pub stride: u32,
}

/// What a phase does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Step {
    TreeCreate,
    DirCreate,
    DirStat,
    DirRemove,
    FileCreate,
    FileStat,
    FileRead,
    FileRemove,
    TreeRemove,
}

impl Step {
    /// As mdtest prints it.
    pub fn name(self) -> &'static str {
        match self {
            Step::TreeCreate => "Tree creation",
            Step::DirCreate => "Directory creation",
            Step::DirStat => "Directory stat",
            Step::DirRemove => "Directory removal",
            Step::FileCreate => "File creation",
            Step::FileStat => "File stat",
            Step::FileRead => "File read",
            Step::FileRemove => "File removal",
            Step::TreeRemove => "Tree removal",
        }
    }
}

/// One phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phase {
    /// What.
    pub step: Step,
    /// Repetition.
    pub iter: u32,
}

/// Directories of a tree; none when there are too many.
pub fn dirs(depth: u32, branch: u64) -> Option<u64> {
    let (mut level, mut sum) = (1u64, 0u64);
    for at in 0..=depth {
        sum = sum.checked_add(level).filter(|s| *s <= DIRS_MAX)?;
        if at < depth {
            level = level.checked_mul(branch)?;
        }
    }
    Some(sum)
}

impl Spec {
    /// Directories of a tree.
    pub fn dirs(&self) -> u64 {
        dirs(self.depth, self.branch).unwrap_or(0)
    }
    /// The directories that have items.
    pub fn item_dirs(&self) -> std::ops::Range<u64> {
        let all = self.dirs();
        let leaves = self.branch.checked_pow(self.depth).unwrap_or(all);
        if self.leaf_only { all.saturating_sub(leaves)..all } else { 0..all }
    }
    /// Items of a client.
    pub fn items(&self) -> u64 {
        let dirs = self.item_dirs();
        (dirs.end - dirs.start) * self.per_dir
    }
    /// The rank that owns the tree in which `rank` works.
    pub fn owner(&self, rank: u32) -> u32 {
        if self.unique { rank } else { 0 }
    }
    /// Where a tree of a repetition hangs.
    pub fn top(&self, base: &str, owner: u32, iter: u32) -> String {
        let name = format!("test-dir.{owner}-{iter}");
        if base.is_empty() { name } else { format!("{base}/{name}") }
    }
    /// Directory `k` of a tree.
    pub fn dir(&self, top: &str, owner: u32, k: u64) -> String {
        let mut names = Vec::new();
        let mut at = k;
        loop {
            names.push(format!("mdtest_tree.{owner}.{at}"));
            if at == 0 {
                break;
            }
            at = (at - 1) / self.branch.max(1);
        }
        names.push(top.to_owned());
        names.reverse();
        names.join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn trees_are_counted() {
        assert_eq!(dirs(0, 1), Some(1));
        assert_eq!(dirs(2, 3), Some(13));
        assert_eq!(dirs(4, 1), Some(5));
        assert_eq!(dirs(63, 10), None);
        let spec = Spec { per_dir: 5, depth: 2, branch: 3, ..Spec::default() };
        assert_eq!((spec.dirs(), spec.items()), (13, 65));
        let leaves = Spec { leaf_only: true, ..spec };
        assert_eq!((leaves.item_dirs(), leaves.items()), (4..13, 45));
    }

    #[test]
    fn every_directory_has_its_parent_before_it() {
        let spec = Spec { depth: 3, branch: 2, ..Spec::default() };
        let all: Vec<String> = (0..spec.dirs()).map(|k| spec.dir("/t", 7, k)).collect();
        assert_eq!(all[0], "/t/mdtest_tree.7.0");
        assert_eq!(all[14], "/t/mdtest_tree.7.0/mdtest_tree.7.2/mdtest_tree.7.6/mdtest_tree.7.14");
        let mut seen = BTreeSet::from(["/t".to_owned()]);
        for dir in all {
            assert!(seen.contains(dir.rsplit_once('/').unwrap().0), "{dir}");
            assert!(seen.insert(dir));
        }
        let chain = Spec { depth: 2, branch: 1, ..Spec::default() };
        assert!(chain.dir("t", 0, 2).ends_with("mdtest_tree.0.1/mdtest_tree.0.2"));
    }
}
