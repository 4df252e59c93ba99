//! What a person sets on a device and may change at any time: what is left out, how fast, when, and
//! whether at all. `settings.json` in the state directory; a daemon that runs takes changes in at once.
use super::filter::{Filter, folder};
use crate::error::{Result, SyncError};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::str::FromStr;

const FILE: &str = "settings.json";
/// The lowest rate: a request with many files is to end before it counts as lost.
const RATE_MIN: u64 = 10 << 10;
/// The longest interval, a week, in minutes.
const MINUTES_MAX: u32 = 7 * 24 * 60;

/// When the folder is brought in step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Schedule {
    /// Whenever something changes.
    #[default]
    Always,
    /// Every so many minutes.
    Every(u32),
    /// Whenever something changes, between two times of day (minutes since midnight, local time).
    Between(u32, u32),
    /// When somebody says so.
    Manual,
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = |m: &u32| format!("{:02}:{:02}", m / 60, m % 60);
        match self {
            Self::Always => write!(f, "always"),
            Self::Every(minutes) => write!(f, "every {minutes} min"),
            Self::Between(from, to) => write!(f, "{}-{}", time(from), time(to)),
            Self::Manual => write!(f, "manual"),
        }
    }
}

impl From<Schedule> for String {
    fn from(s: Schedule) -> Self {
        s.to_string()
    }
}

impl TryFrom<String> for Schedule {
    type Error = SyncError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Schedule {
    type Err = SyncError;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim().to_lowercase();
        let bad = || {
            SyncError::Invalid(format!(
                "schedule {text:?}: say `always`, `every 15 min`, `every 2 h`, `22:00-06:00`, or `manual`"
            ))
        };
        let time = |t: &str| {
            let (h, m) = t.trim().split_once(':')?;
            let (h, m): (u32, u32) = (h.parse().ok()?, m.parse().ok()?);
            (h < 24 && m < 60).then_some(h * 60 + m)
        };
        if let Some(rest) = text.strip_prefix("every ") {
            let digits = rest.trim_start().chars().take_while(char::is_ascii_digit).count();
            let (number, unit) = rest.trim_start().split_at(digits);
            let number: u32 = number.parse().map_err(|_| bad())?;
            let minutes = match unit.trim() {
                "min" | "m" | "minute" | "minutes" => Some(number),
                "h" | "hour" | "hours" => number.checked_mul(60),
                _ => None,
            };
            return match minutes {
                Some(m) if (1..=MINUTES_MAX).contains(&m) => Ok(Self::Every(m)),
                _ => Err(bad()),
            };
        }
        match text.as_str() {
            "always" => Ok(Self::Always),
            "manual" => Ok(Self::Manual),
            other => match other.split_once('-').map(|(a, b)| (time(a), time(b))) {
                Some((Some(a), Some(b))) if a != b => Ok(Self::Between(a, b)),
                _ => Err(bad()),
            },
        }
    }
}

impl Schedule {
    /// Whether changes are followed as they come, at this minute of the local day.
    #[must_use]
    pub fn follows(self, minute: u32) -> bool {
        match self {
            Self::Always => true,
            Self::Between(from, to) if from < to => (from..to).contains(&minute),
            Self::Between(from, to) => minute >= from || minute < to,
            Self::Every(_) | Self::Manual => false,
        }
    }
}

/// The minute of the local day.
#[must_use]
pub fn minute_of_day() -> u32 {
    let now = crate::server::users::now_ms() / 1_000;
    let mut tm = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both point to memory of their types for the length of the call; a `tm` of zeros is one.
    let tm = unsafe {
        libc::localtime_r(&raw const now, tm.as_mut_ptr());
        tm.assume_init()
    };
    u32::try_from(tm.tm_hour * 60 + tm.tm_min).unwrap_or(0)
}

/// The settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Patterns of what is left out on this device, in the syntax of `.gitignore`.
    pub ignore: Vec<String>,
    /// The folders that are synchronised; none: all.
    pub only: Vec<String>,
    /// Bytes per second sent; 0: as fast as it goes.
    pub up: u64,
    /// Bytes per second fetched; 0: as fast as it goes.
    pub down: u64,
    /// When.
    pub schedule: Schedule,
    /// Nothing is done until it is taken back.
    pub paused: bool,
}

