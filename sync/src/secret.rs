//! What is known to its owner only, on the way through forms, messages and logs.
//!
//! Invariant: `{:?}` never shows it, so what holds one may derive `Debug`.
use serde::{Deserialize, Serialize};

/// A password or a token; travels as its plain text.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl std::ops::Deref for Secret {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.into())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

#[cfg(test)]
mod tests {
    use crate::api::{LoggedIn, Login};

    #[test]
    fn trap19_no_log_shows_a_password_or_a_token() {
        let text = "open sesame";
        let login = Login { user: "ann".into(), password: text.into(), device: "x".into() };
        let logged_in = LoggedIn { token: text.into(), device: "x".into() };
        let shown = format!("{login:?} {logged_in:?}");
        assert!(shown.contains("ann") && !shown.contains("sesame"), "{shown}");
        let sent = serde_json::to_string(&login).unwrap();
        assert!(sent.contains(r#""password":"open sesame""#), "{sent}");
        assert_eq!(&*serde_json::from_str::<Login>(&sent).unwrap().password, text);
    }
}
