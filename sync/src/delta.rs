//! Delta transfer: what of a new content the other side's old one already has. Pure but for the two sides
//! that it asks for pieces.
//!
//! Contents are cut where their bytes say so (fastcdc), so an insertion moves cuts along with it; pieces
//! are told apart by the first half of their BLAKE3. First coarsely over the whole file, about 512 pieces;
//! then finely where something is missing. So one byte in 100 MB costs some kilobytes each way, in two
//! questions. Nothing rests on a piece's hash: whoever puts the result together checks the hash of the
//! whole before it is used.
use crate::error::{Result, SyncError};
use fastcdc::v2020::StreamCDC;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Read;

/// Smaller files travel whole.
pub const DELTA_FROM: u64 = 256 << 10;
/// So many gaps are looked at finely; a file with more has changed all over.
const GAPS_MAX: usize = 64;
/// A gap that is longer than this is simply new.
const GAP_BYTES_MAX: u64 = 32 << 20;
/// Averages that can be asked for.
pub const AVERAGE: std::ops::RangeInclusive<u32> = 1 << 10..=4 << 20;
/// So many ranges in one question.
pub const RANGES_MAX: usize = 1_000;

/// A piece of a content: its length and the first half of its BLAKE3 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Piece(pub u32, pub String);

/// A stretch of bytes: where it begins and how long it is.
pub type Range = (u64, u64);

/// One part of a new content, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where the old content has these bytes; `None`: it has not.
    #[serde(default)]
    pub from: Option<u64>,
    /// How many.
    pub size: u64,
}

/// A content that can be cut into pieces.
pub trait Side {
    /// The pieces of each range, cut for this average length.
    ///
    /// # Errors
    /// As whoever holds the content.
    fn pieces(&mut self, average: u32, ranges: &[Range]) -> Result<Vec<Vec<Piece>>>;
}

/// Cuts what a reader gives.
///
/// # Errors
/// [`SyncError::Invalid`] for an average that cannot be asked for; the reader's.
pub fn cut(source: impl Read, average: u32) -> Result<Vec<Piece>> {
    if !AVERAGE.contains(&average) {
        let why =
            format!("pieces of {average} bytes: from {} to {}", AVERAGE.start(), AVERAGE.end());
        return Err(SyncError::Invalid(why));
    }
    let average = average as usize;
    let mut all = Vec::new();
    for chunk in StreamCDC::new(source, average / 4, average, average * 4) {
        let chunk = chunk.map_err(|e| SyncError::io("cut into pieces", e.into()))?;
        let len = u32::try_from(chunk.length).unwrap_or(u32::MAX);
        let hash = blake3::hash(&chunk.data).to_hex();
        all.push(Piece(len, hash.get(..32).unwrap_or_default().to_owned()));
    }
    Ok(all)
}

/// The coarse average for a file: about 512 pieces.
fn coarse(size: u64) -> u32 {
    u32::try_from((size / 512).next_power_of_two())
        .unwrap_or(u32::MAX)
        .clamp(16 << 10, *AVERAGE.end())
}

/// A stretch of the new content that was not found, and the old one's between its neighbours.
#[derive(Clone, Copy, Debug)]
struct Gap {
    new: Range,
    old: Range,
}

enum Found {
    Old(Part),
    Gap(Gap),
}

