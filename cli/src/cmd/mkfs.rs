//! `pvfs2 mkfs`: makes the storage space of one server (PVFS2's mkspace).
use crate::launch;
use crate::output;
use anyhow::{Result, bail};
use pvfs2_config::Cluster;
use std::path::PathBuf;

/// Arguments of `pvfs2 mkfs`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 mkfs --config /etc/pvfs2/cluster.toml --alias io0
  pvfs2 mkfs --config cluster.toml --all        every server's, where all live on this machine")]
pub struct MkfsArgs {
    /// The cluster file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The server
    #[arg(long, value_name = "ALIAS", required_unless_present = "all")]
    pub alias: Option<String>,
    /// All servers of the file
    #[arg(long, conflicts_with = "alias")]
    pub all: bool,
}

/// Runs it.
///
/// # Errors
/// An unknown alias, or a folder that is not empty or cannot be written.
pub fn run(args: MkfsArgs) -> Result<()> {
    let cluster = Cluster::load(&args.config)?;
    let chosen: Vec<&str> = match &args.alias {
        Some(alias) => vec![alias.as_str()],
        None => cluster.servers.iter().map(|s| s.alias.as_str()).collect(),
    };
    for alias in chosen {
        let Some((_, server)) = cluster.by_alias(alias) else {
            bail!("the cluster file names no server '{alias}'; it has {}", cluster.aliases());
        };
        launch::format(&cluster, alias)?;
        output::line(format!(
            "{alias}: made the storage space {}",
            cluster.storage_of(server).display()
        ))?;
    }
    Ok(())
}
