//! Provides the harness of the tests across processes.
//!
//! A test sets a [`Scene`]: a stream, a group, a database and a folder of its
//! own, on servers that the tests share. It puts [`Event`]s into the stream,
//! starts the real program as a [`Service`], waits [`until`] something is so,
//! and looks at what the stream, the database and the log say. Whatever a test
//! made is gone when its values are dropped.
//!
//! `REDIS_URL` and `POSTGRES_URL` name the shared servers: `make test` starts private ones. The
//! tests flush and drop nothing there but what is their own. Tests that stop servers start their
//! own, by `sluicegate_demo::servers`.
//!
//! The harness is blocking, because a test is a plain sequence of steps.
//! It panics where a test is to fail.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a harness fails its test by a panic"
)]

mod admin;
mod bad_entries;
pub mod book;
mod collector;
mod database;
mod events;
pub mod guests;
pub mod kits;
mod letters;
mod load;
mod producer;
mod project;
mod prometheus;
mod provoker;
mod proxy;
mod refusals;
mod scene;
mod scripted;
mod service;
mod soak;
mod stage;
mod stream;
mod tenants;
mod tool;
mod wait;

pub use admin::{Admin, Answer, Told as ToldEvent, Watch, check_metrics, token_line};
pub use bad_entries::{files_of, hostile, letters_of, message, reasons};
pub use collector::{Collector, attributes};
pub use database::{Database, Letter};
pub use events::{Event, Fields, fields};
pub use letters::{hold_letter, refused_purchases};
pub use load::Load;
pub use producer::{Producer, Sent};
pub use project::{Project, rules_in};
pub use prometheus::Prometheus;
pub use provoker::Provoker;
pub use proxy::{Fault, Proxy};
pub use refusals::{refused, with_guest};
pub use scene::{Scene, shared_postgres_url, shared_redis_url};
pub use scripted::{scripted, verdict};
pub use service::{Ended, Launch, Metrics, Service};
pub use soak::Soak;
pub use stage::{GRANTS, STATEMENTS, Stage, event_of, purchase_of};
pub use stream::Stream;
pub use tenants::{Tenants, until_running};
pub use tool::{Told, builder, cached, counted, new_projects_lock, rules, second_line, told, top};
pub use wait::{block_on, until, until_within};
