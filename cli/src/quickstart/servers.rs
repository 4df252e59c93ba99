//! The servers of a quickstart, as threads of this process or as processes of their own.
//!
//! A process that dies by itself is told and left dead: the rest goes on, and `pvfs2 server` starts
//! it again by hand (its pid file is then found at the end).
use super::start_thread_server;
use crate::daemon::Started;
use crate::launch::RunningServer;
use crate::state::{DataDir, ProcessId};
use anyhow::{Context, Result};
use pvfs2_config::Cluster;
use rustix::process::Signal;
use std::ffi::OsString;
use std::process::Child;
use std::time::Duration;

/// How long a server may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// All servers. Dropping them ends them.
pub struct Servers {
    data: DataDir,
    threads: Vec<RunningServer>,
    children: Vec<(String, Child)>,
    /// Aliases in the order in which they are stopped: metadata servers first, because they still
    /// talk to I/O servers.
    order: Vec<String>,
    stopped: bool,
}

impl Servers {
    /// Starts all servers and waits until they are ready.
    ///
    /// # Errors
    /// The first server's that does not start; the others have been ended again.
    pub fn start(cluster: &Cluster, data: &DataDir, processes: bool) -> Result<Servers> {
        let mut order: Vec<_> = cluster.servers.iter().collect();
        order.sort_by_key(|s| s.meta_range.is_none());
        let mut all = Servers {
            data: data.clone(),
            threads: Vec::new(),
            children: Vec::new(),
            order: order.iter().map(|s| s.alias.clone()).collect(),
            stopped: false,
        };
        if processes {
            all.start_processes()?;
        } else {
            // I/O servers first: a metadata server may go on with its reaping at once.
            for alias in all.order.clone().iter().rev() {
                all.threads.push(start_thread_server(cluster, alias)?);
            }
            all.threads.reverse();
        }
        Ok(all)
    }

    fn start_processes(&mut self) -> Result<()> {
        let mut started = Vec::new();
        for alias in self.order.iter().rev() {
            let words: [OsString; 7] = [
                "server".into(),
                "--config".into(),
                self.data.cluster_file().into(),
                "--alias".into(),
                alias.into(),
                "--parent".into(),
                std::process::id().to_string().into(),
            ];
            started.push((alias.clone(), Started::spawn(words, &self.data.log_file(alias))?));
        }
        let mut failed = None;
        for (alias, child) in started {
            if failed.is_some() {
                child.kill();
                continue;
            }
            match child.wait_ready(|_| Ok(())) {
                Ok(child) => self.children.push((alias, child)),
                Err(e) => failed = Some(e.context(format!("server {alias}"))),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Notices servers that have ended by themselves and tells the user once.
    pub fn look(&mut self) {
        let data = &self.data;
        self.children.retain_mut(|(alias, child)| match child.try_wait() {
            Ok(Some(status)) => {
                let line = format!(
                    "server {alias} has ended ({status}); the others go on. Start it again with: pvfs2 server --config {} --alias {alias}",
                    data.cluster_file().display()
                );
                tracing::warn!("{line}");
                false
            }
            _ => true,
        });
        for t in &mut self.threads {
            if !t.fails_now() {
                continue;
            }
            tracing::error!("server {} has stopped; its log lines say why", t.alias());
        }
    }

    /// Stops all servers cleanly; what does not end in time is killed.
    pub fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        for server in self.threads.drain(..) {
            let alias = server.alias().to_owned();
            if let Err(e) = server.stop() {
                tracing::error!("server {alias} did not stop cleanly: {e:#}");
            }
        }
        for alias in self.order.clone() {
            if let Err(e) = self.stop_process(&alias) {
                tracing::error!("server {alias}: {e:#}");
            }
        }
    }

    fn stop_process(&mut self, alias: &str) -> Result<()> {
        let child = self.children.iter_mut().find(|(a, _)| a == alias).map(|(_, c)| c);
        // One that was started again by hand is known by its pid file alone.
        let process = child.as_ref().and_then(|c| ProcessId::of(c.id() as i32));
        if let Some(process) = process.or_else(|| self.data.server_process(alias)) {
            process.signal(Signal::TERM);
            if !process.wait_gone(STOP_PATIENCE) {
                tracing::warn!(
                    "server {alias} (process {}) has not ended within {} s: killing it",
                    process.pid,
                    STOP_PATIENCE.as_secs()
                );
                process.signal(Signal::KILL);
                process.wait_gone(Duration::from_secs(5));
            }
        }
        if let Some(child) = child {
            let status = child.wait().context("cannot wait for it")?;
            if !status.success() {
                tracing::warn!("server {alias} ended with {status}");
            }
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Servers of this data directory that run as processes, by their pid files.
pub fn running_processes(data: &DataDir) -> Vec<(String, ProcessId)> {
    let Ok(entries) = std::fs::read_dir(data.run()) else { return Vec::new() };
    entries
        .filter_map(|e| e.ok())
        .filter_map(|e| e.file_name().to_str()?.strip_suffix(".pid").map(str::to_owned))
        .filter_map(|alias| Some((alias.clone(), data.server_process(&alias)?)))
        .filter(|(_, p)| p.pid != std::process::id() as i32)
        .collect()
}
