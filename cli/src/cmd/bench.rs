//! `pvfs2 bench`: the harness of `bench/`, with what it needs of this program: a native client.
use crate::args::FsArgs;
use crate::fsclient::{Fs, my_cred};
use crate::target::resolve_remote;
use anyhow::{Context, Result};
use pvfs2_bench::host::{Connected, FsChoice};
use pvfs2_bench::{BenchArgs, Host};
use std::ffi::OsStr;

struct Program;

impl Host for Program {
    fn connect(&self, choice: &FsChoice, path: &str) -> Result<(Connected, String)> {
        let args = FsArgs { fs: choice.fs.clone(), key_file: choice.key_file.clone(), json: false };
        let (path, target) = resolve_remote(&args, OsStr::new(path))?;
        let path = String::from_utf8(path).context("the path is no UTF-8; take another")?;
        let fs = Fs::open_with(&args, &target, |config| {
            if let Some(ms) = choice.cache_ms {
                (config.acache_ms, config.ncache_ms) = (ms, ms);
            }
        })?;
        let connected = Connected { client: fs.client, background: fs.background, cred: my_cred() };
        Ok((connected, path))
    }
}

/// Runs it.
///
/// # Errors
/// The subcommand's.
pub fn run(args: BenchArgs) -> Result<()> {
    pvfs2_bench::run(args, &Program)
}
