//! Which distribution and which I/O servers a new file gets: its own `user.pvfs2.*` attributes
//! (inherited from the directory at its making, or set while it was empty), else the cluster's
//! defaults.
use crate::server::MetaServer;
use bytes::Bytes;
use pvfs2_proto::handle::datahandle;
use pvfs2_proto::layout::Layout;
use pvfs2_proto::{Dist, ErrorCode, FileLayout, Handle, PvfsError, Result, ServerId};

/// Namespace of the layout attributes.
pub const PREFIX: &[u8] = b"user.pvfs2.";
/// Name of the distribution.
pub const DIST_NAME: &[u8] = b"user.pvfs2.dist_name";
/// Its parameters.
pub const DIST_PARAMS: &[u8] = b"user.pvfs2.dist_params";
/// Number of datafiles.
pub const NUM_DFILES: &[u8] = b"user.pvfs2.num_dfiles";
/// The layout.
pub const LAYOUT: &[u8] = b"user.pvfs2.layout";
/// Servers of layout `list`.
pub const SERVER_LIST: &[u8] = b"user.pvfs2.server_list";
/// The handle (virtual, read only).
pub const HANDLE: &[u8] = b"user.pvfs2.handle";

/// The attributes that directories hand down.
pub const INHERITED: [&[u8]; 5] = [DIST_NAME, DIST_PARAMS, NUM_DFILES, LAYOUT, SERVER_LIST];

/// Metadata servers over which a directory spreads at most.
pub const DIR_SERVERS_MAX: &[u8] = b"user.pvfs2.dir_servers_max";
/// Names with which a directory splits.
pub const DIR_SPLIT_ENTRIES: &[u8] = b"user.pvfs2.dir_split_entries";
/// The servers that hold a directory's names (virtual, read only).
pub const DIR_PARTS: &[u8] = b"user.pvfs2.dir_parts";
/// The attributes that directories hand down to directories only.
pub const INHERITED_BY_DIRS: [&[u8]; 2] = [DIR_SERVERS_MAX, DIR_SPLIT_ENTRIES];

/// How a file wants to be laid out.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Its distribution.
    pub dist: Dist,
    /// Datafiles; 0: one per I/O server.
    pub num_dfiles: u32,
    /// Its layout.
    pub layout: Layout,
}

fn text<'a>(xattrs: &'a [(Bytes, Bytes)], name: &[u8]) -> Result<Option<&'a str>> {
    let Some((_, value)) = xattrs.iter().find(|(n, _)| n.as_ref() == name) else {
        return Ok(None);
    };
    // Tools like setfattr sometimes store the terminating zero.
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    std::str::from_utf8(value).map(|s| Some(s.trim())).map_err(|_| {
        PvfsError::new(ErrorCode::Invalid, format!("{} is no text", String::from_utf8_lossy(name)))
    })
}

impl MetaServer {
    /// What the attributes wish for, the cluster's defaults where they say nothing.
    ///
    /// # Errors
    /// `Invalid`, with the sentence to correct it.
    pub(crate) fn layout_wish(&self, xattrs: &[(Bytes, Bytes)]) -> Result<Wish> {
        let (name, params) = (text(xattrs, DIST_NAME)?, text(xattrs, DIST_PARAMS)?);
        let default = self
            .map
            .default_dist
            .clone()
            .unwrap_or_else(|| Dist::simple_stripe(pvfs2_proto::limits::STRIP_SIZE_BYTES));
        let dist = match (name, params) {
            (None, None) => default,
            (name, params) => Dist::parse(name.unwrap_or(default.name()), params.unwrap_or(""))?,
        };
        let num_dfiles = match text(xattrs, NUM_DFILES)? {
            None => self.map.default_num_datafiles,
            Some(n) => n.parse().map_err(|_| {
                PvfsError::new(ErrorCode::Invalid, format!("'{n}' is no number of datafiles"))
            })?,
        };
        let list = text(xattrs, SERVER_LIST)?;
        let layout = match text(xattrs, LAYOUT)? {
            // A list of servers without a layout's name can only mean this one.
            None if list.is_some() => Layout::parse("list", list)?,
            None => Layout::parse(&self.map.default_layout, list)?,
            // The list may be set after the layout.
            Some("list") if list.is_none() => Layout::List(Vec::new()),
            Some(name) => Layout::parse(name, list)?,
        };
        Ok(Wish { dist, num_dfiles, layout })
    }

