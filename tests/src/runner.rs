//! A small test runner for cases that need a real mount: one after the other, and a case that cannot
//! run here is reported as ignored with its reason, never as passed.
//!
//! Its lines are those of the standard runner, so that whatever reads `cargo test` reads them too.
//! Arguments: any words filter by name; `--list` lists; `--exact`; others are accepted and ignored.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// What a case needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Only processes and sockets.
    Nothing,
    /// Root and /dev/fuse.
    Mount,
    /// The same, and python3, which plays other people's programs.
    MountAndPython,
}

/// One test.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// It panics when it fails.
    pub run: fn(),
}

/// Makes [`Case`]s out of functions: `cases![Mount: a::b, a::c; Nothing: d::e]`.
#[macro_export]
macro_rules! cases {
    ($($needs:ident: $($path:path),+ $(,)?);+ $(;)?) => {
        &[$($($crate::runner::Case {
            name: stringify!($path),
            needs: $crate::runner::Needs::$needs,
            run: $path,
        }),+),+]
    };
}

/// Why a case with these needs cannot run here.
pub fn missing(needs: Needs) -> Option<String> {
    if needs == Needs::Nothing {
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    if let Err(e) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return Some(format!("needs /dev/fuse: {e}"));
    }
    let has_python = || {
        let modules = ["-c", "import fcntl, sqlite3"];
        let out = std::process::Command::new("python3").args(modules).output();
        out.is_ok_and(|out| out.status.success())
    };
    let lacks = needs == Needs::MountAndPython && !has_python();
    lacks.then(|| "needs python3 with its standard library".into())
}

/// Runs the cases that the arguments ask for.
pub fn run(cases: &[Case]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let exact = args.iter().any(|a| a == "--exact");
    let wanted = |name: &str| {
        words.is_empty()
            || words.iter().any(|w| if exact { name == *w } else { name.contains(w.as_str()) })
    };
    if args.iter().any(|a| a == "--list") {
        for case in cases.iter().filter(|c| wanted(c.name)) {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<&Case> = cases.iter().filter(|c| wanted(c.name)).collect();
    println!("\nrunning {} tests", chosen.len());
    let (begin, mut passed, mut ignored, mut failed) = (Instant::now(), 0, 0, Vec::new());
    for case in &chosen {
        if let Some(reason) = missing(case.needs) {
            println!("test {} ... ignored, {reason}", case.name);
            ignored += 1;
            continue;
        }
        let start = Instant::now();
        let ok = catch_unwind(AssertUnwindSafe(case.run)).is_ok();
        let verdict = if ok { "ok" } else { "FAILED" };
        println!("test {} ... {verdict} <{:.1} s>", case.name, start.elapsed().as_secs_f64());
        if ok {
            passed += 1;
        } else {
            failed.push(case.name);
        }
    }
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; {ignored} ignored; 0 measured; {} filtered out; \
         finished in {:.2}s\n",
        failed.len(),
        cases.len() - chosen.len(),
        begin.elapsed().as_secs_f64()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
