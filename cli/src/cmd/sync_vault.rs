//! `pvfs2 sync encrypt`, `unlock`, `lock` and `passphrase`: encrypted folders at the command line.
use super::sync::{NowArgs, StateArgs, asked, now, say, state_dir};
use crate::output;
use anyhow::{Context, Result, bail};
use pvfs2_sync::device::keys;
use pvfs2_sync::vault::key_file::By;

/// Which folder.
#[derive(clap::Args, Debug)]
pub struct FolderArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
    /// The folder: its path in the synchronised folder
    #[arg(value_name = "FOLDER")]
    pub folder: String,
}

/// Which folder, and what opens it.
#[derive(clap::Args, Debug)]
pub struct OpenArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub of: FolderArgs,
    /// With the recovery key that was shown when the folder was encrypted, instead of the passphrase
    #[arg(long)]
    pub recovery: bool,
}

impl OpenArgs {
    fn secret(&self) -> Result<(By, String)> {
        let folder = &self.of.folder;
        Ok(match self.recovery {
            true => (By::Recovery, asked(&format!("Recovery key of {folder}:"))?),
            false => (By::Passphrase, asked(&format!("Passphrase of {folder}:"))?),
        })
    }
}

/// A new passphrase; at a terminal it is asked for twice.
fn new_passphrase(folder: &str) -> Result<String> {
    use std::io::IsTerminal;
    let first = asked(&format!("New passphrase of {folder}:"))?;
    if std::io::stdin().is_terminal() && asked("The same again:")? != first {
        bail!("the two are not the same; nothing was changed");
    }
    Ok(first)
}

/// Makes a new or empty folder an encrypted one.
pub fn encrypt(args: &FolderArgs) -> Result<()> {
    let state = state_dir(&args.state)?;
    let passphrase = new_passphrase(&args.folder)?;
    let recovery = keys::encrypt(&state, &args.folder, &passphrase)
        .with_context(|| format!("{} was not encrypted", args.folder))?;
    if args.state.json {
        return output::json(
            &serde_json::json!({ "folder": args.folder, "recovery_key": recovery }),
        );
    }
    say(format!("{} is encrypted: what you put in it leaves this device sealed.", args.folder));
    say(format!("Recovery key (shown this once): {recovery}"));
    say(
        "Keep it apart from this device. Without it and without the passphrase nobody opens the folder.",
    );
    Ok(())
}

/// Opens it on this device.
pub fn unlock(args: &OpenArgs) -> Result<()> {
    let state = state_dir(&args.of.state)?;
    let (by, secret) = args.secret()?;
    keys::unlock(&state, &args.of.folder, by, &secret)?;
    say(format!("{} is unlocked on this device; the next pass brings its files", args.of.folder));
    Ok(())
}

/// Closes it on this device.
pub fn lock(args: &FolderArgs) -> Result<()> {
    let state = state_dir(&args.state)?;
    if keys::lock(&state, &args.folder)? {
        say(format!(
            "{} is locked on this device. The files that are here stay, plain, and are left alone",
            args.folder
        ));
    } else {
        say(format!("{} was not open on this device", args.folder));
    }
    Ok(())
}

/// Sets another passphrase, and takes it to the server.
pub fn passphrase(args: &OpenArgs) -> Result<()> {
    let state = state_dir(&args.of.state)?;
    let (by, old) = args.secret()?;
    let new = new_passphrase(&args.of.folder)?;
    let text = keys::passphrase(&state, &args.of.folder, by, &old, &new)?;
    let passed = now(&NowArgs { state: args.of.state.clone(), allow_deletes: false });
    if keys::key_text(&state, &args.of.folder)? != text {
        bail!("another device changed the passphrase at the same time: its passphrase counts");
    }
    passed.context(
        "the passphrase is changed on this device; the next pass takes it to the server",
    )?;
    say("the passphrase is changed, here and at the server");
    Ok(())
}
