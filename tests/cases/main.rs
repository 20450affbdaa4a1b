//! The service as its users meet it: the real program between a real Redis and
//! a real TimescaleDB. One module a subject; the harness is `tests/src`.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod misbehaving;
mod outages;
mod stopping;
mod storing;
mod swapping;
