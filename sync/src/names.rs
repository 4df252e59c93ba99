//! Names: which ones the service takes, when two of them count as one (trap 15), and what a conflict
//! copy is called (trap 4). The bytes of a name are kept as they came.
use unicode_normalization::UnicodeNormalization;

/// Longest name in bytes, as on every Linux file system.
pub const NAME_BYTES_MAX: usize = 255;
/// Deepest nesting that the service takes.
pub const DEPTH_MAX: usize = 200;
/// The folder in a synchronised folder that is ours and not synchronised.
pub const OWN_DIR: &str = ".pvfs2-sync";

/// Two names with the same fold key cannot stand in one directory: some device could not tell them
/// apart. Canonical composition after simple lower-casing; of a sealed name, the part that says so of the
/// name in it.
#[must_use]
pub fn fold(name: &str) -> String {
    if let Some(tag) = crate::vault::fold_tag(name) {
        return tag.to_owned();
    }
    if name.is_ascii() {
        return name.to_ascii_lowercase();
    }
    let decomposed: String = name.nfd().collect();
    decomposed.to_lowercase().nfc().collect()
}

/// Whether two names are the same text, in whatever Unicode composition; case counts.
#[must_use]
pub fn same(a: &str, b: &str) -> bool {
    a == b || (!(a.is_ascii() && b.is_ascii()) && a.nfc().eq(b.nfc()))
}

/// Whether the service takes this name; if not, why.
///
/// # Errors
/// A sentence that ends "name X: ...".
pub fn check(name: &str) -> Result<(), String> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name == "." || name == ".." {
        "it means a directory, not an entry"
    } else if name.len() > NAME_BYTES_MAX {
        "it is longer than 255 bytes"
    } else if name.contains(['/', '\\']) {
        "it contains a slash or a backslash"
    } else if name.chars().any(|c| c.is_control()) {
        "it contains a control character"
    } else if name == OWN_DIR {
        "the service keeps its own things there"
    } else {
        return Ok(());
    };
    Err(format!("name {name:?} is not taken: {why}"))
}

/// The name of a conflict copy: `plan (conflict laptop 2026-01-02).txt`, with a number from the second
/// on. The copy of a conflict copy does not nest: the mark is replaced.
#[must_use]
pub fn conflict(name: &str, device: &str, date: &str, nth: u32) -> String {
    let (stem, ext) = match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= 16 => name.split_at(dot),
        _ => (name, ""),
    };
    let stem = match stem.rfind(" (conflict ") {
        Some(at) if stem.ends_with(')') => &stem[..at],
        _ => stem,
    };
    let device: String = device.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect();
    let number = if nth > 1 { format!(" {nth}") } else { String::new() };
    let mark = format!(" (conflict {device} {date}{number})");
    let room = NAME_BYTES_MAX.saturating_sub(mark.len() + ext.len());
    let mut cut = stem.len().min(room);
    while !stem.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{mark}{ext}", &stem[..cut])
}

/// Whether a name is that of a conflict copy.
#[must_use]
pub fn is_conflict(name: &str) -> bool {
    name.contains(" (conflict ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap15_names_that_some_device_cannot_tell_apart_fold_to_one() {
        assert_eq!(fold("Résumé.TXT"), fold("re\u{301}sume\u{301}.txt"));
        assert_eq!(fold("STRASSE"), fold("strasse"));
        assert_ne!(fold("a"), fold("b"));
        assert!(same("é", "e\u{301}") && !same("é", "É") && !same("a", "A") && same("a", "a"));
        for bad in ["", ".", "..", "a/b", "a\\b", "a\0b", "x\ny", OWN_DIR, &"x".repeat(256)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "...", "ü", " x", "CON", &"x".repeat(255)] {
            assert!(check(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn trap4_a_conflict_of_a_conflict_does_not_nest() {
        let one = conflict("plan.txt", "lap top", "2026-01-02", 1);
        assert_eq!(one, "plan (conflict laptop 2026-01-02).txt");
        let two = conflict(&one, "phone", "2026-01-03", 2);
        assert_eq!(two, "plan (conflict phone 2026-01-03 2).txt");
        assert_eq!(conflict(".profile", "d", "x", 1), ".profile (conflict d x)");
        let long = conflict(&"ü".repeat(127), "d", "x", 1);
        assert!(long.len() <= NAME_BYTES_MAX && check(&long).is_ok());
        assert!(is_conflict(&two) && !is_conflict("plan.txt"));
    }
}
