//! `pvfs2 perror`: what an error number or name means, and which errno programs see.
use crate::output;
use anyhow::{Result, bail};
use pvfs2_fuse::errno;
use pvfs2_proto::ErrorCode;
use serde::Serialize;

/// Arguments of `pvfs2 perror`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  pvfs2 perror 13            error 13 of the wire
  pvfs2 perror BadSession    the same by name
  pvfs2 perror ESTALE        every error that programs see as ESTALE
  pvfs2 perror               all of them")]
pub struct PerrorArgs {
    /// Number or name of a PVFS2 error, or the name of an errno; none: all
    #[arg(value_name = "ERROR")]
    pub error: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Row {
    code: u32,
    name: &'static str,
    errno: i32,
    errno_name: &'static str,
    text: &'static str,
}

impl Row {
    fn of(code: ErrorCode) -> Row {
        let errno = errno::to_errno(code);
        Row {
            code: code as u32,
            name: code.name(),
            errno,
            errno_name: errno::errno_name(errno),
            text: errno::text(code),
        }
    }
}

/// The words for an error code.
pub fn words(code: ErrorCode) -> &'static str {
    errno::text(code)
}

/// Runs it.
///
/// # Errors
/// An unknown error.
pub fn run(args: PerrorArgs) -> Result<()> {
    let rows = find(args.error.as_deref())?;
    if args.json {
        return output::json(&rows);
    }
    for r in rows {
        output::line(format!("{:>3} {:<16} {:<15} {}", r.code, r.name, r.errno_name, r.text))?;
    }
    Ok(())
}

fn find(error: Option<&str>) -> Result<Vec<Row>> {
    let all = || ErrorCode::ALL.iter().map(|c| Row::of(*c));
    let Some(error) = error else { return Ok(all().collect()) };
    // PVFS2's tools print error codes as negative numbers.
    let number = error.trim_start_matches('-').parse::<u32>().ok();
    let matches = |r: &Row| match number {
        Some(n) => r.code == n,
        None => r.name.eq_ignore_ascii_case(error) || r.errno_name.eq_ignore_ascii_case(error),
    };
    let found: Vec<Row> = all().filter(matches).collect();
    if found.is_empty() {
        bail!("'{error}' is no PVFS2 error; `pvfs2 perror` lists them all");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_found_by_number_and_name() {
        let names = |e: &str| find(Some(e)).unwrap().iter().map(|r| r.name).collect::<Vec<_>>();
        assert_eq!(names("1"), ["NotFound"]);
        assert_eq!(names("-26"), ["BadSession"]);
        assert_eq!(names("stale"), ["Stale"]);
        assert!(names("EIO").contains(&"Damaged"));
        assert_eq!(find(None).unwrap().len(), ErrorCode::ALL.len());
        assert!(find(None).unwrap().iter().all(|r| !r.text.is_empty() && r.errno > 0));
        assert!(find(Some("9999")).is_err() && find(Some("EWHAT")).is_err());
    }
}
