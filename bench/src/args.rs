//! The command line of `pvfs2 bench`: the list of subcommands, and what the measuring ones share.
use crate::agent::{self, AgentArgs};
use crate::ceiling::{self, CeilingArgs};
use crate::fleet::Hosts;
use crate::host::{FsChoice, Host};
use crate::paper::{self, PaperArgs};
use crate::{ior, mdtest, worker};
use anyhow::Result;
use pvfs2_bmi::auth::ClusterKey;
use std::path::PathBuf;

/// `pvfs2 bench`.
#[derive(clap::Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub command: BenchCommand,
}

/// Its subcommands.
#[derive(clap::Subcommand, Debug)]
pub enum BenchCommand {
    /// Bandwidth, in IOR's words and tables
    Ior(Box<ior::IorArgs>),
    /// Metadata rates, in mdtest's words and tables
    Mdtest(Box<mdtest::MdtestArgs>),
    /// What this machine can do in the same terms: FUSE, sockets, disks, checksums
    Ceiling(CeilingArgs),
    /// The experiments of the article that this project began with, with figures and a report
    Paper(PaperArgs),
    /// Start clients on this host for a coordinator on another
    Agent(AgentArgs),
    /// One client; started by the others
    #[command(hide = true)]
    Worker,
}

/// Which clients, where, to which file system.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct ClientArgs {
    /// Clients, each a process of its own
    #[arg(short = 'N', long = "clients", default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub clients: u32,
    /// Hosts to start them on, in blocks: addresses of `pvfs2 bench agent`, separated by commas
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// File with the agents' key, and, for a native client, the cluster's
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// The file system of native clients: tcp://HOST:PORT/NAME, a mount point, or a cluster file
    #[arg(long, value_name = "SPEC")]
    pub fs: Option<String>,
    /// How long native clients believe names and attributes [default: as a mount does]
    #[arg(long, value_name = "MS")]
    pub cache_ms: Option<u64>,
    /// No live line (there is none anyway where stderr is no terminal)
    #[arg(long)]
    pub quiet: bool,
}

impl ClientArgs {
    /// The agents.
    ///
    /// # Errors
    /// A key file that cannot be read.
    pub fn agents(&self) -> Result<Hosts> {
        let key = match self.hosts.is_empty() {
            true => None,
            false => self.key_file.as_deref().map(ClusterKey::from_file).transpose()?,
        };
        Ok(Hosts { agents: self.hosts.clone(), key })
    }

    /// The file system.
    pub fn choice(&self) -> FsChoice {
        // With agents, the key file is theirs.
        let key_file = self.key_file.clone().filter(|_| self.hosts.is_empty());
        FsChoice { fs: self.fs.clone(), key_file, cache_ms: self.cache_ms }
    }
}

/// Runs it.
///
/// # Errors
/// The subcommand's, with a sentence that says what to do.
pub fn run(args: BenchArgs, host: &dyn Host) -> Result<()> {
    match args.command {
        BenchCommand::Ior(args) => ior::run(*args),
        BenchCommand::Mdtest(args) => mdtest::run(*args),
        BenchCommand::Ceiling(args) => ceiling::run(args),
        BenchCommand::Paper(args) => paper::run(args),
        BenchCommand::Agent(args) => agent::run(args),
        BenchCommand::Worker => worker::run(host),
    }
}

/// Bytes with an optional suffix K, M, G, for clap.
///
/// # Errors
/// The sentence to correct it.
pub fn size_arg(text: &str) -> Result<u64, String> {
    pvfs2_proto::dist::parse_size(text).map_err(|e| e.detail.into_owned())
}

/// Seconds above 0, for clap.
///
/// # Errors
/// The sentence to correct it.
pub fn seconds_arg(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= 1e6 => Ok(s),
        _ => Err(format!("'{text}' is no number of seconds above 0")),
    }
}
