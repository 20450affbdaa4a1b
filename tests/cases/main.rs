//! The service as its users meet it: the real program between a real Redis and
//! a real TimescaleDB. One module a subject; the harness is `tests/src`.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod advisories;
mod batching;
mod blaming;
mod capabilities;
mod claim;
mod delivering;
mod failing;
mod guest_files;
mod handmade;
mod hostile;
mod letters;
mod limits;
mod losing;
mod networking;
mod outages;
mod portable;
mod recalling;
mod redis_7_0;
mod refusing;
mod repeating;
mod replaying;
mod reporting;
mod schedules;
mod settings;
mod sharing;
mod starting;
mod stopping;
mod storing;
mod swapping;
mod tenants;
mod unanswered;
mod validation;
mod verdicts;
