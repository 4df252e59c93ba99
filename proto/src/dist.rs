//! Distributions: which byte of a file lies where on which datafile.
//!
//! Every distribution is a *round* that repeats: an ordered list of strips, each on one datafile.
//! `simple_stripe` has one strip of `strip_size` bytes per datafile, in order; `basic_dist` puts all
//! bytes on datafile 0; `varstrip_dist` lists its strips; `twod_stripe` forms groups of datafiles
//! and goes `factor` stripes over one group before the next. Pure; tested by properties.
//! Source: PVFS2's `dist-simple-stripe.c`, `dist-varstrip.c`, `dist-twod-stripe.c`.
//!
//! Terms: `logical_offset` is a place in the file, `physical_offset` a place in a datafile.
use crate::error::{ErrorCode, PvfsError, Result};
use crate::limits::STRIP_SIZE_BYTES;
use smallvec::SmallVec;

/// Kinds of distribution, by their number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum DistKind {
    /// Round robin over all datafiles.
    SimpleStripe = 0,
    /// Everything on the first datafile.
    Basic = 1,
    /// A listed round of strips.
    Varstrip = 2,
    /// Round robin over groups of datafiles.
    TwodStripe = 3,
}

/// One strip of a `varstrip_dist` round.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Strip {
    /// Datafile.
    #[prost(uint32, tag = "1")]
    pub datafile: u32,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
}

/// A distribution with its parameters.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dist {
    /// Which kind.
    #[prost(enumeration = "DistKind", tag = "1")]
    pub kind: i32,
    /// Bytes of a strip (`simple_stripe`, `twod_stripe`).
    #[prost(uint64, tag = "2")]
    pub strip_size: u64,
    /// The round of a `varstrip_dist`.
    #[prost(message, repeated, tag = "3")]
    pub strips: Vec<Strip>,
    /// Groups of a `twod_stripe`.
    #[prost(uint32, tag = "4")]
    pub groups: u32,
    /// Stripes over one group before the next (`twod_stripe`).
    #[prost(uint32, tag = "5")]
    pub factor: u32,
}

/// A place on a datafile, and how many bytes follow there without a jump in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Physical {
    /// Index of the datafile in the layout.
    pub datafile: u32,
    /// Byte in the datafile.
    pub physical_offset: u64,
    /// Bytes up to the end of the strip.
    pub contiguous_bytes: u64,
}

type Round = SmallVec<[(u32, u64); 16]>;

impl Dist {
    /// `simple_stripe` with strips of `strip_size` bytes.
    pub fn simple_stripe(strip_size: u64) -> Dist {
        Dist { kind: DistKind::SimpleStripe as i32, strip_size, ..Default::default() }
    }

    /// Parses a distribution's name and parameters as written in the cluster file and in
    /// `user.pvfs2.dist_name` / `.dist_params`: `simple_stripe` with `strip_size:65536`,
    /// `basic_dist`, `varstrip_dist` with `strips:0:65536;1:131072`, `twod_stripe` with
    /// `num_groups:2,strip_size:65536,group_strip_factor:8`. Sizes take the suffixes K, M, G.
    ///
    /// # Errors
    /// `Invalid`, with the sentence to correct it.
    pub fn parse(name: &str, params: &str) -> Result<Dist> {
        let mut dist = Dist { strip_size: STRIP_SIZE_BYTES, ..Default::default() };
        dist.kind = match name {
            "" | "simple_stripe" => DistKind::SimpleStripe,
            "basic_dist" | "basic" => DistKind::Basic,
            "varstrip_dist" | "varstrip" => DistKind::Varstrip,
            "twod_stripe" => DistKind::TwodStripe,
            other => {
                return Err(invalid(format!(
                    "unknown distribution '{other}': use simple_stripe, basic_dist, \
                     varstrip_dist or twod_stripe"
                )));
            }
        } as i32;
        if dist.kind() == DistKind::TwodStripe {
            (dist.groups, dist.factor) = (2, 256);
        }
        let params = params.trim();
        if let Some(list) = params.strip_prefix("strips:") {
            for part in list.split(';').filter(|p| !p.trim().is_empty()) {
                let (datafile, size) = part
                    .split_once(':')
                    .ok_or_else(|| invalid(format!("strip '{part}': write it as DATAFILE:SIZE")))?;
                dist.strips.push(Strip {
                    datafile: parse_size(datafile)? as u32,
                    size: parse_size(size)?,
                });
            }
        } else {
            for part in params.split(',').filter(|p| !p.trim().is_empty()) {
                let (key, value) = part.split_once(':').ok_or_else(|| {
                    invalid(format!("distribution parameter '{part}': write it as KEY:VALUE"))
                })?;
                let value = parse_size(value)?;
                match key.trim() {
                    "strip_size" => dist.strip_size = value,
                    "num_groups" => dist.groups = value as u32,
                    "group_strip_factor" => dist.factor = value as u32,
                    other => {
                        return Err(invalid(format!("unknown distribution parameter '{other}'")));
                    }
                }
            }
        }
        Ok(dist)
    }

