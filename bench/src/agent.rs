//! `pvfs2 bench agent`: starts workers on this host for a coordinator on another.
//!
//! Closed by default: it does not start without a key, listens on loopback unless told otherwise, and
//! starts nothing before the peer has proved the key ([`crate::link`]). A connection is one worker; it
//! ends with the connection. Whoever has the key can write, below any path, what this user can.
use crate::fleet::worker_command;
use crate::host::FsChoice;
use crate::job::{ToWorker, to_line};
use crate::link::{Receiver, Sender, accept};
use anyhow::{Context, Result, bail};
use pvfs2_bmi::auth::ClusterKey;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a worker may take to end after its connection did.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `pvfs2 bench agent`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  openssl rand -hex 32 > bench.key          the same file on every host
  pvfs2 bench agent --key-file bench.key --listen 10.0.0.7:3390
  pvfs2 bench ior -N 8 --hosts 10.0.0.7:3390,10.0.0.8:3390 --key-file bench.key -o /mnt/pvfs2/f
A native client (-a PVFS2) of a cluster with a key finds that key by PVFS2_KEY_FILE of the agent.")]
pub struct AgentArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:3390", value_name = "ADDRESS:PORT")]
    pub listen: String,
    /// File with the key that coordinators must prove: 64 hex digits
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// Most clients at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub max_clients: usize,
}

/// Serves until it is killed.
///
/// # Errors
/// A key that cannot be read, an address that cannot be listened on.
pub fn run(args: AgentArgs) -> Result<()> {
    let key = ClusterKey::from_file(&args.key_file)?;
    let listener = TcpListener::bind(&args.listen).with_context(|| {
        format!("cannot listen on {}; choose another address with --listen", args.listen)
    })?;
    println!("listening on {}", listener.local_addr()?);
    serve(&listener, &key, args.max_clients)
}

fn serve(listener: &TcpListener, key: &ClusterKey, clients_max: usize) -> Result<()> {
    let running = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // Peers that have proved nothing yet count too: nobody fills this host with threads.
        if running.fetch_add(1, Ordering::Relaxed) >= clients_max {
            running.fetch_sub(1, Ordering::Relaxed);
            eprintln!("refused a client: {clients_max} run already (--max-clients)");
            continue;
        }
        let (key, running) = (key.clone(), running.clone());
        std::thread::spawn(move || {
            let peer = stream.peer_addr().map_or_else(|e| e.to_string(), |a| a.to_string());
            if let Err(e) = serve_one(stream, &key) {
                eprintln!("{peer}: {e:#}");
            }
            running.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

fn serve_one(stream: TcpStream, key: &ClusterKey) -> Result<()> {
    let (sender, receiver) = accept(stream, key)?;
    let mut command = worker_command()?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let ended = relay(&mut child, sender, receiver);
    finish(&mut child);
    ended
}

/// Carries lines both ways until the worker or the connection ends.
fn relay(child: &mut Child, mut sender: Sender, mut receiver: Receiver) -> Result<()> {
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("the worker has no pipes");
    };
    let back = std::thread::spawn(move || -> Result<()> {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line)? > 0 {
            sender.send(&line)?;
            line.clear();
        }
        sender.close();
        Ok(())
    });
    let mut told_to_end = false;
    let mut forth = || -> Result<()> {
        while let Some(line) = receiver.receive()? {
            let (line, is_end) = for_here(&line)?;
            told_to_end |= is_end;
            input.write_all(&line)?;
            input.flush()?;
        }
        Ok(())
    };
    let forth = forth();
    drop(input);
    if told_to_end && forth.is_ok() {
        finish(child);
    } else {
        // Nobody waits for what it does, or what it was told may not be what the coordinator said.
        let _ = child.kill();
    }
    let back = back.join().unwrap_or_else(|_| bail!("the relay's thread panicked"));
    // A worker that was killed for a coordinator that is gone has nobody to tell.
    forth.and(if told_to_end { back } else { Ok(()) })
}

/// A coordinator's message as it is meant on this host (files of its host mean nothing here), and
/// whether it is the last.
fn for_here(line: &[u8]) -> Result<(Vec<u8>, bool)> {
    let mut message: ToWorker =
        serde_json::from_slice(line).context("a frame that is no message")?;
    if let ToWorker::Setup(setup) = &mut message {
        setup.fs = FsChoice { key_file: None, ..setup.fs.clone() };
    }
    Ok((to_line(&message)?, matches!(message, ToWorker::End)))
}

fn finish(child: &mut Child) {
    let until = Instant::now() + END_PATIENCE;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            _ => return,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}
