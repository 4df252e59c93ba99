//! The server: accounts, each user's store, `/api/v1`, and the pages for a browser, over TLS.
//!
//! | file | owns |
//! |---|---|
//! | [`accounts`] | users, passwords (argon2id), sessions (kept hashed), limits on attempts |
//! | [`db`], `outside` | where the accounts' tables are: a file, or MariaDB |
//! | [`root`] | which store lies in the root, whether it is still there, whether one may begin |
//! | [`users`] | who has a store open: one worker per user, one writer per database |
//! | [`local`] | the server's own database: storage routes, where each store lies, settings |
//! | [`replace`], [`copying`] | a store takes another's place, step by step; copies that are checked |
//! | [`backups`], [`loading`], [`exported`] | backups made, listed, read again, loaded; accounts in them |
//! | [`totp`], [`totp_pages`] | sign-in in two steps |
//! | [`preview`], [`activity`], [`pwa`] | files looked at; what was done lately; the pages as an app |
//! | [`audit`] | who did what |
//! | [`jobs`] | long work of the administrator, one at a time |
//! | [`metrics`] | counters for Prometheus |
//! | [`settings`], [`sweep`] | how long what is kept; the round that drops it |
//! | [`http`] | the routes, who is asking, errors as statuses, headers |
//! | [`api`], [`content`] | the API's requests; bytes in and out |
//! | [`many`], [`delta`] | many small files in one request; only what changed of a large one |
//! | [`dav`], [`app_passwords`] | the WebDAV door; the passwords made for its programs |
//! | [`manage`], [`admin_api`] | management of routes, ports, backups: pages, and the same for programs |
//! | [`web`], [`admin`], [`pages`] | pages, usable without JavaScript |
//! | [`shares`], [`share_pages`], [`zip`] | links for people without an account; folders as one file |
//! | [`serve`], [`ports`] | certificate, connections; where it listens, changed while it runs |
//! | [`running`] | the server as a whole |
pub mod accounts;
pub mod activity;
pub mod admin;
pub mod admin_api;
pub mod api;
pub mod app_passwords;
pub mod audit;
pub mod backups;
pub mod content;
pub mod copying;
pub mod dav;
pub mod db;
pub mod delta;
pub mod exported;
pub mod http;
pub mod jobs;
pub mod limits;
pub mod loading;
pub mod local;
pub mod manage;
pub mod manage_pages;
pub mod many;
pub mod metrics;
#[cfg(feature = "mariadb")]
pub mod outside;
pub mod pages;
pub mod ports;
pub mod preview;
pub mod pwa;
pub mod replace;
pub mod root;
pub mod running;
pub mod serve;
pub mod settings;
pub mod share_pages;
pub mod shares;
pub mod sweep;
pub mod totp;
pub mod totp_pages;
pub mod users;
pub mod web;
pub mod zip;
