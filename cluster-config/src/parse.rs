//! Text to [`Cluster`]. Unknown fields are complaints (a misspelt field must not be a silent
//! default), and every complaint names its line. Bytes from a file never panic here.
use crate::error::ConfigError;
use crate::model::{Cluster, Defaults, META_MEMORY_BYTES, Server, Timeouts, VERSION};
use crate::validate::{Complaint, Place, validate};
use pvfs2_proto::{Dist, HandleRange, KeyvalMethod};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[allow(dead_code)] // read in a pass of its own, before the rest is understood
    version: i64,
    filesystem: RawFs,
    #[serde(default)]
    defaults: RawDefaults,
    #[serde(default)]
    timeouts: RawTimeouts,
    #[serde(default)]
    security: RawSecurity,
    #[serde(default)]
    durability: RawDurability,
    servers: Vec<Spanned<RawServer>>,
}

/// What is read of a file of any version.
#[derive(Deserialize)]
struct RawHead {
    version: Option<Spanned<toml::Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFs {
    name: Spanned<String>,
    id: Spanned<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawDefaults {
    distribution: Option<Spanned<String>>,
    distribution_params: Option<Spanned<String>>,
    num_datafiles: Option<Spanned<u32>>,
    layout: Option<Spanned<String>>,
    small_file_bytes: Option<Spanned<u64>>,
    dir_servers_max: Option<Spanned<u32>>,
    dir_split_entries: Option<Spanned<u64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawTimeouts {
    retry_limit: Option<Spanned<u32>>,
    retry_delay_ms: Option<Spanned<u32>>,
    lease_ms: Option<Spanned<u32>>,
    handle_recycle_secs: Option<Spanned<u32>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawSecurity {
    key_file: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawDurability {
    #[serde(default)]
    sync_meta: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServer {
    alias: Spanned<String>,
    roles: Spanned<Vec<String>>,
    addresses: Spanned<Vec<String>>,
    storage: Spanned<PathBuf>,
    meta_range: Option<Spanned<String>>,
    io_range: Option<Spanned<String>>,
    management: Option<Spanned<String>>,
    keyval: Option<Spanned<String>>,
    meta_memory_bytes: Option<Spanned<u64>>,
}

impl Cluster {
    /// Reads and validates a cluster file.
    ///
    /// # Errors
    /// Every [`ConfigError`] but `Spec`.
    pub fn load(path: &Path) -> Result<Cluster, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Cluster::parse(&text, &path.display().to_string(), &dir)
    }

    /// Parses and validates the text of a cluster file; `origin` stands in complaints, relative
    /// paths start from `dir`.
    ///
    /// # Errors
    /// Every [`ConfigError`] but `Read` and `Spec`.
    pub fn parse(text: &str, origin: &str, dir: &Path) -> Result<Cluster, ConfigError> {
        let at = Origin { text, origin };
        at.check_version()?;
        let raw: RawFile = toml::from_str(text).map_err(|e| at.syntax(&e))?;
        let mut servers = Vec::with_capacity(raw.servers.len());
        for server in &raw.servers {
            servers.push(at.server(server.as_ref())?);
        }
        let cluster = Cluster {
            fs_name: raw.filesystem.name.as_ref().clone(),
            fs_id: at.fs_id(&raw.filesystem.id)?,
            servers,
            defaults: at.defaults(&raw.defaults)?,
            timeouts: timeouts(&raw.timeouts),
            key_file: raw.security.key_file.clone(),
            sync_meta: raw.durability.sync_meta,
            dir: dir.to_owned(),
        };
        validate(&cluster).map_err(|c| at.complaint(&raw, &cluster, c))?;
        Ok(cluster)
    }
}

fn timeouts(raw: &RawTimeouts) -> Timeouts {
    let d = Timeouts::default();
    let or = |v: &Option<Spanned<u32>>, default| v.as_ref().map_or(default, |v| *v.as_ref());
    Timeouts {
        retry_limit: or(&raw.retry_limit, d.retry_limit),
        retry_delay_ms: or(&raw.retry_delay_ms, d.retry_delay_ms),
        lease_ms: or(&raw.lease_ms, d.lease_ms),
        handle_recycle_secs: or(&raw.handle_recycle_secs, d.handle_recycle_secs),
    }
}

/// The text and its name, to turn spans into lines.
struct Origin<'a> {
    text: &'a str,
    origin: &'a str,
}

impl Origin<'_> {
    fn line(&self, byte: usize) -> usize {
        self.text.bytes().take(byte).filter(|b| *b == b'\n').count() + 1
    }

    fn syntax(&self, e: &toml::de::Error) -> ConfigError {
        let mut problem = e.message().replace('\n', " ");
        if problem.starts_with("unknown field") {
            problem.push_str("; correct the spelling or remove it");
        } else if problem.starts_with("missing field") {
            problem.push_str("; add it (`pvfs2 genconfig` shows a whole file)");
        }
        let line = self.line(e.span().map_or(0, |s| s.start));
        ConfigError::Syntax { origin: self.origin.into(), line, problem }
    }

    /// The version is read before anything else is understood, so that a file of a later version
    /// gets the right complaint and not one about its new fields.
    fn check_version(&self) -> Result<(), ConfigError> {
        let head: RawHead = toml::from_str(self.text).map_err(|e| self.syntax(&e))?;
        let syntax = |byte: usize, problem: String| ConfigError::Syntax {
            origin: self.origin.into(),
            line: self.line(byte),
            problem,
        };
        let Some(version) = head.version else {
            let problem =
                format!("the version is missing; begin the file with version = {VERSION}");
            return Err(syntax(0, problem));
        };
        match version.as_ref() {
            toml::Value::Integer(v) if *v > VERSION => {
                Err(ConfigError::Version { origin: self.origin.into(), found: *v, known: VERSION })
            }
            toml::Value::Integer(v) if *v >= 1 => Ok(()),
            other => Err(syntax(
                version.span().start,
                format!("version = {other} is no version; write version = {VERSION}"),
            )),
        }
    }

    fn invalid(
        &self,
        byte: usize,
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Invalid {
            origin: self.origin.into(),
            line: self.line(byte),
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    fn fs_id(&self, id: &Spanned<String>) -> Result<u64, ConfigError> {
        parse_u64(id.as_ref()).ok_or_else(|| {
            self.invalid(
                id.span().start,
                "filesystem.id",
                format!("'{}' is no 64-bit number", id.as_ref()),
                "write it as \"0x...\", as `pvfs2 genconfig` does",
            )
        })
    }

    fn defaults(&self, raw: &RawDefaults) -> Result<Defaults, ConfigError> {
        let d = Defaults::default();
        let name = raw.distribution.as_ref().map_or("", |v| v.as_ref().as_str());
        let params = raw.distribution_params.as_ref().map_or("", |v| v.as_ref().as_str());
        let start = |v: &Option<Spanned<String>>| v.as_ref().map(|v| v.span().start);
        let bad = |at: &Option<Spanned<String>>, e: pvfs2_proto::PvfsError| {
            self.invalid(start(at).unwrap_or(0), "defaults.distribution", e.detail, "correct it")
        };
        Dist::parse(name, "").map_err(|e| bad(&raw.distribution, e))?;
        let dist = Dist::parse(name, params).map_err(|e| bad(&raw.distribution_params, e))?;
        Ok(Defaults {
            dist,
            num_datafiles: raw.num_datafiles.as_ref().map_or(d.num_datafiles, |v| *v.as_ref()),
            layout: raw.layout.as_ref().map_or(d.layout, |v| v.as_ref().clone()),
            small_file_bytes: raw
                .small_file_bytes
                .as_ref()
                .map_or(d.small_file_bytes, |v| *v.as_ref()),
            dir_servers_max: raw
                .dir_servers_max
                .as_ref()
                .map_or(d.dir_servers_max, |v| *v.as_ref()),
            dir_split_entries: raw
                .dir_split_entries
                .as_ref()
                .map_or(d.dir_split_entries, |v| *v.as_ref()),
        })
    }

    fn server(&self, raw: &RawServer) -> Result<Server, ConfigError> {
        let alias = raw.alias.as_ref();
        let roles = raw.roles.as_ref();
        if let Some(odd) = roles.iter().find(|r| *r != "meta" && *r != "io") {
            return Err(self.invalid(
                raw.roles.span().start,
                format!("servers.{alias}.roles"),
                format!("'{odd}' is no role"),
                "write \"meta\", \"io\" or both",
            ));
        }
        let range = |role: &str, field: &str, raw_range: &Option<Spanned<String>>| match (
            roles.iter().any(|r| r == role),
            raw_range,
        ) {
            (false, None) => Ok(None),
            (true, Some(text)) => self.range(alias, field, text).map(Some),
            (true, None) => Err(self.invalid(
                raw.roles.span().start,
                format!("servers.{alias}.{field}"),
                format!("the server has the role {role}, but no {field}"),
                format!("add {field} = \"FIRST-LAST\" (`pvfs2 genconfig` makes the ranges)"),
            )),
            (false, Some(_)) => Err(self.invalid(
                raw.roles.span().start,
                format!("servers.{alias}.{field}"),
                format!("the server has a {field}, but not the role {role}"),
                format!("add \"{role}\" to its roles, or remove the range"),
            )),
        };
        let keyval = match &raw.keyval {
            None => KeyvalMethod::default(),
            Some(name) => name.as_ref().parse().map_err(|problem: String| {
                let field = format!("servers.{alias}.keyval");
                self.invalid(name.span().start, field, problem, "write one of them, or remove it")
            })?,
        };
        Ok(Server {
            alias: alias.clone(),
            addresses: raw.addresses.as_ref().clone(),
            storage: raw.storage.as_ref().clone(),
            meta_range: range("meta", "meta_range", &raw.meta_range)?,
            io_range: range("io", "io_range", &raw.io_range)?,
            management: raw.management.as_ref().map(|m| m.as_ref().clone()),
            keyval,
            meta_memory_bytes: raw
                .meta_memory_bytes
                .as_ref()
                .map_or(META_MEMORY_BYTES, |b| *b.as_ref()),
        })
    }

    fn range(
        &self,
        alias: &str,
        field: &str,
        text: &Spanned<String>,
    ) -> Result<HandleRange, ConfigError> {
        let parsed = text.as_ref().split_once('-').and_then(|(first, last)| {
            Some(HandleRange { first: parse_u64(first)?, last: parse_u64(last)? })
        });
        parsed.ok_or_else(|| {
            self.invalid(
                text.span().start,
                format!("servers.{alias}.{field}"),
                format!("'{}' is no range of handles", text.as_ref()),
                "write it as \"FIRST-LAST\", decimal or with 0x",
            )
        })
    }

    fn complaint(&self, raw: &RawFile, cluster: &Cluster, c: Complaint) -> ConfigError {
        let (byte, field) = match c.place {
            Place::Field(table, field) => (
                field_start(raw, table, field).unwrap_or_else(|| self.table_start(table)),
                format!("{table}.{field}"),
            ),
            Place::Server(i, field) => {
                let alias = cluster.servers.get(i).map_or("?", |s| s.alias.as_str());
                let byte = raw.servers.get(i).map_or(0, |s| server_field_start(s, field));
                (byte, format!("servers.{alias}.{field}"))
            }
        };
        let field = if field == "servers.servers" { "servers".to_owned() } else { field };
        self.invalid(byte, field, c.problem, c.remedy)
    }

    fn table_start(&self, table: &str) -> usize {
        self.text
            .find(&format!("[{table}]"))
            .or_else(|| self.text.find(&format!("[[{table}]]")))
            .unwrap_or(0)
    }
}

fn field_start(raw: &RawFile, table: &str, field: &str) -> Option<usize> {
    let (d, t) = (&raw.defaults, &raw.timeouts);
    fn at<T>(v: &Option<Spanned<T>>) -> Option<usize> {
        v.as_ref().map(|v| v.span().start)
    }
    match (table, field) {
        ("filesystem", "name") => Some(raw.filesystem.name.span().start),
        ("filesystem", "id") => Some(raw.filesystem.id.span().start),
        ("defaults", "distribution_params") => at(&d.distribution_params).or(at(&d.distribution)),
        ("defaults", "num_datafiles") => at(&d.num_datafiles),
        ("defaults", "layout") => at(&d.layout),
        ("defaults", "small_file_bytes") => at(&d.small_file_bytes),
        ("defaults", "dir_servers_max") => at(&d.dir_servers_max),
        ("defaults", "dir_split_entries") => at(&d.dir_split_entries),
        ("timeouts", "lease_ms") => at(&t.lease_ms),
        ("timeouts", "retry_delay_ms") => at(&t.retry_delay_ms),
        _ => None,
    }
}

fn server_field_start(server: &Spanned<RawServer>, field: &str) -> usize {
    let raw = server.as_ref();
    let at = |v: &Option<Spanned<String>>| v.as_ref().map(|v| v.span().start);
    match field {
        "alias" => Some(raw.alias.span().start),
        "roles" => Some(raw.roles.span().start),
        "addresses" => Some(raw.addresses.span().start),
        "storage" => Some(raw.storage.span().start),
        "meta_range" => at(&raw.meta_range),
        "io_range" => at(&raw.io_range),
        "management" => at(&raw.management),
        "keyval" => at(&raw.keyval),
        "meta_memory_bytes" => raw.meta_memory_bytes.as_ref().map(|b| b.span().start),
        _ => None,
    }
    .unwrap_or(server.span().start)
}

fn parse_u64(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "");
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