impl Settings {
    /// As they are now; none yet: all by default.
    ///
    /// # Errors
    /// I/O; a file that cannot be read as settings.
    pub fn load(state: &Path) -> Result<Self> {
        let path = state.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(SyncError::io(path.display().to_string(), e)),
        };
        serde_json::from_slice(&text)
            .map_err(|e| SyncError::Invalid(format!("{}: {e}", path.display())))
    }

    /// Checks and writes them, whole or not at all.
    ///
    /// # Errors
    /// [`SyncError::Invalid`] for patterns that are none; I/O.
    pub fn save(&self, state: &Path) -> Result<()> {
        Filter::new(self.ignore.iter().map(String::as_str), &self.only)?;
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        let (tmp, path) = (state.join("settings.json.new"), state.join(FILE));
        std::fs::write(&tmp, text)
            .and_then(|()| std::fs::rename(&tmp, &path))
            .map_err(|e| SyncError::io(path.display().to_string(), e))
    }

    /// Changes them.
    ///
    /// # Errors
    /// As [`Settings::load`] and [`Settings::save`].
    pub fn change(state: &Path, f: impl FnOnce(&mut Self)) -> Result<Self> {
        let mut s = Self::load(state)?;
        f(&mut s);
        s.only = s.only.iter().map(|f| folder(f)).filter(|f| !f.is_empty()).collect();
        s.only.sort();
        s.only.dedup();
        s.save(state)?;
        Ok(s)
    }
}

/// A rate as people write it: `500K`, `2M`, `0`.
///
/// # Errors
/// [`SyncError::Invalid`].
pub fn rate(text: &str) -> Result<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_alphabetic()).len());
    let times = match unit.to_ascii_uppercase().as_str() {
        "" => Some(1_u64),
        "K" => Some(1 << 10),
        "M" => Some(1 << 20),
        "G" => Some(1 << 30),
        _ => None,
    };
    let found = times.and_then(|t| number.trim().parse::<u64>().ok()?.checked_mul(t));
    if found.is_some_and(|r| r > 0 && r < RATE_MIN) {
        let why =
            format!("rate {text:?}: at least {}K, else requests take too long", RATE_MIN >> 10);
        return Err(SyncError::Invalid(why));
    }
    found.ok_or_else(|| {
        SyncError::Invalid(format!(
            "rate {text:?}: bytes per second, as 500K, 2M, or 0 for no limit"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_they_are_shown() {
        for (text, want) in [
            ("always", Schedule::Always),
            ("manual", Schedule::Manual),
            ("every 15 min", Schedule::Every(15)),
            ("22:00-06:00", Schedule::Between(1_320, 360)),
        ] {
            assert_eq!(text.parse::<Schedule>().unwrap(), want);
            assert_eq!(want.to_string(), text);
        }
        assert_eq!("Every 2h".parse::<Schedule>().unwrap(), Schedule::Every(120));
        for bad in
            ["", "every", "every 0 min", "every 9 weeks", "25:00-06:00", "06:00-06:00", "now"]
        {
            assert!(bad.parse::<Schedule>().is_err(), "{bad:?}");
        }
        let night = Schedule::Between(1_320, 360);
        assert!(night.follows(1_320) && night.follows(0) && !night.follows(360));
        let day = Schedule::Between(480, 1_080);
        assert!(day.follows(480) && !day.follows(1_080) && !day.follows(0));
        assert!(!Schedule::Manual.follows(0) && !Schedule::Every(1).follows(0));
        assert!(minute_of_day() < 1_440);
    }

    #[test]
    fn settings_are_checked_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Settings::load(dir.path()).unwrap(), Settings::default());
        let set = Settings::change(dir.path(), |s| {
            s.ignore.push("*.tmp".into());
            s.only = vec!["/a/".into(), "a".into(), "".into()];
            s.schedule = Schedule::Every(5);
            s.down = rate("2M").unwrap();
        });
        assert_eq!(set.unwrap().only, ["a"]);
        assert!(Settings::change(dir.path(), |s| s.ignore.push("a{b".into())).is_err());
        let now = Settings::load(dir.path()).unwrap();
        assert_eq!((now.ignore.len(), now.down, now.schedule), (1, 2 << 20, Schedule::Every(5)));
        assert!(
            rate("fast").is_err()
                && rate("-1").is_err()
                && rate("1X").is_err()
                && rate("9K").is_err()
        );
        assert_eq!(rate("0").unwrap(), 0);
        assert_eq!(rate("500k").unwrap(), 512_000);
    }
}
