//! Runs both experiments with servers of their own, by the clients and clocks of `ior`, and writes what
//! was found: `paper.csv`, `paper.json`, `fig7..fig10` as SVG and PNG, `report.html`.
//!
//! A repetition's latency is the time from the first client's open to the last one's close; its
//! bandwidth is the file's size over that. The first repetition of each point warms up and is not
//! counted. PVFS2 and the local directory take turns, size by size.
use super::{figures, html};
use crate::api::Api;
use crate::args::ClientArgs;
use crate::fleet::Hosts;
use crate::ior::{self, IorArgs};
use crate::progress::Progress;
use crate::table;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Arguments of `pvfs2 bench paper`.
#[derive(clap::Args, Debug, Clone)]
#[command(after_help = "\
Examples:
  pvfs2 bench paper --out paper                 everything: a few minutes; then open paper/report.html
  pvfs2 bench paper --out paper --quick         fewer sizes and repetitions
  pvfs2 bench paper --out paper --from paper/paper.json    draw again what was measured")]
pub struct PaperArgs {
    /// Where the results go, made if it is missing
    #[arg(long, default_value = "paper", value_name = "DIR")]
    pub out: PathBuf,
    /// Where servers and local directory keep their files [default: a temporary folder beside --out]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// POSIX: through a mount, as in the article. PVFS2: the client library
    #[arg(short = 'a', long = "api", default_value = "POSIX", value_enum)]
    pub api: Api,
    /// Repetitions that count, of each point
    #[arg(short = 'i', long, default_value_t = 11, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: u32,
    /// Only every fourth power of two, 5 repetitions
    #[arg(long)]
    pub quick: bool,
    /// fsync before each close
    #[arg(short = 'e', long)]
    pub fsync: bool,
    /// Do not measure: draw what this file holds
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// No live line
    #[arg(long)]
    pub quiet: bool,
}

/// What is measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// For the reader.
    pub machine: String,
    #[allow(missing_docs)]
    pub date: String,
    /// POSIX or PVFS2.
    pub api: String,
    #[allow(missing_docs)]
    pub fsync: bool,
    /// Point by point.
    pub points: Vec<Measure>,
}

/// One point of one curve.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measure {
    /// a or b.
    pub experiment: String,
    /// PVFS2, or local.
    pub target: String,
    #[allow(missing_docs)]
    pub clients: u32,
    /// Bytes of the file.
    pub size: u64,
    /// write or read.
    pub access: String,
    /// Of each repetition that counts.
    pub seconds: Vec<f64>,
}

/// Files of these sizes.
fn sizes(quick: bool) -> Vec<u64> {
    (12..=26).filter(|p| !quick || p % 2 == 0).map(|p| 1 << p).collect()
}

/// `pvfs2 bench paper`.
///
/// # Errors
/// Servers that do not start, a file system that fails, a folder that cannot be written.
pub fn run(args: PaperArgs) -> Result<()> {
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))?;
    let measured = match &args.from {
        Some(path) => {
            let bytes =
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_slice(&bytes).with_context(|| {
                format!("{} is no paper.json of `pvfs2 bench paper`", path.display())
            })?
        }
        None => measure(&args)?,
    };
    write_all(&args.out, &measured)?;
    println!("{}", args.out.join("report.html").display());
    Ok(())
}

fn write_all(out: &Path, measured: &Measured) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(measured)?;
    json.push(b'\n');
    table::write(&out.join("paper.json"), &json)?;
    table::write(&out.join("paper.csv"), csv(measured).as_bytes())?;
    let figures = figures::all(measured);
    for (name, chart) in &figures {
        let scene = chart.draw();
        table::write(&out.join(format!("{name}.svg")), scene.svg().as_bytes())?;
        table::write(&out.join(format!("{name}.png")), &scene.png(2.0)?)?;
    }
    table::write(&out.join("report.html"), html::report(measured, &figures).as_bytes())
}

fn csv(measured: &Measured) -> String {
    let mut out =
        String::from("experiment,target,clients,size_bytes,access,repetition,seconds,MiB_per_s\n");
    for m in &measured.points {
        for (i, s) in m.seconds.iter().enumerate() {
            let rate = m.size as f64 / 1_048_576.0 / s.max(1e-12);
            out += &format!(
                "{},{},{},{},{},{i},{s:.9},{rate:.4}\n",
                m.experiment, m.target, m.clients, m.size, m.access
            );
        }
    }
    out
}

