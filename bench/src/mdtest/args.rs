//! mdtest's command line, as far as it has a meaning here. Letters mean what they mean in mdtest, but
//! for -N, which is the number of clients as in IOR (mdtest's -N is `--stride`).
use super::tree::{DIRS_MAX, Spec, Step, dirs};
use crate::api::Api;
use crate::args::{ClientArgs, size_arg};
use crate::table::SummaryFile;
use anyhow::{Result, bail};

/// Arguments of `pvfs2 bench mdtest`.
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = "\
Examples:
  pvfs2 bench mdtest -d /mnt/pvfs2/md -n 1000 -N 4 -u             4 clients, a directory each
  pvfs2 bench mdtest -d /mnt/pvfs2/md -n 1000 -F -w 4k -e 4k      files of 4 KiB
  pvfs2 bench mdtest -d /mnt/pvfs2/md -z 3 -b 4 -I 10 -L          items at the leaves of a tree
  pvfs2 bench mdtest -a PVFS2 --fs tcp://h:3334/fs -d /md -n 1000 without a mount")]
pub struct MdtestArgs {
    /// POSIX: system calls, also through a mount. PVFS2: the client library, without a mount
    #[arg(short = 'a', long = "api", default_value = "POSIX", value_enum)]
    pub api: Api,
    /// The directory to work below, made if it is missing
    #[arg(short = 'd', long = "dir", default_value = "mdtest.d", value_name = "DIR")]
    pub dir: String,
    /// Items of each client, over all its directories
    #[arg(short = 'n', value_name = "N", conflicts_with = "per_dir")]
    pub items: Option<u64>,
    /// Items of each client in each directory
    #[arg(short = 'I', value_name = "N")]
    pub per_dir: Option<u64>,
    /// A tree of its own for each client
    #[arg(short = 'u', long)]
    pub unique_dir: bool,
    /// Bytes to write to each new file
    #[arg(short = 'w', default_value = "0", value_name = "BYTES", value_parser = size_arg)]
    pub write_bytes: u64,
    /// Bytes to read from each file
    #[arg(short = 'e', default_value = "0", value_name = "BYTES", value_parser = size_arg)]
    pub read_bytes: u64,
    /// fsync each file after its write
    #[arg(short = 'y')]
    pub fsync: bool,
    /// Depth of the tree
    #[arg(short = 'z', default_value_t = 0, value_name = "N")]
    pub depth: u32,
    /// Directories in each directory of the tree
    #[arg(short = 'b', default_value_t = 1, value_name = "N")]
    pub branch: u64,
    /// Items at the leaves alone
    #[arg(short = 'L')]
    pub leaf_only: bool,
    /// Files alone
    #[arg(short = 'F', conflicts_with = "dirs_only")]
    pub files_only: bool,
    /// Directories alone
    #[arg(short = 'D')]
    pub dirs_only: bool,
    /// Create (with none of -C, -T, -E, -r: all of them, in this order)
    #[arg(short = 'C')]
    pub create: bool,
    /// Stat
    #[arg(short = 'T')]
    pub stat: bool,
    /// Read files
    #[arg(short = 'E')]
    pub read: bool,
    /// Remove
    #[arg(short = 'r')]
    pub remove: bool,
    /// Each client asks for the items of the client so many ranks on
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub stride: u32,
    /// Repetitions
    #[arg(short = 'i', default_value_t = 1, value_name = "N")]
    pub iterations: u32,
    /// summaryFile=FILE,summaryFormat=default|JSON|CSV
    #[arg(short = 'O', value_name = "KEY=VALUE,...")]
    pub directives: Vec<String>,
    /// Print results as shares of this machine's limits: a file of `pvfs2 bench ceiling`, or "run"
    #[arg(long, value_name = "FILE|run")]
    pub ceiling: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub clients: ClientArgs,
}

impl Default for MdtestArgs {
    fn default() -> MdtestArgs {
        MdtestArgs {
            api: Api::Posix,
            dir: "mdtest.d".into(),
            items: None,
            per_dir: None,
            unique_dir: false,
            write_bytes: 0,
            read_bytes: 0,
            fsync: false,
            depth: 0,
            branch: 1,
            leaf_only: false,
            files_only: false,
            dirs_only: false,
            create: false,
            stat: false,
            read: false,
            remove: false,
            stride: 0,
            iterations: 1,
            directives: Vec::new(),
            ceiling: None,
            clients: ClientArgs { clients: 1, ..ClientArgs::default() },
        }
    }
}

