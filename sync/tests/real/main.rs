//! The sync service as it is: the server over TLS on a real directory, devices with their daemons, browsers.
#![allow(clippy::unwrap_used)] // all test: a panic is a verdict
mod common;
mod dav;
mod delta;
mod devices;
mod looks;
mod manage;
#[cfg(feature = "mariadb")]
mod mariadb;
mod openapi;
mod pages;
mod random;
mod settings;
mod speed;
mod vault;
