//! Mount specs: what a user names when he mounts or points a tool at a file system.
//!
//! `tcp://HOST:PORT/NAME[/SUB/DIR]` or `unix:///PATH/X.sock/NAME[/SUB/DIR]`. A unix socket's path
//! ends at the first component that ends in `.sock`; without one, the last component is the name.
use crate::error::ConfigError;
use crate::validate::check_address;
use std::fmt;
use std::str::FromStr;

/// A parsed mount spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// Any server of the cluster: `tcp://host:port` or `unix:///path`.
    pub address: String,
    /// The file system's name.
    pub fs_name: String,
    /// The directory to mount, without slashes at its ends; empty: the root.
    pub subdir: String,
}

impl FromStr for MountSpec {
    type Err = ConfigError;

    fn from_str(spec: &str) -> Result<MountSpec, ConfigError> {
        let bad = |problem: &str| ConfigError::Spec { spec: spec.into(), problem: problem.into() };
        let trimmed = spec.trim_end_matches('/');
        let (address, rest) = if let Some(tcp) = trimmed.strip_prefix("tcp://") {
            let (host, rest) = tcp.split_once('/').unwrap_or((tcp, ""));
            (format!("tcp://{host}"), rest)
        } else if let Some(path) = trimmed.strip_prefix("unix://") {
            let (socket, rest) = split_socket(path);
            (format!("unix://{socket}"), rest)
        } else {
            return Err(bad("it begins with neither tcp:// nor unix://"));
        };
        check_address(&address).map_err(|problem| bad(&problem))?;
        let rest = rest.trim_matches('/');
        let (fs_name, subdir) = rest.split_once('/').unwrap_or((rest, ""));
        if fs_name.is_empty() {
            return Err(bad("the file system's name is missing"));
        }
        let parts: Vec<&str> = subdir.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        if parts.contains(&"..") {
            return Err(bad("'..' cannot stand in the directory to mount"));
        }
        Ok(MountSpec { address, fs_name: fs_name.into(), subdir: parts.join("/") })
    }
}

fn split_socket(path: &str) -> (&str, &str) {
    let mut end = 0;
    for part in path.split_inclusive('/') {
        end += part.len();
        let name = part.trim_end_matches('/');
        if name.ends_with(".sock") {
            return (&path[..end - (part.len() - name.len())], &path[end..]);
        }
    }
    path.rsplit_once('/').unwrap_or((path, ""))
}

impl fmt::Display for MountSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.fs_name)?;
        if self.subdir.is_empty() { Ok(()) } else { write!(f, "/{}", self.subdir) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_round_trip() {
        for (text, address, name, sub) in [
            ("tcp://localhost:3334/pvfs2-fs", "tcp://localhost:3334", "pvfs2-fs", ""),
            ("tcp://[::1]:3334/fs/a/b", "tcp://[::1]:3334", "fs", "a/b"),
            ("unix:///d/m.sock/fs", "unix:///d/m.sock", "fs", ""),
            ("unix:///d/m.sock/fs/x/y", "unix:///d/m.sock", "fs", "x/y"),
            ("unix:///d/socket/fs", "unix:///d/socket", "fs", ""),
        ] {
            let spec: MountSpec = text.parse().unwrap();
            assert_eq!(
                (spec.address.as_str(), spec.fs_name.as_str(), spec.subdir.as_str()),
                (address, name, sub)
            );
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn bad_specs_say_what_is_missing() {
        for (text, part) in [
            ("localhost:3334/fs", "neither"),
            ("tcp://localhost/fs", "port"),
            ("tcp://localhost:0/fs", "port"),
            ("tcp://localhost:3334", "name is missing"),
            ("tcp://localhost:3334/", "name is missing"),
            ("unix://d/m.sock/fs", "absolute"),
            ("tcp://localhost:3334/fs/../x", "'..'"),
            ("", "neither"),
        ] {
            let e = text.parse::<MountSpec>().unwrap_err().to_string();
            assert!(e.contains(part) && e.contains("write tcp://"), "{text}: {e}");
        }
    }
}
