//! Mount options: what stands after `-o`, in fstab's fourth field, or in `mount -o remount`.
//!
//! Place in the walks: mount; the cli parses with this and hands the result to [`crate::mount`].
//! Invariant: an option that is neither known nor one of those that belong to mount(8) and systemd
//! is refused by name; a later option wins over an earlier one.
use pvfs2_client::ClientConfig;
use pvfs2_client::client::groups_from_proc;
use std::path::PathBuf;
use std::sync::Arc;

/// How `max-write` is bounded: what one kernel request may carry with 256 pages.
pub const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Default life of cached attributes and names in the kernel and the client, in ms.
pub const CACHE_MS: u64 = 1_000;

/// What is wrong with the options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not one of ours, nor one that mount(8) may leave for us.
    #[error("unknown mount option '{0}'; known options are: {KNOWN}")]
    Unknown(String),
    /// It needs `=VALUE`.
    #[error("mount option '{0}' needs a value, as in {0}=VALUE")]
    NeedsValue(&'static str),
    /// It takes no value.
    #[error("mount option '{0}' takes no value")]
    TakesNoValue(&'static str),
    /// The value cannot be read or is out of range.
    #[error("mount option {name}={value}: {why}")]
    BadValue {
        /// The option.
        name: &'static str,
        /// As given.
        value: String,
        /// What it should be.
        why: &'static str,
    },
}

/// The known options, for messages and `--help`.
pub const KNOWN: &str = "ro, rw, atime, noatime, diratime, nodiratime, relatime, strictatime, suid, \
    nosuid, dev, nodev, exec, noexec, sync, async, dirsync, allow_other, allow_root, \
    default_permissions, acache-ms=N, ncache-ms=N, threads=N, stall-ms=N, spin-us=N, locks=cluster|local, join, nojoin, shm, noshm, writeback, nowriteback, dirrights, nodirrights, statahead, nostatahead, fileahead, nofileahead, hard, soft, \
    retry-limit=N, retry-delay-ms=N, keyfile=PATH, subdir=PATH, max-write=BYTES, debug, remount \
    (and those of mount(8) that are not for file systems: _netdev, auto, noauto, user, users, \
    owner, group, nofail, defaults, x-*)";

/// What a mount with `writeback` says when it starts.
pub const WRITEBACK_NOTICE: &str = "writeback: the kernel holds back what programs write. This is for a \
    tree that no other mount uses meanwhile: others see bytes, sizes and times only after close or \
    fsync, what others write to files that this mount knows may not be seen here, and SEEK_HOLE sees \
    no holes. What was not closed or synced is lost if this machine or the mount's process dies, and \
    a full disk, a quota or a dead server is told by fsync or close";

/// Who besides the mounting user may use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Allow {
    /// Not said: everybody when root mounts, otherwise only the mounting user.
    #[default]
    Default,
    /// Everybody (`allow_other`).
    Other,
    /// The mounting user and root (`allow_root`).
    Root,
}

