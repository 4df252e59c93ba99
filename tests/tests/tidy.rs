//! Rules of the house that no lint knows: head comments, sizes, nothing left open, no panics outside
//! tests, metric names defined once, nothing that names a machine or a registry.
#![allow(clippy::unwrap_used)] // all test: a panic is a verdict
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Files of the repository (tracked, or new and not ignored) with one of these endings.
fn files(endings: &[&str]) -> Vec<(PathBuf, String)> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "git ls-files: {}", String::from_utf8_lossy(&out.stderr));
    let list = String::from_utf8(out.stdout).unwrap();
    let found: Vec<_> = list
        .lines()
        .filter(|l| endings.is_empty() || endings.iter().any(|e| l.ends_with(e)))
        .filter_map(|l| Some((PathBuf::from(l), std::fs::read_to_string(root().join(l)).ok()?)))
        .collect();
    assert!(found.len() > 3, "this repository has such files: {endings:?}");
    found
}

fn rust_files() -> Vec<(PathBuf, String)> {
    files(&[".rs"])
}

/// Not written by hand.
fn is_generated(text: &str) -> bool {
    text.lines().take(3).any(|l| l.contains("@generated"))
}

/// Code that only tests run.
fn is_test_file(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.starts_with("tests/")
        || text.contains("/tests/")
        || text.ends_with("tests.rs")
        || text.contains("/benches/")
        || text.starts_with("fuzz/")
}

/// The part of a file before its own tests, without comments and string contents that would mislead.
fn product_part(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end]
        .lines()
        .enumerate()
        .map(|(i, l)| (i + 1, l))
        .filter(|(_, l)| !l.trim_start().starts_with("//"))
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn every_file_opens_with_its_head_comment() {
    let bad = rust_files().into_iter().filter(|(_, t)| !is_generated(t)).filter(|(_, text)| {
        let head =
            text.lines().take_while(|l| l.starts_with("//!")).map(|l| l.len() - 3).sum::<usize>();
        head < 30
    });
    none(
        "files without a head comment that says something",
        bad.map(|(p, _)| p.display().to_string()).collect(),
    );
}

#[test]
fn no_file_is_longer_than_600_lines() {
    let lines = |t: &str| t.lines().count();
    let bad = rust_files().into_iter().filter(|(_, t)| !is_generated(t) && lines(t) > LINES_MAX);
    none(
        "files too long",
        bad.map(|(p, t)| format!("{} ({} lines)", p.display(), lines(&t))).collect(),
    );
}

#[test]
fn lib_rs_holds_documentation_and_modules_only() {
    let mut bad = Vec::new();
    for (path, text) in rust_files().into_iter().filter(|(p, _)| p.ends_with("src/lib.rs")) {
        // Brackets of a `pub use` may span lines.
        let code = product_part(&text).filter(|(_, l)| {
            let l = l.trim();
            [
                "fn ",
                "pub fn ",
                "struct ",
                "pub struct ",
                "enum ",
                "pub enum ",
                "impl ",
                "impl<",
                "static ",
            ]
            .iter()
            .any(|k| l.starts_with(k))
        });
        bad.extend(code.map(|(n, l)| format!("{}:{n}: {l}", path.display())));
    }
    none("code in lib.rs", bad);
}

#[test]
fn nothing_panics_outside_tests() {
    let mut bad = Vec::new();
    for (path, text) in
        rust_files().into_iter().filter(|(p, t)| !is_test_file(p) && !is_generated(t))
    {
        for (n, line) in product_part(&text) {
            let hit = [".unwrap()", ".expect(", "panic!(", "unreachable!("]
                .iter()
                .any(|w| line.contains(w));
            if hit {
                bad.push(format!("{}:{n}: {}", path.display(), line.trim()));
            }
        }
    }
    none("panics outside tests", bad);
}

#[test]
fn nothing_is_left_open() {
    // Written in two parts so that this file does not find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
    ];
    let mut bad = Vec::new();
    for (path, text) in files(&[".rs", ".md", ".toml", ".sh", ".proto", "justfile", "run"]) {
        for (n, line) in text.lines().enumerate() {
            // mktemp's templates are no remark.
            let line = line.replace(&"X".repeat(6), "");
            if words.iter().any(|w| line.contains(w)) {
                bad.push(format!("{}:{}: {}", path.display(), n + 1, line.trim()));
            }
        }
    }
    none("left open", bad);
}

