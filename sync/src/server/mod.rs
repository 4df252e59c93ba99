//! The server: accounts, each user's store, `/api/v1`, and the pages for a browser, over TLS.
//!
//! | file | owns |
//! |---|---|
//! | [`accounts`] | users, passwords (argon2id), sessions (kept hashed), limits on attempts |
//! | [`root`] | which store lies in the root, whether it is still there, whether one may begin |
//! | [`users`] | who has a store open: one worker per user, one writer per database |
//! | [`metrics`] | counters for Prometheus |
//! | [`settings`], [`sweep`] | how long what is kept; the round that drops it |
//! | [`http`] | the routes, who is asking, errors as statuses, headers |
//! | [`api`], [`content`] | the API's requests; bytes in and out |
//! | [`dav`], [`app_passwords`] | the WebDAV door; the passwords made for its programs |
//! | [`web`], [`admin`], [`pages`] | pages, usable without JavaScript |
//! | [`shares`], [`share_pages`], [`zip`] | links for people without an account; folders as one file |
//! | [`serve`], [`running`] | certificate, listener, connections; the server as a whole |
pub mod accounts;
pub mod admin;
pub mod api;
pub mod app_passwords;
pub mod content;
pub mod dav;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod pages;
pub mod root;
pub mod running;
pub mod serve;
pub mod settings;
pub mod share_pages;
pub mod shares;
pub mod sweep;
pub mod users;
pub mod web;
pub mod zip;
