//! The live line: what runs, for how long, how far, how fast; on a terminal alone.
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const DRAW_EVERY: Duration = Duration::from_millis(200);

/// The line.
pub struct Progress {
    is_shown: bool,
    drawn: Option<Instant>,
}

impl Progress {
    /// Shown where standard error is a terminal and `quiet` is false.
    pub fn new(quiet: bool) -> Progress {
        Progress { is_shown: !quiet && std::io::stderr().is_terminal(), drawn: None }
    }

    /// Draws it, if the last drawing is old enough.
    pub fn show(&mut self, label: &str, began: Instant, ops: u64, bytes: u64, total: u64) {
        if !self.is_shown || self.drawn.is_some_and(|at| at.elapsed() < DRAW_EVERY) {
            return;
        }
        self.drawn = Some(Instant::now());
        let text = line(label, began.elapsed().as_secs_f64(), ops, bytes, total);
        // A terminal that is gone needs no line.
        let _ = std::io::stderr().write_all(format!("\r\x1b[K{text}").as_bytes());
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.drawn.take().is_some() {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// `total`: bytes where bytes are moved, else operations; 0: not known.
fn line(label: &str, seconds: f64, ops: u64, bytes: u64, total: u64) -> String {
    let done = if bytes > 0 { bytes } else { ops };
    let share = match total {
        0 => String::new(),
        total => format!(" {:3.0} %", 100.0 * done as f64 / total as f64),
    };
    let per_second = |n: u64| n as f64 / seconds.max(1e-3);
    let rate = match bytes {
        0 => format!("{ops} operations, {:.0}/s", per_second(ops)),
        _ => format!(
            "{:.1} MiB, {:.1} MiB/s",
            bytes as f64 / 1_048_576.0,
            per_second(bytes) / 1_048_576.0
        ),
    };
    format!("{label}: {seconds:.1} s{share}  {rate}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines() {
        assert_eq!(
            super::line("write 1/3", 2.0, 8, 8 << 20, 32 << 20),
            "write 1/3: 2.0 s  25 %  8.0 MiB, 4.0 MiB/s"
        );
        assert_eq!(
            super::line("File stat", 0.5, 100, 0, 0),
            "File stat: 0.5 s  100 operations, 200/s"
        );
    }
}