    /// The name in the cluster file and in xattrs.
    pub fn name(&self) -> &'static str {
        match self.kind() {
            DistKind::SimpleStripe => "simple_stripe",
            DistKind::Basic => "basic_dist",
            DistKind::Varstrip => "varstrip_dist",
            DistKind::TwodStripe => "twod_stripe",
        }
    }

    /// The parameters in the form that [`Dist::parse`] takes.
    pub fn params(&self) -> String {
        match self.kind() {
            DistKind::SimpleStripe => format!("strip_size:{}", self.strip_size),
            DistKind::Basic => String::new(),
            DistKind::Varstrip => {
                let list: Vec<String> =
                    self.strips.iter().map(|s| format!("{}:{}", s.datafile, s.size)).collect();
                format!("strips:{}", list.join(";"))
            }
            DistKind::TwodStripe => format!(
                "num_groups:{},strip_size:{},group_strip_factor:{}",
                self.groups, self.strip_size, self.factor
            ),
        }
    }

    /// Whether the distribution can lay a file on `num_datafiles` datafiles.
    ///
    /// # Errors
    /// `Invalid`, with the sentence to correct it.
    pub fn check(&self, num_datafiles: u32) -> Result<()> {
        const STRIP_MAX: u64 = 1 << 40;
        if num_datafiles == 0 {
            return Err(invalid("a file needs at least one datafile".into()));
        }
        let kind = DistKind::try_from(self.kind)
            .map_err(|_| invalid(format!("unknown distribution number {}", self.kind)))?;
        match kind {
            DistKind::Basic => Ok(()),
            DistKind::SimpleStripe | DistKind::TwodStripe
                if self.strip_size == 0 || self.strip_size > STRIP_MAX =>
            {
                Err(invalid(format!(
                    "strip_size {} must be 1 to {STRIP_MAX} bytes",
                    self.strip_size
                )))
            }
            DistKind::SimpleStripe => Ok(()),
            DistKind::TwodStripe
                if self.groups == 0
                    || self.groups > num_datafiles
                    || self.factor == 0
                    || u64::from(self.factor) * u64::from(num_datafiles) > 1 << 20 =>
            {
                Err(invalid(format!(
                    "twod_stripe with {} groups and factor {} does not fit {num_datafiles} datafiles",
                    self.groups, self.factor
                )))
            }
            DistKind::TwodStripe => Ok(()),
            DistKind::Varstrip => {
                let ok = !self.strips.is_empty()
                    && self.strips.len() <= 4096
                    && self
                        .strips
                        .iter()
                        .all(|s| s.datafile < num_datafiles && s.size > 0 && s.size <= STRIP_MAX);
                ok.then_some(()).ok_or_else(|| {
                    invalid(format!(
                        "varstrip_dist needs 1 to 4096 strips, each of 1 to {STRIP_MAX} bytes on a \
                         datafile below {num_datafiles}"
                    ))
                })
            }
        }
    }

    fn round(&self, num_datafiles: u32) -> Round {
        match self.kind() {
            DistKind::SimpleStripe => (0..num_datafiles).map(|d| (d, self.strip_size)).collect(),
            DistKind::Basic => Round::from_slice(&[(0, u64::MAX)]),
            DistKind::Varstrip => self.strips.iter().map(|s| (s.datafile, s.size)).collect(),
            DistKind::TwodStripe => {
                let (n, g) = (num_datafiles, self.groups.clamp(1, num_datafiles));
                let mut round = Round::new();
                for group in 0..g {
                    let (from, to) = (group * n / g, (group + 1) * n / g);
                    for _ in 0..self.factor {
                        round.extend((from..to).map(|d| (d, self.strip_size)));
                    }
                }
                round
            }
        }
    }

    /// Where the byte at `logical_offset` lies.
    pub fn locate(&self, num_datafiles: u32, logical_offset: u64) -> Physical {
        match self.kind() {
            DistKind::SimpleStripe => {
                let strip = logical_offset / self.strip_size;
                let within = logical_offset % self.strip_size;
                let n = u64::from(num_datafiles);
                Physical {
                    datafile: (strip % n) as u32,
                    physical_offset: strip / n * self.strip_size + within,
                    contiguous_bytes: self.strip_size - within,
                }
            }
            DistKind::Basic => Physical {
                datafile: 0,
                physical_offset: logical_offset,
                contiguous_bytes: u64::MAX - logical_offset,
            },
            DistKind::Varstrip | DistKind::TwodStripe => {
                let round = self.round(num_datafiles);
                let total: u64 = round.iter().map(|s| s.1).sum();
                let (rounds, mut rest) = (logical_offset / total, logical_offset % total);
                let per_round =
                    |d: u32| round.iter().filter(|s| s.0 == d).map(|s| s.1).sum::<u64>();
                for (i, &(d, size)) in round.iter().enumerate() {
                    if rest < size {
                        let before: u64 = round[..i].iter().filter(|s| s.0 == d).map(|s| s.1).sum();
                        return Physical {
                            datafile: d,
                            physical_offset: rounds * per_round(d) + before + rest,
                            contiguous_bytes: size - rest,
                        };
                    }
                    rest -= size;
                }
                // Not reached: rest < total. Named so that a wrong sum shows in tests.
                Physical { datafile: u32::MAX, physical_offset: 0, contiguous_bytes: 1 }
            }
        }
    }

    /// Which byte of the file lies at `physical_offset` of `datafile`; `None` when the distribution
    /// puts nothing on that datafile.
    pub fn logical_of(
        &self,
        num_datafiles: u32,
        datafile: u32,
        physical_offset: u64,
    ) -> Option<u64> {
        match self.kind() {
            DistKind::SimpleStripe => {
                let (row, within) =
                    (physical_offset / self.strip_size, physical_offset % self.strip_size);
                Some(
                    (row * u64::from(num_datafiles) + u64::from(datafile)) * self.strip_size
                        + within,
                )
            }
            DistKind::Basic => (datafile == 0).then_some(physical_offset),
            DistKind::Varstrip | DistKind::TwodStripe => {
                let round = self.round(num_datafiles);
                let total: u64 = round.iter().map(|s| s.1).sum();
                let per: u64 = round.iter().filter(|s| s.0 == datafile).map(|s| s.1).sum();
                if per == 0 {
                    return None;
                }
                let (rounds, mut rest) = (physical_offset / per, physical_offset % per);
                let mut logical = rounds * total;
                for &(d, size) in &round {
                    if d == datafile {
                        if rest < size {
                            return Some(logical + rest);
                        }
                        rest -= size;
                    }
                    logical += size;
                }
                None
            }
        }
    }

    /// Bytes of `datafile` that belong to the first `logical_size` bytes of the file: its length
    /// after a truncation to that size.
    pub fn physical_size(&self, num_datafiles: u32, datafile: u32, logical_size: u64) -> u64 {
        if self.kind() == DistKind::Basic {
            return if datafile == 0 { logical_size } else { 0 };
        }
        let round = self.round(num_datafiles);
        let total: u64 = round.iter().map(|s| s.1).sum();
        let per: u64 = round.iter().filter(|s| s.0 == datafile).map(|s| s.1).sum();
        let (rounds, mut rest) = (logical_size / total, logical_size % total);
        let mut size = rounds * per;
        for &(d, len) in &round {
            let take = rest.min(len);
            if d == datafile {
                size += take;
            }
            rest -= take;
            if rest == 0 {
                break;
            }
        }
        size
    }

    /// The file's size as its datafiles show it: one past the last byte that any of them holds.
    /// `physical_sizes[d]` is the length of datafile d.
    pub fn logical_size(&self, physical_sizes: &[u64]) -> u64 {
        let n = physical_sizes.len() as u32;
        physical_sizes
            .iter()
            .enumerate()
            .filter(|(_, size)| **size > 0)
            .filter_map(|(d, size)| self.logical_of(n, d as u32, size - 1))
            .map(|last| last + 1)
            .max()
            .unwrap_or(0)
    }
}

