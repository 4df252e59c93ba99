//! A [`ManagementSource`] put together from a server's parts, as closures: the management service
//! runs on threads of its own and knows neither sessions nor operations.
use super::{ManagementSource, Param, Status};
use crate::metrics::{Metrics, OpSnapshot, names};
use pvfs2_proto::{ClusterMap, ErrorCode, PvfsError, Result, ServerId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Reads the server's numbers that are no counters, each by one of [`names`].
pub type GaugesFn = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;
/// Is told to drain; the argument: end the process afterwards.
pub type DrainFn = Box<dyn Fn(bool) + Send + Sync>;

/// Changes a parameter, or says why not.
pub type SetFn = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// A parameter that can be changed while the server runs.
pub struct ParamDef {
    /// Its name.
    pub name: &'static str,
    /// What it does and which values it takes.
    pub help: &'static str,
    /// Its value now.
    pub get: Box<dyn Fn() -> String + Send + Sync>,
    /// Changes it, or says why not.
    pub set: SetFn,
}

/// The source of one server.
pub struct ServerSource {
    alias: String,
    roles: String,
    boot_id: u64,
    started: Instant,
    metrics: Arc<Metrics>,
    gauges: GaugesFn,
    drain: DrainFn,
    params: Vec<ParamDef>,
    draining: AtomicBool,
}

impl ServerSource {
    /// A source for `server` of `map`, without parameters.
    pub fn new(
        server: ServerId,
        map: &ClusterMap,
        boot_id: u64,
        metrics: Arc<Metrics>,
        gauges: GaugesFn,
        drain: DrainFn,
    ) -> ServerSource {
        ServerSource {
            alias: map.alias(server).to_owned(),
            roles: roles(map, server).to_owned(),
            boot_id,
            started: Instant::now(),
            metrics,
            gauges,
            drain,
            params: Vec::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// Adds a parameter.
    pub fn with_param(mut self, param: ParamDef) -> ServerSource {
        self.params.push(param);
        self
    }
}

/// A server's roles: `meta`, `io` or `meta,io`.
pub fn roles(map: &ClusterMap, server: ServerId) -> &'static str {
    let entry = map.server(server);
    let meta = entry.is_some_and(|e| e.meta_range.is_some());
    let io = entry.is_some_and(|e| e.io_range.is_some());
    match (meta, io) {
        (true, true) => "meta,io",
        (true, false) => "meta",
        _ => "io",
    }
}

impl ManagementSource for ServerSource {
    fn status(&self) -> Status {
        let gauges = (self.gauges)();
        let value = |name| gauges.iter().find(|g| g.0 == name).map_or(0, |g| g.1);
        Status {
            alias: self.alias.clone(),
            roles: self.roles.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            sessions: value(names::SESSIONS),
            open_files: value(names::OPEN_FILES),
            storage_free_bytes: value(names::STORAGE_FREE),
            storage_total_bytes: value(names::STORAGE_TOTAL),
            datafiles: value(names::DATAFILES),
            draining: self.draining.load(Ordering::Relaxed),
            boot_id: self.boot_id,
            pid: std::process::id(),
        }
    }

    fn counters(&self) -> Vec<OpSnapshot> {
        self.metrics.snapshot()
    }

    fn params(&self) -> Vec<Param> {
        let show = |p: &ParamDef| Param {
            name: p.name.to_owned(),
            value: (p.get)(),
            help: p.help.to_owned(),
        };
        self.params.iter().map(show).collect()
    }

    fn set_param(&self, name: &str, value: &str) -> Result<()> {
        match self.params.iter().find(|p| p.name == name) {
            Some(param) => (param.set)(value),
            None => {
                let known: Vec<_> = self.params.iter().map(|p| p.name).collect();
                Err(PvfsError::new(
                    ErrorCode::NotFound,
                    format!(
                        "server '{}' has no parameter '{name}'; it has: {}",
                        self.alias,
                        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                    ),
                ))
            }
        }
    }

    fn drain(&self, shutdown: bool) {
        self.draining.store(true, Ordering::Relaxed);
        (self.drain)(shutdown);
    }
}