impl MdtestArgs {
    /// The summary file.
    ///
    /// # Errors
    /// A directive that is not known.
    pub fn summary_file(&self) -> Result<SummaryFile> {
        SummaryFile::parse(&self.directives)
    }

    /// The steps of a repetition.
    pub fn steps(&self) -> Vec<Step> {
        let all = !(self.create || self.stat || self.read || self.remove);
        let mut steps = Vec::new();
        let (create, stat) = (all || self.create, all || self.stat);
        let (read, remove) = (all || self.read, all || self.remove);
        let mut add = |wanted, step| {
            if wanted {
                steps.push(step);
            }
        };
        add(create, Step::TreeCreate);
        if !self.files_only {
            add(create, Step::DirCreate);
            add(stat, Step::DirStat);
            add(remove, Step::DirRemove);
        }
        if !self.dirs_only {
            add(create, Step::FileCreate);
            add(stat, Step::FileStat);
            add(read, Step::FileRead);
            add(remove, Step::FileRemove);
        }
        add(remove, Step::TreeRemove);
        steps
    }

    /// What workers are told.
    ///
    /// # Errors
    /// A tree that is too large, or has more directories than there are items.
    pub fn spec(&self) -> Result<Spec> {
        if self.branch == 0 {
            bail!("-b must be above 0");
        }
        let Some(total) = dirs(self.depth, self.branch) else {
            bail!("-z {} -b {} is more than {DIRS_MAX} directories", self.depth, self.branch);
        };
        if self.write_bytes.max(self.read_bytes) > 1 << 30 {
            bail!("-w and -e are at most 1G; pvfs2 bench ior is for large files");
        }
        let mut spec = Spec {
            per_dir: self.per_dir.unwrap_or(0),
            unique: self.unique_dir,
            write_bytes: self.write_bytes,
            read_bytes: self.read_bytes,
            fsync: self.fsync,
            depth: self.depth,
            branch: self.branch,
            leaf_only: self.leaf_only,
            stride: self.stride % self.clients.clients.max(1),
        };
        if self.per_dir.is_none() {
            let those = spec.item_dirs();
            let items = self.items.unwrap_or(1_000);
            spec.per_dir = items / (those.end - those.start).max(1);
            if spec.per_dir == 0 && items > 0 {
                bail!("-n {items} items are fewer than the tree's {total} directories");
            }
        }
        if spec.items() > 1 << 26 {
            bail!("more than {} items for one client", 1 << 26);
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: MdtestArgs,
    }

    fn parse(line: &str) -> MdtestArgs {
        Line::try_parse_from(["mdtest"].into_iter().chain(line.split_whitespace())).unwrap().args
    }

    #[test]
    fn items_are_spread_over_the_tree() {
        let spec = parse("-n 130 -z 2 -b 3 -u -w 4k -e 1k -y").spec().unwrap();
        assert_eq!((spec.per_dir, spec.items(), spec.write_bytes), (10, 130, 4_096));
        assert!(spec.unique && spec.fsync);
        assert_eq!(parse("-I 7 -z 1 -b 2 -L").spec().unwrap().items(), 14);
        assert_eq!(parse("").spec().unwrap().items(), 1_000);
        for (line, word) in
            [("-n 5 -z 2 -b 3", "fewer"), ("-z 30 -b 10", "more than"), ("-b 0", "above 0")]
        {
            let e = parse(line).spec().unwrap_err().to_string();
            assert!(e.contains(word), "{line}: {e}");
        }
    }

    #[test]
    fn steps_by_letters() {
        assert_eq!(format!("{:?}", parse("")), format!("{:?}", MdtestArgs::default()));
        assert_eq!(parse("").steps().len(), 9);
        assert_eq!(
            parse("-F").steps(),
            [
                Step::TreeCreate,
                Step::FileCreate,
                Step::FileStat,
                Step::FileRead,
                Step::FileRemove,
                Step::TreeRemove
            ]
        );
        assert_eq!(parse("-D -T").steps(), [Step::DirStat]);
        assert_eq!(parse("-F -C -T").steps(), [Step::TreeCreate, Step::FileCreate, Step::FileStat]);
    }
}
