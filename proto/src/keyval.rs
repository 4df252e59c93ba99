//! The methods by which a storage space can keep its keys and values, as the cluster file and a
//! storage space's `FORMAT` name them.
//!
//! Place in the walks: none; a server's start, and `mkfs`.
use std::fmt;
use std::str::FromStr;

/// What holds keys and values behind the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyvalMethod {
    /// sled 0.34.
    #[default]
    Sled,
    /// fjall 3: a log-structured merge tree.
    Fjall,
}

impl KeyvalMethod {
    /// All, the default first.
    pub const ALL: [KeyvalMethod; 2] = [KeyvalMethod::Sled, KeyvalMethod::Fjall];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            KeyvalMethod::Sled => "sled",
            KeyvalMethod::Fjall => "fjall",
        }
    }
}

impl fmt::Display for KeyvalMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyvalMethod {
    type Err = String;
    fn from_str(name: &str) -> Result<KeyvalMethod, String> {
        KeyvalMethod::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| {
            format!("'{name}' is no keyval method: there are {}", KeyvalMethod::names())
        })
    }
}

impl KeyvalMethod {
    /// All names, for messages.
    pub fn names() -> String {
        KeyvalMethod::ALL.map(KeyvalMethod::name).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for method in KeyvalMethod::ALL {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
        let e = "bdb".parse::<KeyvalMethod>().unwrap_err();
        assert!(e.contains("'bdb'") && e.contains("sled, fjall"), "{e}");
    }
}
