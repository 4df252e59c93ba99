//! IOR's command line, as far as it has a meaning here. Every letter means what it means in IOR;
//! what differs says so.
use super::pattern::Spec;
use crate::api::Api;
use crate::args::{ClientArgs, seconds_arg, size_arg};
use crate::table::SummaryFile;
use anyhow::{Result, bail};

/// Arguments of `pvfs2 bench ior`.
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = "\
Examples:
  pvfs2 bench ior -o /mnt/pvfs2/f -t 1m -b 256m -e               one client, through the mount
  pvfs2 bench ior -o /mnt/pvfs2/f -N 4 -F -t 1m -b 64m -e -C     IOR-easy: a file for each client
  pvfs2 bench ior -o /mnt/pvfs2/f -N 4 -t 47008 -b 47008 -s 2000 -C -R   IOR-hard, verified
  pvfs2 bench ior -a PVFS2 --fs tcp://h:3334/fs -o /f -N 4 -t 4m -b 1g   without a mount
  pvfs2 bench ior ... -O summaryFile=r.json,summaryFormat=JSON")]
pub struct IorArgs {
    /// POSIX: system calls, also through a mount. PVFS2: the client library, without a mount
    #[arg(short = 'a', long = "api", default_value = "POSIX", value_enum)]
    pub api: Api,
    /// Contiguous bytes of a client in a segment
    #[arg(short = 'b', long, default_value = "1m", value_name = "BYTES", value_parser = size_arg)]
    pub block_size: u64,
    /// Bytes of one transfer
    #[arg(short = 't', long, default_value = "256k", value_name = "BYTES", value_parser = size_arg)]
    pub transfer_size: u64,
    /// Segments
    #[arg(short = 's', long, default_value_t = 1, value_name = "N")]
    pub segment_count: u64,
    /// A file for each client
    #[arg(short = 'F', long)]
    pub file_per_proc: bool,
    /// Each client reads what the client Q ranks on wrote (with --hosts: Q hosts on)
    #[arg(short = 'C', long)]
    pub reorder_tasks: bool,
    /// How far -C shifts
    #[arg(short = 'Q', long, default_value_t = 1, value_name = "N")]
    pub task_offset: u32,
    /// Transfers in random order, each once
    #[arg(short = 'z', long)]
    pub random: bool,
    /// Seed of the random order and of the stamps
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// fsync before each close of a written file
    #[arg(short = 'e', long)]
    pub fsync: bool,
    /// fsync after each write
    #[arg(short = 'Y', long)]
    pub fsync_per_write: bool,
    /// O_DIRECT (POSIX)
    #[arg(short = 'B', long)]
    pub direct: bool,
    /// Write (with none of -w, -r, -W, -R: write, then read)
    #[arg(short = 'w', long)]
    pub write: bool,
    /// Read
    #[arg(short = 'r', long)]
    pub read: bool,
    /// Write, then read once more to compare every byte
    #[arg(short = 'W', long)]
    pub check_write: bool,
    /// Read and compare every byte
    #[arg(short = 'R', long)]
    pub check_read: bool,
    /// Stamp every transfer with its place, also without -W and -R (IOR's -l offset)
    #[arg(long)]
    pub stamp: bool,
    /// Repetitions
    #[arg(short = 'i', long, default_value_t = 1, value_name = "N")]
    pub repetitions: u32,
    /// Keep the files
    #[arg(short = 'k', long)]
    pub keep: bool,
    /// Write into files that are there already
    #[arg(short = 'E', long)]
    pub existing: bool,
    /// The file; for -a PVFS2 a path in the file system, pvfs2:/PATH, or one below a mount
    #[arg(short = 'o', long = "file", default_value = "testFile", value_name = "FILE")]
    pub file: String,
    /// Each phase ends after so many seconds; readers take what was written
    #[arg(short = 'D', long, value_name = "SECONDS", value_parser = seconds_arg)]
    pub deadline: Option<f64>,
    /// Each phase goes round its pattern for so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds_arg, conflicts_with = "deadline")]
    pub duration: Option<f64>,
    /// Drop every host's page cache before a read (root)
    #[arg(long)]
    pub drop_caches: bool,
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

impl Default for IorArgs {
    fn default() -> IorArgs {
        IorArgs {
            api: Api::Posix,
            block_size: 1 << 20,
            transfer_size: 256 << 10,
            segment_count: 1,
            file_per_proc: false,
            reorder_tasks: false,
            task_offset: 1,
            random: false,
            seed: 0,
            fsync: false,
            fsync_per_write: false,
            direct: false,
            write: false,
            read: false,
            check_write: false,
            check_read: false,
            stamp: false,
            repetitions: 1,
            keep: false,
            existing: false,
            file: "testFile".into(),
            deadline: None,
            duration: None,
            drop_caches: false,
            directives: Vec::new(),
            ceiling: None,
            clients: ClientArgs { clients: 1, ..ClientArgs::default() },
        }
    }
}

/// Which phases a repetition has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Write first.
    pub write: bool,
    /// Compare after the write.
    pub check_write: bool,
    /// Then read.
    pub read: bool,
    /// The read compares.
    pub check_read: bool,
}

impl IorArgs {
    /// Which phases a repetition has.
    pub fn plan(&self) -> Plan {
        let none = !(self.write || self.read || self.check_write || self.check_read);
        Plan {
            write: none || self.write || self.check_write,
            check_write: self.check_write,
            read: none || self.read || self.check_read,
            check_read: self.check_read,
        }
    }

