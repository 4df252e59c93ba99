//! What the management pages show: templates and their rows.
use super::pages::Frame;
use askama::Template;

/// A route, for a person.
#[derive(Debug)]
pub struct RouteRow {
    /// Its number; 0 is the root.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: String,
    /// Free space, or why it cannot be used.
    pub space: String,
    /// Whether it can be used.
    pub fine: bool,
    /// How many stores lie there.
    pub stores: usize,
    /// Whether new users' stores begin there.
    pub default: bool,
}

/// Where a user's store lies.
#[derive(Debug)]
pub struct PlaceRow {
    /// The user's number.
    pub id: i64,
    /// The user's name.
    pub name: String,
    /// The route's number.
    pub route: i64,
    /// The route's name.
    pub route_name: String,
}

/// A job, for a person.
#[derive(Debug)]
pub struct JobRow {
    /// What it does.
    pub what: String,
    /// When it began.
    pub began: String,
    /// Bytes, for a person.
    pub bytes: String,
    /// How it stands or ended.
    pub state: String,
    /// Whether it failed.
    pub failed: bool,
}

/// Storage routes.
#[derive(Debug, Template)]
#[template(path = "routes.html")]
pub struct RoutesPage {
    /// The frame.
    pub frame: Frame,
    /// The routes.
    pub routes: Vec<RouteRow>,
    /// Where each user's store lies.
    pub places: Vec<PlaceRow>,
    /// Long work.
    pub jobs: Vec<JobRow>,
}

/// Ports.
#[derive(Debug, Template)]
#[template(path = "ports.html")]
pub struct PortsPage {
    /// The frame.
    pub frame: Frame,
    /// Address, whether it is drained, connections.
    pub ports: Vec<(String, bool, usize)>,
    /// Whether one may be drained.
    pub many: bool,
}

/// A backup, for a person.
#[derive(Debug)]
pub struct BackupRow {
    /// Its name.
    pub name: String,
    /// Why it was made.
    pub why: String,
    /// When.
    pub when: String,
    /// Files and bytes.
    pub what: String,
    /// Whose stores: name, problems.
    pub users: Vec<(String, usize)>,
}

/// Backups.
#[derive(Debug, Template)]
#[template(path = "backups.html")]
pub struct BackupsPage {
    /// The frame.
    pub frame: Frame,
    /// Where they lie; empty: below the root.
    pub dir: String,
    /// Why they cannot be listed.
    pub error: String,
    /// Who has an account.
    pub users: Vec<String>,
    /// The backups.
    pub rows: Vec<BackupRow>,
    /// Long work.
    pub jobs: Vec<JobRow>,
}

/// The audit.
#[derive(Debug, Template)]
#[template(path = "audit.html")]
pub struct AuditPage {
    /// The frame.
    pub frame: Frame,
    /// Whose entries; empty: all.
    pub who: String,
    /// When, who, what.
    pub rows: Vec<(String, String, String)>,
    /// Where older ones begin; 0: there are none.
    pub older: i64,
}

/// What the server does now.
#[derive(Debug, Template)]
#[template(path = "live.html")]
pub struct LivePage {
    /// The frame.
    pub frame: Frame,
    /// A fact and its value.
    pub facts: Vec<(String, String)>,
    /// Whose stores are open: name, kept, uploads under way, bytes reserved.
    pub stores: Vec<(String, String, u64, String)>,
    /// Who was there lately: user, device, last seen.
    pub seen: Vec<(String, String, String)>,
    /// Long work.
    pub jobs: Vec<JobRow>,
}
