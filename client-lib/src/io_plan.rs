//! io_plan: a range of a file as extents of datafiles, one part per server.
//!
//! Place in the walks: between `sys/read.rs`, `sys/write.rs` and `proto/dist.rs`. Pure.
//!
//! Invariants (tested by properties): every byte of the range, or of a list of ranges, lies in exactly one part, at the
//! place that `dist.locate` says; a part's extents ascend and do not touch; a part's bytes travel
//! in the order of its extents, which is also their order in the file, because every distribution
//! puts a datafile's bytes in the file's order.
use pvfs2_proto::limits::BODY_MAX;
use pvfs2_proto::op::PhysicalExtent;
use pvfs2_proto::{ClusterMap, ErrorCode, FileLayout, Handle, PvfsError, Result, ServerId};
use smallvec::SmallVec;
use std::ops::Range;

/// What one server does for a range of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The server.
    pub server: ServerId,
    /// Index of the datafile in the layout.
    pub datafile: u32,
    /// The datafile.
    pub datahandle: Handle,
    /// Where its bytes lie, merged.
    pub extents: Vec<PhysicalExtent>,
    /// Bytes of all extents.
    pub bytes: usize,
    /// One past the last of them, in the file.
    pub end: u64,
}

/// A plan for one range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IoPlan {
    /// First byte of the range.
    pub logical_offset: u64,
    /// Bytes of the range.
    pub len: usize,
    /// One part per datafile that the range touches, in order of first touch.
    pub parts: Vec<Part>,
    /// The range cut into pieces: (index of the part, bytes), in the order of the file.
    pieces: Vec<(u32, usize)>,
}

/// Slices to send.
pub type Gathered<'a> = SmallVec<[&'a [u8]; 8]>;
/// Slices to receive into.
pub type Scattered<'a> = SmallVec<[&'a mut [u8]; 8]>;

impl IoPlan {
    /// The plan for `len` bytes from `logical_offset` of a file with this layout.
    ///
    /// # Errors
    /// `Invalid` when the layout or the range makes no sense (the layout comes from outside), or
    /// names a datahandle that no server of the map owns.
    pub fn new(
        map: &ClusterMap,
        layout: &FileLayout,
        logical_offset: u64,
        len: usize,
    ) -> Result<IoPlan> {
        IoPlan::list(map, layout, &[(logical_offset, len)])
    }

    /// The same for several ranges (offset, length), ascending and disjoint, whose bytes stand in one
    /// buffer without gaps.
    ///
    /// # Errors
    /// As [`IoPlan::new`].
    pub fn list(map: &ClusterMap, layout: &FileLayout, runs: &[(u64, usize)]) -> Result<IoPlan> {
        let n = layout.datahandles.len() as u32;
        layout.dist.check(n)?;
        let logical_offset = runs.first().map_or(0, |(at, _)| *at);
        let len = runs.iter().map(|(_, len)| len).sum();
        let mut plan = IoPlan { logical_offset, len, ..Default::default() };
        let mut part_of: SmallVec<[u32; 16]> = SmallVec::from_elem(u32::MAX, n as usize);
        for &(logical_offset, len) in runs {
            let end = logical_offset.checked_add(len as u64).filter(|end| *end <= i64::MAX as u64);
            let end = end.ok_or_else(|| {
                PvfsError::new(
                    ErrorCode::FileTooBig,
                    format!("{len} bytes at {logical_offset} end beyond the largest file"),
                )
            })?;
            let mut at = logical_offset;
            while at < end {
                let place = layout.dist.locate(n, at);
                let bytes = place.contiguous_bytes.min(end - at);
                let slot = part_of.get_mut(place.datafile as usize).ok_or_else(|| {
                    PvfsError::new(ErrorCode::Invalid, "a distribution names a datafile it has not")
                })?;
                if *slot == u32::MAX {
                    *slot = plan.parts.len() as u32;
                    plan.parts.push(new_part(map, layout, place.datafile)?);
                }
                at += bytes;
                plan.add(*slot, place.physical_offset, bytes, at);
            }
        }
        Ok(plan)
    }

    /// As [`IoPlan::new`] for the longest beginning of the range whose parts each fit one frame's
    /// body: the whole range for anything that FUSE sends.
    ///
    /// # Errors
    /// As [`IoPlan::new`].
    pub fn window(
        map: &ClusterMap,
        layout: &FileLayout,
        logical_offset: u64,
        len: usize,
    ) -> Result<IoPlan> {
        let mut take = len.min(BODY_MAX.saturating_mul(layout.datahandles.len().max(1)));
        loop {
            let plan = IoPlan::new(map, layout, logical_offset, take)?;
            if plan.parts.iter().all(|p| p.bytes <= BODY_MAX) {
                return Ok(plan);
            }
            take = (take / 2).max(BODY_MAX);
        }
    }

