//! What a client of IOR does: the transfers and their order.
//!
//! Layout of a shared file of N clients: segment s holds block r of each client r,
//! `logical_offset = s * N * block + r * block + t * transfer`; in a file per client
//! `logical_offset = s * block + t * transfer`.
use serde::{Deserialize, Serialize};

/// What all phases of a run share.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Spec {
    /// Bytes of a client's contiguous block in a segment (-b).
    pub block: u64,
    /// Bytes of one transfer (-t); divides the block.
    pub transfer: u64,
    /// Segments (-s).
    pub segments: u64,
    /// A file for each client (-F).
    pub file_per_proc: bool,
    /// Readers take the data of the client so many ranks on (-C, -Q).
    pub shift: u32,
    /// Transfers in random order, each once (-z).
    pub random: bool,
    /// Seed of the order and of the bytes.
    pub seed: u64,
    /// fsync before the close (-e).
    pub fsync: bool,
    /// fsync after each write (-Y).
    pub fsync_per_write: bool,
    /// O_DIRECT (-B).
    pub direct: bool,
    /// Every transfer's bytes are stamped with their place.
    pub stamped: bool,
    /// Files that are there are used, not made (-E).
    pub existing: bool,
    /// A phase ends after so many seconds, done or not (-D).
    pub deadline_s: Option<f64>,
    /// A phase goes round the pattern for so many seconds (--duration).
    pub duration_s: Option<f64>,
}

/// What a phase does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Write.
    Write,
    /// Read.
    Read,
    /// Read and compare (-W after a write, -R).
    Check,
    /// Remove the files.
    Remove,
}

/// One phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phase {
    /// What.
    pub kind: Kind,
    /// Tells the bytes of one repetition from those of the next.
    pub stamp: u32,
    /// How many transfers of each rank were written; empty: all.
    pub written: Vec<u64>,
}

impl Spec {
    /// Transfers of one client.
    pub fn transfers(&self) -> u64 {
        self.segments * self.transfers_per_block()
    }
    fn transfers_per_block(&self) -> u64 {
        self.block / self.transfer.max(1)
    }
    /// Bytes of one client.
    pub fn bytes_per_client(&self) -> u64 {
        self.segments * self.block
    }
    /// The rank whose data this rank reads.
    pub fn read_rank(&self, rank: u32, clients: u32) -> u32 {
        (rank + self.shift) % clients.max(1)
    }
    /// The file that holds a rank's data.
    pub fn file(&self, path: &str, rank: u32) -> String {
        if self.file_per_proc { format!("{path}.{rank:08}") } else { path.to_owned() }
    }
    /// Where transfer `index` of `rank` lies in its file.
    pub fn logical_offset(&self, index: u64, rank: u32, clients: u32) -> u64 {
        let per_block = self.transfers_per_block().max(1);
        let (segment, inside) = (index / per_block, index % per_block);
        let block = match self.file_per_proc {
            true => segment * self.block,
            false => (segment * u64::from(clients) + u64::from(rank)) * self.block,
        };
        block + inside * self.transfer
    }
    /// The order in which a rank's transfers are made: the same for whoever writes and reads them.
    pub fn order(&self, rank: u32) -> Order {
        let n = self.transfers();
        if !self.random {
            return Order { shuffled: None, n };
        }
        let mut all: Vec<u64> = (0..n).collect();
        let mut state = crate::stamp::tag(self.seed, 0x0dde, rank);
        for i in (1..all.len()).rev() {
            // xorshift64*: good enough to shuffle by.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let random = u128::from(state.wrapping_mul(0x2545_f491_4f6c_dd1d));
            all.swap(i, ((random * (i as u128 + 1)) >> 64) as usize);
        }
        Order { shuffled: Some(all), n }
    }
}

/// See [`Spec::order`].
pub struct Order {
    shuffled: Option<Vec<u64>>,
    n: u64,
}

impl Order {
    /// The `at`-th transfer's index; goes round.
    pub fn index(&self, at: u64) -> u64 {
        let at = at % self.n.max(1);
        self.shuffled.as_ref().map_or(at, |all| all[at as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(spec: &Spec, clients: u32) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        for rank in 0..clients {
            let order = spec.order(rank);
            for at in 0..spec.transfers() {
                let logical_offset = spec.logical_offset(order.index(at), rank, clients);
                all.push((spec.file("f", rank), logical_offset));
            }
        }
        all.sort();
        all
    }

    #[test]
    fn every_byte_of_a_shared_file_belongs_to_one_transfer() {
        for random in [false, true] {
            let spec =
                Spec { block: 94_016, transfer: 47_008, segments: 3, random, ..Spec::default() };
            let all = covered(&spec, 4);
            let wanted: Vec<_> = (0..24).map(|i| ("f".to_owned(), i * 47_008)).collect();
            assert_eq!(all, wanted);
        }
        let spec = Spec { block: 100, transfer: 50, segments: 2, ..Spec::default() };
        assert_eq!(spec.logical_offset(3, 1, 3), 300 + 100 + 50);
    }

    #[test]
    fn files_of_their_own_begin_at_zero() {
        let spec =
            Spec { block: 64, transfer: 16, segments: 2, file_per_proc: true, ..Spec::default() };
        let all = covered(&spec, 2);
        assert_eq!(all.len(), 16);
        assert_eq!(all[0], ("f.00000000".to_owned(), 0));
        assert_eq!(all[15], ("f.00000001".to_owned(), 112));
    }

    #[test]
    fn random_orders_differ_by_rank_and_seed_but_not_by_run() {
        let spec = |seed| Spec {
            block: 1_000,
            transfer: 1,
            segments: 1,
            random: true,
            seed,
            ..Spec::default()
        };
        let list = |seed, rank| {
            let order = spec(seed).order(rank);
            (0..1_000).map(|at| order.index(at)).collect::<Vec<_>>()
        };
        assert_eq!(list(1, 0), list(1, 0));
        assert_ne!(list(1, 0), list(1, 1));
        assert_ne!(list(1, 0), list(2, 0));
        assert_ne!(list(1, 0), (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn shifted_readers_take_each_rank_once() {
        let spec = Spec { shift: 5, ..Spec::default() };
        let mut ranks: Vec<u32> = (0..4).map(|r| spec.read_rank(r, 4)).collect();
        assert_eq!(ranks, [1, 2, 3, 0]);
        ranks.sort();
        assert_eq!(ranks, [0, 1, 2, 3]);
    }
}