/// Parsed mount options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// `ro`.
    pub read_only: bool,
    /// `noatime`.
    pub no_atime: bool,
    /// `strictatime`: every read is told, not only the first after a change.
    pub strict_atime: bool,
    /// `nodiratime`.
    pub no_diratime: bool,
    /// `suid` / `nosuid`; not said: suid when root mounts.
    pub suid: Option<bool>,
    /// `dev` / `nodev`; not said: dev when root mounts.
    pub dev: Option<bool>,
    /// `noexec`.
    pub no_exec: bool,
    /// `sync`.
    pub sync: bool,
    /// `dirsync`.
    pub dir_sync: bool,
    /// `allow_other`, `allow_root`.
    pub allow: Allow,
    /// `acache-ms`: life of cached attributes; 0 turns the caches off, the kernel's too.
    pub acache_ms: u64,
    /// `ncache-ms`: life of cached names; 0 turns the caches off, the kernel's too.
    pub ncache_ms: u64,
    /// `threads`: FUSE event loops; not said: one per core, at least 4.
    pub threads: Option<usize>,
    /// `stall-ms`: how long a FUSE thread waits for an answer before the operation moves to the
    /// background.
    pub stall_ms: Option<u32>,
    /// `spin-us`: how long a FUSE thread looks for an answer, or the next request, before it sleeps.
    pub spin_us: Option<u32>,
    /// `locks`: fcntl and flock locks hold in the whole cluster, or between this mount's processes.
    pub cluster_locks: bool,
    /// `dirrights`: names that are not there are known without asking, in directories that this mount
    /// has filled.
    pub dir_rights: bool,
    /// `statahead`: a directory whose names are looked up one after another is listed instead.
    pub statahead: bool,
    /// `fileahead`: servers are told which files of a directory will probably be read next.
    pub fileahead: bool,
    /// `join`: small sequential writes are held back for a moment and sent as one.
    pub join: bool,
    /// `shm`: what is written is shared with I/O servers of this machine, not sent.
    pub share_memory: bool,
    /// `writeback`: the kernel holds writes back, for a tree that this mount alone uses.
    pub writeback: bool,
    /// `hard` (wait for ever) / `soft` (give up after the retries).
    pub hard: bool,
    /// `retry-limit`; not said: the cluster's.
    pub retry_limit: Option<u32>,
    /// `retry-delay-ms`; not said: the cluster's.
    pub retry_delay_ms: Option<u32>,
    /// `keyfile`: the cluster's key.
    pub keyfile: Option<PathBuf>,
    /// `subdir`: mount this directory of the file system instead of its root.
    pub subdir: Option<PathBuf>,
    /// `max-write`: bytes of one write request.
    pub max_write_bytes: u32,
    /// `debug`.
    pub debug: bool,
    /// `remount`: change the options of the mount that is there.
    pub remount: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            read_only: false,
            no_atime: false,
            strict_atime: false,
            no_diratime: false,
            suid: None,
            dev: None,
            no_exec: false,
            sync: false,
            dir_sync: false,
            allow: Allow::Default,
            acache_ms: CACHE_MS,
            ncache_ms: CACHE_MS,
            threads: None,
            stall_ms: None,
            spin_us: None,
            cluster_locks: true,
            dir_rights: true,
            statahead: true,
            fileahead: true,
            join: true,
            share_memory: true,
            writeback: false,
            hard: false,
            retry_limit: None,
            retry_delay_ms: None,
            keyfile: None,
            subdir: None,
            max_write_bytes: MAX_WRITE_BYTES,
            debug: false,
            remount: false,
        }
    }
}