    fn add(&mut self, part_index: u32, physical_offset: u64, bytes: u64, end: u64) {
        let part = &mut self.parts[part_index as usize];
        part.end = end;
        part.bytes += bytes as usize;
        match part.extents.last_mut() {
            Some(e) if e.physical_offset + e.len == physical_offset => e.len += bytes,
            _ => part.extents.push(PhysicalExtent { physical_offset, len: bytes }),
        }
        match self.pieces.last_mut() {
            Some((index, len)) if *index == part_index => *len += bytes as usize,
            _ => self.pieces.push((part_index, bytes as usize)),
        }
    }

    /// Ranges of the caller's buffer that belong to a part, in the order in which they travel.
    pub fn pieces_of(&self, part_index: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut at = 0;
        self.pieces.iter().filter_map(move |&(index, len)| {
            let range = at..at + len;
            at += len;
            (index as usize == part_index).then_some(range)
        })
    }

    /// For each part, the slices of `data` (of the range's length) to send, in order.
    pub fn gather<'a>(&self, data: &'a [u8]) -> Vec<Gathered<'a>> {
        let mut out: Vec<Gathered<'a>> = self.parts.iter().map(|_| SmallVec::new()).collect();
        let mut rest = data;
        for &(index, len) in &self.pieces {
            let (piece, tail) = rest.split_at(len.min(rest.len()));
            out[index as usize].push(piece);
            rest = tail;
        }
        out
    }

    /// For each part, the slices of `buf` (of the range's length) that its bytes go into.
    pub fn scatter<'a>(&self, buf: &'a mut [u8]) -> Vec<Scattered<'a>> {
        let mut out: Vec<Scattered<'a>> = self.parts.iter().map(|_| SmallVec::new()).collect();
        let mut rest = buf;
        for &(index, len) in &self.pieces {
            let len = len.min(rest.len());
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(len);
            out[index as usize].push(piece);
            rest = tail;
        }
        out
    }

    /// One past the last byte of the range that a part's first `got` bytes reach; `None` when it
    /// brought none.
    pub fn end_of(&self, part_index: usize, got: usize) -> Option<usize> {
        let mut left = got;
        let mut end = None;
        for piece in self.pieces_of(part_index) {
            if left == 0 {
                break;
            }
            let took = left.min(piece.len());
            end = Some(piece.start + took);
            left -= took;
        }
        end
    }

    /// Zeroes what a part's answer of `got` bytes left untouched in `buf`.
    pub fn zero_rest(&self, part_index: usize, got: usize, buf: &mut [u8]) {
        let mut have = got;
        for piece in self.pieces_of(part_index) {
            let skip = have.min(piece.len());
            have -= skip;
            let end = piece.end.min(buf.len());
            if let Some(rest) = buf.get_mut((piece.start + skip).min(end)..end) {
                rest.fill(0);
            }
        }
    }
}

fn new_part(map: &ClusterMap, layout: &FileLayout, datafile: u32) -> Result<Part> {
    let datahandle = Handle(layout.datahandles[datafile as usize]);
    Ok(Part {
        server: io_server(map, datahandle)?,
        datafile,
        datahandle,
        extents: Vec::new(),
        bytes: 0,
        end: 0,
    })
}