    /// Over how many servers a directory spreads at most, and with how many names it begins to.
    ///
    /// # Errors
    /// `Invalid`, with the sentence to correct it.
    pub(crate) fn split_wish(&self, xattrs: &[(Bytes, Bytes)]) -> Result<(u32, u64)> {
        let number = |name: &[u8], default: u64, least: u64| match text(xattrs, name)? {
            None => Ok(default),
            Some(n) => n.parse().ok().filter(|n| *n >= least).ok_or_else(|| {
                PvfsError::new(
                    ErrorCode::Invalid,
                    format!(
                        "'{n}' is no value of {}: a number from {least} on",
                        String::from_utf8_lossy(name)
                    ),
                )
            }),
        };
        let servers = number(DIR_SERVERS_MAX, self.map.dir_servers_max.into(), 1)?;
        let entries = number(DIR_SPLIT_ENTRIES, self.map.dir_split_entries.max(1), 1)?;
        Ok((servers.min(u32::MAX.into()) as u32, entries))
    }

    /// Chooses servers and names the datahandles of a file. Where the layout is nobody's wish, the
    /// servers are those of the datahandles `like`, in that order, if they are as many.
    ///
    /// # Errors
    /// `Invalid` when the wish cannot be met.
    pub(crate) fn new_layout(
        &self,
        handle: Handle,
        xattrs: &[(Bytes, Bytes)],
        like: &[u64],
    ) -> Result<FileLayout> {
        let wish = self.layout_wish(xattrs)?;
        let layout = match wish.layout {
            Layout::List(names) if names.is_empty() => Layout::RoundRobin,
            layout => layout,
        };
        let io_servers: Vec<ServerId> = self.map.io_servers().collect();
        let local = self.map.server(self.id).and_then(|s| s.io_range).map(|_| self.id);
        let servers = layout.choose(
            &io_servers,
            wish.num_dfiles,
            self.next_turn(),
            || self.env.rand_u64(),
            |s| self.map.alias(s).to_owned(),
            local,
        )?;
        let servers = match layout {
            Layout::RoundRobin | Layout::Random => self.servers_like(like, servers),
            _ => servers,
        };
        wish.dist.check(servers.len() as u32)?;
        let datahandles = servers
            .iter()
            .map(|s| {
                self.map
                    .server(*s)
                    .and_then(|e| e.io_range)
                    .and_then(|io| datahandle(&io, self.index, &self.range, handle))
                    .map(|h| h.0)
                    .ok_or_else(|| {
                        PvfsError::new(
                            ErrorCode::NoSpace,
                            format!(
                                "the handle range of I/O server {} has no place for the datafiles \
                                 of metadata server {}: enlarge it in the cluster file",
                                self.map.alias(*s),
                                self.map.alias(self.id)
                            ),
                        )
                    })
            })
            .collect::<Result<_>>()?;
        Ok(FileLayout { dist: wish.dist, datahandles })
    }

    fn servers_like(&self, like: &[u64], chosen: Vec<ServerId>) -> Vec<ServerId> {
        let servers: Option<Vec<ServerId>> =
            like.iter().map(|h| self.map.io_server_of(Handle(*h))).collect();
        let distinct = |s: &[ServerId]| (1..s.len()).all(|i| !s[..i].contains(&s[i]));
        servers.filter(|s| s.len() == chosen.len() && distinct(s)).unwrap_or(chosen)
    }
}
