//! `pvfs2 bench paper`: the experiments of the article that this project began with, on this machine.
//!
//! (a) 1 metadata and 1 I/O server, 1 client, strips of 64 MiB, beside a local directory: bandwidth
//! (Figure 7) and latency (Figure 8) of writing and reading files of 4 KiB to 64 MiB.
//! (b) 1 metadata and 2 I/O servers, 1, 2 and 4 clients, strips of 64 KiB: latency of reading (Figure
//! 9) and writing (Figure 10) one file of 4 KiB to 64 MiB, of which each client has an equal part.
//!
//! - [`mod@run`]: the command line, the servers, the measuring
//! - [`figures`]: the four charts
//! - [`html`]: the report
pub mod figures;
pub mod html;
pub mod run;

pub use run::{PaperArgs, run};