/// Finds the pieces of `new` in `old`; both begin at their offsets.
fn compare(new: &[Piece], new_at: u64, old: &[Piece], old_range: Range) -> Vec<Found> {
    let mut at = old_range.0;
    let mut places: HashMap<&Piece, u64> = HashMap::new();
    for piece in old {
        places.entry(piece).or_insert(at);
        at += u64::from(piece.0);
    }
    let old_end = old_range.0 + old_range.1;
    let (mut out, mut gap): (Vec<Found>, Option<Range>) = (Vec::new(), None);
    let (mut pos, mut behind) = (new_at, old_range.0);
    let close = |out: &mut Vec<Found>, gap: &mut Option<Range>, behind: u64, next: Option<u64>| {
        if let Some(new) = gap.take() {
            // What lies between in the old content, of a long stretch only next to where the contents
            // meet again; at the end, or if it was moved about, what follows.
            let (from, end) = match next {
                Some(next) if next >= behind => (behind.max(next.saturating_sub(4 * new.1)), next),
                _ => (behind, old_end.min(behind + 4 * new.1)),
            };
            out.push(Found::Gap(Gap { new, old: (from, end - from) }));
        }
    };
    for piece in new {
        let size = u64::from(piece.0);
        match places.get(piece) {
            Some(from) => {
                close(&mut out, &mut gap, behind, Some(*from));
                match out.last_mut() {
                    Some(Found::Old(p)) if p.from.is_some_and(|f| f + p.size == *from) => {
                        p.size += size
                    }
                    _ => out.push(Found::Old(Part { from: Some(*from), size })),
                }
                behind = *from + size;
            }
            None => match &mut gap {
                Some(g) => g.1 += size,
                None => gap = Some((pos, size)),
            },
        }
        pos += size;
    }
    close(&mut out, &mut gap, behind, None);
    out
}

/// The parts that make up the new content, in order; `None` if too little of it is old to be worth it.
///
/// # Errors
/// As the sides.
pub fn plan(
    new: &mut dyn Side,
    new_size: u64,
    old: &mut dyn Side,
    old_size: u64,
) -> Result<Option<Vec<Part>>> {
    if new_size < DELTA_FROM || old_size < DELTA_FROM {
        return Ok(None);
    }
    let average = coarse(new_size.max(old_size));
    let whole = |size| [(0, size)];
    let first =
        |mut all: Vec<Vec<Piece>>| if all.is_empty() { Vec::new() } else { all.swap_remove(0) };
    let new_pieces = first(new.pieces(average, &whole(new_size))?);
    let old_pieces = first(old.pieces(average, &whole(old_size))?);
    let found = compare(&new_pieces, 0, &old_pieces, (0, old_size));
    let fine = (average / 64).max(2 << 10);
    let gaps: Vec<Gap> = found
        .iter()
        .filter_map(|f| match f {
            Found::Gap(g)
                if g.old.1 > 0
                    && g.new.1 > u64::from(fine) * 2
                    && g.new.1.max(g.old.1) <= GAP_BYTES_MAX =>
            {
                Some(*g)
            }
            _ => None,
        })
        .take(GAPS_MAX)
        .collect();
    let mut finer = HashMap::new();
    if !gaps.is_empty() {
        let ranges = |of: fn(&Gap) -> Range| gaps.iter().map(of).collect::<Vec<_>>();
        let new_fine = new.pieces(fine, &ranges(|g| g.new))?;
        let old_fine = old.pieces(fine, &ranges(|g| g.old))?;
        for ((gap, n), o) in gaps.iter().zip(new_fine).zip(old_fine) {
            finer.insert(gap.new.0, compare(&n, gap.new.0, &o, gap.old));
        }
    }
    let mut parts: Vec<Part> = Vec::new();
    let mut push = |part: Part| match parts.last_mut() {
        Some(last) if last.from.is_none() && part.from.is_none() => last.size += part.size,
        Some(last) if last.from.is_some_and(|f| Some(f + last.size) == part.from) => {
            last.size += part.size;
        }
        _ => parts.push(part),
    };
    for one in found {
        match one {
            Found::Old(part) => push(part),
            Found::Gap(gap) => match finer.remove(&gap.new.0) {
                Some(inner) => inner.into_iter().for_each(|f| match f {
                    Found::Old(part) => push(part),
                    Found::Gap(g) => push(Part { from: None, size: g.new.1 }),
                }),
                None => push(Part { from: None, size: gap.new.1 }),
            },
        }
    }
    let known: u64 = parts.iter().filter(|p| p.from.is_some()).map(|p| p.size).sum();
    let all: u64 = parts.iter().map(|p| p.size).sum();
    // The pieces of a content that changed meanwhile do not add up.
    Ok((all == new_size && known * 4 >= new_size).then_some(parts))
}

