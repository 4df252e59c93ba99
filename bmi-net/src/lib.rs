//! BMI: addresses, endpoints, expected and unexpected messages, flows; methods tcp, unix, mem.
pub mod buf;
pub mod call;
pub mod flow;
pub mod service;
