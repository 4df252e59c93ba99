//! Attributes with the size made exact: shared by every operation that answers attributes.
//!
//! | state | on success | on failure |
//! |---|---|---|
//! | Ask (getattr to the object's server) | Sizes, or Done when the size is known | the error |
//! | Sizes (df_stat to all I/O servers of the file, getattr of a split directory's parts, one exchange) | Done | the error |
//!
//! Size rule: exact unless `SIZE_DYNAMIC`; with `SOLE_WRITER` this client's own knowledge completes
//! it without a request; else `max(attr.size, dist.logical_size(datafile sizes))`, and the mtime is
//! the newest datafile's where that is later than the mtime and than its last explicit setting. A
//! split directory's attributes are its home's and its parts' together.
use crate::client::Client;
use crate::io_plan::io_server;
use crate::machine::Cx;
use crate::open_table::Own;
use crate::tickets::{need, take};
use pvfs2_bmi::call::{Call, Net};
use pvfs2_proto::op::{DfStat, DfStatRequest, GetattrRequest, OpMessage};
use pvfs2_proto::{Attr, AttrFlags, ErrorCode, Handle, PvfsError, Result, ServerId};
use std::collections::BTreeMap;

/// The part of a machine that gets attributes and completes their size.
#[derive(Debug)]
pub enum AttrFlow {
    /// Ask the object's server.
    Ask(Handle),
    /// Attributes are there; ask the I/O servers if need be.
    Sizes(Box<Attr>),
}

impl AttrFlow {
    /// The state's name.
    pub fn state(&self) -> &'static str {
        match self {
            AttrFlow::Ask(_) => "ask_attr",
            AttrFlow::Sizes(_) => "ask_sizes",
        }
    }

    /// One step; the attributes, exact and kept in the acache, when it is through.
    ///
    /// # Errors
    /// The servers'; the flow stays where it is.
    pub async fn step<N: Net>(&mut self, cx: &mut Cx<'_, N>) -> Result<Option<Attr>> {
        match self {
            AttrFlow::Ask(handle) => {
                let handle = *handle;
                let moment = cx.client.acache().moment();
                let closes = cx.client.opens().closes();
                let server = cx.meta_server(handle)?;
                let request = GetattrRequest { handle: handle.0 };
                let answer = match cx.ask(server, request).await {
                    Err(e) if matches!(e.code, ErrorCode::Stale | ErrorCode::NotFound) => {
                        cx.client.acache().drop_handle(handle);
                        return Err(e);
                    }
                    other => other?,
                };
                let mut attr = need(answer.attr, "getattr answered without attributes")?;
                if merge_own(cx.client, closes, &mut attr) {
                    cx.client.acache().fill_since(moment, &attr, cx.now_ns());
                    return Ok(Some(attr));
                }
                *self = AttrFlow::Sizes(Box::new(attr));
                Ok(None)
            }
            AttrFlow::Sizes(attr) => {
                let moment = cx.client.acache().moment();
                resolve_sizes(cx, &mut [attr]).await?;
                if attr.dir_map.is_some() {
                    // Names have moved between the two questions: once more.
                    *self = AttrFlow::Ask(attr.handle());
                    return Ok(None);
                }
                cx.client.acache().fill_since(moment, attr, cx.now_ns());
                Ok(Some((**attr).clone()))
            }
        }
    }
}

/// Completes attributes by what this client wrote itself; whether the size is exact now. `closes` is
/// [`OpenTable::closes`] from before they were asked for: when a writer of this client has closed
/// since, what it knew may be gone from here and not be in these attributes yet, so `SOLE_WRITER`
/// does not help and the datafiles are to be asked.
///
/// [`OpenTable::closes`]: crate::open_table::OpenTable::closes
pub fn merge_own(client: &Client, closes: u64, attr: &mut Attr) -> bool {
    if let Some(map) = &attr.dir_map {
        // The rest is with the parts of the directory.
        if !attr.has(AttrFlags::DIR_PART) {
            client.dirmaps().learn(map);
        }
        return false;
    }
    if !attr.is_file() || !attr.has(AttrFlags::SIZE_DYNAMIC) || attr.layout.is_none() {
        return true;
    }
    let Some(own) = client.opens().get(attr.handle()).and_then(|f| f.own_as_writer()) else {
        return false;
    };
    raise_mtime(attr, own.mtime_ns);
    let exact = attr.has(AttrFlags::SOLE_WRITER) && closes == client.opens().closes();
    if exact {
        attr.size = attr.size.max(own.end);
    }
    exact
}

/// Completes cached attributes by what this client wrote since they were cached.
pub fn merge_cached(client: &Client, attr: &mut Attr) {
    if attr.is_file() && attr.has(AttrFlags::SIZE_DYNAMIC) {
        let Own { end, mtime_ns } =
            client.opens().get(attr.handle()).map(|f| f.own()).unwrap_or_default();
        attr.size = attr.size.max(end);
        raise_mtime(attr, mtime_ns);
    }
}