/// Reads one range of something that is read at places.
pub struct Window<F> {
    read: F,
    pos: u64,
    end: u64,
}

impl<F> std::fmt::Debug for Window<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Window({}..{})", self.pos, self.end)
    }
}

impl<F: FnMut(u64, &mut [u8]) -> std::io::Result<usize>> Window<F> {
    /// Of `read(place, room)`.
    pub fn new(range: Range, read: F) -> Self {
        Self { read, pos: range.0, end: range.0.saturating_add(range.1) }
    }
}

impl<F: FnMut(u64, &mut [u8]) -> std::io::Result<usize>> Read for Window<F> {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.pos).unwrap_or(usize::MAX).min(room.len());
        let n = (self.read)(self.pos, room.get_mut(..left).unwrap_or_default())?;
        self.pos += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    struct Held<'a> {
        bytes: &'a [u8],
        told: usize,
    }

    impl Side for Held<'_> {
        fn pieces(&mut self, average: u32, ranges: &[Range]) -> Result<Vec<Vec<Piece>>> {
            let of = |(from, len): &Range| {
                cut(&self.bytes[*from as usize..(from + len) as usize], average)
            };
            let all = ranges.iter().map(of).collect::<Result<Vec<_>>>()?;
            self.told += serde_json::to_string(&all).unwrap().len();
            Ok(all)
        }
    }

    /// Puts the new content together; returns how many bytes travelled with the old side's pieces told.
    fn through(new: &[u8], old: &[u8]) -> Option<usize> {
        let (mut n, mut o) = (Held { bytes: new, told: 0 }, Held { bytes: old, told: 0 });
        let parts = plan(&mut n, new.len() as u64, &mut o, old.len() as u64).unwrap()?;
        let (mut made, mut sent) = (Vec::new(), o.told);
        for part in parts {
            let size = part.size as usize;
            match part.from {
                Some(from) => made.extend_from_slice(&old[from as usize..from as usize + size]),
                None => {
                    made.extend_from_slice(&new[made.len()..made.len() + size]);
                    sent += size;
                }
            }
        }
        assert!(made == new);
        Some(sent)
    }

    #[test]
    fn small_changes_of_large_contents_are_small_transfers() {
        let old = Rng::new(1).bytes(32 << 20);
        let mut changed = old.clone();
        changed[20_000_000] ^= 1;
        assert!(through(&changed, &old).unwrap() < 60_000);
        let front = [b"x".as_slice(), &old].concat();
        assert!(through(&front, &old).unwrap() < 60_000);
        let shorter = [&old[..5_000_000], &old[5_000_100..]].concat();
        assert!(through(&shorter, &old).unwrap() < 60_000);
        let appended = [&old[..], &Rng::new(2).bytes(100_000)].concat();
        assert!(through(&appended, &old).unwrap() < 180_000);
        let swapped = [&old[16 << 20..], &old[..16 << 20]].concat();
        assert!(through(&swapped, &old).unwrap() < 400_000);
        assert!(through(&old, &old).unwrap() < 40_000);
        assert_eq!(through(&Rng::new(3).bytes(1 << 20), &old), None, "nothing in common");
        assert_eq!(through(&old[..1000], &old), None, "small ones travel whole");
    }

    #[test]
    fn whatever_changes_the_new_content_comes_out() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let len = (DELTA_FROM + rng.below(1 << 20)) as usize;
            let old = Rng::new(seed).bytes(len);
            let mut new = old.clone();
            for _ in 0..rng.below(12) {
                let at = rng.below(new.len() as u64) as usize;
                let end = (at + rng.below(40_000) as usize).min(new.len());
                let bytes = if rng.one_in(3) {
                    old[at.min(old.len() - 1)..].iter().take(50_000).copied().collect()
                } else {
                    Rng::new(rng.next_u64()).bytes(rng.below(30_000) as usize)
                };
                new.splice(at..end, bytes);
            }
            through(&new, &old);
        }
    }
}
