//! Arguments of the commands that show or set how a device of `pvfs2 sync` works.
use super::sync::StateArgs;

/// Arguments of `pvfs2 sync schedule`.
#[derive(clap::Args, Debug)]
pub struct ScheduleArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
    /// `always`, `every 15 min`, `22:00-06:00` (local time) or `manual`
    #[arg(value_name = "WHEN")]
    pub when: Vec<String>,
}

/// Arguments of `pvfs2 sync limit`.
#[derive(clap::Args, Debug)]
pub struct LimitArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
    /// Bytes per second sent, with a suffix K, M, G; 0: no limit
    #[arg(long, value_name = "RATE")]
    pub up: Option<String>,
    /// Bytes per second fetched
    #[arg(long, value_name = "RATE")]
    pub down: Option<String>,
}

/// Arguments of `pvfs2 sync ignore`.
#[derive(clap::Args, Debug)]
pub struct IgnoreArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
    /// Patterns in the syntax of .gitignore; those for all devices are in the file .pvfs2syncignore
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
    /// Take these patterns away instead
    #[arg(long, requires = "patterns")]
    pub remove: bool,
}

/// Arguments of `pvfs2 sync select`.
#[derive(clap::Args, Debug)]
pub struct SelectArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
    /// Only these folders, relative to the synchronised one
    #[arg(value_name = "FOLDER", conflicts_with = "all")]
    pub folders: Vec<String>,
    /// All folders again
    #[arg(long)]
    pub all: bool,
}