fn raise_mtime(attr: &mut Attr, written_ns: i64) {
    if written_ns > attr.mtime_set_ns {
        // Only utimes sets an mtime beyond the ctime; a write after it wins all the same.
        let set_ahead = attr.mtime_ns > attr.ctime_ns;
        attr.mtime_ns = if set_ahead { written_ns } else { attr.mtime_ns.max(written_ns) };
        attr.ctime_ns = attr.ctime_ns.max(written_ns);
    }
}

/// Cached attributes of `handle`, completed.
pub fn cached(client: &Client, handle: Handle) -> Option<Attr> {
    if !client.acache().is_on() {
        return None;
    }
    let attr = client.acache().get(handle, client.env().now_ns());
    client.metrics().cache(attr.is_some());
    attr.map(|mut attr| {
        merge_cached(client, &mut attr);
        attr
    })
}

/// Adds what the parts of a split directory say to what its home says. The map stays where the home
/// was asked before names moved that a part counts by now.
fn add_parts(attr: &mut Attr, parts: &BTreeMap<u64, Attr>) {
    let Some(map) = attr.dir_map.take() else { return };
    let mut sum = attr.clone();
    for part in map.parts.iter().filter_map(|p| parts.get(p)) {
        let given = part.dir_map.clone().unwrap_or_default();
        let (mut names, mut subdirs) = (part.size, part.nlink.saturating_sub(2));
        if given.last_names > 0 && given.last_low > map.moved {
            attr.dir_map = Some(map);
            return;
        }
        if given.last_low == map.moved {
            // Given to the part, but the home has counted them too.
            names = names.saturating_sub(given.last_names);
            subdirs = subdirs.saturating_sub(given.last_subdirs);
        }
        sum.size += names;
        sum.nlink += subdirs;
        sum.change += part.change;
        raise_mtime(&mut sum, part.mtime_ns);
        sum.ctime_ns = sum.ctime_ns.max(part.ctime_ns);
    }
    *attr = sum;
}

/// Makes the sizes of all `attrs` (dynamic ones) exact with one request per I/O server, and the
/// attributes of split directories whole with one per part.
///
/// # Errors
/// The servers'.
pub async fn resolve_sizes<N: Net>(cx: &mut Cx<'_, N>, attrs: &mut [&mut Box<Attr>]) -> Result<()> {
    let mut wanted: BTreeMap<ServerId, Vec<u64>> = BTreeMap::new();
    for attr in attrs.iter() {
        for &h in attr.layout.iter().flat_map(|l| &l.datahandles) {
            wanted.entry(io_server(cx.client.map(), Handle(h))?).or_default().push(h);
        }
    }
    // Read before: what is written out meanwhile the datafiles may have or not.
    let joined_end = |attr: &&mut Box<Attr>| {
        let file = attr.layout.as_ref().and_then(|_| cx.client.opens().get(attr.handle()));
        file.map_or(0, |f| f.joined_end())
    };
    let joined_ends: Vec<u64> = attrs.iter().map(joined_end).collect();
    let mut calls: Vec<Call<'_>> = wanted
        .iter()
        .map(|(&server, datahandles)| {
            Call::new(server, DfStatRequest { datahandles: datahandles.clone() }.into_request())
        })
        .collect();
    let parts: Vec<u64> =
        attrs.iter().flat_map(|a| &a.dir_map).flat_map(|m| m.parts.iter().copied()).collect();
    for &part in &parts {
        let server = cx.meta_server(Handle(part))?;
        calls.push(Call::new(server, GetattrRequest { handle: part }.into_request()));
    }
    cx.exchange(&mut calls).await?;
    let mut part_attrs: BTreeMap<u64, Attr> = BTreeMap::new();
    for (part, call) in parts.into_iter().zip(calls.drain(wanted.len()..)) {
        let answer = GetattrRequest::take_response(take(call.result)?.op)?;
        part_attrs.insert(part, need(answer.attr, "getattr answered without attributes")?);
    }
    let mut stats: BTreeMap<u64, DfStat> = BTreeMap::new();
    for (call, asked) in calls.into_iter().zip(wanted.values()) {
        let answer = DfStatRequest::take_response(take(call.result)?.op)?;
        if answer.stats.len() != asked.len() {
            return Err(PvfsError::new(
                ErrorCode::Protocol,
                "df_stat answered another number of datafiles than was asked",
            ));
        }
        stats.extend(asked.iter().copied().zip(answer.stats));
    }
    for (attr, joined_end) in attrs.iter_mut().zip(joined_ends) {
        apply_stats(attr, &stats);
        attr.size = attr.size.max(joined_end);
        add_parts(attr, &part_attrs);
    }
    Ok(())
}

fn apply_stats(attr: &mut Attr, stats: &BTreeMap<u64, DfStat>) {
    let Some(layout) = attr.layout.clone() else { return };
    if layout.dist.check(layout.datahandles.len() as u32).is_err() {
        return;
    }
    let of = |h: &u64| stats.get(h).copied().unwrap_or_default();
    let sizes: Vec<u64> = layout.datahandles.iter().map(|h| of(h).size).collect();
    let newest_ns = layout.datahandles.iter().map(|h| of(h).mtime_ns).max().unwrap_or(0);
    attr.size = attr.size.max(layout.dist.logical_size(&sizes));
    raise_mtime(attr, newest_ns);
}
