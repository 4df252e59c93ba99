//! Of several who want the same, one wins; and what all may have, all get.
use super::{Pair, on_both_sides};
use crate::pattern;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

/// Threads on each side.
const PER_SIDE: usize = 2;

/// A record of `len` bytes: writer, number, length, and a pattern that both determine.
fn record(writer: usize, number: usize, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    for word in [writer as u32, number as u32, len as u32] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend(pattern::bytes((writer << 20 | number) as u64, 0, len - 12));
    out
}

pub(super) fn appended_records_are_whole(p: &Pair) {
    // Records that stay small together, that outgrow a small file, and that cross strips.
    for (name, sizes, count) in [
        ("tiny", &[16usize, 20, 33][..], 40),
        ("mixed", &[100, 511, 4_096, 4_097, 30], 60),
        ("huge", &[65_536, 200_000, 65_537], 8),
    ] {
        let paths = p.both(name);
        fs::write(&paths[0], "").unwrap();
        let len = |n: usize, i: usize| sizes[(n + i) % sizes.len()];
        let ready = Barrier::new(2 * PER_SIDE);
        on_both_sides(PER_SIDE, |side, n| {
            let mut file = OpenOptions::new().append(true).open(&paths[side]).expect("open");
            ready.wait();
            for i in 0..count {
                let bytes = record(n, i, len(n, i));
                assert_eq!(file.write(&bytes).expect("append"), bytes.len(), "a short append");
            }
        });
        let total: usize = (0..2 * PER_SIDE)
            .flat_map(|n| (0..count).map(move |i| (n, i)))
            .map(|(n, i)| len(n, i))
            .sum();
        for path in &paths {
            let size = || fs::metadata(path).expect("stat").len();
            p.seen(&format!("{name}: the size, {total}"), || size() == total as u64);
            let mut got = None;
            p.seen(&format!("{name}: every record"), || {
                got = Some(records(&fs::read(path).expect("read")));
                matches!(got, Some(Ok(_)))
            });
            let Some(Ok(order)) = got else { unreachable!("just seen") };
            for n in 0..2 * PER_SIDE {
                let own: Vec<usize> = order.iter().filter(|r| r.0 == n).map(|r| r.1).collect();
                let want: Vec<usize> = (0..count).collect();
                assert_eq!(own, want, "{name}: records of writer {n}, in its order");
            }
        }
    }
}

/// The (writer, number) of each record, or where they stop being whole.
fn records(mut bytes: &[u8]) -> Result<Vec<(usize, usize)>, String> {
    let (all, mut out) = (bytes.len(), Vec::new());
    while !bytes.is_empty() {
        let at = all - bytes.len();
        let word = |i: usize| {
            let piece = bytes.get(4 * i..4 * i + 4).and_then(|b| b.try_into().ok());
            piece.map(|b| u32::from_le_bytes(b) as usize).ok_or(format!("cut off at {at}"))
        };
        let (writer, number, len) = (word(0)?, word(1)?, word(2)?);
        if len < 12 || bytes.len() < len || bytes[..len] != record(writer, number, len) {
            return Err(format!("no whole record at {at} of {all}"));
        }
        out.push((writer, number));
        bytes = &bytes[len..];
    }
    Ok(out)
}

/// All try `attempt` on one path at the same time, round by round: one wins, the others hear that
/// it is there. `attempt` gets the folder of its side, the round and its number.
fn one_winner(
    p: &Pair,
    what: &str,
    rounds: usize,
    attempt: impl Fn(&Path, usize, usize) -> std::io::Result<()> + Sync,
) {
    let dirs = [p.a.clone(), p.b.clone()];
    let ready = Barrier::new(2 * PER_SIDE);
    let outcomes = on_both_sides(PER_SIDE, |side, n| {
        let one = |round| {
            ready.wait();
            attempt(&dirs[side], round, n).map_err(|e| e.kind())
        };
        (0..rounds).map(one).collect::<Vec<_>>()
    });
    for round in 0..rounds {
        let all: Vec<_> = outcomes.iter().map(|o| o[round]).collect();
        let won = all.iter().filter(|o| o.is_ok()).count();
        let told = all.iter().filter(|o| **o == Err(ErrorKind::AlreadyExists)).count();
        assert!(won == 1 && told == all.len() - 1, "{what}, round {round}: {all:?}");
    }
}

pub(super) fn one_of_several_makes_a_name(p: &Pair) {
    const ROUNDS: usize = 40;
    one_winner(p, "O_EXCL", ROUNDS, |dir, round, n| {
        let path = dir.join(format!("excl{round}"));
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(n.to_string().as_bytes())
    });
    for round in 0..ROUNDS {
        let [a, b] = p.both(&format!("excl{round}"));
        p.seen("what the winner wrote", || {
            let text = fs::read_to_string(&a).expect("read");
            text.len() == 1 && fs::read_to_string(&b).expect("read") == text
        });
    }
    one_winner(p, "mkdir", ROUNDS, |dir, round, _| fs::create_dir(dir.join(format!("d{round}"))));
    one_winner(p, "symlink", ROUNDS, |dir, round, n| {
        symlink(n.to_string(), dir.join(format!("s{round}")))
    });
}

