//! Layouts: which I/O servers hold the datafiles of a new file, and in which order.
//!
//! Names as in OrangeFS: `round_robin` (successive files start at successive servers), `random`,
//! `list` (the servers of `user.pvfs2.server_list`), `local` (one datafile, on the I/O server that
//! shares the metadata server's process, else the first), `none` (always from the first server).
use crate::cluster::ServerId;
use crate::error::{ErrorCode, PvfsError, Result};

/// A layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Successive files start at successive servers.
    RoundRobin,
    /// A random start and order.
    Random,
    /// The named servers, in that order.
    List(Vec<String>),
    /// One datafile, next to the metadata server.
    Local,
    /// From the first server.
    None,
}

impl Layout {
    /// Parses a layout's name; `list` needs `server_list`, aliases separated by `:` or `,`.
    ///
    /// # Errors
    /// `Invalid` for an unknown name or an empty list.
    pub fn parse(name: &str, server_list: Option<&str>) -> Result<Layout> {
        match name {
            "" | "round_robin" => Ok(Layout::RoundRobin),
            "random" => Ok(Layout::Random),
            "local" => Ok(Layout::Local),
            "none" => Ok(Layout::None),
            "list" => {
                let list: Vec<String> = server_list
                    .unwrap_or("")
                    .split([':', ','])
                    .map(str::trim)
                    .filter(|s| !s.is_empty())
                    .map(str::to_owned)
                    .collect();
                if list.is_empty() {
                    return Err(PvfsError::new(
                        ErrorCode::Invalid,
                        "layout 'list' needs user.pvfs2.server_list with at least one alias",
                    ));
                }
                Ok(Layout::List(list))
            }
            other => Err(PvfsError::new(
                ErrorCode::Invalid,
                format!("unknown layout '{other}': use round_robin, random, list, local or none"),
            )),
        }
    }

    /// Chooses `num_datafiles` distinct servers out of `io_servers` (0: all of them).
    /// `turn` counts files (for `round_robin`), `random` gives random bits, `alias` names servers,
    /// `local` is the I/O server in the metadata server's own process.
    ///
    /// # Errors
    /// `Invalid` when there is no I/O server or a listed alias is unknown.
    pub fn choose(
        &self,
        io_servers: &[ServerId],
        num_datafiles: u32,
        turn: u64,
        mut random: impl FnMut() -> u64,
        alias: impl Fn(ServerId) -> String,
        local: Option<ServerId>,
    ) -> Result<Vec<ServerId>> {
        let all = io_servers.len();
        if all == 0 {
            return Err(PvfsError::new(ErrorCode::Invalid, "the cluster has no I/O server"));
        }
        let want = if num_datafiles == 0 { all } else { (num_datafiles as usize).min(all) };
        let from = |start: usize| (0..want).map(|i| io_servers[(start + i) % all]).collect();
        Ok(match self {
            Layout::RoundRobin => from((turn % all as u64) as usize),
            Layout::None => from(0),
            Layout::Local => {
                vec![local.filter(|l| io_servers.contains(l)).unwrap_or(io_servers[0])]
            }
            Layout::Random => {
                let mut pool = io_servers.to_vec();
                for i in 0..want {
                    let j = i + (random() % (all - i) as u64) as usize;
                    pool.swap(i, j);
                }
                pool.truncate(want);
                pool
            }
            Layout::List(names) => {
                let mut out = Vec::with_capacity(names.len());
                for n in names {
                    let id =
                        io_servers.iter().copied().find(|&s| alias(s) == *n).ok_or_else(|| {
                            PvfsError::new(
                                ErrorCode::Invalid,
                                format!("no I/O server '{n}' in the cluster"),
                            )
                        })?;
                    if !out.contains(&id) {
                        out.push(id);
                    }
                }
                if num_datafiles > 0 {
                    out.truncate(num_datafiles as usize);
                }
                out
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn choose(l: &Layout, n: u32, turn: u64) -> Vec<ServerId> {
        let mut x = 7;
        l.choose(
            &[2, 3, 4, 5],
            n,
            turn,
            || {
                x += 13;
                x
            },
            |s| format!("io{s}"),
            Some(4),
        )
        .unwrap()
    }
    #[test]
    fn layouts_choose_distinct_servers() {
        assert_eq!(choose(&Layout::RoundRobin, 0, 1), [3, 4, 5, 2]);
        assert_eq!(choose(&Layout::None, 2, 9), [2, 3]);
        assert_eq!(choose(&Layout::Local, 0, 9), [4]);
        let mut r = choose(&Layout::Random, 4, 0);
        r.sort_unstable();
        assert_eq!(r, [2, 3, 4, 5]);
        assert_eq!(choose(&Layout::List(vec!["io5".into(), "io2".into()]), 0, 0), [5, 2]);
        assert!(Layout::parse("list", None).is_err());
        assert!(Layout::parse("spiral", None).is_err());
    }
}
