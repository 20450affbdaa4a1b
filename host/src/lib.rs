//! Sluicegate as a library: the service.
//!
//! The modules in the order in which an entry meets them: [`stream`] reads it, [`judge`] asks the
//! rules in their [`sandbox`] and lets [`validate`](sluicegate_verdicts::validate) check what they say, [`batch_budget`] cuts what
//! is too much for one transaction, [`store`] commits its outcome, [`stream`] acknowledges it.
//! [`pipeline`] joins these steps, [`tenant`] starts and drains a pipeline, [`service`] runs all
//! tenants, [`rules`] decides which version of the rules is in force, [`metrics`] tells what
//! happened, `tap` shows a sample of it, `otlp` sends it to a collector with a trace of each batch, and `admin` tells it to who
//! asks: [`client`] does, for [`top`]. [`author`] has the tools of those who write rules. `sluicegate_verdicts` and [`batch`] are the data they share, [`config`] every setting. ARCHITECTURE.md has the
//! invariants.

mod admin;
mod audit;
pub mod author;
pub mod batch;
pub mod batch_budget;
pub mod capabilities;
pub mod client;
pub mod clock;
pub mod config;
pub mod dead_letters;
pub mod doctor;
mod failpoint;
pub mod judge;
mod log_limit;
pub mod metrics;
mod otlp;
pub mod outbox;
pub mod pipeline;
pub mod reload;
mod retry;
pub mod rules;
pub mod sandbox;
pub mod service;
pub mod stack_samples;
pub mod store;
pub mod stream;
mod tap;
pub mod tenant;
mod text;
pub mod top;
