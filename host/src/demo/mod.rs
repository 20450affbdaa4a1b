//! `sluicegate demo`: the whole service on private servers, with a generator and a ledger.

pub mod command;
pub mod generator;
pub mod ledger;
mod public;
pub mod servers;
mod signals;