/// Parses bytes with an optional suffix K, M, G (powers of 1024).
///
/// # Errors
/// `Invalid` when it is no number or too large.
pub fn parse_size(text: &str) -> Result<u64> {
    let text = text.trim();
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(|| {
        invalid(format!("'{text}' is no size: write bytes, or a number with K, M or G"))
    })
}

fn invalid(detail: String) -> PvfsError {
    PvfsError::new(ErrorCode::Invalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_dist() -> impl Strategy<Value = (Dist, u32)> {
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
            .prop_map(move |d| (d, n))
        })
    }

    proptest! {
        #[test]
        fn locate_and_logical_of_are_inverse((dist, n) in any_dist(), at in 0u64..1_000_000) {
            prop_assert!(dist.check(n).is_ok());
            let p = dist.locate(n, at);
            prop_assert!(p.datafile < n && p.contiguous_bytes > 0);
            prop_assert_eq!(dist.logical_of(n, p.datafile, p.physical_offset), Some(at));
        }

        #[test]
        fn every_byte_lies_on_one_place_and_sizes_agree((dist, n) in any_dist(), size in 0u64..4_000) {
            let mut counts = vec![0u64; n as usize];
            let mut ends = vec![0u64; n as usize];
            for at in 0..size {
                let p = dist.locate(n, at);
                counts[p.datafile as usize] += 1;
                ends[p.datafile as usize] = ends[p.datafile as usize].max(p.physical_offset + 1);
            }
            for d in 0..n {
                prop_assert_eq!(dist.physical_size(n, d, size), counts[d as usize]);
                prop_assert_eq!(ends[d as usize], counts[d as usize]);
            }
            prop_assert_eq!(dist.logical_size(&ends), size);
        }

        #[test]
        fn names_and_params_parse_back((dist, _n) in any_dist()) {
            let back = Dist::parse(dist.name(), &dist.params()).unwrap();
            prop_assert_eq!(back.kind, dist.kind);
            prop_assert_eq!(back.strips, dist.strips);
        }
    }

    #[test]
    fn strip_i_lies_on_datafile_i_mod_n() {
        let d = Dist::simple_stripe(65_536);
        for i in 0..40u64 {
            let p = d.locate(4, i * 65_536 + 5);
            assert_eq!((u64::from(p.datafile), p.physical_offset), (i % 4, i / 4 * 65_536 + 5));
        }
    }
}
