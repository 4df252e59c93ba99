//! `pvfs2 sync backup` and `pvfs2 sync new-epoch`: the administrator's work on a root whose server is
//! stopped. While it runs the management pages and `/api/v1/admin` do the same.
use crate::output;
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use pvfs2_sync::rng::{hex, secret};
use pvfs2_sync::secret::Secret;
use pvfs2_sync::server::accounts::User;
use pvfs2_sync::server::root::Begin;
use pvfs2_sync::server::users::{Users, now_ms};
use std::path::PathBuf;
use std::sync::Arc;

/// A root whose server is stopped.
#[derive(clap::Args, Debug)]
pub struct RootArgs {
    /// The root of the service, such as /mnt/pvfs2/user
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Where the accounts are, as `serve` was told
    #[arg(long, value_name = "FILE")]
    pub accounts: Option<PathBuf>,
    /// Only this user
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
}

/// A backup of it.
#[derive(clap::Args, Debug)]
pub struct NamedArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub root: RootArgs,
    /// The backup, as `list` names it
    pub name: String,
}

/// What to do with backups.
#[derive(Subcommand, Debug)]
pub enum BackupCommand {
    /// Make one
    Make(RootArgs),
    /// List them
    List(RootArgs),
    /// Read one whole, and compare it with what it wrote down
    Verify(NamedArgs),
    /// Put it in the place of what is there now; devices unite theirs with it and delete nothing
    Load(NamedArgs),
    /// Remove one
    Remove(NamedArgs),
    /// Say where they lie: a folder outside of the root
    Dir {
        #[command(flatten)]
        #[allow(missing_docs)]
        root: RootArgs,
        /// The folder; must be there
        folder: PathBuf,
    },
}

fn say(text: impl AsRef<str>) {
    let _ = output::line(text);
}

/// The address of the accounts' database, out of a file.
///
/// # Errors
/// I/O.
pub fn accounts(file: Option<&std::path::Path>) -> Result<Option<Secret>> {
    let read = |f: &std::path::Path| {
        let text = std::fs::read_to_string(f);
        Ok(text.with_context(|| format!("cannot read {}", f.display()))?.trim().into())
    };
    file.map(read).transpose()
}

fn open(args: &RootArgs) -> Result<Users> {
    let outside = accounts(args.accounts.as_deref())?;
    let clock = Arc::new(now_ms);
    let users = Users::open_with(&args.root, Begin::Never, None, clock, outside.as_deref());
    users.with_context(
        || "if the server runs on this root, use its management pages or /api/v1/admin instead",
    )
}

fn chosen(users: &Users, name: Option<&str>) -> Result<Vec<User>> {
    let all = users.accounts.users()?;
    let some: Vec<User> = all.into_iter().filter(|u| name.is_none_or(|n| n == u.name)).collect();
    if some.is_empty() {
        bail!("no user {}", name.unwrap_or("at all"));
    }
    Ok(some)
}

/// Runs `pvfs2 sync backup`.
///
/// # Errors
/// The service's, with what to do.
pub fn backup(what: BackupCommand) -> Result<()> {
    match what {
        BackupCommand::Make(a) => {
            let users = open(&a)?;
            let name = users.make_backup(&chosen(&users, a.user.as_deref())?, "command line")?;
            let (dir, made) = users.backup(&name)?;
            say(format!("backup {name} in {}", dir.display()));
            for saved in made.users {
                say(format!("{}: {} files, {} bytes", saved.name, saved.files, saved.bytes));
                saved.problems.iter().for_each(|p| say(format!("problem: {p}")));
            }
            Ok(())
        }
        BackupCommand::List(a) => {
            for b in open(&a)?.backups()? {
                let names = b.manifest.names();
                if a.user.as_deref().is_none_or(|u| names.contains(&u)) {
                    say(format!("{}  {}  ({})", b.name, names.join(" "), b.manifest.why));
                }
            }
            Ok(())
        }
        BackupCommand::Verify(a) => {
            let wrong = open(&a.root)?.verify_backup(&a.name)?;
            wrong.iter().for_each(|w| say(format!("problem: {w}")));
            if !wrong.is_empty() {
                bail!("{} files of backup {} are not what they were", wrong.len(), a.name);
            }
            say("every byte is as it was written");
            Ok(())
        }
        BackupCommand::Load(a) => {
            say(open(&a.root)?.load_backup(&a.name, a.root.user.as_deref())?);
            Ok(())
        }
        BackupCommand::Remove(a) => Ok(open(&a.root)?.drop_backup(&a.name)?),
        BackupCommand::Dir { root, folder } => {
            let folder = std::path::absolute(&folder)?;
            let text = folder.to_str().context("the folder's name is not UTF-8")?;
            Ok(open(&root)?.set_backup_dir(text)?)
        }
    }
}

/// Runs `pvfs2 sync new-epoch`: after somebody put an older state of the root back by other means.
///
/// # Errors
/// The service's.
pub fn new_epoch(args: RootArgs) -> Result<()> {
    let users = open(&args)?;
    for user in chosen(&users, args.user.as_deref())? {
        let epoch = hex(&secret::<8>()?);
        users.worker(&user)?.store.lock().new_epoch(&epoch)?;
        say(format!("{}: devices will begin anew, and delete nothing", user.name));
    }
    Ok(())
}