pub(super) fn one_of_several_takes_a_name(p: &Pair) {
    const ROUNDS: usize = 40;
    let own = |dir: &Path, kind: &str, round: usize, n: usize| -> PathBuf {
        // Directories of their own, so that some are on other servers than the name.
        dir.join(format!("own{n}/{kind}{round}"))
    };
    // Made by who will move them: Linux itself answers ESTALE to a rename whose new name turns out to
    // be a directory that it knows elsewhere (`__d_unalias` wants a lock that the rename holds).
    let dirs = [p.a.clone(), p.b.clone()];
    on_both_sides(PER_SIDE, |side, n| {
        let dir = &dirs[side];
        fs::create_dir(dir.join(format!("own{n}"))).unwrap();
        for round in 0..ROUNDS {
            for kind in ["link", "file"] {
                fs::write(own(dir, kind, round, n), n.to_string()).unwrap();
            }
            fs::create_dir(own(dir, "dir", round, n)).unwrap();
        }
    });
    one_winner(p, "link", ROUNDS, |dir, round, n| {
        fs::hard_link(own(dir, "link", round, n), dir.join(format!("l{round}")))
    });
    for kind in ["file", "dir"] {
        one_winner(p, &format!("rename of a {kind}, NOREPLACE"), ROUNDS, |dir, round, n| {
            let new = dir.join(format!("{kind}{round}"));
            let old = own(dir, kind, round, n);
            Ok(renameat_with(CWD, old, CWD, new, RenameFlags::NOREPLACE)?)
        });
    }
    for kind in ["link", "file", "dir"] {
        for round in 0..ROUNDS {
            let there = (0..2 * PER_SIDE).filter(|n| own(&p.a, kind, round, *n).exists()).count();
            let want = 2 * PER_SIDE - usize::from(kind != "link");
            assert_eq!(there, want, "{kind}, round {round}: who lost keeps the old name");
        }
    }
}

pub(super) fn link_counts_add_up(p: &Pair) {
    const ROUNDS: usize = 30;
    fs::create_dir(p.a.join("other")).unwrap();
    let paths = p.both("file");
    fs::write(&paths[0], "linked").unwrap();
    let ready = Barrier::new(2 * PER_SIDE);
    on_both_sides(PER_SIDE, |side, n| {
        let dir = paths[side].parent().expect("a folder");
        ready.wait();
        for i in 0..ROUNDS {
            let below = if i % 2 == 0 { "other/" } else { "" };
            let name = dir.join(format!("{below}link.{n}.{i}"));
            fs::hard_link(&paths[side], &name).expect("link");
            // Every third stays.
            if i % 3 == 1 {
                fs::remove_file(&name).expect("unlink");
            } else if i % 3 == 2 {
                let to = dir.join(format!("moved.{n}"));
                fs::rename(&name, &to).expect("rename");
                fs::remove_file(&to).expect("unlink");
            }
        }
    });
    let stay = (0..ROUNDS).filter(|i| i % 3 == 0).count();
    let want = 1 + 2 * PER_SIDE * stay;
    for path in &paths {
        let links = || fs::metadata(path).expect("stat").nlink();
        p.seen(&format!("{want} links"), || links() == want as u64);
    }
    let linked = |dir: &Path| {
        let ino = fs::metadata(&paths[1]).expect("stat").ino();
        let same = |e: std::io::Result<fs::DirEntry>| {
            fs::symlink_metadata(e.expect("entry").path()).is_ok_and(|m| m.ino() == ino)
        };
        fs::read_dir(dir).expect("list").map(same).filter(|s| *s).count()
    };
    p.seen("as many names", || linked(&p.b) + linked(&p.b.join("other")) == want);
}

pub(super) fn a_removed_directory_stays_empty(p: &Pair) {
    let mut gone = Vec::new();
    for round in 0..60 {
        let [dir, others] = p.both(&format!("d{round}"));
        fs::create_dir(&dir).unwrap();
        assert!(others.is_dir());
        let ready = Barrier::new(2);
        let (removed, made) = std::thread::scope(|s| {
            let made = s.spawn(|| {
                ready.wait();
                match round % 3 {
                    0 => fs::write(others.join("f"), ""),
                    1 => fs::create_dir(others.join("f")),
                    _ => symlink("x", others.join("f")),
                }
            });
            ready.wait();
            let removed = fs::remove_dir(&dir);
            (removed.map_err(|e| e.kind()), made.join().unwrap().map_err(|e| e.kind()))
        });
        let fine =
            [(Ok(()), Err(ErrorKind::NotFound)), (Err(ErrorKind::DirectoryNotEmpty), Ok(()))];
        assert!(
            fine.contains(&(removed, made)),
            "round {round}: rmdir {removed:?}, a name in it {made:?}"
        );
        if made.is_ok() {
            let mut names = fs::read_dir(&dir).expect("list");
            assert!(names.next().is_some(), "round {round}: the name is gone");
        } else {
            gone.push(others);
        }
    }
    p.seen("removed directories are gone", || !gone.iter().any(|d| d.exists()));
}

/// One side exchanges two names all the time; the other always finds both, each whole.
pub(super) fn exchanged_names_are_always_there(p: &Pair) {
    fs::create_dir(p.a.join("other")).unwrap();
    let (x, y) = (p.a.join("x"), p.a.join("other/y"));
    fs::write(&x, "xx").unwrap();
    fs::write(&y, vec![b'y'; 20_000]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        for name in ["x", "other/y"] {
            let (path, stop) = (p.b.join(name), &stop);
            s.spawn(move || {
                let mut looks = 0;
                while !stop.load(Ordering::Acquire) || looks == 0 {
                    let mut text = String::new();
                    let mut file = fs::File::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
                    file.read_to_string(&mut text).expect("read");
                    let whole = text == "xx" || (text.len() == 20_000 && !text.contains('x'));
                    assert!(whole, "{name}: {} bytes: a mixture", text.len());
                    looks += 1;
                }
            });
        }
        for _ in 0..80 {
            renameat_with(CWD, &x, CWD, &y, RenameFlags::EXCHANGE).expect("exchange");
        }
        stop.store(true, Ordering::Release);
    });
}