fn measure(args: &PaperArgs) -> Result<Measured> {
    let scratch = match &args.scratch {
        Some(dir) => dir.clone(),
        None => args.out.join(format!("scratch-{}", std::process::id())),
    };
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("cannot make {}", scratch.display()))?;
    // The servers' sockets and mounts want whole paths.
    let scratch = scratch.canonicalize()?;
    let mut lead = Lead {
        args,
        reps: if args.quick { args.repetitions.min(5) } else { args.repetitions },
        progress: Progress::new(args.quiet),
        measured: Measured {
            machine: machine(),
            date: date(),
            api: args.api.name().into(),
            fsync: args.fsync,
            points: Vec::new(),
        },
    };
    let done = lead.both(&scratch);
    // Servers are down by now; only what this run made is removed.
    for name in ["a", "b", "local"] {
        let _ = std::fs::remove_dir_all(scratch.join(name));
    }
    let _ = std::fs::remove_dir(&scratch);
    done.map(|()| lead.measured)
}

struct Lead<'a> {
    args: &'a PaperArgs,
    reps: u32,
    progress: Progress,
    measured: Measured,
}

impl Lead<'_> {
    fn both(&mut self, scratch: &Path) -> Result<()> {
        let sizes = sizes(self.args.quick);
        let local = scratch.join("local");
        std::fs::create_dir_all(&local)?;
        {
            let servers = Servers::start(&scratch.join("a"), 1, 64 << 20)?;
            for &size in &sizes {
                self.point("a", "PVFS2", &servers, 1, size)?;
                self.local(&local, size)?;
            }
            servers.stop()?;
        }
        let servers = Servers::start(&scratch.join("b"), 2, 64 << 10)?;
        for &size in &sizes {
            for clients in [1, 2, 4] {
                self.point("b", "PVFS2", &servers, clients, size)?;
            }
        }
        servers.stop()
    }

    fn local(&mut self, dir: &Path, size: u64) -> Result<()> {
        let file = dir.join("file").to_string_lossy().into_owned();
        self.run("a", "local", IorArgs { file, ..IorArgs::default() }, 1, size)
    }

    fn point(
        &mut self,
        experiment: &str,
        target: &str,
        servers: &Servers,
        clients: u32,
        size: u64,
    ) -> Result<()> {
        let (file, fs) = match self.args.api {
            Api::Posix => (servers.mount.join("file").to_string_lossy().into_owned(), None),
            Api::Pvfs2 => ("pvfs2:/file".into(), Some(servers.data.to_string_lossy().into_owned())),
        };
        let base = IorArgs {
            api: self.args.api,
            file,
            clients: ClientArgs { fs, ..ClientArgs::default() },
            ..IorArgs::default()
        };
        self.run(experiment, target, base, clients, size)
    }

    fn run(
        &mut self,
        experiment: &str,
        target: &str,
        base: IorArgs,
        clients: u32,
        size: u64,
    ) -> Result<()> {
        let part = size / u64::from(clients);
        let ior = IorArgs {
            block_size: part,
            transfer_size: part,
            repetitions: self.reps + 1,
            fsync: self.args.fsync,
            clients: ClientArgs { clients, quiet: self.args.quiet, ..base.clients.clone() },
            ..base
        };
        let results = ior::measure(&ior, &Hosts::default(), &mut self.progress, |_| ())
            .with_context(|| format!("{target}, {clients} clients, {size} bytes"))?;
        for access in ["write", "read"] {
            let those = results.rows.iter().filter(|r| r.access == access && r.iter > 0);
            self.measured.points.push(Measure {
                experiment: experiment.into(),
                target: target.into(),
                clients,
                size,
                access: access.into(),
                seconds: those.map(|r| r.total_s).collect(),
            });
        }
        Ok(())
    }
}

/// A quickstart of this program, in the background; ended on drop.
struct Servers {
    data: PathBuf,
    mount: PathBuf,
}