/// The I/O server of a datahandle.
///
/// # Errors
/// `Invalid` when the map knows none: the cluster's configuration has changed under the client.
pub fn io_server(map: &ClusterMap, datahandle: Handle) -> Result<ServerId> {
    map.io_server_of(datahandle).ok_or_else(|| {
        PvfsError::new(
            ErrorCode::Invalid,
            format!(
                "no I/O server owns datahandle {datahandle}: mount again to take the cluster's \
                 present configuration"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pvfs2_proto::dist::{Dist, DistKind, Strip};
    use pvfs2_proto::{HandleRange, ServerEntry};

    fn map(n: u32) -> ClusterMap {
        let server = |i: u64| ServerEntry {
            io_range: Some(HandleRange { first: (i + 1) << 32, last: ((i + 2) << 32) - 1 }),
            ..Default::default()
        };
        ClusterMap { servers: (0..u64::from(n)).map(server).collect(), ..Default::default() }
    }

    fn any_layout() -> impl Strategy<Value = FileLayout> {
        (1u32..9).prop_flat_map(|n| {
            prop_oneof![
                (1u64..300).prop_map(Dist::simple_stripe),
                Just(Dist { kind: DistKind::Basic as i32, ..Default::default() }),
                prop::collection::vec((0..n, 1u64..200), 1..12).prop_map(|v| Dist {
                    kind: DistKind::Varstrip as i32,
                    strips: v
                        .into_iter()
                        .map(|(datafile, size)| Strip { datafile, size })
                        .collect(),
                    ..Default::default()
                }),
                (1u64..200, 1..=n, 1u32..4).prop_map(|(strip_size, groups, factor)| Dist {
                    kind: DistKind::TwodStripe as i32,
                    strip_size,
                    groups,
                    factor,
                    ..Default::default()
                }),
            ]
            .prop_map(move |dist| FileLayout {
                dist,
                datahandles: (0..u64::from(n)).map(|i| ((i + 1) << 32) + 77).collect(),
            })
        })
    }

    proptest! {
        #[test]
        fn every_byte_once_where_the_distribution_says(
            layout in any_layout(), offset in 0u64..100_000, len in 0usize..5_000
        ) {
            let n = layout.datahandles.len() as u32;
            let plan = IoPlan::new(&map(n), &layout, offset, len).unwrap();
            let mut covered = vec![false; len];
            for (i, part) in plan.parts.iter().enumerate() {
                prop_assert_eq!(part.server, part.datafile);
                prop_assert_eq!(part.datahandle.0, layout.datahandles[part.datafile as usize]);
                let mut travel = plan.pieces_of(i).flatten();
                let mut last_end = None;
                for e in &part.extents {
                    prop_assert!(e.len > 0 && last_end.is_none_or(|end| end < e.physical_offset));
                    last_end = Some(e.physical_offset + e.len);
                    for physical in e.physical_offset..e.physical_offset + e.len {
                        let at = travel.next().unwrap();
                        prop_assert!(!std::mem::replace(&mut covered[at], true));
                        let place = layout.dist.locate(n, offset + at as u64);
                        prop_assert_eq!(place.datafile, part.datafile);
                        prop_assert_eq!(place.physical_offset, physical);
                    }
                }
                prop_assert!(travel.next().is_none());
                prop_assert_eq!(part.bytes as u64, part.extents.iter().map(|e| e.len).sum::<u64>());
            }
            prop_assert!(covered.iter().all(|c| *c));
        }

        #[test]
        fn a_list_is_its_ranges_one_after_the_other(
            layout in any_layout(), gaps in prop::collection::vec((0u64..900, 1usize..700), 1..9)
        ) {
            let n = layout.datahandles.len() as u32;
            let (mut at, mut runs, mut places) = (0, Vec::new(), Vec::new());
            for (gap, len) in gaps {
                // Ranges do not touch.
                at += gap + 1;
                runs.push((at, len));
                places.extend(at..at + len as u64);
                at += len as u64;
            }
            let plan = IoPlan::list(&map(n), &layout, &runs).unwrap();
            prop_assert_eq!(plan.len, places.len());
            let mut seen = 0;
            for (i, part) in plan.parts.iter().enumerate() {
                let mut end = 0;
                let physical = part.extents.iter().flat_map(|e| e.physical_offset..e.physical_offset + e.len);
                for (at, physical) in plan.pieces_of(i).flatten().zip(physical) {
                    let place = layout.dist.locate(n, places[at]);
                    prop_assert_eq!((place.datafile, place.physical_offset), (part.datafile, physical));
                    end = places[at] + 1;
                    seen += 1;
                }
                prop_assert_eq!(part.end, end);
                prop_assert!(part.extents.windows(2).all(|w| w[0].physical_offset + w[0].len < w[1].physical_offset));
            }
            prop_assert_eq!(seen, places.len());
        }

        #[test]
        fn gather_scatter_and_ends_agree(
            layout in any_layout(), offset in 0u64..10_000, len in 1usize..3_000, got_seed in any::<u64>()
        ) {
            let n = layout.datahandles.len() as u32;
            let plan = IoPlan::new(&map(n), &layout, offset, len).unwrap();
            let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8 + 1).collect();
            let mut back = vec![0xffu8; len];
            let mut expect = vec![0u8; len];
            let mut gots = Vec::new();
            for (i, (from, mut into)) in
                plan.gather(&data).into_iter().zip(plan.scatter(&mut back)).enumerate()
            {
                let bytes: Vec<u8> = from.concat();
                prop_assert_eq!(bytes.len(), plan.parts[i].bytes);
                let got = (got_seed.rotate_left(i as u32 * 7) % (bytes.len() as u64 + 1)) as usize;
                gots.push(got);
                let mut rest = &bytes[..got];
                for piece in into.iter_mut() {
                    let take = rest.len().min(piece.len());
                    piece[..take].copy_from_slice(&rest[..take]);
                    rest = &rest[take..];
                }
                let reached: Vec<usize> = plan.pieces_of(i).flatten().take(got).collect();
                prop_assert_eq!(plan.end_of(i, got), reached.last().map(|l| l + 1));
                for at in reached {
                    expect[at] = data[at];
                }
            }
            for (i, got) in gots.into_iter().enumerate() {
                plan.zero_rest(i, got, &mut back);
            }
            prop_assert_eq!(back, expect);
        }
    }

    #[test]
    fn a_mebibyte_over_four_is_one_extent_each() {
        let layout = FileLayout {
            dist: Dist::simple_stripe(65_536),
            datahandles: (0..4u64).map(|i| (i + 1) << 32).collect(),
        };
        let plan = IoPlan::new(&map(4), &layout, 1 << 20, 1 << 20).unwrap();
        assert_eq!(plan.parts.len(), 4);
        for p in &plan.parts {
            assert_eq!(p.extents, [PhysicalExtent { physical_offset: 262_144, len: 262_144 }]);
        }
        assert!(IoPlan::new(&map(4), &layout, u64::MAX - 5, 10).is_err());
        assert!(IoPlan::new(&map(3), &layout, 0, 1 << 20).is_err());
    }
}
