//! The servers' own counters, read from their management services as Prometheus text over HTTP.
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Sub;
use std::time::Duration;

/// Requests answered, by (server's alias, operation).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub BTreeMap<(String, String), u64>);

impl Counters {
    /// Reads the counters of the server whose management service is at `http://host:port`.
    ///
    /// # Panics
    /// When nobody answers or the text is none.
    pub fn read(&mut self, management: &str) {
        let text = http_get(management, "/metrics");
        let lines = text.lines().filter_map(|l| l.strip_prefix("pvfs2_requests_total{"));
        for line in lines {
            let (labels, value) = line.split_once("} ").expect("a sample has a value");
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\"")).expect("label");
                rest.split('"').next().expect("label's end").to_owned()
            };
            let value = value.trim().parse::<f64>().expect("a number") as u64;
            self.0.insert((label("server"), label("op")), value);
        }
    }

    /// Requests of `op` at all servers.
    pub fn of(&self, op: &str) -> u64 {
        self.0.iter().filter(|((_, o), _)| o == op).map(|(_, n)| n).sum()
    }

    /// Requests of `op` by server, without those that had none.
    pub fn by_server(&self, op: &str) -> BTreeMap<String, u64> {
        self.0
            .iter()
            .filter(|((_, o), n)| o == op && **n > 0)
            .map(|((s, _), n)| (s.clone(), *n))
            .collect()
    }

    /// Requests of all operations, without those that keep sessions alive and are not asked by any
    /// operation of a program.
    pub fn work(&self) -> u64 {
        const UPKEEP: [&str; 6] = ["hello", "renew", "reclaim", "goodbye", "get_config", "ping"];
        self.0.iter().filter(|((_, o), _)| !UPKEEP.contains(&o.as_str())).map(|(_, n)| n).sum()
    }
}

impl Sub<&Counters> for &Counters {
    type Output = Counters;
    /// What was counted since `before`.
    fn sub(self, before: &Counters) -> Counters {
        let since = |(k, n): (&(String, String), &u64)| {
            let n = n.saturating_sub(before.0.get(k).copied().unwrap_or(0));
            (n > 0).then(|| (k.clone(), n))
        };
        Counters(self.0.iter().filter_map(since).collect())
    }
}

/// The body (with whatever framing) of `GET path`.
///
/// # Panics
/// When nobody answers, or not with 200.
pub fn http_get(url: &str, path: &str) -> String {
    let host = url.strip_prefix("http://").expect("an http url").trim_end_matches('/');
    let mut stream = TcpStream::connect(host).expect("connect to a management service");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        .expect("ask");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answer");
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.starts_with("HTTP/1.1 200"), "{url}{path}: {text}");
    text
}
