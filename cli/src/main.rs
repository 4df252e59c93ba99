//! The one program `pvfs2`: servers, mounts and tools as subcommands; called as `mount.pvfs2` or
//! `mount.fuse.pvfs2` it is a helper of mount(8). Parses the arguments and hands over.
//!
//! Place in the walks: mount (cli -> cluster-config -> client-lib/session -> fuse-mount).
mod args;
mod cmd;
mod daemon;
mod fsclient;
mod growth;
mod launch;
mod mounts;
mod output;
mod quickstart;
mod signals;
mod state;
mod target;
mod transfer;

/// Its mounts' event loops read the kernel's requests into memory that I/O servers may share.
#[global_allocator]
static MEMORY: pvfs2_fuse::loop_memory::LoopMemory = pvfs2_fuse::loop_memory::LoopMemory;

fn main() -> std::process::ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(e) => e.exit(),
    };
    output::finish(cmd::run(cli))
}
