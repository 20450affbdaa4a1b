//! `sluicegate demo`: the whole service on private servers, with a generator and a ledger.

pub mod generator;
pub mod ledger;
pub mod servers;
