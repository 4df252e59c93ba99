//! The two-mount judge by hand: `coherence DIR_A DIR_B [--within MS] [NAME...]`, two directories that
//! are one, through two mounts of any file system. `--within 0` (the default): changes are seen at
//! once. Exit status 1 when a check failed.
use pvfs2_tests::coherence::{Pair, run};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let (mut words, mut within) = (Vec::new(), Duration::ZERO);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--within" {
            match args.next().and_then(|ms| ms.parse().ok()) {
                Some(ms) => within = Duration::from_millis(ms),
                None => return usage(),
            }
        } else {
            words.push(arg);
        }
    }
    if words.len() < 2 {
        return usage();
    }
    let names = words.split_off(2);
    let own = format!("coherence.{}", std::process::id());
    let pair = Pair { a: words[0].clone().into(), b: words[1].clone().into(), bound: within };
    let pair = Pair { a: pair.a.join(&own), b: pair.b.join(&own), ..pair };
    if let Err(e) = std::fs::create_dir(&pair.a) {
        eprintln!("mkdir {}: {e}", pair.a.display());
        return ExitCode::from(2);
    }
    let failed = run(&pair, &names);
    println!(
        "{} failed{}",
        failed.len(),
        failed.iter().map(|f| format!(" {f}")).collect::<String>()
    );
    if failed.is_empty() {
        let _ = std::fs::remove_dir_all(&pair.a);
        ExitCode::SUCCESS
    } else {
        println!("left as it is: {}", pair.a.display());
        ExitCode::from(1)
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: coherence DIR_A DIR_B [--within MS] [NAME...]   (one directory, two mounts)");
    ExitCode::from(2)
}