    /// The summary file.
    ///
    /// # Errors
    /// A directive that is not known.
    pub fn summary_file(&self) -> Result<SummaryFile> {
        SummaryFile::parse(&self.directives)
    }

    /// What workers are told.
    ///
    /// # Errors
    /// Sizes that do not fit each other, options that exclude each other.
    pub fn spec(&self) -> Result<Spec> {
        let plan = self.plan();
        if self.transfer_size == 0 || self.block_size == 0 || self.segment_count == 0 {
            bail!("-b, -t and -s must be above 0");
        }
        if !self.block_size.is_multiple_of(self.transfer_size) {
            bail!(
                "-b {} is no multiple of -t {}; a block is made of whole transfers",
                self.block_size,
                self.transfer_size
            );
        }
        if self.transfer_size > 1 << 30 {
            bail!("-t {} is more than 1G, the most that one transfer has", self.transfer_size);
        }
        let clients = u64::from(self.clients.clients);
        let total = self.block_size.checked_mul(self.segment_count);
        if total.and_then(|t| t.checked_mul(clients)).is_none_or(|t| t > i64::MAX as u64) {
            bail!("-b x -s x -N is more than a file can hold");
        }
        if self.direct && self.api == Api::Pvfs2 {
            bail!("-B is for -a POSIX; the client library has no page cache to go around");
        }
        if self.direct && !self.transfer_size.is_multiple_of(512) {
            bail!("-B needs a -t that is a multiple of the disk's blocks, as 4k");
        }
        if self.random
            && self.segment_count.saturating_mul(self.block_size / self.transfer_size) > 1 << 28
        {
            bail!("-z with more than {} transfers of one client; take a larger -t", 1 << 28);
        }
        let per_host = match self.clients.hosts.len() {
            0 | 1 => 1,
            hosts => self.clients.clients.div_ceil(hosts as u32),
        };
        let shift = if self.reorder_tasks { self.task_offset.saturating_mul(per_host) } else { 0 };
        Ok(Spec {
            block: self.block_size,
            transfer: self.transfer_size,
            segments: self.segment_count,
            file_per_proc: self.file_per_proc,
            shift: shift % self.clients.clients.max(1),
            random: self.random,
            seed: self.seed,
            fsync: self.fsync,
            fsync_per_write: self.fsync_per_write,
            direct: self.direct,
            stamped: self.stamp || plan.check_write || plan.check_read,
            existing: self.existing,
            deadline_s: self.deadline,
            duration_s: self.duration,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: IorArgs,
    }

    fn parse(line: &str) -> Result<IorArgs, clap::Error> {
        Line::try_parse_from(["ior"].into_iter().chain(line.split_whitespace())).map(|l| l.args)
    }

    #[test]
    fn letters_mean_what_they_mean_in_ior() {
        let args = parse(
            "-a PVFS2 -b 2m -t 1m -s 3 -F -C -Q 2 -z -e -Y -w -r -W -R -i 5 -k -o /x -N 8 -D 10 \
             -O summaryFile=/tmp/s,summaryFormat=CSV",
        )
        .unwrap();
        let spec = args.spec().unwrap();
        assert_eq!(
            (spec.block, spec.transfer, spec.segments, spec.shift),
            (2 << 20, 1 << 20, 3, 2)
        );
        assert!(spec.file_per_proc && spec.random && spec.fsync && spec.fsync_per_write);
        assert!(spec.stamped && args.keep && args.repetitions == 5 && args.clients.clients == 8);
        assert_eq!(spec.deadline_s, Some(10.0));
        assert_eq!(args.summary_file().unwrap().path, Some("/tmp/s".into()));
        let defaults = parse("").unwrap();
        assert_eq!(format!("{defaults:?}"), format!("{:?}", IorArgs::default()));
        let all = Plan { write: true, check_write: false, read: true, check_read: false };
        assert_eq!(defaults.plan(), all);
        assert_eq!(parse("-w").unwrap().plan(), Plan { read: false, ..all });
        assert_eq!(parse("-r").unwrap().plan(), Plan { write: false, ..all });
        assert_eq!(parse("-W").unwrap().plan(), Plan { read: false, check_write: true, ..all });
        assert!(parse("-r").unwrap().spec().is_ok_and(|s| !s.stamped && s.shift == 0));
    }

    #[test]
    fn hosts_shift_by_blocks_of_ranks() {
        let args = parse("-C -N 6 --hosts a:1,b:1,c:1").unwrap();
        assert_eq!(args.spec().unwrap().shift, 2);
        assert_eq!(parse("-C -N 6 --hosts a:1").unwrap().spec().unwrap().shift, 1);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        for (line, word) in [
            ("-b 1m -t 300k", "multiple"),
            ("-t 0", "above 0"),
            ("-s 0", "above 0"),
            ("-B -a PVFS2", "page cache"),
            ("-B -t 47008 -b 47008", "multiple"),
            ("-b 8g -s 8000000000", "can hold"),
            ("-t 2g -b 2g", "the most"),
        ] {
            let e = parse(line).unwrap().spec().unwrap_err().to_string();
            assert!(e.contains(word), "{line}: {e}");
        }
        for line in ["-D 0", "-D x", "-b 1x", "-N 0", "-a MPIIO", "-D 1 --duration 1"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
