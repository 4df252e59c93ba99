//! Addresses: where a server listens and how a client reaches it. Written in the cluster file and
//! in the cluster map as `tcp://host:port`, `unix:///path`, `mem://name`.
//!
//! Place in the walks: only BMI looks inside an address. Invariant: `Display` and `FromStr` are
//! inverse to each other.
use pvfs2_proto::{ErrorCode, PvfsError, Result, ServerEntry};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// One way to reach a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    /// Path of a socket.
    Unix(PathBuf),
    /// Name in a [`crate::mem::MemNetwork`].
    Mem(String),
}

impl Address {
    /// Splits `tcp://host:port/NAME` into the address and the file system's name (empty if there
    /// is none). Only tcp and mem addresses carry a name: a unix path may itself contain slashes.
    ///
    /// # Errors
    /// `Invalid` when it is no address.
    pub fn parse_with_fs_name(text: &str) -> Result<(Address, String)> {
        let Some((method, rest)) = text.split_once("://") else { return Err(invalid(text)) };
        if method == "unix" {
            return Ok((text.parse()?, String::new()));
        }
        let (place, name) = rest.split_once('/').unwrap_or((rest, ""));
        Ok((format!("{method}://{place}").parse()?, name.to_owned()))
    }

    /// A server's addresses in the order in which a client tries them: unix sockets that exist,
    /// then the others as listed.
    pub fn of_entry(entry: &ServerEntry) -> Vec<Address> {
        let all: Vec<Address> = entry.addresses.iter().filter_map(|a| a.parse().ok()).collect();
        let near = |a: &Address| matches!(a, Address::Unix(p) if p.exists());
        let (mut first, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(near);
        first.extend(rest);
        first
    }
}

fn invalid(text: &str) -> PvfsError {
    let detail = format!(
        "'{text}' is no address; write tcp://host:port, unix:///path/of/socket or mem://name"
    );
    PvfsError::new(ErrorCode::Invalid, detail)
}

impl FromStr for Address {
    type Err = PvfsError;
    fn from_str(text: &str) -> Result<Address> {
        let (method, rest) = text.split_once("://").ok_or_else(|| invalid(text))?;
        match method {
            "tcp" => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(|| invalid(text))?;
                if host.is_empty() || port.parse::<u16>().is_err() {
                    return Err(invalid(text));
                }
                Ok(Address::Tcp(rest.to_owned()))
            }
            "unix" if rest.starts_with('/') => Ok(Address::Unix(PathBuf::from(rest))),
            "mem" if !rest.is_empty() => Ok(Address::Mem(rest.to_owned())),
            _ => Err(invalid(text)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(place) => write!(f, "tcp://{place}"),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Mem(name) => write!(f, "mem://{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["tcp://host:3334", "tcp://[::1]:80", "unix:///run/a.sock", "mem://io0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["tcp://host", "tcp://:1", "tcp://h:70000", "unix://a", "mem://", "x://a", "a"]
        {
            assert_eq!(text.parse::<Address>().unwrap_err().code, ErrorCode::Invalid, "{text}");
        }
        let (address, name) = Address::parse_with_fs_name("tcp://h:3334/pvfs2-fs").unwrap();
        assert_eq!((address.to_string().as_str(), name.as_str()), ("tcp://h:3334", "pvfs2-fs"));
    }

    #[test]
    fn existing_unix_socket_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let there = format!("unix://{}", dir.path().display());
        let entry = ServerEntry {
            addresses: vec!["tcp://a:1".into(), "unix:///none/such".into(), there.clone()],
            ..Default::default()
        };
        let order: Vec<String> = Address::of_entry(&entry).iter().map(|a| a.to_string()).collect();
        assert_eq!(order, [there, "tcp://a:1".into(), "unix:///none/such".into()]);
    }
}