#[test]
fn metric_names_are_defined_once() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in rust_files().into_iter().filter(|(p, _)| !is_test_file(p)) {
        for (n, line) in product_part(&text) {
            let mut rest = line;
            while let Some(at) = rest.find("\"pvfs2_") {
                rest = &rest[at + 1..];
                let name = rest.split('"').next().unwrap_or("");
                if name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()) {
                    places.entry(name.into()).or_default().push(format!("{}:{n}", path.display()));
                }
            }
        }
    }
    let metrics: Vec<_> =
        places.iter().filter(|(_, p)| p.iter().any(|p| p.contains("metrics"))).collect();
    assert!(metrics.len() > 5, "the metrics are found: {metrics:?}");
    let twice = metrics.into_iter().filter(|(_, p)| p.len() > 1);
    none(
        "metric names written twice",
        twice.map(|(name, p)| format!("{name}: {}", p.join(", "))).collect(),
    );
}

#[test]
fn no_machine_and_no_registry_is_named() {
    let words = [
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("deb.debian", ".org"),
        concat!("registry", ".npmjs"),
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
    ];
    let mut bad = Vec::new();
    for (path, text) in files(&[]) {
        // The lock file is cargo's, and says the registry's index by its own name.
        if path.ends_with("Cargo.lock") {
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w)) {
                bad.push(format!("{}:{}: {}", path.display(), n + 1, line.trim()));
            }
        }
    }
    none("a registry's host or a path of one machine", bad);
}

#[test]
fn every_operation_has_its_file_on_client_and_server() {
    use pvfs2_proto::op::Op;
    let all: Vec<String> =
        rust_files().into_iter().map(|(p, _)| p.to_string_lossy().into_owned()).collect();
    // Of sessions, answered by server-core itself.
    let core = ["hello", "renew", "reclaim", "goodbye", "get_config", "ping"];
    let bad =
        Op::ALL.iter().map(|op| op.name()).filter(|name| !core.contains(name)).filter(|name| {
            let file = |folder: &str| {
                all.iter().any(|p| p.starts_with(folder) && p.ends_with(&format!("/{name}.rs")))
            };
            !(file("meta-server/src/ops/") || file("io-server/src/ops/"))
        });
    none("operations without a file of their name on a server", bad.map(str::to_owned).collect());
}

#[test]
fn every_dependency_has_its_reason() {
    let listed = std::fs::read_to_string(root().join("docs/DEPENDENCIES.md")).unwrap();
    let known: Vec<&str> = listed
        .lines()
        .filter_map(|l| l.strip_prefix("| ")?.split(" |").next())
        .flat_map(|names| names.split(", "))
        .collect();
    let mut bad = Vec::new();
    for (path, text) in files(&["Cargo.toml"]) {
        let mut inside = false;
        for line in text.lines() {
            if line.starts_with('[') {
                inside = line.trim_end_matches(']').ends_with("dependencies");
            } else if let Some((name, _)) = line.split_once(['.', ' ', '=']).filter(|_| inside) {
                let ours = name.starts_with("pvfs2") || name.starts_with('#') || name.is_empty();
                if !ours && !known.contains(&name) {
                    bad.push(format!("{}: {name}", path.display()));
                }
            }
        }
    }
    none("dependencies without a line in docs/DEPENDENCIES.md", bad);
}

#[test]
fn links_of_the_prose_lead_somewhere() {
    let mut bad = Vec::new();
    for (path, text) in files(&[".md"]) {
        for link in text.split("](").skip(1).filter_map(|l| l.split(')').next()) {
            let target = link.split('#').next().unwrap_or("");
            let from = root().join(&path);
            let there = from.parent().unwrap().join(target);
            if !link.contains("://") && !target.is_empty() && !there.exists() {
                bad.push(format!("{}: {link}", path.display()));
            }
        }
    }
    none("links that lead nowhere", bad);
}

#[test]
fn files_that_the_prose_names_exist() {
    let mut bad = Vec::new();
    let crates: Vec<String> = std::fs::read_dir(root())
        .unwrap()
        .flatten()
        .filter(|e| e.path().join("Cargo.toml").exists())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    for (path, text) in files(&[".md"]) {
        for word in text.split('`').skip(1).step_by(2) {
            let is_path = crates.iter().any(|c| word.starts_with(&format!("{c}/")));
            if is_path
                && !word.contains([' ', '*', '<'])
                && !word.contains("NAME")
                && !root().join(word).exists()
            {
                bad.push(format!("{}: {word}", path.display()));
            }
        }
    }
    none("files that do not exist", bad);
}