impl Servers {
    fn start(dir: &Path, io: u32, strip: u64) -> Result<Servers> {
        let servers = Servers { data: dir.join("data"), mount: dir.join("mnt") };
        std::fs::create_dir_all(&servers.data)?;
        let (io, strip) = (io.to_string(), strip.to_string());
        let out = program()?
            .args(["quickstart", "--detach", "--processes", "--meta", "1", "--io", &io])
            .args(["--strip-size", &strip, "--data"])
            .arg(&servers.data)
            .arg("--mount")
            .arg(&servers.mount)
            .stdin(Stdio::null())
            .output()
            .context("cannot start the servers")?;
        if !out.status.success() {
            bail!("the servers did not start: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(servers)
    }

    fn end(&self) -> Result<()> {
        let out = program()?
            .args(["quickstart", "--stop", "--data"])
            .arg(&self.data)
            .stdin(Stdio::null())
            .output()
            .context("cannot stop the servers")?;
        if !out.status.success() {
            bail!("the servers did not stop: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(())
    }

    fn stop(self) -> Result<()> {
        let ended = self.end();
        std::mem::forget(self);
        ended
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            eprintln!("{e:#}");
        }
    }
}

fn program() -> Result<Command> {
    Ok(Command::new(std::env::current_exe().context("where is this program?")?))
}

fn machine() -> String {
    let uname = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("model name"))?.to_owned();
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| text.lines().next()?.split_whitespace().nth(1)?.parse::<u64>().ok());
    format!(
        "{}, {cores} cores, {:.1} GiB, {} {}",
        cpu.unwrap_or_else(|| "unknown processor".into()),
        memory.unwrap_or(0) as f64 / 1_048_576.0,
        uname.sysname().to_string_lossy(),
        uname.release().to_string_lossy()
    )
}

/// Today, as year-month-day.
fn date() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    // Howard Hinnant's civil_from_days.
    let z = (seconds / 86_400) as i64 + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Invented numbers of the right shape.
    pub fn invented() -> Measured {
        let mut points = Vec::new();
        for size in sizes(false) {
            for (experiment, target, clients) in [
                ("a", "PVFS2", 1),
                ("a", "local", 1),
                ("b", "PVFS2", 1),
                ("b", "PVFS2", 2),
                ("b", "PVFS2", 4),
            ] {
                for (access, factor) in [("write", 1.5), ("read", 1.0)] {
                    let slow = if target == "local" { 0.2 } else { 1.0 };
                    let base =
                        factor * slow * (2e-4 / f64::from(clients).sqrt() + size as f64 / 9e8);
                    points.push(Measure {
                        experiment: experiment.into(),
                        target: target.into(),
                        clients,
                        size,
                        access: access.into(),
                        seconds: [1.0, 1.1, 0.9, 1.4, 1.05].map(|x| x * base).to_vec(),
                    });
                }
            }
        }
        Measured {
            machine: "invented & small".into(),
            date: "2026-11-25".into(),
            api: "POSIX".into(),
            fsync: false,
            points,
        }
    }

    #[test]
    fn everything_is_written_and_drawn_again_alike() {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path(), &invented()).unwrap();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        for n in 7..=10 {
            let png = read(&format!("fig{n}.png"));
            assert!(png.starts_with(b"\x89PNG") && png.len() > 20_000, "{}", png.len());
            assert!(read(&format!("fig{n}.svg")).starts_with(b"<svg"));
        }
        // 15 sizes, 5 curves, write and read, 5 repetitions.
        let csv = String::from_utf8(read("paper.csv")).unwrap();
        assert_eq!(csv.lines().count(), 1 + 15 * 5 * 2 * 5);
        // The last bit of a number may differ after JSON; no digit that is printed does.
        let again: Measured = serde_json::from_slice(&read("paper.json")).unwrap();
        assert_eq!(super::csv(&again), csv);
        write_all(dir.path(), &again).unwrap();
        assert_eq!(String::from_utf8(read("paper.csv")).unwrap(), csv);
        assert_eq!(again.points.len(), invented().points.len());
    }

    #[test]
    fn days() {
        let today = date();
        assert!(today.len() == 10 && today.as_str() > "2026-01-01", "{today}");
        assert_eq!(sizes(false).len(), 15);
        assert_eq!(
            sizes(true),
            [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20]
        );
    }
}