impl MountOptions {
    /// Parses comma-separated options. A comma inside a value is written `\,` as in libfuse.
    ///
    /// # Errors
    /// [`OptionError`], naming the option.
    pub fn parse(text: &str) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        options.apply(text)?;
        Ok(options)
    }

    /// Applies more options on top (`-o A -o B`).
    ///
    /// # Errors
    /// [`OptionError`], naming the option.
    pub fn apply(&mut self, text: &str) -> Result<(), OptionError> {
        for item in split_commas(text) {
            let item = item.trim();
            if item.is_empty() {
                continue;
            }
            match item.split_once('=') {
                Some((name, value)) => self.set(name, Some(value), item)?,
                None => self.set(item, None, item)?,
            }
        }
        Ok(())
    }

    /// Puts what concerns the client into its configuration.
    pub fn configure(&self, config: &mut ClientConfig) {
        config.acache_ms = self.acache_ms;
        config.ncache_ms = self.ncache_ms;
        config.hard = self.hard;
        config.name_rights = self.dir_rights;
        config.statahead = self.statahead;
        config.fileahead = self.fileahead;
        // With the kernel's write-back there is nothing left to join.
        config.join = self.join && !self.writeback;
        config.kernel_writes_back = self.writeback;
        config.retry_limit = self.retry_limit;
        config.retry_delay_ms = self.retry_delay_ms;
        config.stall_ms = self.stall_ms;
        config.spin_us = self.spin_us;
        config.share_memory = self.share_memory;
        config.atime = !self.no_atime && !self.read_only;
        config.strict_atime = self.strict_atime;
        config.groups_of = Some(Arc::new(groups_from_proc));
    }

    /// The number of FUSE event loops.
    pub fn thread_count(&self) -> usize {
        self.threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(4, |n| n.get()).clamp(4, 64)
        })
    }

    fn set(&mut self, name: &str, value: Option<&str>, item: &str) -> Result<(), OptionError> {
        if is_for_mount_8(name) {
            return Ok(());
        }
        match value {
            None => self.set_flag(name, item),
            Some(value) => self.set_value(name, value, item),
        }
    }

    fn set_flag(&mut self, name: &str, item: &str) -> Result<(), OptionError> {
        match name {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "noatime" => self.no_atime = true,
            "atime" | "relatime" => (self.no_atime, self.strict_atime) = (false, false),
            "strictatime" => (self.no_atime, self.strict_atime) = (false, true),
            "nodiratime" => self.no_diratime = true,
            "diratime" => self.no_diratime = false,
            "suid" => self.suid = Some(true),
            "nosuid" => self.suid = Some(false),
            "dev" => self.dev = Some(true),
            "nodev" => self.dev = Some(false),
            "exec" => self.no_exec = false,
            "noexec" => self.no_exec = true,
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "dirsync" => self.dir_sync = true,
            "allow_other" => self.allow = Allow::Other,
            "allow_root" => self.allow = Allow::Root,
            // Always on: the kernel checks permissions, and the servers check again.
            "default_permissions" => {}
            "hard" => self.hard = true,
            "soft" => self.hard = false,
            "dirrights" => self.dir_rights = true,
            "nodirrights" => self.dir_rights = false,
            "statahead" => self.statahead = true,
            "nostatahead" => self.statahead = false,
            "fileahead" => self.fileahead = true,
            "nofileahead" => self.fileahead = false,
            "join" => self.join = true,
            "nojoin" => self.join = false,
            "shm" => self.share_memory = true,
            "noshm" => self.share_memory = false,
            "writeback" => self.writeback = true,
            "nowriteback" => self.writeback = false,
            "debug" => self.debug = true,
            "remount" => self.remount = true,
            _ => {
                return Err(match VALUED.iter().find(|v| **v == name) {
                    Some(name) => OptionError::NeedsValue(name),
                    None => OptionError::Unknown(item.to_string()),
                });
            }
        }
        Ok(())
    }

    fn set_value(&mut self, name: &str, value: &str, item: &str) -> Result<(), OptionError> {
        const DAY_MS: u64 = 86_400_000;
        match name {
            "acache-ms" => self.acache_ms = number("acache-ms", value, 0, DAY_MS)?,
            "ncache-ms" => self.ncache_ms = number("ncache-ms", value, 0, DAY_MS)?,
            "threads" => self.threads = Some(number("threads", value, 1, 1_024)? as usize),
            "stall-ms" => self.stall_ms = Some(number("stall-ms", value, 1, 60_000)? as u32),
            "spin-us" => self.spin_us = Some(number("spin-us", value, 0, 1_000_000)? as u32),
            "locks" => {
                self.cluster_locks = match value {
                    "cluster" => true,
                    "local" => false,
                    _ => {
                        return Err(OptionError::BadValue {
                            name: "locks",
                            value: value.to_string(),
                            why: "it is 'cluster' or 'local'",
                        });
                    }
                }
            }
            "retry-limit" => {
                self.retry_limit =
                    Some(number("retry-limit", value, 0, u64::from(u32::MAX))? as u32);
            }
            "retry-delay-ms" => {
                self.retry_delay_ms = Some(number("retry-delay-ms", value, 1, DAY_MS)? as u32);
            }
            "max-write" => {
                let bytes = number("max-write", value, 4_096, u64::from(MAX_WRITE_BYTES))?;
                self.max_write_bytes = bytes as u32;
            }
            "keyfile" => self.keyfile = Some(path("keyfile", value)?),
            "subdir" => self.subdir = Some(path("subdir", value)?),
            _ => {
                return Err(match FLAGS.iter().find(|f| **f == name) {
                    Some(name) => OptionError::TakesNoValue(name),
                    None => OptionError::Unknown(item.to_string()),
                });
            }
        }
        Ok(())
    }
}

const VALUED: &[&str] = &[
    "acache-ms",
    "ncache-ms",
    "threads",
    "stall-ms",
    "spin-us",
    "locks",
    "retry-limit",
    "retry-delay-ms",
    "max-write",
    "keyfile",
    "subdir",
];
const FLAGS: &[&str] = &[
    "ro",
    "rw",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "strictatime",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "allow_other",
    "allow_root",
    "default_permissions",
    "hard",
    "soft",
    "join",
    "nojoin",
    "shm",
    "noshm",
    "writeback",
    "nowriteback",
    "dirrights",
    "nodirrights",
    "statahead",
    "nostatahead",
    "fileahead",
    "nofileahead",
    "debug",
    "remount",
];

/// Options that fstab holds for mount(8) or systemd and that mount(8) may hand down.
fn is_for_mount_8(name: &str) -> bool {
    const IGNORED: &[&str] = &[
        "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail",
        "_netdev", "comment", "uhelper", "helper",
    ];
    // What the kernel shows of a FUSE mount: mount(8) hands it back at a remount.
    const SHOWN: &[&str] = &["fd", "rootmode", "user_id", "group_id", "blksize", "max_read"];
    IGNORED.contains(&name)
        || SHOWN.contains(&name)
        || name.starts_with("x-")
        || name.starts_with("X-")
}

