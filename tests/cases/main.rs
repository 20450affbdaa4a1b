//! Tests the real program between a real Redis and a real TimescaleDB. There is one module for each
//! subject; the harness is `tests/src`.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod admin;
mod admin_access;
mod advisories;
mod audit;
mod author;
mod author_new;
mod author_new_kits;
mod author_profile;
mod author_reality;
mod batches;
mod book;
mod bytes_handler;
mod capabilities;
mod commit_log;
mod contract;
mod dead_letters;
mod delivery;
mod demo;
mod doctor;
mod duplicates;
mod failpoints;
mod fencing;
mod guest_files;
mod guest_limits;
mod handmade;
mod hostile;
mod hot_swap;
mod in_flight;
mod jobs;
mod kit;
mod losses;
mod lost_replies;
mod metrics;
mod network_faults;
mod otlp_metrics;
mod outages;
mod portable;
mod postgres_refusals;
mod prometheus;
mod redis_7_0;
mod reload;
mod replay;
mod rules;
mod schedules;
mod schema;
mod schema_mapping;
mod schema_suite;
mod settings;
mod shared_connections;
mod shutdown;
mod startup;
mod storage;
mod tap;
mod tenants;
mod top;
mod traces;
mod unstorable_entries;
mod validation;
mod verdicts;
mod workers;