fn split_commas(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ',' => items.push(String::new()),
            '\\' => {
                if let (Some(last), Some(next)) = (items.last_mut(), chars.next()) {
                    last.push(next);
                }
            }
            c => {
                if let Some(last) = items.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    items
}

fn number(name: &'static str, value: &str, min: u64, max: u64) -> Result<u64, OptionError> {
    let bad = |why| OptionError::BadValue { name, value: value.to_string(), why };
    let n: u64 = value.parse().map_err(|_| bad("give a whole number"))?;
    if n < min {
        return Err(bad("the number is too small"));
    }
    if n > max {
        return Err(bad("the number is too large"));
    }
    Ok(n)
}

fn path(name: &'static str, value: &str) -> Result<PathBuf, OptionError> {
    if value.is_empty() {
        return Err(OptionError::NeedsValue(name));
    }
    Ok(PathBuf::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_fstab() {
        let o = MountOptions::parse(
            "rw,noatime,_netdev,nofail,x-systemd.automount,acache-ms=0,ncache-ms=50,threads=8,hard,\
             subdir=/home/a,max-write=131072,keyfile=/etc/pvfs2.key,defaults",
        )
        .unwrap();
        assert!(!o.read_only && o.no_atime && o.hard);
        assert_eq!((o.acache_ms, o.ncache_ms, o.threads), (0, 50, Some(8)));
        assert_eq!(o.subdir, Some(PathBuf::from("/home/a")));
        assert_eq!(o.keyfile, Some(PathBuf::from("/etc/pvfs2.key")));
        assert_eq!(o.max_write_bytes, 131_072);
    }

    #[test]
    fn the_last_one_wins() {
        let mut o = MountOptions::parse("ro,nosuid,hard").unwrap();
        o.apply("rw,suid,soft").unwrap();
        assert!(!o.read_only && !o.hard);
        assert_eq!(o.suid, Some(true));
    }

    #[test]
    fn an_unknown_option_is_named_with_the_known_ones() {
        let e = MountOptions::parse("ro,colour=blue").unwrap_err();
        assert_eq!(e, OptionError::Unknown("colour=blue".into()));
        let text = e.to_string();
        assert!(text.contains("colour=blue") && text.contains("acache-ms=N"), "{text}");
    }

    #[test]
    fn values_where_they_belong() {
        assert_eq!(MountOptions::parse("threads"), Err(OptionError::NeedsValue("threads")));
        assert_eq!(MountOptions::parse("ro=1"), Err(OptionError::TakesNoValue("ro")));
        assert_eq!(MountOptions::parse("subdir="), Err(OptionError::NeedsValue("subdir")));
        for bad in ["threads=0", "threads=x", "max-write=100", "max-write=99999999", "stall-ms=-1"]
        {
            let e = MountOptions::parse(bad).unwrap_err();
            assert!(matches!(e, OptionError::BadValue { .. }), "{bad}: {e}");
        }
    }

    #[test]
    fn every_option_listed_is_known_to_the_parser() {
        for flag in FLAGS {
            assert!(MountOptions::parse(flag).is_ok(), "{flag}");
            assert!(KNOWN.contains(flag), "{flag}");
        }
        for valued in VALUED {
            assert_eq!(MountOptions::parse(valued), Err(OptionError::NeedsValue(valued)));
            assert!(KNOWN.contains(valued), "{valued}");
        }
    }

    #[test]
    fn escaped_commas_and_empty_items() {
        let o = MountOptions::parse(",ro,,subdir=/a\\,b,").unwrap();
        assert_eq!(o.subdir, Some(PathBuf::from("/a,b")));
        assert_eq!(MountOptions::parse("").unwrap(), MountOptions::default());
    }

    #[test]
    fn threads_by_default_are_at_least_four() {
        assert!(MountOptions::default().thread_count() >= 4);
        assert_eq!(MountOptions::parse("threads=2").unwrap().thread_count(), 2);
    }

    #[test]
    fn a_remount_brings_back_what_the_kernel_shows() {
        let shown = "ro,remount,relatime,user_id=0,group_id=0,default_permissions,allow_other,max_read=131072";
        let o = MountOptions::parse(shown).unwrap();
        assert!(o.remount && o.read_only && o.allow == Allow::Other);
    }
}
